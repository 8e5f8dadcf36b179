//! The configuration as the control process sees it, and the reload.
//!
//! A reload is all or nothing: the file is read and checked, and the routes of all apps are laid side
//! by side to see which are claimed twice; only then the supervisor is asked to make it hold, which
//! may still refuse (an address in use). Until it agrees, nothing has changed.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use doorbell_config::{
    file::{Archive, Entry, Loaded, Refused, Seen},
    name::AppId,
    problem::Problems,
    registry::Registry,
    route::{Change, PathAccess, RouteTable},
    spec::{AppSpec, Config, ListenAddr, ServerSpec},
};
use doorbell_supervisor::{
    message::Snapshot,
    protocol::{Answer, ConfigureError, Rejected, Wish},
};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::{
    chronicle::{Chronicle, Happening},
    clock,
    custody::Custody,
    difference::Difference,
    ledger::{Ledger, List},
    link::{Link, NoSupervisor},
    metrics::{export::Reloads, figures::Figures},
    pass::office::Office,
    scrape::Scraper,
    vault::Vault,
};

mod databases;
mod editing;
mod giving;

pub use databases::{DatabaseError, Ending};
pub use editing::{EditError, Edited, Trial};
pub use giving::SecretError;

/// How long a new version of the supervisor may take to come back.
const NEXT_SUPERVISOR: Duration = Duration::from_secs(30);

/// Why a configuration was not taken over. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] Problems),
    /// The supervisor cannot make it hold.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// There is nobody who could.
    #[error(transparent)]
    Supervisor(#[from] NoSupervisor),
}

/// What a reload did.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct ReloadReport {
    /// Apps now configured.
    pub apps: usize,
    /// Settings that need a restart to take effect.
    pub needs_restart: Vec<String>,
    /// Things an operator should know.
    pub warnings: Vec<String>,
}

impl ReloadReport {
    fn log(&self) {
        tracing::info!(apps = self.apps, "configuration loaded");
        for setting in &self.needs_restart {
            tracing::warn!(%setting, "changed, and takes effect with the next restart");
        }
        for warning in &self.warnings {
            tracing::warn!("{}", warning.trim_end());
        }
    }
}

/// Apps by their routes. Each request finds its own in a proxy; here they are laid side by side.
pub type Routes = RouteTable<Arc<AppSpec>>;

/// What held before this process was.
#[derive(Debug, Default)]
pub struct Before {
    /// Apps, as they were defined last.
    pub apps: Vec<Arc<AppSpec>>,
    /// Those of them whose routes belong to others.
    pub rejected: Vec<AppId>,
    /// What is served in their place.
    pub instead: Vec<Arc<AppSpec>>,
}

/// The configuration, and the ways to those who make it hold.
pub struct House {
    /// To the supervisor.
    pub link: Link,
    /// To the proxies.
    pub scraper: Arc<Scraper>,
    /// What is kept open for the supervisor.
    pub custody: Custody,
    /// What becomes of apps.
    pub chronicle: Arc<Chronicle>,
    /// Gives operators passes.
    pub passes: Office,
    /// The file.
    pub config_path: PathBuf,
    /// Apps whose routes are theirs.
    pub routes: ArcSwap<Routes>,
    /// The settings of the start, some of which hold until the end.
    started_with: ArcSwapOption<ServerSpec>,
    sources: watch::Sender<Arc<Vec<Seen>>>,
    listening: StdMutex<Vec<ListenAddr>>,
    /// The version of the last supervisor that came about by an upgrade while we were there.
    supervisors: watch::Sender<Option<String>>,
    /// What the supervisor calls us; 0 for nothing yet.
    number: AtomicU32,
    reload_good: AtomicBool,
    /// A change was read and nobody was there to make it hold.
    is_behind: AtomicBool,
    reload_at: AtomicU64,
    /// Held during a reload or an edit, and locked before `inner`.
    ledger: Arc<Mutex<Ledger>>,
    /// What the ledger lists, for those who only look.
    list: watch::Sender<Arc<List>>,
    refused: ArcSwap<Vec<Refused>>,
    /// Seals and opens secrets; `None` where there are no keys.
    vault: ArcSwapOption<Vault>,
    /// Databases that were made or seen.
    databases: StdMutex<HashMap<AppId, databases::Seen>>,
    /// Apps that are about to be deleted.
    ending: StdMutex<HashSet<AppId>>,
    /// Which registry it is, once that is known.
    installation: StdMutex<Option<Uuid>>,
    /// Secrets that were read.
    sealed: StdMutex<giving::Sealed>,
    /// Where the history of apps is.
    history_dir: ArcSwap<PathBuf>,
    /// `None` while there is none.
    registry: ArcSwapOption<Registry>,
    /// Whether it is known if there is one.
    is_registry_known: watch::Sender<bool>,
    /// Why there is none, or why it does not answer.
    registry_problem: ArcSwapOption<String>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Apps whose routes are theirs.
    apps: Vec<Arc<AppSpec>>,
    /// Apps whose routes belong to others.
    rejected: Vec<Arc<AppSpec>>,
    /// The settings that hold.
    server: Option<ServerSpec>,
    /// The supervisor is a new one, and is to be told all of this before any change of it.
    is_untold: bool,
}

