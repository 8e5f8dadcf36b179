//! An app at its database.

use doorbell_config::spec::Dialect;
use doorbell_proxy::provision::Connection;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor, MySqlConnection, PgConnection, Row, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

/// A connection as the app has it, by nothing but the address it is given.
pub(crate) enum Client {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

impl Client {
    pub(crate) async fn connect(to: &Connection) -> Result<Self, sqlx::Error> {
        let url = to.url.reveal();
        Ok(match to.dialect {
            Dialect::Postgres => Self::Postgres(PgConnection::connect(url).await?),
            Dialect::MySql | Dialect::MariaDb => Self::MySql(MySqlConnection::connect(url).await?),
            Dialect::Sqlite => {
                let options = SqliteConnectOptions::new().filename(&to.name);
                let options = options.create_if_missing(true);
                Self::Sqlite(SqliteConnection::connect_with(&options).await?)
            }
        })
    }

    /// Runs statements, and returns the first column, of texts, of what comes of them.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Vec<String>, sqlx::Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Postgres(connection) => {
                let rows = connection.fetch_all(sql).await?;
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::MySql(connection) => {
                let rows = connection.fetch_all(sql).await?;
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Sqlite(connection) => {
                let rows = connection.fetch_all(sql).await?;
                rows.iter().map(|row| row.get(0)).collect()
            }
        })
    }

    pub(crate) async fn close(self) {
        match self {
            Self::Postgres(connection) => connection.close().await.unwrap(),
            // MySQL may have hung up by the time that we do.
            Self::MySql(connection) => drop(connection.close().await),
            Self::Sqlite(connection) => connection.close().await.unwrap(),
        }
    }
}

/// Keeps a note in the app's database.
pub(crate) async fn write(to: &Connection, note: &str) {
    let mut client = Client::connect(to).await.unwrap();
    let note = note.replace('\'', "''");
    let sql = format!("CREATE TABLE note (text VARCHAR(100)); INSERT INTO note VALUES ('{note}')");
    client.run(&sql).await.unwrap();
    client.close().await;
}

/// What notes there are.
pub(crate) async fn read(to: &Connection) -> Vec<String> {
    let mut client = Client::connect(to).await.unwrap();
    let notes = client.run("SELECT text FROM note").await.unwrap();
    client.close().await;
    notes
}
