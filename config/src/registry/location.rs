//! Where a registry is, as the operator writes it.
//!
//! A location is shown in messages and snapshots, so nothing here prints a password. What the database's
//! own variables say (`PGPASSWORD`, `PGPASSFILE` and the like) holds where the address leaves it open, as
//! with its own tools: a password need not stand in the file.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// What an address of PostgreSQL may say behind its `?`. The driver passes over what it does not know, with
/// a line in the log that shows the value; a misspelt `sslmode` would mean a connection without TLS.
const KNOWN: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
];

const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Where a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite, by its absolute path.
    Sqlite(PathBuf),
    /// A database of PostgreSQL.
    Postgres(PostgresUrl),
}

/// The address of a database of PostgreSQL. It may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    url: String,
    shown: String,
}

/// Why a text is no location, in words for the one who wrote it. It never repeats what was written: there
/// may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LocationError(String);

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            return sqlite(path);
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return PostgresUrl::parse(text).map(Self::Postgres);
        }
        Err(LocationError(
            "no location of a registry: write `sqlite:/path/to/file` or \
             `postgres://user@host/database`"
                .into(),
        ))
    }
}

impl Location {
    /// As it can be written, password and all.
    #[must_use]
    pub fn reveal(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(address) => address.url.clone(),
        }
    }
}

fn sqlite(path: &str) -> Result<Location, LocationError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') {
        return Ok(Location::Sqlite(path.into()));
    }
    Err(LocationError(
        "no file for a registry: write its absolute path, `sqlite:/path/to/file`".into(),
    ))
}

impl PostgresUrl {
    fn parse(url: &str) -> Result<Self, LocationError> {
        let asked = url.split_once('?').map_or("", |(_, asked)| asked);
        for (key, value) in asked.split('&').filter_map(|pair| pair.split_once('=')) {
            known(key, value)?;
        }
        let options = options(url)?;
        let place = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let (user, database) = (options.get_username(), options.get_database());
        let shown = format!("postgres://{user}@{place}/{}", database.unwrap_or(user));
        Ok(Self { url: url.into(), shown })
    }

    /// How to connect.
    pub(crate) fn options(&self) -> Result<PgConnectOptions, LocationError> {
        options(&self.url)
    }
}

/// Refuses what the driver would pass over, or repeat in its words.
fn known(key: &str, value: &str) -> Result<(), LocationError> {
    if !KNOWN.contains(&key) {
        // An unknown key may be the rest of a password with a `?` in it.
        let known = KNOWN.join(", ");
        return Err(LocationError(format!(
            "a key after `?` in the address of PostgreSQL is unknown: write one of {known}, and `%3F` for a \
             `?` elsewhere"
        )));
    }
    if key == "sslmode" && !SSL_MODES.contains(&value) {
        let modes = SSL_MODES.join(", ");
        return Err(LocationError(format!("no `sslmode` of PostgreSQL: write one of {modes}")));
    }
    Ok(())
}

fn options(url: &str) -> Result<PgConnectOptions, LocationError> {
    // PostgreSQL's own programs take an address without a host where `host` says which socket; a URL needs one.
    let named = match url.split_once("@/") {
        Some((before, after)) if after.contains("host=/") => format!("{before}@localhost/{after}"),
        _ => url.to_owned(),
    };
    named.parse().map_err(|error: sqlx::Error| {
        let why = match error {
            sqlx::Error::Configuration(why) => why.to_string(),
            other => other.to_string(),
        };
        LocationError(format!(
            "no address of PostgreSQL ({why}): write `postgres://user:password@host/database`, and \
             `%23` for a `#`, `%2F` for a `/`, `%40` for an `@` in the password"
        ))
    })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&url.shown),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
