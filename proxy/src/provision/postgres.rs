//! A database or a schema of the app's own on PostgreSQL, 13 or newer.
//!
//! The marker is the comment of the app's role, made with it in one transaction; the role cannot change it.
//! What the role owns under the app's name is the app's, since the role can make neither databases nor,
//! beside its own, schemas. So the role is made first and dropped last.

use async_trait::async_trait;
use doorbell_config::spec::{DatabasePlace, DatabaseUrl};
use sqlx::{Postgres, Row, postgres::PgConnectOptions, postgres::PgSslMode};

use super::{
    Adopt, Connection, Marker, ProvisionError, Provisioner, Removed, Secret, Step, Told,
    marker::{Claim, taken},
    name, password,
    session::{Session, literal},
};

const SETTLE: Step = Step::new("begin", "none");
const LOOK: Step = Step::new("look what is there", "none");
const ROLE: Step = Step::new("create its role", "CREATEROLE");
const PASSWORD: Step =
    Step::new("give its role the password", "CREATEROLE, and the role to be ours");
const ADOPT: Step = Step::new("mark its role as the app's", "CREATEROLE, and the role to be ours");
const JOIN: Step = Step::new("join its role", "CREATEROLE");
const DATABASE: Step = Step::new("create its database", "CREATEDB");
const PRIVATE: Step = Step::new("close its database to others", "to be a member of its role");
const SCHEMA: Step = Step::new("create its schema", "CREATE on the database");
const PATH: Step = Step::new("lead its role to its schema", "CREATEROLE");
const ENTER: Step = Step::new("let its role into the database", "GRANT OPTION for CONNECT");
const LOCK_OUT: Step = Step::new("lock its role out", "CREATEROLE, and the role to be ours");
const PART: Step = Step::new("end its connections", "to be a member of its role");
const DROP_DATABASE: Step = Step::losing("drop its database", "to be a member of its role");
const DROP_SCHEMA: Step = Step::losing("drop its schema", "to be a member of its role");
const DROP_OWNED: Step = Step::losing("drop what else its role has", "to be a member of its role");
const DROP_ROLE: Step = Step::new("drop its role", "CREATEROLE, and the role to be ours");

/// What holds on each connection, whatever the server's or the role's own settings are.
const SETTINGS: &str = "
    SET standard_conforming_strings TO on;
    SET search_path TO pg_catalog;
    SET client_min_messages TO warning;
    SET statement_timeout TO '29s';
    SET lock_timeout TO '25s';
";

/// Two that make or remove the same take turns. The number is ours alone, "Drbl".
const ALONE: &str = "SELECT pg_advisory_lock(1148346988, hashtext('{name}'));";

/// Something that other things hang on still: `dependent_objects_still_exist`.
const HAS_DEPENDENTS: &str = "2BP01";

/// What an app gets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A database.
    Database,
    /// A schema in the database that the address names.
    Schema,
}

/// A server.
pub(super) struct PostgresServer {
    /// Where it is, and who makes databases there.
    pub(super) url: DatabaseUrl,
    /// What it is to make.
    pub(super) what: What,
}

/// What is there.
struct Found {
    /// Whether there is a role of this name.
    has_role: bool,
    /// The role's comment.
    marker: Option<String>,
    /// Whether there is a database or schema of this name.
    has_it: bool,
    /// Whether the role owns that.
    owns_it: bool,
    /// Whether we may do anything.
    is_superuser: bool,
    /// Whether the role may connect to this database.
    may_enter: bool,
}

#[async_trait]
impl Provisioner for PostgresServer {
    async fn provision(
        &self,
        owner: &Marker,
        password: &Secret,
        adopt: Adopt,
        told: Told<'_>,
    ) -> Result<Connection, ProvisionError> {
        let name = name::of(&owner.app, name::MOST);
        if let Some(fault) = password::fault(password) {
            return Err(self.other(PASSWORD, fault));
        }
        let mut session = self.open(&name, told).await?;
        let made = self.make(&mut session, &name, owner, password, adopt).await;
        session.close().await;
        made.map_err(|error| error.without(password))?;
        let database = match self.what {
            What::Database => &name,
            What::Schema => self.database(),
        };
        let schema = (self.what == What::Schema).then(|| name.clone());
        let connection = Connection::of_user(&self.url, database, &name, password);
        Ok(Connection { schema, ..connection })
    }

