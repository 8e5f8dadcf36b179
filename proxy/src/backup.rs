//! Backups of apps: one archive with all that an app is and has.
//!
//! - [`envelope`]: what it is sealed with. Nothing of it stands anywhere in the clear.
//! - [`mod@format`]: what it has in it, and in what order.
//! - [`writer`] and [`reader`]: the archive, as it streams out and in. The reader trusts nothing but the passphrase.
//! - [`gather`] and [`unpack`]: folders, on their way in and out.
//! - [`dump`] and [`restore`]: databases, likewise; [`sql`] takes dumps apart.
//! - [`app_user`]: who does it where an app could be in the way.
//!
//! All of it runs as the operator, in the command line. The control process, which may start no program,
//! gives only what it alone knows: see `admin::backup`.

pub mod app_user;
pub mod dump;
pub mod envelope;
pub mod format;
pub mod gather;
pub mod inner_path;
pub mod output;
pub mod reader;
pub mod restore;
pub mod sql;
pub mod unpack;
pub mod writer;

use std::io;

/// Why a backup was not made, or not read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The operator is to blame.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The operator is to blame.
    #[error("it is no archive of doorbell's")]
    NoArchive,
    /// It was altered, or there is not all of it.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// It is from the future.
    #[error("the archive has format {0}, and this doorbell knows {known}: import it with a newer one", known = format::FORMAT)]
    Newer(u64),
    /// Something in it would do harm, or is nothing that we write.
    #[error("the archive is refused: {0}")]
    Refused(String),
    /// Something is there already. The operator says where else, or that it may go.
    #[error("{0}")]
    InTheWay(String),
    /// A database, or who dumps it, is to blame, in its own words.
    #[error("{0}")]
    Database(String),
    /// The system is to blame.
    #[error("{what}: {error}")]
    Io {
        /// What was to be done to what.
        what: String,
        /// Why it could not.
        error: io::Error,
    },
}

impl BackupError {
    /// What the system said when this was to be done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        // What went wrong inside keeps its own words.
        move |error| match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) => Self::Io { what, error },
        }
    }

    /// What was met while the archive was read.
    fn reading(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("it breaks off".into())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged("it was altered".into())
            }
            Err(error) => Self::Damaged(error.to_string()),
        }
    }
}

/// For readers and writers that are handed to others.
impl From<BackupError> for io::Error {
    fn from(error: BackupError) -> Self {
        Self::other(error)
    }
}
