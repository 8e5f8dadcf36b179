//! NocoBase's table on MySQL or MariaDB, which call a database a schema.

use sqlx::{
    ConnectOptions, MySqlConnection, Row, SqlSafeStr,
    mysql::{MySqlConnectOptions, MySqlRow, MySqlSslMode},
};

use super::{Found, NO_SERVER, NocobaseError, Values, failed, in_time};
use crate::spec::{DatabasePlace, DatabaseUrl};

/// In this mode names are quoted as by the standard, and a backslash is a backslash.
const READ_ONLY: &str = "
    SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES';
    SET SESSION lock_wait_timeout = 5;
    START TRANSACTION READ ONLY;
";
/// Columns of the table, by database.
const COLUMNS: &str = "
    SELECT CONCAT(table_schema, ''), CONCAT(column_name, '')
    FROM information_schema.columns WHERE table_name = ? ORDER BY 1, 2";
const CURRENT_SCHEMA: &str = "SELECT CONCAT(DATABASE(), '')";

/// A connection in a transaction that can write nothing.
pub(super) async fn connect(url: &DatabaseUrl) -> Result<MySqlConnection, NocobaseError> {
    let options = MySqlConnectOptions::new()
        .username(url.user.as_deref().unwrap_or("root"))
        .database(url.database.as_deref().unwrap_or_default())
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None);
    let options = match url.password() {
        Some(password) => options.password(password),
        None => options,
    };
    let options = match &url.place {
        DatabasePlace::Host { host, port } => options.host(host).port(*port),
        DatabasePlace::Socket { path, .. } => options.socket(path),
        DatabasePlace::File(_) => return Err(NocobaseError::Address(NO_SERVER.into())),
    };
    let unknown = || NocobaseError::Address("unknown `ssl-mode`".into());
    let mode = url.option("ssl-mode").map(str::parse).transpose().map_err(|_| unknown())?;
    let options = options.ssl_mode(mode.unwrap_or(MySqlSslMode::Preferred));
    let options = match url.option("ssl-ca") {
        Some(file) => options.ssl_ca(file),
        None => options,
    };
    let mut connection = in_time(options.disable_statement_logging().connect()).await?;
    in_time(sqlx::raw_sql(READ_ONLY).execute(&mut connection)).await?;
    Ok(connection)
}

pub(super) async fn columns(
    connection: &mut MySqlConnection,
    name: &str,
) -> Result<Found, NocobaseError> {
    let schema = in_time(sqlx::query(CURRENT_SCHEMA).fetch_one(&mut *connection)).await?;
    let rows = in_time(sqlx::query(COLUMNS).bind(name).fetch_all(connection)).await?;
    let columns = rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?)));
    Ok(Found { usual_schema: text(&schema, 0)?, columns: columns.collect::<Result<_, _>>()? })
}

pub(super) async fn values(
    connection: &mut MySqlConnection,
    statement: impl SqlSafeStr,
) -> Result<Vec<Values>, NocobaseError> {
    let rows = in_time(sqlx::query(statement).fetch_all(connection)).await?;
    rows.iter()
        .map(|row| Ok([text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?, text(row, 4)?]))
        .collect()
}

/// Texts come as bytes, where the table has another character set.
fn text(row: &MySqlRow, column: usize) -> Result<String, NocobaseError> {
    let value: Option<Vec<u8>> = row.try_get_unchecked(column).map_err(|error| failed(&error))?;
    Ok(String::from_utf8_lossy(&value.unwrap_or_default()).into_owned())
}
