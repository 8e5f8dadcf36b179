//! What can go wrong with a registry, sorted by who can mend it.
//!
//! The database's own words stand inside, without control characters: a name that somebody chose may be
//! among them, and they end in terminals and logs.

use sqlx::{postgres::PgDatabaseError, sqlite::SqliteError};

use super::{location::Location, row::Revision};
use crate::name::AppId;

/// Why a registry did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The database does not answer, lets us not in, or its file is gone. Comes back by itself. Whether a
    /// write whose answer was lost took place is not known: ask for the app's revision.
    #[error("registry cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else holds it for too long, or too many wait. Try again.
    #[error("registry is busy or locked by another program: {0}")]
    Locked(String),
    /// The disk is full. The operator makes room.
    #[error("registry has no room left on its disk: {0}")]
    Full(String),
    /// What is stored is no registry, or damaged. The operator restores a backup.
    #[error("registry is damaged, restore a backup: {0}")]
    Corrupt(String),
    /// It may be read only. The operator gives the right to write.
    #[error("registry may not be written to: {0}")]
    ReadOnly(String),
    /// A newer Doorbell has changed its shape. The operator upgrades this one.
    #[error(
        "registry has been changed by a newer doorbell, upgrade this one: it has version {found}, known is {known}"
    )]
    TooNew {
        /// The version that the registry has.
        found: u64,
        /// The newest version that this binary knows.
        known: u64,
    },
    /// Anything else, which is likely our mistake.
    #[error("registry failed: {0}")]
    Other(String),
}

/// Why a registry could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {error}")]
pub struct OpenError {
    /// Where it should be.
    pub location: Location,
    /// Why it could not be opened.
    pub error: RegistryError,
}

impl OpenError {
    /// Whether it is newer than this program: waiting does not help.
    #[must_use]
    pub fn is_too_new(&self) -> bool {
        matches!(self.error, RegistryError::TooNew { .. })
    }
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An app is not as the writer expected it.
    #[error("app \"{app}\": {}", found.map_or("there is none".to_owned(), |found| format!("it is at revision {found}")))]
    Conflict {
        /// Which app.
        app: AppId,
        /// The revision it has, if there is one.
        found: Option<Revision>,
    },
    /// An app is being deleted with its database.
    #[error(
        "app \"{0}\" is being deleted with its database: delete it again, or keep what is left of it \
         (`doorbell app adopt {0}`)"
    )]
    Ending(AppId),
    /// Apps have changed since the writer looked at them.
    #[error("apps of the registry change all the time: try again")]
    Changed,
    /// A token's name is taken.
    #[error("token {0:?}: there is one with this name")]
    TokenTaken(String),
    /// What was to be written cannot be stored. The writer is to blame.
    #[error("{what} cannot be stored: {why}")]
    Refused {
        /// What it is.
        what: String,
        /// Why not.
        why: String,
    },
    /// The registry is to blame.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match &error {
            Error::Database(inner) => {
                if let Some(sqlite) = inner.try_downcast_ref::<SqliteError>() {
                    return by_sqlite(sqlite);
                }
                if let Some(postgres) = inner.try_downcast_ref::<PgDatabaseError>() {
                    return by_postgres(postgres);
                }
                Self::Other(printable(inner.message()))
            }
            Error::Io(inner) => Self::Unreachable(printable(&inner.to_string())),
            Error::Tls(inner) => Self::Unreachable(printable(&format!("TLS: {inner}"))),
            Error::PoolTimedOut => Self::Locked("all its connections are in use".into()),
            // What is stored has another type than we gave it.
            Error::ColumnDecode { .. } | Error::Decode(_) => {
                Self::Corrupt(printable(&error.to_string()))
            }
            Error::Protocol(_) | Error::WorkerCrashed | Error::PoolClosed => {
                Self::Unreachable(printable(&error.to_string()))
            }
            _ => Self::Other(printable(&error.to_string())),
        }
    }
}

/// Result codes: <https://www.sqlite.org/rescode.html>.
fn by_sqlite(error: &SqliteError) -> RegistryError {
    use sqlx::error::DatabaseError;
    let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(1);
    let words = printable(error.message());
    match (code & 0xff, code >> 8) {
        (5 | 6, _) => RegistryError::Locked(words),
        // A write that found no room; or the shared memory beside the file, which is a file too.
        (13, _) | (10, 19) => RegistryError::Full(words),
        (11 | 26, _) => RegistryError::Corrupt(words),
        (8, _) => RegistryError::ReadOnly(words),
        (10 | 14 | 23, _) => RegistryError::Unreachable(words),
        _ => RegistryError::Other(words),
    }
}

/// Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn by_postgres(error: &PgDatabaseError) -> RegistryError {
    let words = printable(error.message());
    match error.code() {
        // No room on the disk.
        "53100" => RegistryError::Full(words),
        // Waited too long for a lock, or lost against another transaction.
        "55P03" | "57014" | "40001" | "40P01" => RegistryError::Locked(words),
        // A standby, or a database or right that lets us read only.
        "25006" | "42501" => RegistryError::ReadOnly(words),
        "XX001" | "XX002" => RegistryError::Corrupt(words),
        // Ours alone: 42P01 is a table that is gone, 42703 a column.
        "42P01" | "42703" => RegistryError::Corrupt(words),
        code => match code.get(..2) {
            // Connections, resources, an operator's intervention, credentials, no such database.
            Some("08" | "53" | "57" | "58" | "28" | "3D") => RegistryError::Unreachable(words),
            _ => RegistryError::Other(format!("{words} ({code})")),
        },
    }
}

/// A text that does nothing to a terminal or a log: control characters become their escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, char| {
        if char.is_control() {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_database_do_nothing_to_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}é"), "a\\u{1b}[2Jb\\nc\\u{9b}é");
    }

    #[test]
    fn a_conflict_says_what_there_is() {
        let app = AppId::parse("blog").unwrap();
        let found = Some(Revision::new(7));
        assert_eq!(
            WriteError::Conflict { app: app.clone(), found }.to_string(),
            "app \"blog\": it is at revision 7"
        );
        assert_eq!(
            WriteError::Conflict { app, found: None }.to_string(),
            "app \"blog\": there is none"
        );
    }
}
