//! Logs go with their apps: to the new id of one that is renamed, and aside when one is no more, so that the next app
//! of its id begins with none.
//!
//! A disk may take its time, and whoever decides must not wait for it. So moves are noted, and done before the next
//! file is opened or rotated, by whoever does that. Writers go on meanwhile: a file that is open stays the same one.
//! What is put aside is removed after [`KEPT`].

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use doorbell_config::name::AppId;

use super::{CURRENT, calendar::utc, rotate::rotated_files, whereabouts::Place};
use crate::protocol::Lineage;

/// The folder within that of logs for what is put aside. No id begins with a dot.
const ASIDE: &str = ".deleted";
/// How long that is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to be moved, in the folder of all logs.
#[derive(Debug)]
pub(super) struct Moves {
    folder: PathBuf,
    /// Never held for long.
    noted: Mutex<Vec<Move>>,
    /// Held while something is moved, or must stay where it is.
    still: Mutex<()>,
}

/// Logs that are to move at once.
#[derive(Debug)]
struct Move {
    lineage: Lineage,
    /// Those of them that are being written.
    written: Vec<(AppId, Arc<Place>)>,
}

impl Moves {
    /// Nothing is to be moved here.
    pub(super) fn within(folder: PathBuf) -> Self {
        Self { folder, noted: Mutex::default(), still: Mutex::default() }
    }

    /// Where the log of an app is, or of a replica of it.
    pub(super) fn folder_of(&self, app: &AppId) -> PathBuf {
        self.folder.join(&*app.file_name())
    }

    /// Whose log is in a folder; `None` where it was put aside.
    pub(super) fn owner_of(&self, folder: &Path) -> Option<AppId> {
        let name = folder.strip_prefix(&self.folder).ok()?.to_str()?;
        let (app, number) = name.split_once('.').unwrap_or((name, "1"));
        let owner = AppId::parse(app).ok()?.replica(number.parse().ok()?);
        (*owner.file_name() == *name).then_some(owner)
    }

    /// Notes what is to be moved.
    pub(super) fn note(&self, lineage: &Lineage, written: Vec<(AppId, Arc<Place>)>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Move { lineage: lineage.clone(), written });
    }

    /// Does what is noted, and lets nobody move anything as long as the guard lives.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        let still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        for one in noted {
            one.perform(&self.folder);
        }
        still
    }

    /// Does what is noted, and removes what was put aside long ago.
    pub(super) fn settle(&self) {
        let _still = self.hold();
        if let Err(error) = remove_old(&self.folder.join(ASIDE), now()) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "cannot remove the output of apps that are long gone");
        }
    }
}

impl Move {
    fn perform(self, folder: &Path) {
        let names = match names(folder) {
            Ok(names) => names,
            Err(error) => return failed(folder, &error),
        };
        let before: Vec<PathBuf> = self.written.iter().map(|(_, place)| place.folder()).collect();
        for app in &self.lineage.deleted {
            for name in names.iter().filter(|name| is_of(name, app)) {
                self.put_aside(folder, name);
            }
        }
        // Two may change their ids with each other.
        let leaving: HashSet<_> = self.lineage.renamed.iter().map(|(from, _)| from).collect();
        let mut later = Vec::new();
        for (from, to) in &self.lineage.renamed {
            for name in names.iter().filter(|name| is_of(name, from)) {
                let new = name.replacen(from.as_str(), to.as_str(), 1);
                if leaving.contains(to) {
                    later.extend(self.put_aside(folder, name).map(|aside| (aside, new)));
                } else {
                    self.rename(folder, &folder.join(name), &new);
                }
            }
        }
        for (aside, new) in later {
            self.rename(folder, &aside, &new);
        }
        self.see_to_silent(folder, &names, &before);
    }

