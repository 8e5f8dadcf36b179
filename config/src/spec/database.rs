//! The database of an app: whether one is made for it, and where.

use std::{fmt, path::PathBuf};

use crate::name::NameError;

mod hidden;
mod mysql;
mod url;

pub use hidden::{HIDDEN, SEALED};

/// Which database an app gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DatabaseSpec {
    /// One of its own, made on this server; for SQLite a file of its own in this folder.
    NewDatabase(DatabaseUrl),
    /// A schema of its own in the database that the address names. MySQL and MariaDB call a database a
    /// schema: there it is the same as a database of its own.
    NewSchema(DatabaseUrl),
    /// This one. Nothing is made, and nothing ever deleted.
    NewConnection(DatabaseUrl),
}

/// The address of a database or of its server. It may hold a password, which is never shown.
///
/// Not the type of an address from the drivers: those differ from each other, repeat what they do not
/// understand, and take what is missing from the environment, which is for nobody who adds an app.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DatabaseUrl {
    /// As it was written.
    text: String,
    /// Which kind of server it is.
    pub dialect: Dialect,
    /// Where it is.
    pub place: DatabasePlace,
    /// Who connects.
    pub user: Option<String>,
    /// What proves it.
    password: Option<String>,
    /// The database's name.
    pub database: Option<String>,
    /// What stands behind the `?`, but for where it is.
    options: Vec<(String, String)>,
}

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `postgres://`, `postgresql://`.
    Postgres,
    /// `mysql://`.
    MySql,
    /// `mariadb://`. Which of the two a server is, it says itself: apps choose their drivers by this.
    MariaDb,
    /// `sqlite:/folder`.
    Sqlite,
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DatabasePlace {
    /// On the network.
    Host {
        /// Name or address, the latter without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Behind a Unix socket.
    Socket {
        /// The socket; for PostgreSQL the folder that it is in.
        path: PathBuf,
        /// For PostgreSQL the port that the socket's name has in it.
        port: u16,
    },
    /// SQLite: a folder, or for a given connection the file.
    File(PathBuf),
}

impl Dialect {
    /// What programs call it, the value of `{database_dialect}`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
            Self::Sqlite => "sqlite",
        }
    }

    /// The port of a server that says no other.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Postgres => Some(5432),
            Self::MySql | Self::MariaDb => Some(3306),
            Self::Sqlite => None,
        }
    }

    /// What an address of a server may say behind its `?`, beside where it is.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["sslmode", "sslrootcert"],
            Self::MySql | Self::MariaDb => &["ssl-mode", "ssl-ca"],
            Self::Sqlite => &[],
        }
    }

    /// What the option that chooses TLS may be.
    fn tls_modes(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => {
                &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
            }
            Self::MySql | Self::MariaDb => {
                &["disabled", "preferred", "required", "verify_ca", "verify_identity"]
            }
            Self::Sqlite => &[],
        }
    }
}

impl DatabaseSpec {
    /// The address that it names.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        match self {
            Self::NewDatabase(url) | Self::NewSchema(url) | Self::NewConnection(url) => url,
        }
    }

    /// Sees that what it asks for can be made there.
    ///
    /// # Errors
    /// What is wrong, and after `: ` what to write instead; never the address.
    pub fn check(&self) -> Result<(), NameError> {
        let wrong = |text: &str| Err(NameError(text.into()));
        match self {
            Self::NewSchema(url) if url.dialect == Dialect::Sqlite => {
                wrong("SQLite has no schemas: write `new_database`, a file of the app's own")
            }
            Self::NewSchema(url) if url.dialect == Dialect::Postgres && url.database.is_none() => {
                wrong(
                    "in which database is the schema to be: write its name, \
                     `postgres://user:password@host/database`",
                )
            }
            Self::NewDatabase(url) | Self::NewSchema(url) => url.check_server(),
            Self::NewConnection(url) => match url.dialect {
                Dialect::Sqlite => Ok(()),
                _ if url.database.is_none() => wrong(
                    "which database is the app to use: write its name, \
                     `postgres://user:password@host/database`",
                ),
                _ => Ok(()),
            },
        }
    }
}

impl DatabaseUrl {
    /// As it was written, password and all: for the app that is to use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The password that it holds.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// What this option is set to.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All options beside where it is, in the order they were written.
    #[must_use]
    pub fn options(&self) -> &[(String, String)] {
        &self.options
    }

    /// Refuses what Doorbell would pass over when it connects itself: a misspelt option would mean a
    /// connection without TLS.
    fn check_server(&self) -> Result<(), NameError> {
        let (known, modes) = (self.dialect.options(), self.dialect.tls_modes());
        if self.options.iter().any(|(key, _)| !known.contains(&key.as_str())) {
            // An unknown key may be the rest of a password with a `?` in it.
            let instead = match known {
                [] => "remove what begins with `?`".to_owned(),
                known => {
                    format!("write one of {}, and `%3F` for a `?` elsewhere", known.join(", "))
                }
            };
            return Err(NameError(format!("a key after `?` is unknown: {instead}")));
        }
        match self.option(known.first().unwrap_or(&"")) {
            Some(mode) if !modes.contains(&mode.to_ascii_lowercase().as_str()) => {
                Err(NameError(format!("no `{}`: write one of {}", known[0], modes.join(", "))))
            }
            _ => Ok(()),
        }
    }
}

/// Without the password, and without options, in which there may be one too.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.dialect.name();
        let user = self.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
        let place = match &self.place {
            DatabasePlace::File(path) => return write!(f, "sqlite:{}", path.display()),
            DatabasePlace::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            DatabasePlace::Host { host, port } => format!("{host}:{port}"),
            DatabasePlace::Socket { path, .. } => path.display().to_string(),
        };
        write!(f, "{name}://{user}{place}/{}", self.database.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
