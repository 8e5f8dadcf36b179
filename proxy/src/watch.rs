//! Watches the configuration's files and asks for a reload when they have come to rest.
//!
//! Folders are watched, not files: editors replace a file by renaming another over it, and a watch
//! on the file would stay with the old one. Links are followed, and the folders of links watched
//! too: some replace a link (Kubernetes its `..data`), others edit what it leads to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use doorbell_config::file::Seen;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{
        AccessKind::Close,
        AccessMode::Write,
        ModifyKind::{Data, Metadata},
    },
};
use tokio::sync::Notify;

use crate::house::House;

/// Quiet time after the last change before a reload: an editor's save is several events.
const REST: Duration = Duration::from_millis(200);
/// A file that is changed all the time is read anyway after this long.
const UNREST: Duration = Duration::from_secs(5);
/// Links that are followed one after the other, as the kernel does: path_resolution(7).
const MOST_LINKS: u32 = 40;

/// Reloads whenever a watched file changes, until the task is dropped.
pub async fn reload_on_change(house: Arc<House>) {
    let signs = Arc::new(Signs::default());
    let mut watched = match watcher(Arc::clone(&signs)) {
        Ok(watcher) => Watched { watcher, folders: BTreeMap::new() },
        Err(error) => {
            tracing::warn!(%error, "cannot watch the configuration; reload by SIGHUP or `doorbell reload`");
            return;
        }
    };
    let mut readings = house.sources();
    let mut was_read = false;
    loop {
        let sources = Arc::clone(&readings.borrow_and_update());
        let places = blocking(&sources, Places::of).await;
        signs.files.store(Arc::new(places.files));
        // What changed before its folder was watched is seen by another look.
        let is_new = watched.follow(&places.folders);
        if !is_new && !std::mem::take(&mut was_read) {
            tokio::select! {
                () = signs.come_to_rest() => {}
                read = readings.changed() => match read {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        if blocking(&sources, |sources| !sources.iter().all(Seen::is_current)).await {
            // The outcome is logged and counted where it happens.
            drop(house.reload().await);
            // A change behind the reading, before its folder was watched again, is looked for too.
            was_read = true;
            tokio::time::sleep(REST).await;
        }
    }
}

/// What the watcher sees.
#[derive(Default)]
struct Signs {
    changed: Notify,
    /// Files that are read.
    files: ArcSwap<HashSet<PathBuf>>,
    /// Files that somebody writes to and has not closed yet: half a file may be a good one.
    in_writing: Mutex<HashSet<PathBuf>>,
}

impl Signs {
    /// Waits for a change, and until nothing more changes.
    async fn come_to_rest(&self) {
        self.changed.notified().await;
        let deadline = tokio::time::Instant::now() + UNREST;
        loop {
            let quiet = tokio::time::timeout(REST, self.changed.notified()).await.is_err();
            if quiet && self.in_writing().is_empty() {
                return;
            }
            if tokio::time::Instant::now() >= deadline {
                // Who keeps a file open for good is not waited for each time.
                self.in_writing().clear();
                return;
            }
        }
    }

    fn in_writing(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.in_writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of everything that comes, goes or is renamed in a watched folder, and of writes to
    /// the files that are read: a log beside them is written all the time.
    fn take(&self, event: &Event) {
        let concerns = match event.kind {
            EventKind::Access(Close(Write)) => {
                let mut in_writing = self.in_writing();
                event.paths.iter().any(|path| in_writing.remove(path))
            }
            EventKind::Access(_) => false,
            EventKind::Modify(Data(_)) => self.is_written(event),
            EventKind::Modify(Metadata(_)) => {
                let files = self.files.load();
                event.paths.iter().any(|path| files.contains(path))
            }
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => {
                let mut in_writing = self.in_writing();
                for path in &event.paths {
                    in_writing.remove(path);
                }
                true
            }
        };
        if concerns {
            self.changed.notify_one();
        }
    }

    /// A file that is read, or may become one, is written to.
    fn is_written(&self, event: &Event) -> bool {
        let files = self.files.load();
        let is_config = |path: &&PathBuf| {
            files.contains(*path) || path.extension().is_some_and(|extension| extension == "toml")
        };
        let written: Vec<_> = event.paths.iter().filter(is_config).cloned().collect();
        let concerns = !written.is_empty();
        self.in_writing().extend(written);
        concerns
    }
}

fn watcher(signs: Arc<Signs>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        if let Ok(event) = event {
            signs.take(&event);
        }
    })
}

/// The folders that are watched.
struct Watched {
    watcher: RecommendedWatcher,
    /// With their inodes: a watch stays with a folder that was replaced.
    folders: BTreeMap<PathBuf, u64>,
}

impl Watched {
    /// Watches these folders, and no others; tells whether one of them is new.
    fn follow(&mut self, wanted: &BTreeSet<PathBuf>) -> bool {
        let Self { watcher, folders } = self;
        folders.retain(|folder, inode| {
            let stays = wanted.contains(folder) && inode_of(folder) == Some(*inode);
            if !stays {
                // A folder that is gone is not watched any more either.
                drop(watcher.unwatch(folder));
            }
            stays
        });
        let mut is_new = false;
        let mut failed = None;
        for folder in wanted {
            let Some(inode) = inode_of(folder) else { continue };
            // A folder that was made anew may have its old inode; its watch is gone all the same, and
            // a second one for a folder that is watched changes nothing.
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => is_new |= folders.insert(folder.clone(), inode).is_none(),
                // What cannot be watched now is tried again after the next change.
                Err(error) => failed = Some((folder, error)),
            }
        }
        if let Some((folder, error)) = failed {
            let left = wanted.len() - folders.len();
            tracing::warn!(%error, folder = %folder.display(), left, "cannot watch for changes");
        }
        is_new
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.ino())
}

/// Looks at the disk, which may be slow.
async fn blocking<T: Send + 'static>(sources: &Arc<Vec<Seen>>, look: fn(&[Seen]) -> T) -> T {
    let sources = Arc::clone(sources);
    match tokio::task::spawn_blocking(move || look(&sources)).await {
        Ok(seen) => seen,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Where changes may happen that concern some sources. All paths are free of links.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Folders of the sources, and of links on the way to them.
    folders: BTreeSet<PathBuf>,
    /// Files that are read.
    files: HashSet<PathBuf>,
}

impl Places {
    fn of(sources: &[Seen]) -> Self {
        let mut places = Self::default();
        let mut resolved = HashMap::new();
        for Seen { path: source, .. } in sources {
            let parent = source.parent().unwrap_or(Path::new("/"));
            let folder = resolved
                .entry(parent)
                .or_insert_with(|| places.resolve(parent, MOST_LINKS).unwrap_or_default())
                .clone();
            let Some(name) = source.file_name().filter(|_| folder.is_absolute()) else { continue };
            places.folders.insert(folder.clone());
            places.add(folder.join(name));
        }
        places
    }

    /// A source in a folder without links.
    fn add(&mut self, source: PathBuf) {
        let is_link = source.is_symlink();
        let found = if is_link { self.resolve(&source, MOST_LINKS) } else { Some(source) };
        let Some(found) = found else { return };
        if found.is_dir() {
            self.folders.insert(found);
        } else {
            self.folders.extend(found.parent().map(Path::to_owned));
            self.files.insert(found);
        }
    }

    /// The path without links; the folder of each link on the way is noted. `None` if they lead in
    /// circles.
    fn resolve(&mut self, path: &Path, links: u32) -> Option<PathBuf> {
        let mut real = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::RootDir | Component::Prefix(_) | Component::CurDir => {}
                Component::ParentDir => _ = real.pop(),
                Component::Normal(name) => {
                    let next = real.join(name);
                    real = match std::fs::read_link(&next) {
                        Ok(target) => {
                            let target = real.join(target);
                            self.folders.insert(real);
                            self.resolve(&target, links.checked_sub(1)?)?
                        }
                        Err(_) => next,
                    };
                }
            }
        }
        Some(real)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn places(sources: &[PathBuf]) -> Places {
        let seen = |path: &PathBuf| Seen { path: path.clone(), stamp: None };
        Places::of(&sources.iter().map(seen).collect::<Vec<_>>())
    }

    #[test]
    fn the_folders_of_links_are_watched_and_of_what_they_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("releases/1")).unwrap();
        fs::write(root.join("releases/1/main.toml"), "").unwrap();
        symlink("releases/1", root.join("current")).unwrap();
        symlink("../current/main.toml", root.join("etc/main.toml")).unwrap();
        let places = places(&[root.join("etc/main.toml")]);
        let folders = ["", "etc", "releases/1"].map(|name| root.join(name));
        let folders = folders.map(|folder| folder.components().collect::<PathBuf>());
        assert_eq!(places.folders, BTreeSet::from(folders));
        assert_eq!(places.files, HashSet::from([root.join("releases/1/main.toml")]));
    }

    #[test]
    fn links_in_circles_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let places = places(&[root.join("a")]);
        assert_eq!(places.folders, BTreeSet::from([root]));
        assert!(places.files.is_empty());
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let places = places(&[root.join("new.toml"), root.clone()]);
        assert!(places.folders.contains(&root));
        assert_eq!(places.files, HashSet::from([root.join("new.toml")]));
    }
}
