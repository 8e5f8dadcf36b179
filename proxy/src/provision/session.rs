//! A connection to a server for as long as an app's database is made or removed there.
//!
//! Statements that make something take no values beside them, so names and texts are written into all of
//! them, quoted. Each statement is sent as text and ends before its time is up, or the connection does.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Database, Executor};

use super::{ProvisionError, Step, Told};

const CONNECT: Duration = Duration::from_secs(5);
const STATEMENT: Duration = Duration::from_secs(30);
const GOODBYE: Duration = Duration::from_secs(1);

const LOG_IN: Step = Step::new("log in", "a user that it knows, and its password");

/// A connection.
pub(super) struct Session<'t, DB: Database> {
    connection: DB::Connection,
    /// The server, as it is shown.
    pub(super) server: String,
    told: Told<'t>,
}

impl<'t, DB: Database> Session<'t, DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Connects.
    pub(super) async fn open<O>(
        options: O,
        server: String,
        told: Told<'t>,
    ) -> Result<Self, ProvisionError>
    where
        O: ConnectOptions<Connection = DB::Connection>,
    {
        // The driver would log statements, and there are hashes of passwords in them.
        let options = options.disable_statement_logging();
        match tokio::time::timeout(CONNECT, options.connect()).await {
            Ok(Ok(connection)) => Ok(Self { connection, server, told }),
            Ok(Err(error)) => Err(ProvisionError::at(&server, LOG_IN, &error)),
            Err(_) => Err(late(server, CONNECT)),
        }
    }

    /// Does something, and tells of it.
    pub(super) async fn run(&mut self, step: Step, sql: String) -> Result<(), ProvisionError> {
        (self.told)(step);
        self.rows(step, sql).await.map(drop)
    }

    /// The same, with the driver's own error.
    pub(super) async fn try_run(
        &mut self,
        step: Step,
        sql: String,
    ) -> Result<Result<(), sqlx::Error>, ProvisionError> {
        (self.told)(step);
        let statement = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql)));
        match tokio::time::timeout(STATEMENT, statement).await {
            Ok(done) => Ok(done.map(drop)),
            Err(_) => Err(late(self.server.clone(), STATEMENT)),
        }
    }

    /// Asks something.
    pub(super) async fn rows(
        &mut self,
        step: Step,
        sql: String,
    ) -> Result<Vec<DB::Row>, ProvisionError> {
        let statement = self.connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql)));
        match tokio::time::timeout(STATEMENT, statement).await {
            Ok(rows) => rows.map_err(|error| self.error(step, &error)),
            Err(_) => Err(late(self.server.clone(), STATEMENT)),
        }
    }

    /// What an error of the driver is.
    pub(super) fn error(&self, step: Step, error: &sqlx::Error) -> ProvisionError {
        ProvisionError::at(&self.server, step, error)
    }

    /// Ends the connection. Without this the server finds out by itself.
    pub(super) async fn close(self) {
        let _ = tokio::time::timeout(GOODBYE, self.connection.close()).await;
    }
}

fn late(server: String, after: Duration) -> ProvisionError {
    let words = format!("no answer within {} s", after.as_secs());
    ProvisionError::Unreachable { server, words }
}

/// A text between quotes, for a server that takes no other character there for a special one.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
