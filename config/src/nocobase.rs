//! The apps that a NocoBase knows, read from the table `applications` of its main database.
//!
//! It is read once, in a transaction that can write nothing. What an app's options mean is for whoever asked.
//! Every value comes as text of bounded length, whatever the column's type is: `CONCAT` is the one cast that
//! PostgreSQL and MySQL share, and the statement is written in what both understand.

use std::{fmt, future::Future, str::FromStr, time::Duration};

use crate::{
    registry::{Location, PostgresUrl, printable},
    spec::{DatabasePlace, DatabaseUrl, Dialect},
};

mod connection;

use connection::Connection;

/// Apps that are read at most.
pub const MOST_APPLICATIONS: usize = 10_000;
/// Characters of a value that are read at most.
pub const MOST_CHARACTERS: usize = 64 * 1024;

/// How long connecting, and each question, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the table is.
#[derive(Clone)]
pub struct Place {
    url: DatabaseUrl,
    reached: Reached,
    schema: Option<String>,
    prefix: String,
}

/// How the server is reached.
#[derive(Clone)]
enum Reached {
    Postgres(PostgresUrl),
    MySql,
}

/// The server that the database is on, as its address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What NocoBase calls its kind.
    pub dialect: &'static str,
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

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its rows, in the order of names.
    pub applications: Vec<Application>,
    /// Whether names of columns have underscores (`DB_UNDERSCORED`), as those of its apps have then.
    pub is_underscored: bool,
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
        let wrong = |why: &dyn fmt::Display| NocobaseError::Address(why.to_string());
        let url: DatabaseUrl = address.parse().map_err(|why| wrong(&why))?;
        let reached = match url.dialect {
            Dialect::Postgres => match Location::from_str(address).map_err(|why| wrong(&why))? {
                Location::Postgres(url) => Reached::Postgres(url),
                Location::Sqlite(_) => return Err(wrong(&NO_SERVER)),
            },
            Dialect::MySql | Dialect::MariaDb if url.database.is_none() => {
                return Err(wrong(&"the name of the database is missing behind the host"));
            }
            Dialect::MySql | Dialect::MariaDb => Reached::MySql,
            Dialect::Sqlite => return Err(wrong(&NO_SERVER)),
        };
        Ok(Self { url, reached, schema: schema.map(str::to_owned), prefix: prefix.into() })
    }

    /// The server, as the address says.
    ///
    /// # Errors
    /// When the address is none.
    pub fn server(&self) -> Result<Server, NocobaseError> {
        let dialect = self.url.dialect.name();
        if let Reached::Postgres(url) = &self.reached {
            return of_postgres(url, dialect);
        }
        let (host, port) = match &self.url.place {
            DatabasePlace::Host { host, port } => (host.clone(), *port),
            DatabasePlace::Socket { port, .. } => ("localhost".to_owned(), *port),
            DatabasePlace::File(_) => return Err(NocobaseError::Address(NO_SERVER.into())),
        };
        let user = self.url.user.clone().unwrap_or_else(|| "root".into());
        let database = self.url.database.clone().unwrap_or_default();
        Ok(Server { dialect, host, port, user, database })
    }

    /// The password in the address.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.url.password().filter(|password| !password.is_empty())
    }

    /// Reads the table.
    ///
    /// # Errors
    /// When the database cannot be reached, or has no such table.
    pub async fn table(&self) -> Result<Table, NocobaseError> {
        let mut connection = match &self.reached {
            Reached::Postgres(url) => Connection::to_postgres(url).await?,
            Reached::MySql => Connection::to_mysql(&self.url).await?,
        };
        let (statement, is_underscored) = self.statement(&mut connection).await?;
        let rows = connection.rows(&statement, None).await?;
        connection.close().await;
        if rows.len() > MOST_APPLICATIONS {
            return Err(NocobaseError::TooMany);
        }
        let applications = rows.into_iter().filter_map(Application::of).collect();
        Ok(Table { applications, is_underscored })
    }

    fn name(&self) -> String {
        format!("{}applications", self.prefix)
    }

    /// The question for all apps, by the columns of tables of this name; and whether those have underscores.
    async fn statement(
        &self,
        connection: &mut Connection,
    ) -> Result<(String, bool), NocobaseError> {
        let name = self.name();
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => connection.usual_schema().await?,
        };
        let mut columns = Vec::new();
        let mut others: Vec<String> = Vec::new();
        for (of, column) in connection.columns(&name).await? {
            if of == schema {
                columns.push(column);
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
        let is_underscored = columns.iter().any(|column| column == "display_name");
        Ok((statement(&schema, &name, &columns), is_underscored))
    }
}

const NO_SERVER: &str = "NocoBase's own database is read from PostgreSQL, MySQL or MariaDB: write \
                         `postgres://user:password@host/database`, or `mysql://…`";

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It shows itself without its password.
        self.url.fmt(f)
    }
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

impl Application {
    /// Of a row with what was asked for.
    fn of(row: Vec<String>) -> Option<Self> {
        let [name, display_name, cname, options, pinned] = row.try_into().ok()?;
        Some(Self { name, display_name, cname, options, pinned })
    }
}

fn of_postgres(url: &PostgresUrl, dialect: &'static str) -> Result<Server, NocobaseError> {
    let options = url.options().map_err(|why| NocobaseError::Address(why.to_string()))?;
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
        let place = Place::parse("mysql://nb:x@db.test/nocobase", None, "").unwrap();
        let server = place.server().unwrap();
        assert_eq!((server.dialect, &*server.host, server.port), ("mysql", "db.test", 3306));
        assert!(Place::parse("mariadb://nb@h/", None, "").is_err(), "which database?");
    }

    #[test]
    fn addresses_of_other_databases_are_refused_without_a_word_of_them() {
        for address in ["mssql://u:hunter2@h/d", "hunter2", "sqlite:/hunter2"] {
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
