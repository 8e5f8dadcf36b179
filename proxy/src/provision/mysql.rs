//! A database of the app's own on MariaDB or MySQL.
//!
//! Neither has a comment that all versions keep and that an app with all rights on its database could not
//! change. So markers stand in a table of a database `doorbell`, which is made when it is first needed. A
//! line there comes before the database and the user that it is for, and goes after them. From where users may
//! connect that were made here stands in another table: an operator may make further ones of the same name.

use async_trait::async_trait;
use doorbell_config::spec::{DatabasePlace, DatabaseUrl};
use sqlx::{
    MySql, Row,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow},
};

use super::{
    Adopt, Connection, Marker, ProvisionError, Provisioner, Removed, Secret, Step, Told,
    marker::{Claim, taken},
    name, password,
    session::{Session, literal},
};

const SETTLE: Step = Step::new("begin", "none");
const TURN: Step = Step::new("wait for its turn", "none");
const LOOK: Step = Step::new("look what is there", "SELECT on `doorbell`.* and on mysql.user");
const TABLE: Step = Step::new("create the tables of markers", "CREATE on `doorbell`.*");
const MARK: Step = Step::new("mark its name as the app's", "INSERT and UPDATE on `doorbell`.*");
const DATABASE: Step = Step::new("create its database", "CREATE on it");
const USER: Step = Step::new("create its user", "CREATE USER");
const PASSWORD: Step = Step::new("give its user the password", "CREATE USER");
const GRANT: Step =
    Step::new("give its user all rights on its database", "ALL on it, WITH GRANT OPTION");
const DROP_USER: Step = Step::new("drop its user", "CREATE USER");
const PART: Step = Step::new("end its connections", "PROCESS and CONNECTION ADMIN");
const DROP_DATABASE: Step = Step::losing("drop its database", "DROP on it");
const UNMARK: Step = Step::new("remove its mark", "DELETE on `doorbell`.*");

/// What holds on each connection. `NO_BACKSLASH_ESCAPES`: between quotes only a quote is special.
const SETTINGS: &str = "
    SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES';
    SET SESSION lock_wait_timeout = 25;
    SET SESSION autocommit = 1;
";

/// The name is of ASCII, so that its key fits everywhere. Not all that a line promises is there: `made` tells.
const MARKERS: &str = "
    CREATE DATABASE IF NOT EXISTS doorbell;
    CREATE TABLE IF NOT EXISTS doorbell.app_database (
        name VARCHAR(64) CHARACTER SET ascii NOT NULL PRIMARY KEY,
        marker VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
        made BOOLEAN NOT NULL DEFAULT FALSE
    ) ENGINE = InnoDB;
    CREATE TABLE IF NOT EXISTS doorbell.app_user (
        name VARCHAR(64) CHARACTER SET ascii NOT NULL,
        host VARCHAR(255) CHARACTER SET ascii NOT NULL,
        PRIMARY KEY (name, host)
    ) ENGINE = InnoDB;
";

const NOT_OURS: &str = "it is not Doorbell's, which leaves it alone";

/// Such a thread is gone by itself.
const NO_SUCH_THREAD: u16 = 1094;

/// A server.
pub(super) struct MySqlServer {
    /// Where it is, and who makes databases there.
    pub(super) url: DatabaseUrl,
}

/// What the parts of an app's database are called.
struct Names {
    /// Database and user.
    name: String,
    /// From where the user may connect.
    host: &'static str,
}

/// What is there.
struct Found {
    /// Whether there is the table of users, which came later than that of markers.
    has_users: bool,
    /// The marker, and whether all was made once.
    marker: Option<(String, bool)>,
    has_database: bool,
    /// Tables in it.
    tables: i64,
    /// From where there is a user of the app's name.
    hosts: Vec<String>,
    /// From where there is one, or is to be, that was made here.
    own_hosts: Vec<String>,
    is_mariadb: bool,
    /// Whether `_` in the name of a database stands for itself in a grant too.
    has_plain_grants: bool,
}

#[async_trait]
impl Provisioner for MySqlServer {
    async fn provision(
        &self,
        owner: &Marker,
        password: &Secret,
        adopt: Adopt,
        told: Told<'_>,
    ) -> Result<Connection, ProvisionError> {
        if let Some(fault) = password::fault(password) {
            return Err(self.other(PASSWORD, fault));
        }
        let names = self.names(owner);
        let mut session = self.open(&names, told).await?;
        let made = self.make(&mut session, &names, owner, password, adopt).await;
        session.close().await;
        made.map_err(|error| error.without(password))?;
        Ok(Connection::of_user(&self.url, &names.name, &names.name, password))
    }

    async fn remove(&self, owner: &Marker, told: Told<'_>) -> Result<Removed, ProvisionError> {
        let names = self.names(owner);
        let mut session = self.open(&names, told).await?;
        let removed = self.unmake(&mut session, &names, owner).await;
        session.close().await;
        removed
    }
}