impl House {
    /// A house that knows of nothing yet.
    #[must_use]
    pub fn new(config_path: PathBuf) -> Self {
        Self {
            link: Link::default(),
            scraper: Arc::default(),
            custody: Custody::default(),
            chronicle: Arc::default(),
            passes: Office::default(),
            vault: ArcSwapOption::empty(),
            databases: StdMutex::default(),
            ending: StdMutex::default(),
            installation: StdMutex::default(),
            sealed: StdMutex::default(),
            history_dir: ArcSwap::default(),
            number: AtomicU32::new(0),
            supervisors: watch::Sender::default(),
            config_path,
            routes: ArcSwap::from_pointee(Routes::new()),
            started_with: ArcSwapOption::empty(),
            sources: watch::Sender::default(),
            listening: StdMutex::default(),
            reload_good: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            reload_at: AtomicU64::new(0),
            ledger: Arc::default(),
            list: watch::Sender::default(),
            refused: ArcSwap::default(),
            registry: ArcSwapOption::empty(),
            is_registry_known: watch::Sender::default(),
            registry_problem: ArcSwapOption::empty(),
            inner: Mutex::default(),
        }
    }

    /// Takes in what holds already.
    pub async fn begin(
        &self,
        server: Option<ServerSpec>,
        kept: String,
        before: Before,
        listening: Vec<ListenAddr>,
    ) {
        if let Some(server) = &server {
            self.started_with.store(Some(Arc::new(server.clone())));
            self.reload_good.store(true, Ordering::Relaxed);
            self.reload_at.store(clock::unix_seconds(), Ordering::Relaxed);
        }
        if !kept.is_empty() {
            match serde_json::from_str::<Figures>(&kept) {
                Ok(figures) => self.scraper.remember(figures),
                Err(error) => tracing::warn!(%error, "figures of earlier proxies are lost"),
            }
        }
        self.listens_on(listening);
        let Before { apps, rejected, instead } = before;
        let (rejected, apps): (Vec<_>, Vec<_>) =
            apps.into_iter().partition(|app| rejected.contains(&app.id));
        let puts = apps.iter().chain(&instead).map(put);
        let (routes, _) = Routes::new().with(puts);
        self.routes.store(Arc::new(routes));
        *self.inner.lock().await = Inner { apps, rejected, server, is_untold: false };
    }

    /// The next supervisor knows nothing: no change is told to it before [`House::restate`].
    pub async fn expect_stranger(&self) {
        let mut inner = self.inner.lock().await;
        inner.is_untold = inner.server.is_some();
    }

