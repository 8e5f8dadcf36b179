//! The apps that a NocoBase knows, read from the table `applications` of its main database.
//!
//! It is read once, in a transaction that can write nothing. What an app's options mean is for whoever asked.
//! Every value comes as text of bounded length, whatever the column's type is: `CONCAT` is the one cast that
//! PostgreSQL and MySQL share, and the statement is written in what both understand.

use std::{fmt, future::Future, str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres, Row, postgres::PgRow,
};

use crate::registry::{Location, LocationError, PostgresUrl, printable};

/// Apps that are read at most.
pub const MOST_APPLICATIONS: usize = 10_000;
/// Characters of a value that are read at most.
pub const MOST_CHARACTERS: usize = 64 * 1024;

/// How long connecting, and each question, may take.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Where the table is.
#[derive(Clone)]
pub struct Place {
    url: PostgresUrl,
    password: Option<String>,
    schema: Option<String>,
    prefix: String,
}

/// The server that the database is on, as its address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host, or the folder of its socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whom it knows us as.
    pub user: String,
    /// The main app's database.
    pub database: String,
}

/// A row of the table. A column that the table does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// `name`: its id.
    pub name: String,
    /// `displayName`.
    pub display_name: String,
    /// `cname`: its domain.
    pub cname: String,
    /// `options`, as JSON.
    pub options: String,
    /// `pinned`, as the database writes a boolean.
    pub pinned: String,
}

/// Why the table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NocobaseError {
    /// The address is none, or not one of a database that is understood.
    #[error("{0}")]
    Address(String),
    /// The database does not let us in, or does not answer.
    #[error("cannot read the database of NocoBase: {0}")]
    Database(String),
    /// It has no such table.
    #[error("{0}")]
    NoTable(String),
    /// Its table is not that of NocoBase.
    #[error("table `{0}` has no column `name`: is it another program's?")]
    OtherTable(String),
    /// It has more apps than anybody would import.
    #[error("there are more than {MOST_APPLICATIONS} apps")]
    TooMany,
}

impl Place {
    /// The table in this database; in its usual schema unless one is named, with the prefix that all its tables
    /// have (`DB_TABLE_PREFIX`).
    ///
    /// # Errors
    /// When the address is none.
    pub fn parse(address: &str, schema: Option<&str>, prefix: &str) -> Result<Self, NocobaseError> {
        let wrong = |why: &LocationError| NocobaseError::Address(why.to_string());
        let is_postgres =
            address.starts_with("postgres://") || address.starts_with("postgresql://");
        if !is_postgres {
            return Err(NocobaseError::Address(
                "only PostgreSQL can be read: write `postgres://user:password@host/database`"
                    .into(),
            ));
        }
        match Location::from_str(address).map_err(|why| wrong(&why))? {
            Location::Postgres(url) => Ok(Self {
                password: password_of(address),
                url,
                schema: schema.map(str::to_owned),
                prefix: prefix.into(),
            }),
            Location::Sqlite(_) => Err(NocobaseError::Address("this is no PostgreSQL".into())),
        }
    }

    /// The server, as the address says.
    ///
    /// # Errors
    /// When the address is none.
    pub fn server(&self) -> Result<Server, NocobaseError> {
        let options = self.options()?;
        let user = options.get_username().to_owned();
        Ok(Server {
            host: match options.get_socket() {
                Some(folder) => folder.display().to_string(),
                None => options.get_host().to_owned(),
            },
            port: options.get_port(),
            database: options.get_database().unwrap_or(&user).to_owned(),
            user,
        })
    }

    /// The password in the address.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Reads the table, in the order of names.
    ///
    /// # Errors
    /// When the database cannot be reached, or has no such table.
    pub async fn applications(&self) -> Result<Vec<Application>, NocobaseError> {
        let options = self.options()?.application_name("doorbell import");
        let options = options.disable_statement_logging();
        let mut connection = in_time(options.connect()).await?;
        in_time(sqlx::raw_sql(READ_ONLY).execute(&mut connection)).await?;
        let (schema, columns) = self.table(&mut connection).await?;
        let statement = statement(&schema, &self.name(), &columns);
        let rows = sqlx::query::<Postgres>(AssertSqlSafe(statement)).fetch_all(&mut connection);
        let rows = in_time(rows).await?;
        if rows.len() > MOST_APPLICATIONS {
            return Err(NocobaseError::TooMany);
        }
        let read = rows.iter().map(application).collect();
        // All is read; how it ends matters to nobody.
        let _ = in_time(connection.close()).await;
        read
    }

    fn options(&self) -> Result<sqlx::postgres::PgConnectOptions, NocobaseError> {
        self.url.options().map_err(|why| NocobaseError::Address(why.to_string()))
    }

    fn name(&self) -> String {
        format!("{}applications", self.prefix)
    }