impl MySqlServer {
    fn names(&self, owner: &Marker) -> Names {
        let is_near = match &self.url.place {
            DatabasePlace::Host { host, .. } => host == "localhost",
            DatabasePlace::Socket { .. } | DatabasePlace::File(_) => true,
        };
        Names {
            name: name::of(&owner.app, name::MOST_IN_MYSQL),
            host: if is_near { "localhost" } else { "%" },
        }
    }

    /// Connects, and waits for who makes or removes the same.
    async fn open<'t>(
        &self,
        names: &Names,
        told: Told<'t>,
    ) -> Result<Session<'t, MySql>, ProvisionError> {
        let mut session = Session::open(self.options()?, self.url.to_string(), told).await?;
        session.rows(SETTLE, SETTINGS.into()).await?;
        let turn = format!("SELECT GET_LOCK('doorbell {}', 25)", names.name);
        let rows = session.rows(TURN, turn).await?;
        let got =
            rows.first().and_then(|row: &MySqlRow| row.try_get::<Option<i64>, _>(0).ok().flatten());
        if got != Some(1) {
            return Err(self.other(TURN, "another program makes or removes it"));
        }
        Ok(session)
    }

    pub(super) fn options(&self) -> Result<MySqlConnectOptions, ProvisionError> {
        self.url.mysql_options().map_err(|why| self.other(SETTLE, &why.to_string()))
    }

    fn other(&self, step: Step, words: &str) -> ProvisionError {
        ProvisionError::Other { server: self.url.to_string(), step: step.what, words: words.into() }
    }

    fn taken(&self, what: &'static str, name: &str, why: &str) -> ProvisionError {
        taken(&self.url.to_string(), what, name, why.into())
    }

    /// Whose the names are. `None` is nobody's: they are free.
    fn claim(
        &self,
        found: &Found,
        names: &Names,
        owner: &Marker,
        adopt: Adopt,
    ) -> Result<Option<Claim>, ProvisionError> {
        match &found.marker {
            None if found.has_database => Err(self.taken("database", &names.name, NOT_OURS)),
            None if !found.hosts.is_empty() => Err(self.taken("user", &names.name, NOT_OURS)),
            None => Ok(None),
            // Somebody made a database between our marking its name and our making it.
            Some((_, false)) if found.tables > 0 => {
                Err(self.taken("database", &names.name, NOT_OURS))
            }
            Some((marker, _)) => match owner.claim(Some(marker), adopt) {
                Ok(claim) => Ok(Some(claim)),
                Err(why) => Err(self.taken("database", &names.name, &why)),
            },
        }
    }

    async fn make(
        &self,
        session: &mut Session<'_, MySql>,
        names: &Names,
        owner: &Marker,
        password: &Secret,
        adopt: Adopt,
    ) -> Result<(), ProvisionError> {
        let found = look(session, names).await?;
        let claim = self.claim(&found, names, owner, adopt)?;
        if !found.has_users {
            session.run(TABLE, MARKERS.into()).await?;
        }
        let Names { name, host } = names;
        let marker = literal(&owner.to_string());
        match claim {
            Some(Claim::Ours) => {}
            Some(Claim::ToAdopt) => {
                let set = format!("marker = {marker} WHERE name = '{name}'");
                session.run(MARK, format!("UPDATE doorbell.app_database SET {set}")).await?;
            }
            None => {
                let line = format!("(name, marker) VALUES ('{name}', {marker})");
                session.run(MARK, format!("INSERT INTO doorbell.app_database {line}")).await?;
            }
        }
        if !found.has_database {
            let create = format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4");
            session.run(DATABASE, create).await?;
        }
        if found.own_hosts.iter().all(|known| known != host) {
            let line = format!("(name, host) VALUES ('{name}', '{host}')");
            session.run(MARK, format!("INSERT INTO doorbell.app_user {line}")).await?;
        }
        let by = proof(password, found.is_mariadb);
        let (verb, step) = if found.hosts.iter().any(|known| known == host) {
            ("ALTER", PASSWORD)
        } else {
            ("CREATE", USER)
        };
        session.run(step, format!("{verb} USER '{name}'@'{host}' {by}")).await?;
        // Without the backslashes it would hold for databases that differ from this one where it has a `_`.
        let pattern = if found.has_plain_grants { name.clone() } else { name.replace('_', "\\_") };
        let grant = format!("GRANT ALL PRIVILEGES ON `{pattern}`.* TO '{name}'@'{host}'");
        session.run(GRANT, grant).await?;
        let made = format!("UPDATE doorbell.app_database SET made = TRUE WHERE name = '{name}'");
        session.run(MARK, made).await
    }

    async fn unmake(
        &self,
        session: &mut Session<'_, MySql>,
        names: &Names,
        owner: &Marker,
    ) -> Result<Removed, ProvisionError> {
        let found = look(session, names).await?;
        if self.claim(&found, names, owner, Adopt::No)?.is_none() {
            return Ok(Removed::Nothing);
        }
        let name = &names.name;
        // Before that was noted there was one.
        let is_own = |host: &&String| match found.own_hosts.as_slice() {
            [] => **host == names.host,
            own => own.contains(host),
        };
        for host in found.hosts.iter().filter(is_own) {
            let drop = format!("DROP USER IF EXISTS '{name}'@{}", literal(host));
            session.run(DROP_USER, drop).await?;
        }
        part(session, name).await?;
        let drop = format!("DROP DATABASE IF EXISTS `{name}`");
        session.run(DROP_DATABASE, drop).await?;
        if found.has_users {
            let delete = format!("DELETE FROM doorbell.app_user WHERE name = '{name}'");
            session.run(UNMARK, delete).await?;
        }
        let delete = format!("DELETE FROM doorbell.app_database WHERE name = '{name}'");
        session.run(UNMARK, delete).await?;
        Ok(Removed::All)
    }
}

