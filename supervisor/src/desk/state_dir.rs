//! What outlives a restart of Doorbell: which apps operators disabled or enabled, and how far
//! generations got. One Doorbell uses a state folder at a time.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use doorbell_config::{name::AppId, spec::StartMode};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    driver::create_private, message::Generation, protocol::Lineage, supervisor::SupervisorError,
    written,
};

const SWITCHES: &str = "switches.json";
const GENERATION: &str = "generation";
const LOCK: &str = "lock";
const START_TIMES: &str = "start_times.json";
/// More starts than one Doorbell makes.
const LEAP: u64 = 1 << 32;

/// How long a folder may be in use by what an earlier Doorbell, which was killed, was just starting: that
/// holds all descriptors until its program is executed.
const LAST_START: Duration = Duration::from_secs(2);
/// Between two looks.
const PACE: Duration = Duration::from_millis(5);

/// The folder, locked as long as this lives.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    lock: File,
}

impl Drop for StateDir {
    /// Closing alone would leave it locked while a child that was just forked has not executed its
    /// program yet.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(path = %self.path.display(), %error, "cannot unlock the state folder");
        }
    }
}

/// What operators switched, against the start mode in the definition: for all replicas of an app alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Switches {
    disabled: BTreeSet<AppId>,
    enabled: BTreeSet<AppId>,
}

/// Writes switches, the newest last whoever comes first.
#[derive(Clone, Debug)]
pub(super) struct SwitchFile {
    path: PathBuf,
    written: Arc<Mutex<u64>>,
    version: u64,
}

/// Numbers that rise, across restarts too.
#[derive(Debug)]
pub(super) struct Generations {
    last: u64,
}

