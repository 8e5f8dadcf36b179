//! Watches the configuration's files and asks for a reload when they have come to rest.
//!
//! Folders are watched, not files: editors replace a file by renaming another over it, and a watch
//! on the file would stay with the old one.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::house::House;

/// Quiet time after the last change before a reload: an editor's save is several events.
const REST: Duration = Duration::from_millis(200);
/// A file that is changed all the time is read anyway after this long.
const UNREST: Duration = Duration::from_secs(5);

/// Reloads whenever a watched file changes, until the task is dropped.
pub async fn reload_on_change(house: Arc<House>) {
    let changed = Arc::new(Notify::new());
    let sources = Arc::new(ArcSwap::from_pointee(house.sources().await));
    let mut watcher = match watcher(Arc::clone(&changed), Arc::clone(&sources)) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the configuration; reload by SIGHUP or `doorbell reload`");
            return;
        }
    };
    let mut folders = BTreeSet::new();
    let mut seen = Fingerprint::of(&sources.load());
    loop {
        follow(&mut watcher, &mut folders, &sources.load());
        changed.notified().await;
        let deadline = tokio::time::Instant::now() + UNREST;
        while tokio::time::timeout(REST, changed.notified()).await.is_ok()
            && tokio::time::Instant::now() < deadline
        {}
        // A change may come back to what was.
        let now = Fingerprint::of(&sources.load());
        if now != seen {
            // The outcome is logged and counted where it happens.
            drop(house.reload().await);
            sources.store(Arc::new(house.sources().await));
            seen = now.merge(Fingerprint::of(&sources.load()));
        }
    }
}

/// Tells of changes to the sources and to what lies in folders among them, and of nothing else: a
/// log beside the configuration is written all the time.
fn watcher(
    changed: Arc<Notify>,
    sources: Arc<ArcSwap<Vec<PathBuf>>>,
) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let sources = sources.load();
        let concerns = |path: &PathBuf| {
            sources.iter().any(|source| path == source || path.parent() == Some(source))
        };
        if !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(concerns) {
            changed.notify_one();
        }
    })
}

/// Watches the folders of `sources`, and no others.
fn follow(watcher: &mut RecommendedWatcher, folders: &mut BTreeSet<PathBuf>, sources: &[PathBuf]) {
    let wanted: BTreeSet<PathBuf> = sources.iter().map(|source| folder_of(source)).collect();
    for folder in folders.difference(&wanted) {
        // A folder that is gone is not watched any more either.
        drop(watcher.unwatch(folder));
    }
    folders.retain(|folder| wanted.contains(folder));
    for folder in wanted {
        if folders.contains(&folder) {
            continue;
        }
        // What cannot be watched now is tried again after the next change.
        match watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                folders.insert(folder);
            }
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot watch for changes");
            }
        }
    }
}

fn folder_of(source: &Path) -> PathBuf {
    if source.is_dir() {
        return source.to_owned();
    }
    let parent = source.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// What tells one state of the files from another.
#[derive(Clone, PartialEq, Eq)]
struct Fingerprint(Vec<(PathBuf, Option<Stamp>)>);

/// Time of the last change, length, inode.
type Stamp = (std::time::SystemTime, u64, u64);

impl Fingerprint {
    fn of(sources: &[PathBuf]) -> Self {
        use std::os::unix::fs::MetadataExt;
        let of_one = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        Self(sources.iter().map(|path| (path.clone(), of_one(path))).collect())
    }

    /// The fingerprint of a new list of files, with what was seen before for those in both: a
    /// change during the reload must not be taken for seen.
    fn merge(self, fresh: Self) -> Self {
        let before: std::collections::HashMap<_, _> = self.0.into_iter().collect();
        Self(
            fresh
                .0
                .into_iter()
                .map(|(path, now)| {
                    let seen = before.get(&path).cloned().unwrap_or(now);
                    (path, seen)
                })
                .collect(),
        )
    }
}