/// What is there of these names.
async fn look(session: &mut Session<'_, MySql>, names: &Names) -> Result<Found, ProvisionError> {
    let name = &names.name;
    let all = format!(
        "SELECT
            (SELECT count(*) FROM information_schema.tables
                WHERE table_schema = 'doorbell' AND table_name = 'app_database'),
            (SELECT count(*) FROM information_schema.tables
                WHERE table_schema = 'doorbell' AND table_name = 'app_user'),
            (SELECT count(*) FROM information_schema.schemata WHERE schema_name = '{name}'),
            (SELECT count(*) FROM information_schema.tables WHERE table_schema = '{name}'),
            version()"
    );
    let rows = session.rows(LOOK, all).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound);
    let read = |row: &MySqlRow| -> Result<(i64, i64, i64, i64, String), sqlx::Error> {
        let number = |column: usize| row.try_get(column);
        Ok((number(0)?, number(1)?, number(2)?, number(3)?, row.try_get(4)?))
    };
    let counted = first.and_then(read);
    let (markers, users, databases, tables, version) =
        counted.map_err(|error| session.error(LOOK, &error))?;
    let hosts = format!("SELECT CAST(host AS CHAR) FROM mysql.user WHERE user = '{name}'");
    let hosts = texts(&session.rows(LOOK, hosts).await?);
    let own = format!("SELECT host FROM doorbell.app_user WHERE name = '{name}'");
    let own_hosts = if users > 0 { texts(&session.rows(LOOK, own).await?) } else { Vec::new() };
    let marker = if markers > 0 { marker(session, name).await? } else { None };
    let plain = "SHOW VARIABLES WHERE variable_name = 'partial_revokes' AND value = 'ON'";
    let has_plain_grants = !session.rows(LOOK, plain.into()).await?.is_empty();
    Ok(Found {
        has_users: users > 0,
        marker,
        has_database: databases > 0,
        tables,
        hosts,
        own_hosts,
        is_mariadb: version.contains("MariaDB"),
        has_plain_grants,
    })
}

/// The marker of this name, and whether all was made once.
async fn marker(
    session: &mut Session<'_, MySql>,
    name: &str,
) -> Result<Option<(String, bool)>, ProvisionError> {
    let select = format!(
        "SELECT marker, CAST(made AS SIGNED) FROM doorbell.app_database WHERE name = '{name}'"
    );
    let rows = session.rows(LOOK, select).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let read =
        || -> Result<_, sqlx::Error> { Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? != 0)) };
    read().map(Some).map_err(|error| session.error(LOOK, &error))
}

/// Ends the connections of a user. Only those that it may see: who sees too few is told by the server, when
/// it is to end them.
async fn part(session: &mut Session<'_, MySql>, name: &str) -> Result<(), ProvisionError> {
    let list = format!(
        "SELECT CAST(id AS CHAR) FROM information_schema.processlist WHERE user = '{name}'"
    );
    for id in texts(&session.rows(PART, list).await?) {
        let number: u64 = id.parse().unwrap_or_default();
        let Err(error) = session.try_run(PART, format!("KILL {number}")).await? else { continue };
        let database = error.as_database_error();
        let mysql = database.and_then(|inner| inner.try_downcast_ref::<MySqlDatabaseError>());
        if mysql.is_none_or(|mysql| mysql.number() != NO_SUCH_THREAD) {
            return Err(session.error(PART, &error));
        }
    }
    Ok(())
}

fn texts(rows: &[MySqlRow]) -> Vec<String> {
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}

/// How a user proves who he is. MySQL gets the password itself, which it hides in its logs: it stores a hash
/// that takes thousands of rounds of a scheme of its own, and the old one is gone from its newer versions.
fn proof(password: &Secret, is_mariadb: bool) -> String {
    if is_mariadb {
        format!("IDENTIFIED VIA mysql_native_password USING '{}'", password::native(password))
    } else {
        format!("IDENTIFIED BY {}", literal(password.reveal()))
    }
}