impl StateDir {
    /// Opens and locks the folder, or takes over the lock of an earlier version of this process.
    pub(super) fn open(path: &Path, lock: Option<&OwnedFd>) -> Result<Self, SupervisorError> {
        let failed = |source| SupervisorError::Folder { path: path.into(), source };
        create_private(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock = match lock {
            Some(lock) => lock.try_clone().map_err(failed)?.into(),
            None => {
                let mut options = OpenOptions::new();
                options.create(true).truncate(false).write(true).mode(0o600);
                options.open(path.join(LOCK)).map_err(failed)?
            }
        };
        let until = Instant::now() + LAST_START;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { path, lock }),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::park_timeout(PACE),
                Err(Errno::WOULDBLOCK) => return Err(SupervisorError::InUse(path)),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// What keeps the folder ours.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.try_clone()?.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What operators switched. What cannot be read is set aside and warned of: starting apps that
    /// were disabled is better than starting none.
    pub(super) fn switches(&self) -> Switches {
        let path = self.path.join(SWITCHES);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Switches::default(),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read which apps are disabled");
                return Switches::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            let aside = path.with_extension("json.corrupt");
            let kept = fs::rename(&path, &aside).is_ok();
            tracing::error!(
                path = %path.display(), %error, kept,
                "cannot understand which apps are disabled: disable them again"
            );
            Switches::default()
        })
    }

    pub(super) fn switch_file(&self) -> SwitchFile {
        SwitchFile { path: self.path.join(SWITCHES), written: Arc::default(), version: 0 }
    }

    /// How long the last starts of apps took, as an earlier Doorbell knew. Without it estimates begin
    /// anew.
    pub(super) fn start_times(&self) -> HashMap<AppId, Vec<Duration>> {
        let text = fs::read(self.path.join(START_TIMES)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps them for the next.
    pub(super) fn keep_start_times(&self, times: &HashMap<AppId, Vec<Duration>>) {
        let kept = serde_json::to_vec(times).map_err(io::Error::from);
        let kept = kept.and_then(|text| replace(&self.path.join(START_TIMES), &text));
        if let Err(error) = kept {
            tracing::warn!(%error, "how long starts take is not known to the next doorbell");
        }
    }

    pub(super) fn generations(&self) -> Result<Generations, SupervisorError> {
        let path = self.path.join(GENERATION);
        let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(0);
        let first = match last {
            // The clock was set back.
            Some(last) if now <= last => last.saturating_add(LEAP),
            Some(_) | None => now,
        };
        replace(&path, first.to_string().as_bytes())
            .map_err(|source| SupervisorError::Folder { path, source })?;
        Ok(Generations { last: first })
    }
}

impl Switches {
    /// Whether an app with this start mode must not run.
    pub(super) fn is_disabled(&self, app: &AppId, mode: Option<StartMode>) -> bool {
        match mode {
            Some(StartMode::Disabled) => !self.enabled.contains(app.app_str()),
            Some(StartMode::OnDemand | StartMode::WithServer | StartMode::Always) | None => {
                self.disabled.contains(app.app_str())
            }
        }
    }

    /// Lets an app run. That is worth a note only against a start mode that says otherwise.
    pub(super) fn enable(&mut self, app: &AppId, mode: Option<StartMode>) {
        self.disabled.remove(app.app_str());
        if mode == Some(StartMode::Disabled) {
            self.enabled.insert(app.first());
        }
    }

    /// The definition says anew that the app is not to run: what was said before is over. Tells
    /// whether there was anything.
    pub(super) fn disabled_anew(&mut self, app: &AppId) -> bool {
        self.enabled.remove(app.app_str())
    }

    /// Apps have other ids, or are no more; tells whether that changes anything.
    pub(super) fn follow(&mut self, lineage: &Lineage) -> bool {
        let before = self.clone();
        for switched in [&mut self.disabled, &mut self.enabled] {
            let to = |(from, to): &(AppId, AppId)| switched.contains(from).then(|| to.clone());
            let heirs: Vec<AppId> = lineage.renamed.iter().filter_map(to).collect();
            let former = lineage.renamed.iter().map(|(from, _)| from);
            for app in former.chain(&lineage.deleted) {
                switched.remove(app);
            }
            switched.extend(heirs);
        }
        *self != before
    }

    pub(super) fn disable(&mut self, app: &AppId) {
        self.enabled.remove(app.app_str());
        self.disabled.insert(app.first());
    }
}

impl SwitchFile {
    /// The write of these switches, durable when it is done.
    pub(super) fn save(
        &mut self,
        switches: &Switches,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.version += 1;
        let (file, switches) = (self.clone(), switches.clone());
        async move {
            let mut written = file.written.lock().await;
            if *written > file.version {
                return Ok(());
            }
            let text = serde_json::to_vec_pretty(&switches)?;
            tokio::task::spawn_blocking(move || replace(&file.path, &text)).await??;
            *written = file.version;
            Ok(())
        }
    }
}

impl Generations {
    pub(super) fn next(&mut self) -> Generation {
        self.last += 1;
        Generation(self.last)
    }
}

/// Whether it could be read what operators switched.
pub(super) fn understand(path: &Path) -> io::Result<()> {
    written::read::<Switches>(&path.join(SWITCHES)).map(drop)
}

/// Replaces a file: after a crash there is the old one or the new one, whole.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_switched_goes_with_its_app() {
        let app = |name| AppId::parse(name).unwrap();
        let mut switches = Switches::default();
        switches.disable(&app("a"));
        switches.disable(&app("b"));
        switches.enable(&app("c"), Some(StartMode::Disabled));
        // In one change: an id changes hands, an app takes it, and one is deleted.
        let renamed = vec![(app("a"), app("d")), (app("e"), app("a"))];
        let lineage = Lineage { renamed, deleted: vec![app("c")] };
        assert!(switches.follow(&lineage));
        let is_off = |name, mode| switches.is_disabled(&app(name), Some(mode));
        assert!(is_off("d", StartMode::OnDemand) && is_off("b", StartMode::OnDemand));
        assert!(!is_off("a", StartMode::OnDemand));
        assert!(is_off("c", StartMode::Disabled));
        assert!(!switches.follow(&Lineage { renamed: vec![], deleted: vec![app("x")] }));
    }

    #[tokio::test]
    async fn switches_outlive_us() {
        let folder = tempfile::tempdir().unwrap();
        let app = |name| AppId::parse(name).unwrap();
        {
            let state = StateDir::open(folder.path(), None).unwrap();
            let mut switches = state.switches();
            assert!(!switches.is_disabled(&app("a"), Some(StartMode::OnDemand)));
            assert!(switches.is_disabled(&app("b"), Some(StartMode::Disabled)));
            let mut file = state.switch_file();
            switches.disable(&app("a"));
            let older = file.save(&switches);
            switches.enable(&app("b"), Some(StartMode::Disabled));
            switches.enable(&app("c"), Some(StartMode::OnDemand));
            file.save(&switches).await.unwrap();
            older.await.unwrap();
        }
        let mut switches = StateDir::open(folder.path(), None).unwrap().switches();
        assert!(switches.is_disabled(&app("a"), Some(StartMode::OnDemand)));
        assert!(!switches.is_disabled(&app("b"), Some(StartMode::Disabled)));
        assert!(switches.is_disabled(&app("c"), Some(StartMode::Disabled)));
        assert!(switches.disabled_anew(&app("b")));
        assert!(switches.is_disabled(&app("b"), Some(StartMode::Disabled)));
    }

    #[test]
    fn a_corrupt_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SWITCHES), "{ half a fi").unwrap();
        let state = StateDir::open(folder.path(), None).unwrap();
        assert_eq!(state.switches(), Switches::default());
        assert!(folder.path().join("switches.json.corrupt").exists());
    }

    #[test]
    fn who_comes_before_the_last_start_of_one_that_was_killed_is_over_waits_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path(), None).unwrap();
        let path = folder.path().to_owned();
        let next = std::thread::spawn(move || StateDir::open(&path, None).map(drop));
        let since = Instant::now();
        while since.elapsed() < LAST_START / 10 {
            assert!(!next.is_finished(), "it is refused");
            std::thread::yield_now();
        }
        drop(first);
        next.join().unwrap().unwrap();
    }

    #[test]
    fn two_cannot_use_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path(), None).unwrap();
        assert!(matches!(StateDir::open(folder.path(), None), Err(SupervisorError::InUse(_))));
        drop(first);
        assert!(StateDir::open(folder.path(), None).is_ok());
    }

    #[test]
    fn generations_rise_even_if_the_clock_is_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path(), None).unwrap();
        let first = state.generations().unwrap().next();
        assert!(state.generations().unwrap().next() > first);
        fs::write(folder.path().join(GENERATION), (u64::MAX / 2).to_string()).unwrap();
        assert!(state.generations().unwrap().next() > Generation(u64::MAX / 2));
    }
}
