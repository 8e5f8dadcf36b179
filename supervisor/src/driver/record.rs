//! What is written down of a running instance, so that a supervisor that comes after this one can
//! adopt it: one small file each, beside its sockets. It need not outlive a crash of the machine, and
//! is not synced.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use doorbell_config::name::AppId;
use serde::{Deserialize, Serialize};

use super::{
    endpoint::base36,
    mark::Mark,
    procfs::{Pid, Process},
    vigil::Vigil,
};
use crate::{
    message::{Endpoint, Generation, StartTimes},
    written,
};

/// Bytes of a record, unless much keeps its instance awake.
const PAGE: usize = 4096;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its upgrade runs, and it will after that.
    Upgrading,
    /// Spawned.
    Starting,
    /// Serving, or draining.
    Ready,
    /// Standing still, about to, or no more since a moment.
    Frozen,
    /// Told to end.
    Leaving,
}

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    /// The kernel's run, so that pids of before a reboot are nobody's.
    pub(crate) boot: String,
    pub(crate) pid: Pid,
    /// When it began, in clock ticks since boot: with the pid, its identity.
    pub(crate) began: u64,
    pub(crate) phase: Phase,
    /// Where it was told to listen.
    pub(crate) place: Endpoint,
    /// Where it was found listening, and how its start went.
    pub(crate) ready: Option<(Endpoint, StartTimes)>,
    /// Of the definition that it was started with, as far as that matters to a program.
    pub(crate) fingerprint: u64,
    /// Whether the kernel tells when it listens: then somebody has to hear that.
    #[serde(default)]
    pub(crate) is_heard: bool,
    /// Whether a wall holds what is read-only, where nothing else can.
    #[serde(default)]
    pub(crate) walled: Option<Walled>,
    /// What keeps it awake.
    #[serde(default)]
    pub(crate) vigils: Vec<Vigil>,
    /// Of an upgrade.
    #[serde(default)]
    pub(crate) upgrade: Option<Upgrading>,
}

/// Whether there is a wall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Walled {
    /// It is behind one.
    In,
    /// It is not, for this reason.
    Not(String),
}

/// What is written down of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upgrading {
    /// The version that it brings the app's data up to date with.
    pub(crate) version: String,
    /// By when it is to have ended, in milliseconds since 1970.
    until_unix_ms: u64,
}

impl Upgrading {
    pub(crate) fn new(version: &str, lasts: Duration) -> Self {
        let until_unix_ms = unix_ms().saturating_add(millis(lasts));
        Self { version: version.to_owned(), until_unix_ms }
    }

    /// How long it may still take.
    pub(crate) fn left(&self) -> Duration {
        Duration::from_millis(self.until_unix_ms.saturating_sub(unix_ms()))
    }
}

fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The record of an instance, as it is and as it is written down. Several of its branches write, and
/// what is written last is what is.
#[derive(Debug)]
pub(crate) struct Notebook {
    record: Mutex<Record>,
    /// Held while it is written.
    turn: Mutex<()>,
}

impl Notebook {
    pub(crate) fn new(record: Record) -> Self {
        Self { record: Mutex::new(record), turn: Mutex::default() }
    }

    /// The record as it is.
    pub(crate) fn record(&self) -> Record {
        self.page().clone()
    }