    /// Puts a folder where nobody looks for an app; tells where.
    fn put_aside(&self, folder: &Path, name: &str) -> Option<PathBuf> {
        let aside = free_name(&folder.join(ASIDE), name);
        match create(&folder.join(ASIDE)).and_then(|()| fs::rename(folder.join(name), &aside)) {
            Ok(()) => {
                tracing::info!(app = name, path = %aside.display(), "its output is put aside");
                self.moved(&folder.join(name), &aside);
                Some(aside)
            }
            Err(error) => {
                failed(&folder.join(name), &error);
                None
            }
        }
    }

    fn rename(&self, folder: &Path, from: &Path, new: &str) {
        let to = folder.join(new);
        if is_ours(&to) {
            self.put_aside(folder, new);
        }
        match fs::rename(from, &to) {
            Ok(()) => self.moved(from, &to),
            Err(error) => failed(from, &error),
        }
    }

    /// Writers in this folder find it there.
    fn moved(&self, from: &Path, to: &Path) {
        for (_, place) in &self.written {
            if place.folder() == from {
                place.move_to(to);
            }
        }
    }

    /// Writers that have written nothing yet, and so had no folder, do so where their app's output is now.
    fn see_to_silent(&self, folder: &Path, names: &[String], before: &[PathBuf]) {
        for ((app, place), before) in self.written.iter().zip(before) {
            if names.iter().any(|name| folder.join(name) == *before) {
                continue;
            }
            let heir = self.lineage.renamed.iter().find(|(from, _)| *from == app.first());
            let now = match heir {
                Some((_, to)) => folder.join(&*to.replica(app.replica_number()).file_name()),
                None => free_name(&folder.join(ASIDE), &app.file_name()),
            };
            place.move_to(&now);
        }
    }
}

fn failed(path: &Path, error: &io::Error) {
    tracing::error!(path = %path.display(), %error, "output cannot be moved, and stays where it is");
}

/// Folders that are apps'.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: io::Result<Vec<_>> = names.collect();
    let is_apps = |name: &String| !name.starts_with('.') && is_ours(&folder.join(name));
    Ok(names?.into_iter().flatten().filter(is_apps).collect())
}

/// Whether a path is a folder that an app's output is in: others may have folders beside them, of any name.
fn is_ours(path: &Path) -> bool {
    let is_rotated = |file: &PathBuf| {
        let name = file.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        name.len() == utc(Duration::ZERO).len() && name.ends_with('Z')
    };
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
        && (path.join(CURRENT).exists()
            || rotated_files(path).is_ok_and(|files| files.iter().any(is_rotated)))
}

/// Whether a folder is that of an app, or of a further replica of it.
fn is_of(name: &str, app: &AppId) -> bool {
    let Some(rest) = name.strip_prefix(app.as_str()) else { return false };
    let number = rest.strip_prefix('.').and_then(|rest| rest.parse().ok());
    rest.is_empty() || number.is_some_and(|number| *name == *app.replica(number).file_name())
}

