//! A kind of server with what a test does to it.

use std::{
    fs,
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, DatabaseUrl},
};
use doorbell_proxy::provision::{
    Adopt, Connection, Marker, ProvisionError, Provisioner, Removed, Secret, provisioner,
};
use doorbell_tests::{MariaDb, Postgres};
use tempfile::TempDir;
use uuid::Uuid;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    PostgresDatabase,
    PostgresSchema,
    MariaDb,
    Sqlite,
}

pub(crate) struct Rig {
    pub(crate) kind: Kind,
    pub(crate) spec: DatabaseSpec,
    folder: TempDir,
}

/// The server of PostgreSQL, which lets in nobody but its superuser without a password.
pub(crate) fn postgres() -> &'static Postgres {
    static STRICT: LazyLock<&'static Postgres> = LazyLock::new(|| {
        let server = Postgres::shared();
        strict(server);
        server
    });
    *STRICT
}

pub(crate) fn strict(server: &Postgres) {
    let rules = "local all doorbell trust\nlocal all all scram-sha-256\n";
    fs::write(server.folder().join("data/pg_hba.conf"), rules).unwrap();
    server.sql(&server.address("postgres"), "SELECT pg_reload_conf()");
}

/// An id that no other test has, with this text in it.
pub(crate) fn app(text: &str) -> AppId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    AppId::parse(&format!("{text}{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// The marker of an app in its first incarnation.
pub(crate) fn owner(app: &AppId) -> Marker {
    Marker { installation: Uuid::from_u128(7), app: app.clone(), incarnation: 1 }
}

/// The same of one that was made anew.
pub(crate) fn later(owner: &Marker) -> Marker {
    Marker { incarnation: owner.incarnation + 1, ..owner.clone() }
}

pub(crate) fn secret() -> Secret {
    Secret::new("only the app knows")
}

pub(crate) fn url(text: &str) -> DatabaseUrl {
    text.parse().unwrap()
}

impl Rig {
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = match kind {
            Kind::PostgresDatabase => {
                DatabaseSpec::NewDatabase(url(&postgres().address("postgres")))
            }
            Kind::PostgresSchema => DatabaseSpec::NewSchema(url(&postgres().database())),
            Kind::MariaDb => DatabaseSpec::NewDatabase(url(&MariaDb::shared().address("root"))),
            Kind::Sqlite => {
                DatabaseSpec::NewDatabase(url(&format!("sqlite:{}", folder.path().display())))
            }
        };
        spec.check().unwrap();
        Self { kind, spec, folder }
    }

    pub(crate) fn provisioner(&self) -> Box<dyn Provisioner> {
        provisioner(&self.spec)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn provision(&self, owner: &Marker) -> Result<Connection, ProvisionError> {
        self.provisioner().provision(owner, &secret(), Adopt::No, &|_| {}).await
    }

    pub(crate) async fn adopt(&self, owner: &Marker) -> Result<Connection, ProvisionError> {
        self.provisioner().provision(owner, &secret(), Adopt::Yes, &|_| {}).await
    }

    pub(crate) async fn remove(&self, owner: &Marker) -> Result<Removed, ProvisionError> {
        self.provisioner().remove(owner, &|_| {}).await
    }

    /// What there is with this id in its name.
    pub(crate) fn left_of(&self, app: &AppId) -> String {
        let id = app.as_str();
        match self.kind {
            Kind::PostgresDatabase | Kind::PostgresSchema => postgres().sql(
                self.spec.url().reveal(),
                &format!(
                    "SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE '%{id}%'
                    UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname LIKE '%{id}%'
                    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE '%{id}%'
                    UNION ALL SELECT 'setting' FROM pg_db_role_setting s WHERE s.setrole <> 0
                        AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.setrole)"
                ),
            ),
            Kind::MariaDb => MariaDb::shared().sql(&format!(
                "CREATE DATABASE IF NOT EXISTS doorbell;
                CREATE TABLE IF NOT EXISTS doorbell.app_database (
                    name VARCHAR(64) CHARACTER SET ascii NOT NULL PRIMARY KEY,
                    marker VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
                    made BOOLEAN NOT NULL DEFAULT FALSE);
                CREATE TABLE IF NOT EXISTS doorbell.app_user (
                    name VARCHAR(64) CHARACTER SET ascii NOT NULL,
                    host VARCHAR(255) CHARACTER SET ascii NOT NULL,
                    PRIMARY KEY (name, host));
                SELECT CONCAT('user ', user) FROM mysql.user WHERE user LIKE '%{id}%'
                UNION ALL SELECT CONCAT('right ', user) FROM mysql.db WHERE user LIKE '%{id}%'
                UNION ALL SELECT CONCAT('database ', schema_name) FROM information_schema.schemata
                    WHERE schema_name LIKE '%{id}%'
                UNION ALL SELECT CONCAT('marker ', name) FROM doorbell.app_database
                    WHERE name LIKE '%{id}%'
                UNION ALL SELECT CONCAT('marker of user ', name) FROM doorbell.app_user
                    WHERE name LIKE '%{id}%'"
            )),
            Kind::Sqlite => {
                let entries = fs::read_dir(self.folder()).unwrap();
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.contains(id)).collect::<Vec<_>>().join("\n")
            }
        }
    }

    /// Makes by hand what would have this app's name, and a note in it. Returns how to see that it is there.
    pub(crate) fn squat(&self, app: &AppId) -> Box<dyn Fn() -> bool + '_> {
        let name = format!("app_{app}");
        match self.kind {
            Kind::PostgresDatabase => {
                let admin = self.spec.url().reveal();
                postgres().sql(admin, &format!("CREATE DATABASE {name}"));
            }
            Kind::PostgresSchema => {
                let admin = self.spec.url().reveal();
                postgres().sql(admin, &format!("CREATE SCHEMA {name}"));
            }
            Kind::MariaDb => drop(MariaDb::shared().sql(&format!("CREATE DATABASE {name}"))),
            Kind::Sqlite => fs::create_dir(self.folder().join(&name)).unwrap(),
        }
        let app = app.clone();
        Box::new(move || self.left_of(&app).lines().count() == 1)
    }
}
