//! A connection that is lent from a pool.
//!
//! Not `sqlx::Transaction`: where SQLite has rolled back by itself, as it does when the disk is full, a further
//! rollback fails, and the driver takes the connection for one within a transaction for ever. And what was cut
//! short on the way to PostgreSQL would be waited for by whoever is lent the connection next.

use sqlx::{Database, Executor, pool::PoolConnection};

use super::in_time;
use crate::registry::error::RegistryError;

/// A connection. When it is dropped it is closed, and what was not committed is rolled back with that; unless
/// it was said to be clean.
pub(in crate::registry) struct Lent<DB: Database> {
    connection: PoolConnection<DB>,
    is_clean: bool,
}

impl<DB: Database> Lent<DB> {
    pub(super) fn new(connection: PoolConnection<DB>) -> Self {
        Self { connection, is_clean: false }
    }

    /// To run a statement on.
    pub(super) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }

    /// Runs statements without values.
    pub(super) async fn script(&mut self, script: &'static str) -> Result<(), RegistryError>
    where
        for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    {
        in_time(self.connection().execute(sqlx::raw_sql(script))).await.map(drop)
    }

    /// Ends the transaction.
    pub(super) async fn end(mut self, how: &'static str) -> Result<(), RegistryError>
    where
        for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    {
        let ended = self.script(how).await;
        self.is_clean = ended.is_ok();
        ended
    }

    /// Gives it back, if what was done last came to an end.
    pub(super) fn give_back_after<T>(&mut self, done: &Result<T, RegistryError>) {
        self.is_clean = !matches!(done, Err(RegistryError::Unreachable(_)));
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if !self.is_clean {
            self.connection.close_on_drop();
        }
    }
}
