//! Databases on their way out of an archive.
//!
//! Statements are sent as the app's own user, one after the other, so that a dump can do here what the app can
//! do, and nothing more: see [`super::sql`]. A database that has something in it is left alone.

mod mysql;
mod postgres;
mod sqlite;

use std::{io::Read, time::Duration};

use doorbell_config::{
    registry::printable,
    spec::{DatabasePlace, Dialect, Secret},
};
use tokio::time::timeout;

use super::{
    BackupError,
    format::{Access, Dumped},
    sql,
};

const CONNECT: Duration = Duration::from_secs(10);

/// Puts a dump into a database that is empty; tells what was left out.
///
/// # Errors
/// In the server's words. PostgreSQL and SQLite are then as before.
pub fn restore(
    access: &Access,
    dumped: &Dumped,
    dump: &mut dyn Read,
) -> Result<Vec<String>, BackupError> {
    let url = access.parsed()?;
    match (url.dialect, &url.place) {
        (Dialect::Sqlite, DatabasePlace::File(path)) => sqlite::restore(path, dump),
        (Dialect::Postgres | Dialect::Sqlite, _) => {
            let schemas = dumped.schema.as_deref().zip(access.schema.as_deref());
            postgres::restore(&url, schemas, dump)
        }
        (Dialect::MySql | Dialect::MariaDb, _) => mysql::restore(&url, dump),
    }
}

/// Sees that a dump can be taken apart.
///
/// # Errors
/// What is wrong with it.
pub fn check(dumped: &Dumped, dump: &mut dyn Read) -> Result<(), BackupError> {
    match &*dumped.dialect {
        "postgres" => {
            let mut script = sql::postgres::Script::new(dump);
            while let Some(statement) = script.statement()? {
                if matches!(statement, sql::postgres::Statement::Copy(_)) {
                    while script.rows()?.is_some() {}
                }
            }
            Ok(())
        }
        "mysql" | "mariadb" => {
            let mut script = sql::mysql::Script::new(dump);
            while script.statement()?.is_some() {}
            Ok(())
        }
        "sqlite" => sqlite::check(dump),
        other => Err(BackupError::Refused(format!(
            "its database is of a kind that is not known here: {}",
            other.escape_debug()
        ))),
    }
}

/// A connection that is made before its time is up; what a statement takes is the server's to say.
async fn connected<T>(
    shown: &str,
    secret: &Secret,
    connecting: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, BackupError> {
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(|error| failed(shown, secret, &error)),
        Err(_) => {
            Err(BackupError::Database(format!("{shown}: no answer within {} s", CONNECT.as_secs())))
        }
    }
}

fn failed(shown: &str, secret: &Secret, error: &sqlx::Error) -> BackupError {
    let words = printable(&secret.hidden_in(&error.to_string()));
    BackupError::Database(format!("{shown}: {words}"))
}

fn not_empty(shown: &str) -> BackupError {
    BackupError::Database(format!("{shown} has something in it, and is left as it is"))
}
