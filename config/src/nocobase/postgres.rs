//! NocoBase's table on PostgreSQL.

use sqlx::{ConnectOptions, PgConnection, Row, SqlSafeStr, postgres::PgRow};

use super::{Found, NocobaseError, Server, Values, failed, in_time};
use crate::registry::PostgresUrl;

const READ_ONLY: &str = "
    SET statement_timeout TO '10s';
    SET lock_timeout TO '5s';
    BEGIN READ ONLY;
";
/// Columns of the table, by schema.
const COLUMNS: &str = "
    SELECT CONCAT(table_schema, ''), CONCAT(column_name, '')
    FROM information_schema.columns WHERE table_name = $1 ORDER BY 1, 2";
const CURRENT_SCHEMA: &str = "SELECT CONCAT(current_schema(), '')";

pub(super) fn server(url: &PostgresUrl, dialect: &'static str) -> Result<Server, NocobaseError> {
    let options = options(url)?;
    let user = options.get_username().to_owned();
    Ok(Server {
        dialect,
        host: match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => options.get_host().to_owned(),
        },
        port: options.get_port(),
        database: options.get_database().unwrap_or(&user).to_owned(),
        user,
    })
}

fn options(url: &PostgresUrl) -> Result<sqlx::postgres::PgConnectOptions, NocobaseError> {
    url.options().map_err(|why| NocobaseError::Address(why.to_string()))
}

/// A connection in a transaction that can write nothing.
pub(super) async fn connect(url: &PostgresUrl) -> Result<PgConnection, NocobaseError> {
    let options = options(url)?.application_name("doorbell import").disable_statement_logging();
    let mut connection = in_time(options.connect()).await?;
    in_time(sqlx::raw_sql(READ_ONLY).execute(&mut connection)).await?;
    Ok(connection)
}

pub(super) async fn columns(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Found, NocobaseError> {
    let schema = in_time(sqlx::query(CURRENT_SCHEMA).fetch_one(&mut *connection)).await?;
    let rows = in_time(sqlx::query(COLUMNS).bind(name).fetch_all(connection)).await?;
    let columns = rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?)));
    Ok(Found { usual_schema: text(&schema, 0)?, columns: columns.collect::<Result<_, _>>()? })
}

pub(super) async fn values(
    connection: &mut PgConnection,
    statement: impl SqlSafeStr,
) -> Result<Vec<Values>, NocobaseError> {
    let rows = in_time(sqlx::query(statement).fetch_all(connection)).await?;
    rows.iter()
        .map(|row| Ok([text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?, text(row, 4)?]))
        .collect()
}

fn text(row: &PgRow, column: usize) -> Result<String, NocobaseError> {
    let value: Option<String> = row.try_get(column).map_err(|error| failed(&error))?;
    Ok(value.unwrap_or_default())
}
