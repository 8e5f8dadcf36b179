//! A registry in a file of SQLite: one connection that writes, a few that read beside it.
//!
//! The file may be deleted or replaced under us, by a restore for instance. Connections would go on with what
//! nobody can see any more, and writes would be lost without a word; so before each use the path is asked which
//! file it names, and another one is opened anew.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::{Ear, Lent, Row, Transaction, Value, bound, in_time};
use crate::registry::{
    error::{RegistryError, printable},
    migration::{self, VERSION},
};

/// How long SQLite waits for another program's lock.
const BUSY: Duration = Duration::from_secs(5);
/// How long a writer waits for those before it.
const TURN: Duration = Duration::from_secs(20);
const READERS: u32 = 4;
/// "Drbl", in the file's head: whose it is.
const APPLICATION: i64 = 0x4472_626c;

/// A registry in a file.
pub(in crate::registry) struct Store {
    path: PathBuf,
    opened: RwLock<Arc<Opened>>,
    /// Held by the one who opens it anew.
    opening: tokio::sync::Mutex<()>,
}

/// A file that is open.
struct Opened {
    file: File,
    writer: SqlitePool,
    readers: SqlitePool,
}

/// Which file it is: device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct File(u64, u64);

impl Store {
    /// Opens the file; makes it where there is none.
    pub(super) async fn open(path: &Path) -> Result<Self, RegistryError> {
        make(path)?;
        let opened = Opened::open(path).await?;
        Ok(Self {
            path: path.to_owned(),
            opened: RwLock::new(Arc::new(opened)),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// The rows of a statement that only reads.
    pub(super) async fn rows(
        &self,
        statement: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, RegistryError> {
        let opened = self.opened().await?;
        let rows = bound!(Sqlite, statement, values).fetch_all(&opened.readers);
        Ok(in_time(rows).await?.into_iter().map(Row::Sqlite).collect())
    }

    /// Begins a transaction with the lock for writing: one that began by reading could not always get it.
    pub(super) async fn begin(&self) -> Result<Lent<Sqlite>, RegistryError> {
        let opened = self.opened().await?;
        let begun = opened.begin().await?;
        // Who waited long may have got a connection to a file that is gone meanwhile.
        if File::at(&self.path)? != opened.file {
            return Err(RegistryError::Unreachable("its file was replaced".into()));
        }
        Ok(begun)
    }

    /// What hears that another program writes to the file.
    pub(super) fn listen(&self) -> Ear {
        Ear::of_file(&self.path)
    }

    /// Brings what is in the log into the file, and empties it: what was overwritten is in neither then. Says whether
    /// that could be; others may still read what is older.
    pub(super) async fn forget_overwritten(&self) -> Result<bool, RegistryError> {
        let opened = self.opened().await?;
        let mut lent = Lent::new(in_time(opened.writer.acquire()).await?);
        let done = rows(&mut lent, "PRAGMA wal_checkpoint(TRUNCATE)", &[]).await;
        lent.give_back_after(&done);
        let busy = done?.first().map_or(Ok(0), |row| row.number(0))?;
        Ok(busy == 0)
    }

    /// Ends all connections. The last of them is a writer, which brings what is in the log into the file.
    pub(super) async fn close(&self) {
        let opened = self.current();
        opened.readers.close().await;
        opened.writer.close().await;
    }

    fn current(&self) -> Arc<Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file that the path names now.
    async fn opened(&self) -> Result<Arc<Opened>, RegistryError> {
        let current = self.current();
        if File::at(&self.path)? == current.file {
            return Ok(current);
        }
        let _one_at_a_time = self.opening.lock().await;
        if File::at(&self.path)? != self.current().file {
            let opened = Arc::new(Opened::open(&self.path).await?);
            *self.opened.write().unwrap_or_else(PoisonError::into_inner) = opened;
        }
        Ok(self.current())
    }
}

impl Opened {
    async fn open(path: &Path) -> Result<Self, RegistryError> {
        let file = File::at(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            .pragma("trusted_schema", "OFF")
            .pragma("secure_delete", "ON")
            .pragma("cell_size_check", "ON")
            .disable_statement_logging();
        claim(&options).await?;
        let writing = options
            .clone()
            // What a burst of writes left of the log is given back.
            .pragma("journal_size_limit", "8388608");
        let writer = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(TURN)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(writing);
        let readers = PoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(TURN)
            .idle_timeout(Duration::from_secs(60))
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        let opened = Self { file, writer, readers };
        let mut first = Transaction::Sqlite(opened.begin().await?);
        migration::bring_up_to_date(&mut first).await?;
        first.commit().await?;
        Ok(opened)
    }

    async fn begin(&self) -> Result<Lent<Sqlite>, RegistryError> {
        let mut lent = Lent::new(in_time(self.writer.acquire()).await?);
        lent.script("BEGIN IMMEDIATE").await?;
        Ok(lent)
    }
}

/// The rows of a statement.
pub(super) async fn rows(
    lent: &mut Lent<Sqlite>,
    statement: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, RegistryError> {
    let rows = bound!(Sqlite, statement, values).fetch_all(lent.connection());
    Ok(in_time(rows).await?.into_iter().map(Row::Sqlite).collect())
}

/// The version of what is in a file; zero where there is none.
pub(super) async fn version(path: &Path) -> Result<i64, RegistryError> {
    if !path.try_exists().map_err(unreachable)? {
        return Ok(0);
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let mut connection = in_time(options.disable_statement_logging().connect()).await?;
    let version = in_time(sqlx::query_scalar(VERSION).fetch_one(&mut connection)).await;
    in_time(connection.close()).await?;
    version
}

/// Sees that the file is ours, or empty and so to be ours, before anything in it is changed.
async fn claim(options: &SqliteConnectOptions) -> Result<(), RegistryError> {
    let mut connection = in_time(options.connect()).await?;
    let found = sqlx::query_as(
        "SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id",
    );
    let (owner, tables): (i64, i64) = in_time(found.fetch_one(&mut connection)).await?;
    if owner != APPLICATION {
        if owner != 0 || tables != 0 {
            return Err(RegistryError::Corrupt(
                "the file is a database of another program; name another file".into(),
            ));
        }
        // The same number: a pragma takes no value.
        in_time(sqlx::raw_sql("PRAGMA application_id = 0x4472626c").execute(&mut connection))
            .await?;
    }
    log_ahead(&mut connection).await?;
    in_time(connection.close()).await
}

/// Has the file written through a log, which it remembers. Another program that is about to do the same is not
/// waited for by SQLite.
async fn log_ahead(connection: &mut SqliteConnection) -> Result<(), RegistryError> {
    let end = Instant::now() + BUSY;
    loop {
        let done = in_time(sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut *connection));
        match done.await {
            Err(RegistryError::Locked(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done.map(drop),
        }
    }
}

/// Makes the file where there is none, and sees that nobody else may read it.
fn make(path: &Path) -> Result<(), RegistryError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path).map_err(unreachable)?.mode();
            if mode & 0o077 == 0 {
                return Ok(());
            }
            fs::set_permissions(path, Permissions::from_mode(mode & 0o700)).map_err(unreachable)
        }
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            Err(RegistryError::Full(error.to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(RegistryError::ReadOnly(error.to_string()))
        }
        Err(error) => Err(unreachable(error)),
    }
}

impl File {
    fn at(path: &Path) -> Result<Self, RegistryError> {
        let found = fs::metadata(path).map_err(unreachable)?;
        Ok(Self(found.dev(), found.ino()))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn unreachable(error: io::Error) -> RegistryError {
    RegistryError::Unreachable(printable(&format!("its file: {error}")))
}
