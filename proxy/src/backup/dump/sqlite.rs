//! A file of SQLite: SQLite copies it itself (`VACUUM INTO`), while others read and write it.
//!
//! The copy is in a folder that nobody but the app may enter, and has no name any more when it is read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use doorbell_config::registry::printable;
use doorbell_supervisor::Account;
use rustix::fs::{Mode, OFlags};
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use crate::backup::{BackupError, app_user::act_as};

/// How long to wait for a writer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a copy of a file, made with the rights of the app that it is of.
pub(super) fn dump(
    path: &Path,
    user: Option<&Account>,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    let folder = PrivateFolder::make_for(user)?;
    let acted = BackupError::io("cannot act as the app's user");
    let copied = act_as(user, || folder.is_reachable().and_then(|()| copy(path, &folder.copy())));
    let copied = copied.map_err(acted)??;
    drop(folder);
    let Some(mut file) = copied else { return Ok(()) };
    io::copy(&mut file, out).map(drop).map_err(BackupError::io("cannot write the archive"))
}

/// A copy of a file, open; `None` if there is no file: an app that never wrote has none yet.
fn copy(path: &Path, copy: &Path) -> Result<Option<File>, BackupError> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_file() => {}
        // The app could lead us anywhere.
        Ok(_) => {
            let why = format!("sqlite:{}: it is no file but a link or the like", path.display());
            return Err(BackupError::Database(why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(BackupError::io(format!("cannot read {}", path.display()))(error));
        }
    }
    vacuum(path, copy)?;
    // The app may have put something else in its place.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(copy);
    let file = file.and_then(|file| {
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
    });
    file.map(Some).map_err(BackupError::io("cannot read the copy"))
}

fn vacuum(path: &Path, copy: &Path) -> Result<(), BackupError> {
    let shown = path.display().to_string();
    let failed = |error: sqlx::Error| {
        BackupError::Database(format!("sqlite:{shown}: {}", printable(&error.to_string())))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BackupError::io("cannot begin"))?.block_on(async {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
        let into = copy.display().to_string().replace('\'', "''");
        let copied =
            connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("VACUUM INTO '{into}'"))));
        copied.await.map_err(failed)?;
        // The copy is whole; whoever else has the file open has it on.
        connection.close().await.map_err(failed)
    })
}

/// A folder for us, or this user, alone, which goes with all that is in it.
struct PrivateFolder<'u> {
    path: PathBuf,
    user: Option<&'u Account>,
}

impl<'u> PrivateFolder<'u> {
    fn make_for(user: Option<&'u Account>) -> Result<Self, BackupError> {
        let path = std::env::temp_dir().join(format!("doorbell-{}", Uuid::new_v4().simple()));
        let failed = || BackupError::io(format!("cannot make the folder {}", path.display()));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed())?;
        if let Some(user) = user {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::open(&path, flags, Mode::empty());
            let made = made.map_err(|error| failed()(error.into()))?;
            fchown(made, Some(user.user()), Some(user.group())).map_err(failed())?;
        }
        Ok(Self { path: path.clone(), user })
    }

    fn copy(&self) -> PathBuf {
        self.path.join("copy")
    }

    /// Whether whoever is to write there gets there.
    fn is_reachable(&self) -> Result<(), BackupError> {
        let path = self.path.display();
        let what = format!("{path}: set TMPDIR to a folder that the app's user may enter");
        fs::metadata(self.path.join(".")).map(drop).map_err(BackupError::io(what))
    }
}

impl Drop for PrivateFolder<'_> {
    fn drop(&mut self) {
        // There is nobody to tell. What the app may have put there is removed with no more than its own rights.
        let _ = act_as(self.user, || fs::remove_dir_all(&self.path));
    }
}