    /// Tells a supervisor that knows nothing what holds: not the file, which may have become wrong.
    pub async fn restate(&self) {
        let mut inner = self.inner.lock().await;
        let Some(server) = inner.server.clone() else { return };
        let (routes, mut apps) = (self.routes.load_full(), inner.apps.clone());
        // As they were served; their latest definitions come with the next change of the file.
        apps.extend(inner.rejected.iter().filter_map(|app| routes.app(app.id.as_str()).cloned()));
        let (gone, rejected, is_whole) = (Vec::new(), Vec::new(), true);
        let wish = Wish::Configure { server: Box::new(server), gone, rejected, is_whole };
        match self.link.wish(&apps, wish).await {
            Ok(Answer::Configured(Ok(listening))) => {
                inner.is_untold = false;
                self.listens_on(listening);
            }
            Ok(Answer::Configured(Err(error))) => {
                tracing::error!(%error, "the new supervisor cannot go on as before");
            }
            // It is gone again; the next one is told.
            Ok(Answer::Operated(_) | Answer::Usages(_) | Answer::Upgraded(_)) | Err(_) => {}
        }
    }

    /// Lets the binary that stands in our place take over; tells its version when it has.
    ///
    /// # Errors
    /// Why it has not; then nothing has changed.
    pub async fn upgrade(&self) -> Result<String, String> {
        let mut supervisors = self.supervisors.subscribe();
        supervisors.mark_unchanged();
        // Where it works, the supervisor becomes the new version before it can answer.
        if let Ok(Answer::Upgraded(Err(why))) = self.link.wish(&[], Wish::Upgrade).await {
            return Err(why);
        }
        let seen = supervisors.wait_for(|seen| seen.is_some());
        match tokio::time::timeout(NEXT_SUPERVISOR, seen).await {
            Ok(Ok(seen)) => seen.clone().ok_or_else(|| NoSupervisor.to_string()),
            Ok(Err(_)) | Err(_) => Err("the new version has not come back to us yet".to_owned()),
        }
    }

    /// A supervisor is back, as this version, if it came about by an upgrade.
    pub fn is_supervised(&self, upgraded_to: Option<String>) {
        self.supervisors.send_replace(upgraded_to);
    }

    /// Takes over a change that came while there was no supervisor.
    pub async fn catch_up(self: &Arc<Self>) {
        if self.is_behind.swap(false, Ordering::Relaxed) {
            // The outcome is logged and counted where it happens.
            drop(self.reload().await);
        }
    }

    /// Opens the keys of secrets in this folder.
    pub fn opens_vault_in(&self, folder: &Path) {
        match Vault::open(folder) {
            Ok(vault) => self.vault.store(Some(Arc::new(vault))),
            Err(error) => tracing::error!("{error}; apps with secrets cannot start"),
        }
    }

    /// Keeps the history of apps in this folder.
    pub fn keeps_history_in(&self, folder: PathBuf) {
        if let Err(error) = self.chronicle.keep_in(folder.clone()) {
            tracing::warn!(%error, folder = %folder.display(), "the history of apps cannot be kept");
        }
        self.history_dir.store(Arc::new(folder));
    }

    /// Where the history of apps is.
    #[must_use]
    pub fn history_dir(&self) -> PathBuf {
        PathBuf::clone(&self.history_dir.load())
    }

    /// Takes news of an app.
    pub fn learns(&self, snapshot: &Snapshot) {
        let before = self.link.learn(snapshot.clone());
        self.chronicle.compare(before.as_deref(), snapshot);
    }

    /// What the supervisor calls us, if it does.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        Some(self.number.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    /// Takes note of it.
    pub fn is_called(&self, number: u32) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Reads the configuration file and apps of the registry, but for what the archive knows.
    #[must_use]
    pub fn read(config_path: &Path, archive: &mut Archive, entries: &[Arc<Entry>]) -> Loaded {
        archive.load(config_path, &|name| std::env::var(name).ok(), entries)
    }