fn create(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A name that sorts by age, and that nothing there has.
fn free_name(aside: &Path, whose: &str) -> PathBuf {
    let mut at = now();
    loop {
        let path = aside.join(format!("{}-{whose}", utc(at)));
        if !path.exists() {
            return path;
        }
        at += Duration::from_micros(1);
    }
}

fn remove_old(aside: &Path, now: Duration) -> io::Result<()> {
    let oldest = utc(now.saturating_sub(KEPT));
    let entries = match fs::read_dir(aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        // What has another name is not ours.
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_ours = name.starts_with(|c: char| c.is_ascii_digit()) && name.contains("Z-");
        if is_ours && name < oldest {
            fs::remove_dir_all(entry.path())?;
            tracing::info!(path = %entry.path().display(), "output of an app that is long gone is removed");
        }
    }
    Ok(())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use doorbell_config::{name::ByteSize, spec::OutputSpec};

    use super::{
        super::{AppLog, Logs},
        *,
    };

    fn id(app: &str) -> AppId {
        AppId::parse_replica(app).unwrap()
    }

    fn renamed(pairs: &[(&str, &str)]) -> Lineage {
        let renamed = pairs.iter().map(|(from, to)| (id(from), id(to))).collect();
        Lineage { renamed, deleted: Vec::new() }
    }

    fn deleted(app: &str) -> Lineage {
        Lineage { renamed: Vec::new(), deleted: vec![id(app)] }
    }

    fn open(logs: &Logs, app: &str) -> Arc<AppLog> {
        logs.open(&id(app), OutputSpec { max_size: ByteSize(40), keep: 1000 })
    }

    fn say(log: &AppLog, line: &str) {
        // Whoever wrote while it was moved writes again.
        while log.write(format!("{line}\n").as_bytes(), &mut |_| {}).0 == 0 {}
    }

    fn told(folder: &Path) -> String {
        let mut files = rotated_files(folder).unwrap_or_default();
        files.push(folder.join(CURRENT));
        files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }

    fn aside(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder.join(ASIDE)).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.sort();
        found
    }

    #[test]
    fn who_is_renamed_writes_on_in_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Arc::new(Logs::new(folder.path().into()));
        let old = open(&logs, "blog");
        say(&open(&logs, "blog:2"), "of two");
        let writer = std::thread::spawn(move || (0..2000).for_each(|n| say(&old, &n.to_string())));
        let mut last = "blog".to_owned();
        for n in 0..50 {
            let next = format!("news{n}");
            logs.follow(&renamed(&[(&last, &next)]));
            logs.settle();
            last = next;
        }
        // The next instance shares them with the one that ends.
        let new = open(&logs, &last);
        writer.join().unwrap();
        say(&new, "new");
        let lines: String = (0..2000).map(|n| format!("{n}\n")).collect();
        assert_eq!(told(&folder.path().join(&last)), lines + "new\n");
        assert_eq!(told(&folder.path().join(format!("{last}.2"))), "of two\n");
        assert_eq!(names(folder.path()).unwrap().len(), 2, "nothing is left anywhere");
        assert_eq!(told(&folder.path().join("blog")), "");
    }

    #[test]
    fn who_is_deleted_leaves_nothing_to_the_next_of_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().into());
        let (old, silent) = (open(&logs, "blog"), open(&logs, "blog:2"));
        say(&open(&logs, "blog-2"), "another");
        say(&old, "before");
        logs.follow(&deleted("blog"));
        // Whichever comes first: nobody waits for the disk.
        let new = open(&logs, "blog");
        say(&new, "new");
        say(&old, "its end");
        say(&silent, "its end too");
        assert_eq!(told(&folder.path().join("blog")), "new\n");
        assert_eq!(told(&folder.path().join("blog-2")), "another\n");
        let aside = aside(folder.path());
        let told: Vec<_> = aside.iter().map(|folder| told(folder)).collect();
        assert_eq!(told, ["before\nits end\n", "its end too\n"], "{aside:?}");
        assert!(aside[0].to_string_lossy().ends_with("Z-blog"), "{aside:?}");
        assert!(!folder.path().join("blog.2").exists());
    }

    #[test]
    fn two_may_change_their_ids_with_each_other_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().into());
        let (a, b) = (open(&logs, "a"), open(&logs, "b"));
        say(&a, "a");
        say(&b, "b");
        logs.follow(&renamed(&[("a", "b"), ("b", "a")]));
        say(&a, "a still");
        logs.settle();
        assert_eq!(told(&folder.path().join("b")), "a\na still\n");
        assert_eq!(told(&folder.path().join("a")), "b\n");
        fs::create_dir(folder.path().join("c")).unwrap();
        fs::write(folder.path().join("c").join(CURRENT), "of long ago\n").unwrap();
        logs.follow(&renamed(&[("a", "c")]));
        logs.settle();
        assert_eq!(told(&folder.path().join("c")), "b\n");
        assert_eq!(told(&aside(folder.path())[0]), "of long ago\n");
    }

    #[test]
    fn what_others_have_in_the_folder_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| folder.path().join(name);
        for name in ["nginx", "blog.7x", "blog.02", "blog.1"] {
            fs::create_dir(there(name)).unwrap();
            fs::write(there(name).join("access.log"), "theirs").unwrap();
        }
        fs::write(there("blog.2"), "no folder").unwrap();
        std::os::unix::fs::symlink("nginx", there("blog.3")).unwrap();
        let logs = Logs::new(folder.path().into());
        let blog = open(&logs, "blog");
        say(&blog, "ours");
        logs.follow(&renamed(&[("blog", "nginx")]));
        logs.settle();
        // There is no room for it there.
        assert_eq!(told(&there("blog")), "ours\n");
        logs.follow(&deleted("nginx"));
        logs.follow(&deleted("blog"));
        logs.settle();
        assert_eq!(aside(folder.path()).len(), 1);
        for name in ["nginx", "blog.7x", "blog.02", "blog.1", "blog.3"] {
            assert!(there(name).join("access.log").exists(), "{name}");
        }
        assert!(there("blog.2").exists());
    }

    #[test]
    fn whoever_takes_up_a_pipe_finds_the_log_that_went() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("logs");
        fs::create_dir(&root).unwrap();
        let pipe = |name: &str| folder.path().join(name).with_extension("out");
        let logs = Logs::new(root.clone());
        let begin = |app: &str| {
            let log = open(&logs, app);
            say(&log, app);
            let link = log.place.link(&pipe(app));
            (log, link)
        };
        let begun = ["blog", "shop:2", "stays"].map(begin);
        logs.follow(&renamed(&[("shop", "market")]));
        logs.follow(&deleted("blog"));
        logs.settle();
        // One that comes after the move has its link too.
        let late = begun[1].0.place.link(&pipe("late"));
        // The next instance under the new id shares the log, and is none of an earlier app's.
        let next = open(&logs, "market:2").place.link(&pipe("next"));
        drop((begun, late, next));
        for name in ["blog", "shop", "market"] {
            say(&open(&logs, name), "new");
        }

        let later = Logs::new(root.clone());
        let reopened = |app: &str, pipe_name: &str| {
            let log = later.reopen(&id(app), OutputSpec::default(), &pipe(pipe_name));
            say(&log, "its end");
            log
        };
        let shared = [reopened("shop:2", "shop:2"), reopened("shop:2", "late")];
        assert!(Arc::ptr_eq(&shared[0], &open(&later, "market:2")), "one writes");
        assert_eq!(told(&root.join("market.2")), "shop:2\nits end\nits end\n");
        reopened("blog", "blog");
        assert_eq!(told(&aside(&root)[0]), "blog\nits end\n");
        assert!(!later.is_elsewhere(&id("market:2"), &pipe("next")));
        assert!(later.is_elsewhere(&id("shop:2"), &pipe("shop:2")));
        assert!(!later.is_elsewhere(&id("stays"), &pipe("stays")));
        reopened("stays", "stays");
        assert_eq!(told(&root.join("stays")), "stays\nits end\n");
        assert_eq!(told(&root.join("blog")), "new\n");
        assert_eq!(told(&root.join("shop")), "new\n");
    }

    #[test]
    fn what_was_put_aside_goes_in_the_end_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let now = Duration::from_secs(1_800_000_000);
        let old = utc(now - KEPT - Duration::from_secs(1));
        let young = utc(now - KEPT + Duration::from_secs(1));
        for name in [format!("{old}-blog"), format!("{young}-blog"), "0-notes".into()] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        remove_old(folder.path(), now).unwrap();
        let mut left = fs::read_dir(folder.path()).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut left: Vec<_> = left.by_ref().map(name).collect();
        left.sort();
        assert_eq!(left, ["0-notes".into(), std::ffi::OsString::from(format!("{young}-blog"))]);
        remove_old(&folder.path().join("none"), now).unwrap();
    }
}
