//! The reload of the files.
//!
//! A reload is all or nothing: the file is read and checked, and the routes of all apps are laid side
//! by side to see which are claimed twice; only then the supervisor is asked to make it hold, which
//! may still refuse (an address in use). Until it agrees, nothing has changed.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use doorbell_config::{
    file::{Archive, Entry, Loaded, Refused},
    name::AppId,
    problem::Problems,
    route::{Change, PathAccess},
    spec::{Config, ServerSpec},
};
use doorbell_supervisor::protocol::{Answer, ConfigureError, Rejected, Wish};

use super::{House, Inner, put};
use crate::{clock, difference::Difference, ledger::Ledger, link::NoSupervisor};

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

impl House {
    /// Reads the configuration file and apps of the registry, but for what the archive knows.
    #[must_use]
    pub fn read(config_path: &Path, archive: &mut Archive, entries: &[Arc<Entry>]) -> Loaded {
        archive.load(config_path, &|name| std::env::var(name).ok(), entries)
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
    pub(super) fn told(
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
    pub(super) async fn take_over(&self, loaded: Loaded) -> Result<ReloadReport, ReloadError> {
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
