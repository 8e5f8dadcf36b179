//! What can go wrong with a database, sorted by who can mend it.
//!
//! The server's own words stand inside, without control characters: a name that somebody chose may be among
//! them, and they end in terminals and logs.

use doorbell_config::registry::printable;
use sqlx::{mysql::MySqlDatabaseError, postgres::PgDatabaseError};

use super::{Secret, Step};

/// Why an app has no database, or still has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The server does not answer. Comes back by itself.
    #[error("{server} cannot be reached: {words}")]
    Unreachable {
        /// The server, without a password.
        server: String,
        /// What it, or the network, said.
        words: String,
    },
    /// The server lets us not in, or not do this. The operator gives the right, or another address.
    #[error("{server} does not let us {step}, which takes {right}: {words}")]
    Refused {
        /// The server, without a password.
        server: String,
        /// What was to be done.
        step: &'static str,
        /// The right that it takes.
        right: &'static str,
        /// What the server said.
        words: String,
    },
    /// What is there is not this app's. The operator adopts it, removes it, or chooses another id.
    #[error("{what} \"{name}\" is there already on {server}: {why}")]
    NameTaken {
        /// The server, without a password.
        server: String,
        /// What is there: "database".
        what: &'static str,
        /// Its name.
        name: String,
        /// Whose it is.
        why: String,
    },
    /// Anything else, such as a disk that is full.
    #[error("{server} failed to {step}: {words}")]
    Other {
        /// The server, without a password.
        server: String,
        /// What was to be done.
        step: &'static str,
        /// What the server said.
        words: String,
    },
}

/// The kind of error, before it is known what was being done.
enum Kind {
    Unreachable,
    Refused,
    Other,
}

impl ProvisionError {
    /// What the driver says of this step.
    pub(super) fn at(server: &str, step: Step, error: &sqlx::Error) -> Self {
        let (kind, words) = sorted(error);
        let server = server.to_owned();
        match kind {
            Kind::Unreachable => Self::Unreachable { server, words },
            Kind::Refused => Self::Refused { server, step: step.what, right: step.right, words },
            Kind::Other => Self::Other { server, step: step.what, words },
        }
    }

    /// The same without this password in the server's words.
    pub(super) fn without(mut self, password: &Secret) -> Self {
        let (Self::Unreachable { words, .. }
        | Self::Refused { words, .. }
        | Self::NameTaken { why: words, .. }
        | Self::Other { words, .. }) = &mut self;
        *words = password.hidden_in(words);
        self
    }
}

fn sorted(error: &sqlx::Error) -> (Kind, String) {
    use sqlx::Error;
    match error {
        Error::Database(inner) => {
            if let Some(postgres) = inner.try_downcast_ref::<PgDatabaseError>() {
                return (by_postgres(postgres.code()), postgres_words(postgres));
            }
            let words = printable(inner.message());
            match inner.try_downcast_ref::<MySqlDatabaseError>() {
                Some(mysql) => (by_mysql(mysql.number()), words),
                None => (Kind::Other, words),
            }
        }
        Error::Io(inner) => (Kind::Unreachable, printable(&inner.to_string())),
        Error::Tls(inner) => (Kind::Unreachable, printable(&format!("TLS: {inner}"))),
        // It ended the connection, or is no such server.
        Error::Protocol(_) | Error::WorkerCrashed => {
            (Kind::Unreachable, printable(&error.to_string()))
        }
        other => (Kind::Other, printable(&other.to_string())),
    }
}

/// The message, and what it says of it.
fn postgres_words(error: &PgDatabaseError) -> String {
    match error.detail() {
        Some(detail) => printable(&format!("{} ({})", error.message(), detail.replace('\n', "; "))),
        None => printable(error.message()),
    }
}

/// Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn by_postgres(code: &str) -> Kind {
    match (code, code.get(..2)) {
        // No right, no such role, wrong password, and a database that lets nobody in.
        ("42501", _) | (_, Some("28")) => Kind::Refused,
        // Connections, an operator's intervention, a disk that fails.
        ("57014", _) => Kind::Other,
        ("53300", _) | (_, Some("08" | "57" | "58")) => Kind::Unreachable,
        _ => Kind::Other,
    }
}

/// Numbers: <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
fn by_mysql(number: u16) -> Kind {
    match number {
        // Access denied: to a database, at all, to a table, to a column, to grant, without a right, to what
        // a procedure or a socket asks for.
        1044 | 1045 | 1142 | 1143 | 1227 | 1410 | 1370 | 1698 | 1095 => Kind::Refused,
        // Too many connections, shutting down, a host that is locked out or may not connect.
        1040 | 1053 | 1129 | 1130 | 1203 => Kind::Unreachable,
        _ => Kind::Other,
    }
}
