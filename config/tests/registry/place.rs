//! Where a registry under test is, and what makes a test a sentence.

use std::{path::PathBuf, time::Duration};

use doorbell_config::{
    name::AppId,
    registry::{Actor, Edit, Expect, Location, Owner, Registry, Revision, What, WriteError},
};
use doorbell_tests::Postgres;
use serde_json::{Map, Value};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

/// Where a registry is, and what belongs to it.
pub(crate) struct Place {
    pub(crate) location: Location,
    folder: Option<TempDir>,
    address: Option<String>,
}

impl Place {
    /// A file that is not there yet.
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registry.db");
        Self { location: Location::Sqlite(path), folder: Some(folder), address: None }
    }

    /// A new database of the shared server.
    pub(crate) fn postgres() -> Self {
        Self::of(&Postgres::shared().database())
    }

    /// The database of an address.
    pub(crate) fn of(address: &str) -> Self {
        let location = address.parse().expect("an address");
        Self { location, folder: None, address: Some(address.into()) }
    }

    pub(crate) async fn open(&self) -> Registry {
        Registry::open(&self.location).await.expect("a registry")
    }

    /// The address of PostgreSQL's database.
    pub(crate) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The file of SQLite.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.as_ref().expect("a file").path().join("registry.db")
    }

    /// Runs statements past Doorbell, in whichever database it is.
    pub(crate) async fn sql(&self, statements: &str) {
        self.script(statements.to_owned()).await;
    }

    /// The same.
    pub(crate) async fn script(&self, statements: String) {
        if let Some(address) = &self.address {
            let statements = format!("SET search_path TO doorbell; {statements}");
            Postgres::shared().sql(address, &statements);
            return;
        }
        let mut connection = self.connect().await;
        let statements = sqlx::AssertSqlSafe(statements);
        sqlx::raw_sql(statements).execute(&mut connection).await.expect("statements");
        connection.close().await.expect("its end");
    }

    /// The number that a question has for an answer, past Doorbell.
    pub(crate) async fn number(&self, question: &'static str) -> i64 {
        if let Some(address) = &self.address {
            let question = format!("SET search_path TO doorbell; {question}");
            let told = Postgres::shared().sql(address, &question);
            return told.lines().last().expect("a line").parse().expect("a number");
        }
        let mut connection = self.connect().await;
        let number = sqlx::query_scalar(question).fetch_one(&mut connection).await;
        connection.close().await.expect("its end");
        number.expect("a number")
    }

    /// To the file of SQLite.
    async fn connect(&self) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file());
        options.connect().await.expect("the file")
    }
}

/// A contract: each of these functions is a test on both databases.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::place::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::place::Place::postgres()).await;
            })*
        }
    };
}

pub(crate) fn id(text: &str) -> AppId {
    AppId::parse(text).expect("an id")
}

/// A definition with this name.
pub(crate) fn named(name: &str) -> Map<String, Value> {
    let mut definition = Map::new();
    definition.insert("name".into(), name.into());
    definition
}

pub(crate) fn somebody() -> Actor {
    Actor { name: "unix:1000".into(), from: "admin.sock".into() }
}

/// Whose secrets and version those of an app of the registry are.
pub(crate) fn of(app: &str) -> Owner {
    Owner::Registry(id(app))
}

pub(crate) fn edit(app: &str, expect: Expect, what: What) -> Edit {
    Edit { app: id(app), expect, what, is_of_file: false }
}

pub(crate) fn put(app: &str, expect: Expect, name: &str) -> Edit {
    edit(app, expect, What::Put(named(name)))
}

/// Puts an app there, whatever is there.
pub(crate) async fn write(registry: &Registry, app: &str, name: &str) -> Revision {
    let edits = [put(app, Expect::Anything, name)];
    registry.write(&edits, &somebody()).await.expect("a write")
}

/// Tries the same.
pub(crate) async fn try_write(registry: &Registry, app: &str) -> Result<Revision, WriteError> {
    registry.write(&[put(app, Expect::Anything, "tried")], &somebody()).await
}

/// The ids of all apps, in their order.
pub(crate) async fn ids(registry: &Registry) -> Vec<String> {
    let all = registry.changes_since(Revision::ZERO).await.expect("all apps");
    all.put.iter().map(|app| app.id.to_string()).collect()
}

/// What comes of something that is tried again and again for a while.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never came true: {what}");
}