    async fn remove(&self, owner: &Marker, told: Told<'_>) -> Result<Removed, ProvisionError> {
        let name = name::of(&owner.app, name::MOST);
        let mut session = self.open(&name, told).await?;
        let removed = self.unmake(&mut session, &name, owner).await;
        session.close().await;
        removed
    }
}

impl PostgresServer {
    /// Connects, and waits for who makes or removes the same.
    async fn open<'t>(
        &self,
        name: &str,
        told: Told<'t>,
    ) -> Result<Session<'t, Postgres>, ProvisionError> {
        let options = self.options()?;
        let mut session = Session::open(options, self.url.to_string(), told).await?;
        session.rows(SETTLE, SETTINGS.into()).await?;
        session.rows(SETTLE, ALONE.replace("{name}", name)).await?;
        Ok(session)
    }

    pub(super) fn options(&self) -> Result<PgConnectOptions, ProvisionError> {
        let url = &self.url;
        // All that the environment could fill in is said here: its password is not for every server that
        // an app names.
        let options = PgConnectOptions::new_without_pgpass()
            .username(url.user.as_deref().unwrap_or("postgres"))
            .password(url.password().unwrap_or_default())
            .database(self.database())
            .application_name("doorbell");
        let options = match &url.place {
            DatabasePlace::Host { host, port } => options.host(host).port(*port),
            DatabasePlace::Socket { path, port } => options.socket(path).port(*port),
            DatabasePlace::File(_) => return Err(self.other(SETTLE, "it is no server")),
        };
        let options = match url.option("sslmode") {
            Some(mode) => {
                options.ssl_mode(mode.parse().map_err(|_| self.other(SETTLE, "unknown `sslmode`"))?)
            }
            None => options.ssl_mode(PgSslMode::Prefer),
        };
        Ok(match url.option("sslrootcert") {
            Some(file) => options.ssl_root_cert(file),
            None => options,
        })
    }

    /// The database to connect to.
    fn database(&self) -> &str {
        self.url.database.as_deref().unwrap_or("postgres")
    }

    fn other(&self, step: Step, words: &str) -> ProvisionError {
        ProvisionError::Other { server: self.url.to_string(), step: step.what, words: words.into() }
    }

    async fn look(
        &self,
        session: &mut Session<'_, Postgres>,
        name: &str,
    ) -> Result<Found, ProvisionError> {
        let its = match self.what {
            What::Database => "SELECT datname AS name, datdba AS owner FROM pg_database",
            What::Schema => "SELECT nspname AS name, nspowner AS owner FROM pg_namespace",
        };
        let look = format!(
            "SELECT role.oid IS NOT NULL, shobj_description(role.oid, 'pg_authid'),
                its.name IS NOT NULL, coalesce(its.owner = role.oid, false), us.rolsuper,
                coalesce(has_database_privilege(role.oid, current_database(), 'CONNECT'), false)
            FROM pg_roles us
            LEFT JOIN pg_roles role ON role.rolname = '{name}'
            LEFT JOIN ({its}) its ON its.name = '{name}'
            WHERE us.rolname = current_user"
        );
        let rows = session.rows(LOOK, look).await?;
        let row = rows.first().ok_or_else(|| self.other(LOOK, "we have no role"))?;
        let found = || {
            Ok(Found {
                has_role: row.try_get(0)?,
                marker: row.try_get(1)?,
                has_it: row.try_get(2)?,
                owns_it: row.try_get(3)?,
                is_superuser: row.try_get(4)?,
                may_enter: row.try_get(5)?,
            })
        };
        found().map_err(|error| session.error(LOOK, &error))
    }

    /// What the role is to this owner; an error when the name is not his.
    fn claim(
        &self,
        found: &Found,
        name: &str,
        owner: &Marker,
        adopt: Adopt,
    ) -> Result<Claim, ProvisionError> {
        let server = self.url.to_string();
        if found.has_it && !found.owns_it {
            let what = match self.what {
                What::Database => "database",
                What::Schema => "schema",
            };
            let why = "it is not Doorbell's, which leaves it alone".into();
            return Err(taken(&server, what, name, why));
        }
        let claim = owner.claim(found.marker.as_deref(), adopt);
        claim.map_err(|why| taken(&server, "role", name, why))
    }

    async fn make(
        &self,
        session: &mut Session<'_, Postgres>,
        name: &str,
        owner: &Marker,
        password: &Secret,
        adopt: Adopt,
    ) -> Result<(), ProvisionError> {
        let found = self.look(session, name).await?;
        let (mark, stored) = (literal(&owner.to_string()), literal(&password::scram(password)));
        let comment = format!("COMMENT ON ROLE \"{name}\" IS {mark}");
        if !found.has_role && !found.has_it {
            // Sent at once, these are one transaction.
            let create = format!("CREATE ROLE \"{name}\" LOGIN PASSWORD {stored}; {comment}");
            session.run(ROLE, create).await?;
        } else {
            if self.claim(&found, name, owner, adopt)? == Claim::ToAdopt {
                session.run(ADOPT, comment).await?;
            }
            let alter = format!("ALTER ROLE \"{name}\" LOGIN PASSWORD {stored}");
            session.run(PASSWORD, alter).await?;
        }
        if !found.is_superuser {
            session.run(JOIN, format!("GRANT \"{name}\" TO CURRENT_USER")).await?;
        }
        match self.what {
            What::Database => make_database(session, name, &found).await,
            What::Schema => self.make_schema(session, name, &found).await,
        }
    }

    async fn make_schema(
        &self,
        session: &mut Session<'_, Postgres>,
        name: &str,
        found: &Found,
    ) -> Result<(), ProvisionError> {
        let database = identifier(self.database());
        if !found.has_it {
            let create = format!("CREATE SCHEMA \"{name}\" AUTHORIZATION \"{name}\"");
            session.run(SCHEMA, create).await?;
        }
        let path =
            format!("ALTER ROLE \"{name}\" IN DATABASE {database} SET search_path TO \"{name}\"");
        session.run(PATH, path).await?;
        // Of a role that was not there nothing is known yet; others mostly may, as everybody may.
        let found = if found.has_role { found } else { &self.look(session, name).await? };
        if !found.may_enter {
            let grant = format!("GRANT CONNECT ON DATABASE {database} TO \"{name}\"");
            session.run(ENTER, grant).await?;
        }
        Ok(())
    }

    async fn unmake(
        &self,
        session: &mut Session<'_, Postgres>,
        name: &str,
        owner: &Marker,
    ) -> Result<Removed, ProvisionError> {
        let found = self.look(session, name).await?;
        if !found.has_role && !found.has_it {
            return Ok(Removed::Nothing);
        }
        self.claim(&found, name, owner, Adopt::No)?;
        if !found.is_superuser {
            session.run(JOIN, format!("GRANT \"{name}\" TO CURRENT_USER")).await?;
        }
        session.run(LOCK_OUT, format!("ALTER ROLE \"{name}\" NOLOGIN")).await?;
        let part = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        );
        session.run(PART, part).await?;
        match self.what {
            What::Database if found.has_it => {
                let drop = format!("DROP DATABASE \"{name}\" WITH (FORCE)");
                session.run(DROP_DATABASE, drop).await?;
            }
            What::Database => {}
            What::Schema => {
                let drop = format!("DROP SCHEMA IF EXISTS \"{name}\" CASCADE");
                session.run(DROP_SCHEMA, drop).await?;
                session.run(DROP_OWNED, format!("DROP OWNED BY \"{name}\"")).await?;
            }
        }
        match session.try_run(DROP_ROLE, format!("DROP ROLE \"{name}\"")).await? {
            Ok(()) => Ok(Removed::All),
            Err(error) => {
                let error_code = error.as_database_error().and_then(|inner| inner.code());
                let has_dependents = error_code.is_some_and(|code| code == HAS_DEPENDENTS);
                match session.error(DROP_ROLE, &error) {
                    ProvisionError::Other { words, .. } if has_dependents => {
                        Ok(Removed::ButUser(words))
                    }
                    error => Err(error),
                }
            }
        }
    }
}

async fn make_database(
    session: &mut Session<'_, Postgres>,
    name: &str,
    found: &Found,
) -> Result<(), ProvisionError> {
    if !found.has_it {
        let create = format!("CREATE DATABASE \"{name}\" OWNER \"{name}\"");
        session.run(DATABASE, create).await?;
    }
    let revoke = format!("REVOKE ALL ON DATABASE \"{name}\" FROM PUBLIC");
    session.run(PRIVATE, revoke).await
}

/// A name between quotes.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