    /// The schema that the table is in, and its columns.
    async fn table(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(String, Vec<String>), NocobaseError> {
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => {
                text(&in_time(sqlx::query(CURRENT_SCHEMA).fetch_one(&mut *connection)).await?, 0)?
            }
        };
        let name = self.name();
        let rows = in_time(sqlx::query(COLUMNS).bind(&name).fetch_all(connection)).await?;
        let mut columns = Vec::new();
        let mut others: Vec<String> = Vec::new();
        for row in &rows {
            let of = text(row, 0)?;
            if of == schema {
                columns.push(text(row, 1)?);
            } else if !others.contains(&of) {
                others.push(of);
            }
        }
        if columns.is_empty() {
            return Err(no_table(&schema, &name, &others));
        }
        if !columns.iter().any(|column| column == "name") {
            return Err(NocobaseError::OtherTable(printable(&name)));
        }
        Ok((schema, columns))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It shows itself without its password.
        self.url.fmt(f)
    }
}

/// The driver's options do not give it back.
fn password_of(address: &str) -> Option<String> {
    let (_, rest) = address.split_once("://")?;
    let (user, _) = rest.split_once('/').unwrap_or((rest, "")).0.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    Some(decoded(password)).filter(|password| !password.is_empty())
}

/// RFC 3986, section 2.1; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn no_table(schema: &str, name: &str, others: &[String]) -> NocobaseError {
    let instead = match others {
        [] => "is this the database of NocoBase's main app, with the plugin for several apps, and may this user \
               read it? `--table-prefix` names the prefix of its tables if they have one"
            .to_owned(),
        others => format!("say --schema {}", printable(&others.join(", or --schema "))),
    };
    let (schema, name) = (printable(schema), printable(name));
    NocobaseError::NoTable(format!("schema `{schema}` has no table `{name}`: {instead}"))
}

/// The question for all apps. Names are quoted as by the standard; MySQL takes that in its mode `ANSI_QUOTES`.
fn statement(schema: &str, table: &str, columns: &[String]) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    // One character more than is taken shows that there are more.
    let most = MOST_CHARACTERS + 1;
    let chosen = [
        &["name"][..],
        // With `DB_UNDERSCORED`.
        &["displayName", "display_name"],
        &["cname"],
        &["options"],
        &["pinned"],
    ]
    .map(|names| {
        let found = names.iter().find(|name| columns.iter().any(|column| column == *name));
        match found {
            Some(name) => format!("LEFT(CONCAT({}, ''), {most})", quoted(name)),
            None => "''".to_owned(),
        }
    });
    format!(
        "SELECT {} FROM {}.{} ORDER BY {} LIMIT {}",
        chosen.join(", "),
        quoted(schema),
        quoted(table),
        quoted("name"),
        MOST_APPLICATIONS + 1
    )
}

fn application(row: &PgRow) -> Result<Application, NocobaseError> {
    Ok(Application {
        name: text(row, 0)?,
        display_name: text(row, 1)?,
        cname: text(row, 2)?,
        options: text(row, 3)?,
        pinned: text(row, 4)?,
    })
}

fn text(row: &PgRow, column: usize) -> Result<String, NocobaseError> {
    let value: Option<String> = row.try_get(column).map_err(|error| failed(&error))?;
    Ok(value.unwrap_or_default())
}

async fn in_time<T>(
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, NocobaseError> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(_) => {
            Err(NocobaseError::Database(format!("no answer within {} s", PATIENCE.as_secs())))
        }
    }
}

fn failed(error: &sqlx::Error) -> NocobaseError {
    let words = match error {
        sqlx::Error::Database(inner) => printable(inner.message()),
        other => printable(&other.to_string()),
    };
    NocobaseError::Database(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_columns_that_are_there_are_asked_for() {
        let columns = ["cname", "display_name", "name", "sort"].map(str::to_owned);
        assert_eq!(
            statement("pub\"lic", "nb_applications", &columns),
            "SELECT LEFT(CONCAT(\"name\", ''), 65537), LEFT(CONCAT(\"display_name\", ''), 65537), \
             LEFT(CONCAT(\"cname\", ''), 65537), '', '' FROM \"pub\"\"lic\".\"nb_applications\" \
             ORDER BY \"name\" LIMIT 10001"
        );
    }

    #[test]
    fn an_address_says_which_server_and_shows_no_password() {
        let address = "postgres://nb:s%40c%2fret@db.test:5433/nocobase";
        let place = Place::parse(address, None, "").unwrap();
        let server = place.server().unwrap();
        assert_eq!((&*server.host, server.port), ("db.test", 5433));
        assert_eq!((&*server.user, &*server.database), ("nb", "nocobase"));
        assert_eq!(place.password(), Some("s@c/ret"));
        assert_eq!(Place::parse("postgres://nb@h/d", None, "").unwrap().password(), None);
    }

    #[test]
    fn addresses_of_other_databases_are_refused_without_a_word_of_them() {
        for address in ["mysql://u:hunter2@h/d", "hunter2", "sqlite:/hunter2"] {
            let error = Place::parse(address, None, "").unwrap_err().to_string();
            assert!(error.contains("postgres://") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn where_else_the_table_is_is_told() {
        let error = no_table("public", "applications", &["nb".into(), "other".into()]);
        assert!(error.to_string().ends_with("say --schema nb, or --schema other"), "{error}");
    }
}