    /// Changes it, and gives what that gives; it is not written yet.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.page())
    }

    /// Has it written as it is then.
    pub(crate) fn write(&self, write: impl FnOnce(&Record)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.record());
    }

    fn page(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Of a process that was just spawned.
    pub(crate) fn new(
        app: AppId,
        generation: Generation,
        pid: Pid,
        place: Endpoint,
        fingerprint: u64,
    ) -> io::Result<Self> {
        let began = Process::read(pid).ok_or(io::ErrorKind::NotFound)?.began;
        let (boot, phase, ready) = (boot()?, Phase::Starting, None);
        Ok(Self {
            app,
            generation,
            boot,
            pid,
            began,
            phase,
            place,
            ready,
            fingerprint,
            is_heard: false,
            walled: None,
            vigils: Vec::new(),
            upgrade: None,
        })
    }

    /// Writes it down, in the app's run folder: over what stands there, where both are a page, which the
    /// kernel takes as a whole, whenever we are killed. Files that come and go cost more: ext4 looks at all
    /// that went of late for each that comes.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = Self::path(folder, self.generation);
        let mut text = serde_json::to_vec(self)?;
        // Blanks mean nothing in JSON.
        text.resize(text.len().max(PAGE), b' ');
        if text.len() == PAGE
            && let Ok(file) = fs::OpenOptions::new().write(true).open(&path)
            && file.metadata()?.len() == PAGE as u64
        {
            return file.write_all_at(&text, 0);
        }
        let fresh = path.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, path)
    }

    /// The instance is gone.
    pub(crate) fn remove(folder: &Path, generation: Generation) -> io::Result<()> {
        match fs::remove_file(Self::path(folder, generation)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(folder: &Path, generation: Generation) -> PathBuf {
        folder.join(format!("{}.json", base36(generation.0)))
    }

    /// All that are written down in the run folders of apps. What cannot be read, of a crash of the machine for
    /// instance, is told and set aside.
    pub(crate) fn read_all(run_dir: &Path) -> io::Result<Vec<Self>> {
        let read = Self::paths(run_dir)?.filter_map(|path| {
            written::read(&path).unwrap_or_else(|error| {
                let kept = fs::rename(&path, path.with_extension("json.corrupt")).is_ok();
                tracing::error!(%error, kept, "no record of an instance");
                None
            })
        });
        Ok(read.collect())
    }

    /// Whether all of them could be read.
    pub(crate) fn understand_all(run_dir: &Path) -> io::Result<()> {
        Self::paths(run_dir)?.try_for_each(|path| written::read::<Self>(&path).map(drop))
    }

    fn paths(run_dir: &Path) -> io::Result<impl Iterator<Item = PathBuf> + use<>> {
        let folders = fs::read_dir(run_dir)?.filter_map(Result::ok);
        // Not all are folders: the list of roles, say.
        let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten();
        let paths = files.filter_map(Result::ok).map(|file| file.path());
        Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")))
    }

    /// Whether its first process still runs: this very one, and not another with its number.
    pub(crate) fn lives(&self, mark: &Mark) -> bool {
        let process = Process::read(self.pid).filter(|process| {
            process.began == self.began && !process.is_zombie && self.is_of_this_boot()
        });
        process.is_some() && !mark.is_missing_on(self.pid)
    }

    /// Whether its pids mean anything.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
    }
}

/// The kernel's run.
pub(crate) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms;

    #[test]
    fn what_is_no_record_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("blog");
        fs::create_dir(&app).unwrap();
        fs::write(app.join("1.json"), "").unwrap();
        assert!(Record::understand_all(folder.path()).is_err());
        assert_eq!(Record::read_all(folder.path()).unwrap(), []);
        Record::understand_all(folder.path()).unwrap();
        assert!(app.join("1.json.corrupt").exists());
    }

    #[test]
    fn the_last_that_was_written_stands_there_whatever_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("blog");
        fs::create_dir(&app).unwrap();
        let record = forms::read::<Record>("run/instance").pop().unwrap();
        let vigil = record.vigils[0].clone();
        // A page, a page again, more than one, and a page.
        for count in [1, 0, 200, 2] {
            let now = Record { vigils: vec![vigil.clone(); count], ..record.clone() };
            now.write(&app).unwrap();
            assert_eq!(Record::read_all(folder.path()).unwrap(), [now]);
        }
        assert_eq!(fs::read_dir(&app).unwrap().count(), 1);
    }

    #[test]
    fn another_versions_instances_are_understood() {
        let phases: Vec<_> = forms::are_understood::<Record>("run/instance")
            .into_iter()
            .map(|record| match record.phase {
                Phase::Upgrading => 0,
                Phase::Starting => 1,
                Phase::Ready => 2,
                Phase::Frozen => 3,
                Phase::Leaving => 4,
            })
            .collect();
        assert_eq!(phases, [0, 1, 2, 3, 4, 4, 4]);
    }
}