    /// Where the output of apps is: a change of the setting waits for the next start.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.started_with.load().as_ref().map(|server| server.log_dir.clone()).unwrap_or_default()
    }

    /// What was read of the files, with the apps of a ledger.
    pub async fn read_with(&self, loaded: Loaded, mut ledger: Ledger) -> (Loaded, Ledger) {
        if ledger.list.is_empty() {
            return (loaded, ledger);
        }
        let path = self.config_path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let entries = Ledger::entries(&ledger.list);
            (Self::read(&path, &mut ledger.archive, &entries), ledger)
        });
        match reading.await {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Takes over what was read before anything else.
    ///
    /// # Errors
    /// Says why not.
    pub async fn take_over_first(
        &self,
        loaded: Loaded,
        ledger: Ledger,
    ) -> Result<ReloadReport, ReloadError> {
        let mut kept = Arc::clone(&self.ledger).lock_owned().await;
        *kept = ledger;
        kept.refused.clone_from(&loaded.refused);
        self.publish(&kept);
        self.told(self.take_over(loaded).await)
    }

    /// Shows what the ledger has to those who only look.
    fn publish(&self, ledger: &Ledger) {
        self.list.send_replace(Arc::clone(&ledger.list));
        self.refused.store(Arc::new(ledger.refused.clone()));
    }

    /// The apps of the registry.
    #[must_use]
    pub fn list(&self) -> Arc<List> {
        Arc::clone(&self.list.borrow())
    }

    /// The apps of the registry, and how they change.
    #[must_use]
    pub fn lists(&self) -> watch::Receiver<Arc<List>> {
        self.list.subscribe()
    }

    /// Apps of the registry that cannot be, and why.
    #[must_use]
    pub fn refused(&self) -> Arc<Vec<Refused>> {
        self.refused.load_full()
    }

    /// Reads the file again and takes it over. Whoever asks may leave: it is done to the end.
    ///
    /// # Errors
    /// Says why not; then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<ReloadReport, ReloadError> {
        let house = Arc::clone(self);
        match tokio::spawn(async move { house.reload_now().await }).await {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn reload_now(&self) -> Result<ReloadReport, ReloadError> {
        let (path, ledger) = (self.config_path.clone(), Arc::clone(&self.ledger));
        // Held to the end: what is read first is taken over first.
        let mut ledger = ledger.lock_owned().await;
        let reading = tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            let entries = Ledger::entries(&ledger.list);
            let mut loaded = Self::read(&path, &mut ledger.archive, &entries);
            ledger.keeps_all(&mut loaded);
            tracing::debug!(took = ?since.elapsed(), "configuration read");
            (loaded, ledger)
        });
        match reading.await {
            Ok((loaded, mut ledger)) => {
                let refused = loaded.refused.clone();
                let outcome = self.told(self.take_over(loaded).await);
                if outcome.is_ok() {
                    ledger.refused = refused;
                    self.publish(&ledger);
                }
                outcome
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Counts and logs an outcome.
    fn told(
        &self,
        outcome: Result<ReloadReport, ReloadError>,
    ) -> Result<ReloadReport, ReloadError> {
        match &outcome {
            Ok(report) => report.log(),
            Err(error) => {
                self.reload_good.store(false, Ordering::Relaxed);
                let nobody_was_there = matches!(
                    error,
                    ReloadError::Supervisor(_) | ReloadError::Configure(ConfigureError::Anew)
                );
                self.is_behind.fetch_or(nobody_was_there, Ordering::Relaxed);
                tracing::error!("configuration not loaded, the old one stays:\n{error}");
            }
        }
        outcome
    }

    /// Makes a configuration the one that holds.
    async fn take_over(&self, loaded: Loaded) -> Result<ReloadReport, ReloadError> {
        let mut inner = self.inner.lock().await;
        // The mistake of a config that is wrong is in one of these.
        self.sources.send_replace(Arc::new(loaded.sources));
        let config = loaded.outcome?;
        if inner.is_untold {
            return Err(NoSupervisor.into());
        }
        let difference = inner.difference(&config);
        let changes = difference.gone.iter().cloned().map(Change::Remove);
        let (routes, conflicts) =
            self.routes.load().with(changes.chain(difference.put.iter().map(put)));
        let server = &config.server;
        let access = if server.path_access { PathAccess::On } else { PathAccess::Off };
        let routes = routes.with_settings(access, server.default_app.clone());
        let rejected: Vec<_> = conflicts.iter().map(|conflict| conflict.app.clone()).collect();
        let told = rejected.iter().map(|app| {
            let keeps_older = routes.app(app.as_str()).is_some();
            Rejected { app: app.clone(), keeps_older }
        });
        let wish = Wish::Configure {
            server: Box::new(server.clone()),
            gone: difference.gone.clone(),
            rejected: told.collect(),
            is_whole: inner.server.is_none(),
        };
        let listening = match self.link.wish(&difference.put, wish).await? {
            Answer::Configured(outcome) => outcome?,
            Answer::Operated(_) | Answer::Usages(_) | Answer::Upgraded(_) => {
                return Err(NoSupervisor.into());
            }
        };
        self.listens_on(listening);
        self.routes.store(Arc::new(routes));
        self.scraper.forget(&difference.gone);
        self.tell(&difference);
        let started_with = self.started_with.load_full().unwrap_or_else(|| {
            let first = Arc::new(server.clone());
            self.started_with.store(Some(Arc::clone(&first)));
            first
        });
        let report = ReloadReport {
            apps: config.apps.len(),
            needs_restart: needs_restart(&started_with, server),
            warnings: conflicts
                .iter()
                .map(ToString::to_string)
                .chain(config.warnings.iter().map(ToString::to_string))
                .chain(loaded.refused.iter().map(left_out))
                .collect(),
        };
        // One that was rejected is new to the next table too.
        (inner.rejected, inner.apps) =
            config.apps.into_iter().partition(|app| rejected.contains(&app.id));
        inner.server = Some(config.server);
        self.reload_good.store(true, Ordering::Relaxed);
        self.reload_at.store(clock::unix_seconds(), Ordering::Relaxed);
        Ok(report)
    }

    fn tell(&self, difference: &Difference) {
        if !difference.put.is_empty() {
            let apps = difference.put.iter().map(|app| app.id.clone()).collect();
            self.chronicle.happened(Happening::Defined { apps });
        }
        if !difference.gone.is_empty() {
            difference.gone.iter().for_each(|app| self.chronicle.forget(app));
            self.chronicle.happened(Happening::Removed { apps: difference.gone.clone() });
        }
    }

    /// Files and folders that the configuration was read from, and those of every later reading.
    pub fn sources(&self) -> watch::Receiver<Arc<Vec<Seen>>> {
        self.sources.subscribe()
    }

    /// Addresses listened on now.
    #[must_use]
    pub fn listening(&self) -> Vec<ListenAddr> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of them.
    pub fn listens_on(&self, addresses: Vec<ListenAddr>) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// How reloads fare.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        Reloads {
            good: self.reload_good.load(Ordering::Relaxed),
            at: self.reload_at.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    /// What a configuration changes. An app that was rejected is known to the supervisor all the same.
    fn difference(&self, config: &Config) -> Difference {
        let mut difference = Difference::between(&self.apps, &config.apps);
        let is_gone = |id: &&AppId| config.apps.iter().all(|app| app.id != **id);
        let rejected = self.rejected.iter().map(|app| &app.id);
        difference.gone.extend(rejected.filter(is_gone).cloned());
        difference
    }
}

fn left_out(refused: &Refused) -> String {
    let Refused { app, problems } = refused;
    format!("app \"{app}\" of the registry is left out:\n{problems}")
}

fn put(spec: &Arc<AppSpec>) -> Change<Arc<AppSpec>> {
    Change::Put { app: spec.id.clone(), routes: spec.routes.clone(), target: Arc::clone(spec) }
}

/// Settings that are read once, at the start.
fn needs_restart(old: &ServerSpec, new: &ServerSpec) -> Vec<String> {
    [
        ("admin", old.admin == new.admin),
        ("state_dir", old.state_dir == new.state_dir),
        ("user", old.user == new.user),
        ("log_dir", old.log_dir == new.log_dir),
        ("log", old.log == new.log),
        ("limits.head for HTTP/2", old.limits.head == new.limits.head),
        ("timeouts.keep_alive for HTTP/2", old.timeouts.keep_alive == new.timeouts.keep_alive),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(name, _)| name.to_owned())
    .collect()
}
