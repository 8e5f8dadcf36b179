//! Where statements go: a database of SQLite or PostgreSQL.
//!
//! The seam is as narrow as it can be: the text of a statement and its values in, rows out. All that the
//! registry does is written once above it, in the SQL that both databases understand, `$1` for a value
//! included. `sqlx::Any` would be the same seam made by others, but it has no `BEGIN IMMEDIATE`, hides the
//! databases' own codes that errors are sorted by, and maps types by a rule of its own; two enums and a macro
//! are less.
//!
//! Every wait has an end, here or below.

use std::{future::Future, time::Duration};

use sqlx::{Postgres, Row as _, Sqlite, postgres::PgRow, sqlite::SqliteRow};

use super::{error::RegistryError, location::Location, migration};

mod ear;
mod lent;
mod postgres;
mod sqlite;

use ear::Ear;
use lent::Lent;

/// How long one step at the database may take, the wait for a connection included. The databases' own limits
/// are shorter and say more; this one is for what does not answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A value for a statement.
#[derive(Clone, Copy)]
pub(super) enum Value<'v> {
    Number(i64),
    MaybeNumber(Option<i64>),
    Text(&'v str),
    MaybeText(Option<&'v str>),
    Bytes(&'v [u8]),
}

/// A statement with its values, for one of the databases.
macro_rules! bound {
    ($database:ty, $statement:expr, $values:expr) => {{
        let mut query = sqlx::query::<$database>($statement);
        for value in $values {
            query = match *value {
                Value::Number(number) => query.bind(number),
                Value::MaybeNumber(number) => query.bind(number),
                Value::Text(text) => query.bind(text),
                Value::MaybeText(text) => query.bind(text),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query
    }};
}
use bound;

/// One of the databases.
pub(super) enum Store {
    Sqlite(sqlite::Store),
    Postgres(Box<postgres::Store>),
}

impl Store {
    /// Connects, and makes or migrates what is not as it should be.
    pub(super) async fn open(location: &Location) -> Result<Self, RegistryError> {
        match location {
            Location::Sqlite(path) => sqlite::Store::open(path).await.map(Self::Sqlite),
            Location::Postgres(url) => {
                let store = postgres::Store::open(url).await?;
                Ok(Self::Postgres(Box::new(store)))
            }
        }
    }

    /// Looks whether there is nothing newer than we are.
    pub(super) async fn is_known(location: &Location) -> Result<(), RegistryError> {
        let version = match location {
            Location::Sqlite(path) => sqlite::version(path).await?,
            Location::Postgres(url) => postgres::version(url).await?,
        };
        migration::known(u64::try_from(version).unwrap_or_default())
    }

    /// The rows of one statement that only reads.
    pub(super) async fn rows(
        &self,
        statement: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, RegistryError> {
        match self {
            Self::Sqlite(store) => store.rows(statement, values).await,
            Self::Postgres(store) => store.rows(statement, values).await,
        }
    }

    /// Begins a transaction that writes. One that is dropped has changed nothing.
    pub(super) async fn begin(&self) -> Result<Transaction, RegistryError> {
        match self {
            Self::Sqlite(store) => store.begin().await.map(Transaction::Sqlite),
            Self::Postgres(store) => store.begin().await.map(Transaction::Postgres),
        }
    }

    /// Sees that what was overwritten is in no file any more, as far as that is ours to see to; says whether that
    /// could be.
    pub(super) async fn forget_overwritten(&self) -> Result<bool, RegistryError> {
        match self {
            Self::Sqlite(store) => store.forget_overwritten().await,
            // Its own housekeeping does that.
            Self::Postgres(_) => Ok(true),
        }
    }

    /// Ends all connections, or gives them up.
    pub(super) async fn close(&self) {
        let closed = async {
            match self {
                Self::Sqlite(store) => store.close().await,
                Self::Postgres(store) => store.close().await,
            }
        };
        // Who does not end by then is ended by the database.
        let _ = tokio::time::timeout(PATIENCE, closed).await;
    }

    /// What hears of changes by others.
    pub(super) async fn listen(&self) -> Result<Ear, RegistryError> {
        match self {
            Self::Sqlite(store) => Ok(store.listen()),
            Self::Postgres(store) => store.listen().await,
        }
    }
}

/// A transaction that writes.
pub(super) enum Transaction {
    Sqlite(Lent<Sqlite>),
    Postgres(Lent<Postgres>),
}

impl Transaction {
    /// The rows of a statement.
    pub(super) async fn rows(
        &mut self,
        statement: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, RegistryError> {
        match self {
            Self::Sqlite(lent) => sqlite::rows(lent, statement, values).await,
            Self::Postgres(lent) => postgres::rows(lent, statement, values).await,
        }
    }

    /// Runs several statements without values.
    pub(super) async fn script(&mut self, script: &'static str) -> Result<(), RegistryError> {
        match self {
            Self::Sqlite(lent) => lent.script(script).await,
            Self::Postgres(lent) => lent.script(script).await,
        }
    }

    /// Tells other Doorbells, once it is committed, that something changed.
    pub(super) async fn tell(&mut self) -> Result<(), RegistryError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(lent) => lent.script(postgres::TELL).await,
        }
    }

    /// Makes what was written last. It is durable when this returns.
    pub(super) async fn commit(self) -> Result<(), RegistryError> {
        self.end("COMMIT").await
    }

    /// Takes back what was written. Dropping it does the same, at the price of a connection.
    pub(super) async fn roll_back(self) {
        // Where this fails the connection is closed, and the database rolls back.
        let _ = self.end("ROLLBACK").await;
    }

    async fn end(self, how: &'static str) -> Result<(), RegistryError> {
        match self {
            Self::Sqlite(lent) => lent.end(how).await,
            Self::Postgres(lent) => lent.end(how).await,
        }
    }
}

/// What a step at a database came to, or that it did not come to an end.
async fn in_time<T>(
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(done) => done.map_err(RegistryError::from),
        Err(_) => {
            Err(RegistryError::Unreachable(format!("no answer within {} s", PATIENCE.as_secs())))
        }
    }
}

/// A row of either database.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// A column's value.
    pub(super) fn column<T>(&self, column: usize) -> Result<T, RegistryError>
    where
        T: for<'r> sqlx::Decode<'r, Sqlite>
            + sqlx::Type<Sqlite>
            + for<'r> sqlx::Decode<'r, Postgres>
            + sqlx::Type<Postgres>,
    {
        let value = match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        };
        value.map_err(RegistryError::from)
    }

    /// A column's number, none of which is below zero.
    pub(super) fn number(&self, column: usize) -> Result<u64, RegistryError> {
        let number: i64 = self.column(column)?;
        u64::try_from(number).map_err(|_| RegistryError::Corrupt(format!("{number} is below zero")))
    }

    /// The same where there may be none.
    pub(super) fn maybe_number(&self, column: usize) -> Result<Option<u64>, RegistryError> {
        let number: Option<i64> = self.column(column)?;
        number.map(|_| self.number(column)).transpose()
    }
}

/// A number as the databases have it: they know none beyond `i64::MAX`, and nobody gets there.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
