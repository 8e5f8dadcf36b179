//! A registry in a database of PostgreSQL, in a schema of its own, so that the database may be shared.
//!
//! Connections come from a pool, and are closed, not given back, when something was cut short on them: by a
//! network that swallows what is sent, or by a caller who left.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgListener},
};

use super::{Ear, Lent, PATIENCE, Row, Transaction, Value, bound, in_time};
use crate::registry::{
    error::RegistryError,
    location::PostgresUrl,
    migration::{self, VERSION},
};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
const CONNECTIONS: u32 = 8;

/// What holds on each connection, whatever the server's or the role's own settings are. The last of these
/// limits frees the lock on the revision from a Doorbell that stands still. Who has turned durability off gets it back
/// here; who has asked for more keeps that.
const SETTINGS: &str = "
    SET search_path TO doorbell;
    SET default_transaction_isolation TO 'read committed';
    SET statement_timeout TO '10s';
    SET lock_timeout TO '8s';
    SET idle_in_transaction_session_timeout TO '20s';
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off';
";

/// Two that open at once take turns. The number is ours alone, "Drbl".
const ALONE: &str = "SELECT pg_advisory_xact_lock(1148346988)";
const HAS_SCHEMA: &str = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = 'doorbell'";
/// Other encodings cannot hold every name.
const IS_UTF8: &str = "SELECT count(*) FROM pg_catalog.pg_database
    WHERE datname = current_database() AND pg_encoding_to_char(encoding) = 'UTF8'";
/// Tells those who listen, once it is committed.
pub(super) const TELL: &str = "SELECT pg_notify('doorbell', '')";

/// A registry in a database.
pub(in crate::registry) struct Store {
    pool: PgPool,
    options: PgConnectOptions,
}

impl Store {
    /// Connects, and makes or migrates the schema.
    pub(super) async fn open(url: &PostgresUrl) -> Result<Self, RegistryError> {
        let options = options(url)?;
        try_connect(&options).await?;
        let store = Self { pool: pool(&options, CONNECTIONS), options };
        let mut lent = store.begin().await?;
        lent.script(ALONE).await?;
        if count(&mut lent, IS_UTF8).await? == 0 {
            let why = "the database's encoding is not UTF8: create one with `ENCODING 'UTF8'`";
            return Err(RegistryError::Other(why.into()));
        }
        // Asked first, since `IF NOT EXISTS` wants the right to create even where nothing is to be created.
        if count(&mut lent, HAS_SCHEMA).await? == 0 {
            lent.script("CREATE SCHEMA doorbell").await?;
        }
        let mut first = Transaction::Postgres(lent);
        migration::bring_up_to_date(&mut first).await?;
        first.commit().await?;
        Ok(store)
    }

    /// The rows of a statement outside of a transaction.
    pub(super) async fn rows(
        &self,
        statement: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, RegistryError> {
        let mut lent = self.lend().await?;
        let rows = rows(&mut lent, statement, values).await;
        lent.give_back_after(&rows);
        rows
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Lent<Postgres>, RegistryError> {
        let mut lent = self.lend().await?;
        lent.script("BEGIN").await?;
        Ok(lent)
    }

    async fn lend(&self) -> Result<Lent<Postgres>, RegistryError> {
        match tokio::time::timeout(PATIENCE, self.pool.acquire()).await {
            Ok(Ok(connection)) => Ok(Lent::new(connection)),
            // The pool tries again and again, and does not say why in vain.
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => {
                try_connect(&self.options).await?;
                Err(sqlx::Error::PoolTimedOut.into())
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Ends all connections.
    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// A connection that hears what others tell.
    pub(super) async fn listen(&self) -> Result<Ear, RegistryError> {
        try_connect(&self.options).await?;
        let mut listener = in_time(PgListener::connect_with(&pool(&self.options, 1))).await?;
        in_time(listener.listen("doorbell")).await?;
        Ok(Ear::Postgres(listener))
    }
}

fn pool(options: &PgConnectOptions, connections: u32) -> PgPool {
    PoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT)
        .idle_timeout(Duration::from_secs(60))
        .after_connect(|connection, _| {
            Box::pin(async { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) })
        })
        .connect_lazy_with(options.clone())
}

fn options(url: &PostgresUrl) -> Result<PgConnectOptions, RegistryError> {
    let options = url.options().map_err(|error| RegistryError::Other(error.to_string()))?;
    Ok(options.application_name("doorbell").disable_statement_logging())
}

/// Says why there is no connection, if there is none.
async fn try_connect(options: &PgConnectOptions) -> Result<(), RegistryError> {
    in_time(connect(options).await?.close()).await
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, RegistryError> {
    let connected = tokio::time::timeout(CONNECT, PgConnection::connect_with(options)).await;
    let late =
        || RegistryError::Unreachable(format!("no connection within {} s", CONNECT.as_secs()));
    Ok(connected.map_err(|_| late())??)
}

/// The version of what is in a database.
pub(super) async fn version(url: &PostgresUrl) -> Result<i64, RegistryError> {
    let options = options(url)?;
    let mut connection = connect(&options).await?;
    in_time(sqlx::raw_sql(SETTINGS).execute(&mut connection)).await?;
    let version = in_time(sqlx::query_scalar(VERSION).fetch_one(&mut connection)).await;
    in_time(connection.close()).await?;
    version
}

/// The rows of a statement.
pub(super) async fn rows(
    lent: &mut Lent<Postgres>,
    statement: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, RegistryError> {
    let rows = bound!(Postgres, statement, values).fetch_all(lent.connection());
    Ok(in_time(rows).await?.into_iter().map(Row::Postgres).collect())
}

async fn count(lent: &mut Lent<Postgres>, statement: &'static str) -> Result<u64, RegistryError> {
    rows(lent, statement, &[]).await?.first().map_or(Ok(0), |row| row.number(0))
}
