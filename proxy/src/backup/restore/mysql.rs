//! A dump of MariaDB or MySQL. Both end a transaction with each table that is made, so what fails leaves a
//! part of it.

use std::io::Read;

use doorbell_config::spec::{DatabaseUrl, Secret};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, MySqlConnection, Row};
use tokio::runtime::Runtime;

use super::{connected, failed, not_empty};
use crate::{
    backup::{
        BackupError,
        sql::mysql::{Script, without_database, without_definer},
    },
    provision,
};

/// What is in the database.
const THINGS: &str = "SELECT
    (SELECT count(*) FROM information_schema.tables WHERE table_schema = database())
    + (SELECT count(*) FROM information_schema.routines WHERE routine_schema = database())
    + (SELECT count(*) FROM information_schema.events WHERE event_schema = database())";

struct Session {
    runtime: Runtime,
    connection: MySqlConnection,
    shown: String,
    secret: Secret,
}

/// Restores a dump.
pub(super) fn restore(url: &DatabaseUrl, dump: &mut dyn Read) -> Result<Vec<String>, BackupError> {
    let mut session = Session::open(url)?;
    session.sees_nothing()?;
    // Rows are written to the disk together.
    session.run("SET autocommit = 0".into())?;
    let mut script = Script::new(dump);
    while let Some(statement) = script.statement()? {
        session.run(without_database(&without_definer(&statement)))?;
    }
    session.run("COMMIT".into())?;
    let Session { runtime, connection, .. } = session;
    // All is done; the server finds out by itself if this fails.
    let _ = runtime.block_on(connection.close());
    Ok(Vec::new())
}

impl Session {
    fn open(url: &DatabaseUrl) -> Result<Self, BackupError> {
        let options = provision::mysql_options(url);
        let options = options.map_err(|error| BackupError::Database(error.to_string()))?;
        let database = url.database.as_deref().unwrap_or_default();
        // There are the app's own rows in them.
        let options = options.database(database).disable_statement_logging();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BackupError::io("cannot begin"))?;
        let (shown, secret) = (url.to_string(), Secret::new(url.password().unwrap_or_default()));
        let connection = runtime.block_on(connected(&shown, &secret, options.connect()))?;
        Ok(Self { runtime, connection, shown, secret })
    }

    fn run(&mut self, statement: String) -> Result<(), BackupError> {
        let done = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(statement)));
        let done = self.runtime.block_on(done);
        done.map(drop).map_err(|error| failed(&self.shown, &self.secret, &error))
    }

    fn sees_nothing(&mut self) -> Result<(), BackupError> {
        let rows = self.runtime.block_on(self.connection.fetch_all(sqlx::raw_sql(THINGS)));
        let rows = rows.map_err(|error| failed(&self.shown, &self.secret, &error))?;
        match rows.first().map(|row| row.try_get::<i64, _>(0)) {
            Some(Ok(0)) => Ok(()),
            _ => Err(not_empty(&self.shown)),
        }
    }
}
