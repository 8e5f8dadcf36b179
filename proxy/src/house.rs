//! The configuration as the control process sees it: what holds, and the ways to those who make it hold.
//!
//! It changes by a `reload` of the files, or by `editing` the registry, and `hold` makes it hold; `succession`
//! is what becomes of it when the supervisor is another. `giving` and `databases` know what programs are given, `ending`
//! how what was made for them goes, `upgrades` what is run before them, `file_apps` what is remembered of apps whose file may be broken or gone.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use doorbell_config::{
    file::{Refused, Seen},
    name::AppId,
    registry::Registry,
    route::{Change, RouteTable},
    spec::{AppSpec, ListenAddr, ServerSpec},
};
use doorbell_supervisor::{message::Snapshot, protocol::Lineage};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::{
    chronicle::{Chronicle, Happening},
    custody::Custody,
    difference::Difference,
    ledger::{InForce, Ledger, List},
    link::Link,
    metrics::export::Reloads,
    pass::office::Office,
    scrape::Scraper,
    vault::Vault,
};

mod addresses;
mod backing_up;
mod databases;
mod editing;
mod ending;
mod file_apps;
mod giving;
mod hold;
mod reload;
mod succession;
mod upgrades;

pub use backing_up::Arrival;
pub use databases::DatabaseError;
pub use editing::{EditError, Edited, Trial};
pub use ending::EndError;
pub use giving::SecretError;
pub use hold::{ReloadError, ReloadReport};

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
    /// Apps of the registry that are in force; `None` as long as nothing has been taken over by this process.
    in_force: ArcSwapOption<InForce>,
    /// Seals and opens secrets; `None` where there are no keys.
    vault: ArcSwapOption<Vault>,
    /// Addresses of databases were read that stand in the registry in the clear.
    has_clear_addresses: AtomicBool,
    /// Held while secrets are sealed anew.
    rotation: Mutex<()>,
    /// Whether what there is was taken over, or refused, once.
    has_begun: watch::Sender<bool>,
    /// Databases that were made or seen.
    databases: StdMutex<HashMap<AppId, databases::Seen>>,
    /// Apps that are about to be deleted.
    ending: StdMutex<HashMap<AppId, usize>>,
    /// Whose database is being made or removed.
    turns: StdMutex<HashMap<AppId, Arc<Mutex<()>>>>,
    /// What is remembered of apps of files.
    file_apps: file_apps::FileApps,
    /// Which registry it is, once that is known.
    installation: StdMutex<Option<Uuid>>,
    /// Secrets that were read.
    sealed: StdMutex<giving::Sealed>,
    /// Which Doorbell this is; `None` if that cannot be known.
    name: StdMutex<Option<Uuid>>,
    /// With which versions the data of apps was seen to be up to date.
    versions: StdMutex<HashMap<AppId, upgrades::Known>>,
    /// Who answers questions about upgrades, by app.
    answering: StdMutex<HashMap<AppId, JoinHandle<()>>>,
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
    /// The apps of the registry when it was taken over.
    list: Arc<List>,
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
            has_clear_addresses: AtomicBool::new(false),
            rotation: Mutex::default(),
            has_begun: watch::Sender::default(),
            databases: StdMutex::default(),
            ending: StdMutex::default(),
            turns: StdMutex::default(),
            file_apps: file_apps::FileApps::default(),
            installation: StdMutex::default(),
            sealed: StdMutex::default(),
            name: StdMutex::default(),
            versions: StdMutex::default(),
            answering: StdMutex::default(),
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
            in_force: ArcSwapOption::empty(),
            registry: ArcSwapOption::empty(),
            is_registry_known: watch::Sender::default(),
            registry_problem: ArcSwapOption::empty(),
            inner: Mutex::default(),
        }
    }

    /// Opens the keys of secrets: a credential, or those in this folder.
    pub fn opens_vault(&self, folder: &Path, credential: Option<OwnedFd>) {
        let vault = match credential {
            Some(keys) => Vault::of_credential(keys.into()),
            None => Vault::open(folder),
        };
        match vault {
            Ok(vault) => self.vault.store(Some(Arc::new(vault))),
            Err(error) => tracing::error!("{error}; apps with secrets cannot start"),
        }
    }

    /// The keys of secrets, if there are some.
    #[must_use]
    pub fn vault(&self) -> Option<Arc<Vault>> {
        self.vault.load_full()
    }

    /// Reads the keys again; nothing if there are none.
    async fn reopen_vault(&self) -> Option<Arc<Vault>> {
        let vault = self.vault.load_full()?;
        match finished(tokio::task::spawn_blocking(move || vault.read_again())).await {
            Ok(again) => {
                let again = Arc::new(again);
                self.vault.store(Some(Arc::clone(&again)));
                Some(again)
            }
            Err(error) => {
                tracing::error!("{error}");
                None
            }
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

    /// Where the output of apps is: a change of the setting waits for the next start.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.started_with.load().as_ref().map(|server| server.log_dir.clone()).unwrap_or_default()
    }

    /// What there is was taken over, or refused.
    pub fn begins(&self) {
        self.has_begun.send_replace(true);
    }

    /// The definition that an app is run by: where its routes belong to others that is not the one whose routes
    /// are served.
    async fn latest(&self, app: &AppId) -> Option<Arc<AppSpec>> {
        let inner = self.inner.lock().await;
        let rejected = inner.rejected.iter().find(|spec| spec.id == *app).cloned();
        rejected.or_else(|| self.routes.load().app(app.as_str()).cloned())
    }

    /// Waits until it was.
    async fn has_begun(&self) {
        let mut begun = self.has_begun.subscribe();
        // It is not gone while we are here.
        let _ = begun.wait_for(|has_begun| *has_begun).await;
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

    /// Apps of the registry that are in force, by the revision at which each came to be.
    #[must_use]
    fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full().unwrap_or_default()
    }

    /// Apps of the registry that cannot be, and why.
    #[must_use]
    pub fn refused(&self) -> Arc<Vec<Refused>> {
        self.refused.load_full()
    }

    fn tell(&self, difference: &Difference, lineage: &Lineage) {
        for (from, to) in &lineage.renamed {
            self.chronicle.rename(from, to);
        }
        if !difference.gone.is_empty() {
            // One that has taken an id over brought its own past.
            let is_heir = |app: &AppId| lineage.renamed.iter().any(|(_, to)| to == app);
            difference.gone.iter().for_each(|app| self.forget_sealed(app));
            for app in difference.gone.iter().filter(|app| !is_heir(app)) {
                self.chronicle.forget(app);
                self.forget_version(app);
            }
            self.chronicle.happened(Happening::Removed { apps: difference.gone.clone() });
        }
        if !difference.put.is_empty() {
            let apps = difference.put.iter().map(|app| app.id.clone()).collect();
            self.chronicle.happened(Happening::Defined { apps });
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

/// What a task came to; it is never aborted.
async fn finished<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn put(spec: &Arc<AppSpec>) -> Change<Arc<AppSpec>> {
    Change::Put { app: spec.id.clone(), routes: spec.routes.clone(), target: Arc::clone(spec) }
}
