//! What tells of changes that others make.

use std::{ffi::OsStr, path::Path, sync::Arc, time::Duration};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sqlx::postgres::PgListener;
use tokio::{sync::Notify, time::timeout};

use crate::registry::error::RegistryError;

/// What hears of changes by others.
pub(in crate::registry) enum Ear {
    /// PostgreSQL tells.
    Postgres(PgListener),
    /// The kernel tells when a file is written to.
    File(FileEar),
    /// Nobody does.
    Deaf,
}

/// Pause between what is told of a file and the second look: doubled from look to look, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(25);
const LAST_LOOK: Duration = Duration::from_secs(4);

/// What hears that a file of SQLite, or its log, is written to or replaced (inotify(7)). What is written can be read
/// when it is on the disk, of which nobody tells: so there are further looks behind the first.
pub(in crate::registry) struct FileEar {
    told: Arc<Notify>,
    /// Until the next look, while something may have been told too early.
    next: Option<Duration>,
    /// Held, so that it goes on.
    _watcher: RecommendedWatcher,
}

impl Ear {
    /// Waits until somebody tells. Nothing is lost when this is dropped: who waits looks at the revision, too.
    pub(in crate::registry) async fn heard(&mut self) -> Result<(), RegistryError> {
        match self {
            // Not `recv`, which would connect again by itself, and not look what was missed meanwhile.
            Self::Postgres(listener) => match listener.try_recv().await? {
                Some(_) => Ok(()),
                None => Err(RegistryError::Unreachable("the connection that listens ended".into())),
            },
            Self::File(file) => {
                file.heard().await;
                Ok(())
            }
            Self::Deaf => std::future::pending().await,
        }
    }

    /// How long to wait between two looks at the revision, whatever is told. A look costs one statement. What
    /// PostgreSQL tells may be lost behind something that passes no such word on, and a change is to be seen
    /// within a second all the same; what the kernel tells is lost where the folder itself goes.
    pub(in crate::registry) fn pause(&self) -> Duration {
        match self {
            Self::Postgres(_) => Duration::from_millis(900),
            Self::File(_) => Duration::from_secs(10),
            Self::Deaf => Duration::from_millis(400),
        }
    }

    /// One for a file of SQLite; deaf where the kernel has none left for us.
    pub(super) fn of_file(path: &Path) -> Self {
        FileEar::new(path).map_or(Self::Deaf, Self::File)
    }
}

impl FileEar {
    fn new(path: &Path) -> notify::Result<Self> {
        let path = path.canonicalize()?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(notify::Error::path_not_found());
        };
        let (told, name) = (Arc::new(Notify::new()), name.to_owned());
        let tells = Arc::clone(&told);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may mean anything.
            if event.map_or(true, |event| concerns(&event, &name)) {
                tells.notify_one();
            }
        })?;
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(Self { told, next: None, _watcher: watcher })
    }

    async fn heard(&mut self) {
        let Some(pause) = self.next else {
            self.told.notified().await;
            self.next = Some(FIRST_LOOK);
            return;
        };
        let told = timeout(pause, self.told.notified()).await;
        self.next = match told {
            Ok(()) => Some(FIRST_LOOK),
            Err(_) => Some(pause * 2).filter(|pause| *pause <= LAST_LOOK),
        };
    }
}

/// Whether something may have changed in a file or its log. The index of the log (`-shm`) says nothing new, and
/// we read ourselves.
fn concerns(event: &Event, name: &OsStr) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let name = name.as_encoded_bytes();
    let is_other = |path: &Path| {
        let found = path.file_name().unwrap_or_default().as_encoded_bytes();
        found.strip_prefix(name).is_none_or(|rest| rest == b"-shm")
    };
    event.need_rescan() || event.paths.is_empty() || !event.paths.iter().all(|path| is_other(path))
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, Flag, ModifyKind};

    use super::*;

    #[test]
    fn what_may_change_a_registry_is_heard_and_nothing_else() {
        let heard = |kind: EventKind, path: &str| {
            concerns(&Event::new(kind).add_path(path.into()), OsStr::new("registry.db"))
        };
        let modified = EventKind::Modify(ModifyKind::Any);
        assert!(heard(modified, "/x/registry.db-wal") && heard(modified, "/x/registry.db"));
        assert!(heard(EventKind::Create(CreateKind::File), "/x/registry.db"));
        assert!(!heard(modified, "/x/registry.db-shm") && !heard(modified, "/x/file-apps.json"));
        assert!(!heard(EventKind::Access(AccessKind::Any), "/x/registry.db"));
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(concerns(&overflow, OsStr::new("registry.db")));
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("registry.db"), folder.path().join("new"));
        std::fs::write(&path, "one").unwrap();
        let mut ear = Ear::of_file(&path);
        assert!(matches!(ear, Ear::File(_)));
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let heard = timeout(Duration::from_secs(5), async {
            // What is told at once is only readable later.
            for _ in 0..5 {
                ear.heard().await.unwrap();
            }
        });
        heard.await.unwrap();
    }
}
