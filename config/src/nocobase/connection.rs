//! A connection to the database of a NocoBase, in a transaction that can write nothing. All that is asked comes
//! as text.

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, Database, MySql, MySqlConnection, PgConnection,
    Postgres, Row,
};

use super::{NocobaseError, failed, in_time};
use crate::{registry::PostgresUrl, spec::DatabaseUrl};

const OF_POSTGRES: &str = "
    SET statement_timeout TO '10s';
    SET lock_timeout TO '5s';
    BEGIN READ ONLY;
";
/// In this mode names are quoted as by the standard, and a backslash is a backslash.
const OF_MYSQL: &str = "
    SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES';
    SET SESSION lock_wait_timeout = 5;
    START TRANSACTION READ ONLY;
";

/// A connection.
pub(super) enum Connection {
    Postgres(PgConnection),
    /// MySQL and MariaDB call a database a schema.
    MySql(MySqlConnection),
}

/// The rows of a statement on one of them, each column as bytes.
macro_rules! rows {
    ($database:ty, $connection:expr, $statement:expr, $value:expr) => {{
        let mut query = sqlx::query::<$database>(AssertSqlSafe($statement.to_owned()));
        if let Some(value) = $value {
            query = query.bind(value);
        }
        let rows = in_time(query.fetch_all($connection)).await?;
        rows.iter().map(texts::<$database>).collect()
    }};
}

impl Connection {
    pub(super) async fn to_postgres(url: &PostgresUrl) -> Result<Self, NocobaseError> {
        let options = url.options().map_err(|why| NocobaseError::Address(why.to_string()))?;
        let options = options.application_name("doorbell import").disable_statement_logging();
        let mut connection = in_time(options.connect()).await?;
        in_time(sqlx::raw_sql(OF_POSTGRES).execute(&mut connection)).await?;
        Ok(Self::Postgres(connection))
    }

    pub(super) async fn to_mysql(url: &DatabaseUrl) -> Result<Self, NocobaseError> {
        let options = url.mysql_options().map_err(|why| NocobaseError::Address(why.to_string()))?;
        let options = options.database(url.database.as_deref().unwrap_or_default());
        let mut connection = in_time(options.disable_statement_logging().connect()).await?;
        in_time(sqlx::raw_sql(OF_MYSQL).execute(&mut connection)).await?;
        Ok(Self::MySql(connection))
    }

    /// The schema that tables are in unless somebody says.
    pub(super) async fn usual_schema(&mut self) -> Result<String, NocobaseError> {
        let question = match self {
            Self::Postgres(_) => "SELECT CONCAT(current_schema(), '')",
            Self::MySql(_) => "SELECT CONCAT(DATABASE(), '')",
        };
        let rows = self.rows(question, None).await?;
        Ok(rows.into_iter().flatten().next().unwrap_or_default())
    }

    /// Schema and name of each column of tables of this name.
    pub(super) async fn columns(
        &mut self,
        table: &str,
    ) -> Result<Vec<(String, String)>, NocobaseError> {
        let value = match self {
            Self::Postgres(_) => "$1",
            Self::MySql(_) => "?",
        };
        let question = format!(
            "SELECT CONCAT(table_schema, ''), CONCAT(column_name, '')
             FROM information_schema.columns WHERE table_name = {value} ORDER BY 1, 2"
        );
        let rows = self.rows(&question, Some(table)).await?;
        let pair = |row: Vec<String>| <[String; 2]>::try_from(row).ok();
        Ok(rows.into_iter().filter_map(pair).map(|[schema, name]| (schema, name)).collect())
    }

    /// The rows of a statement, which may have a value.
    pub(super) async fn rows(
        &mut self,
        statement: &str,
        value: Option<&str>,
    ) -> Result<Vec<Vec<String>>, NocobaseError> {
        match self {
            Self::Postgres(connection) => rows!(Postgres, connection, statement, value),
            Self::MySql(connection) => rows!(MySql, connection, statement, value),
        }
    }

    /// All is read; how it ends matters to nobody.
    pub(super) async fn close(self) {
        let _ = match self {
            Self::Postgres(connection) => in_time(connection.close()).await,
            Self::MySql(connection) => in_time(connection.close()).await,
        };
    }
}

/// What stands in a row. Texts come as bytes, whatever the character set of the table is.
fn texts<D>(row: &D::Row) -> Result<Vec<String>, NocobaseError>
where
    D: Database,
    usize: sqlx::ColumnIndex<D::Row>,
    for<'r> Option<Vec<u8>>: sqlx::Decode<'r, D> + sqlx::Type<D>,
{
    let text = |at: usize| {
        let value: Option<Vec<u8>> = row.try_get_unchecked(at).map_err(|error| failed(&error))?;
        Ok(String::from_utf8_lossy(&value.unwrap_or_default()).into_owned())
    };
    (0..row.len()).map(text).collect()
}
