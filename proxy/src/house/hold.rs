//! Makes a configuration the one that holds.
//!
//! The routes of all apps are laid side by side to see which are claimed twice; then the supervisor is
//! asked to make it hold, which may still refuse (an address in use). Until it agrees, nothing has changed.
//!
//! One app of the registry is no reason that all others stay as they were: one whose address cannot be had
//! on this machine is left out, and one that is in force stays so, as it is, though something that it names
//! is gone.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use doorbell_config::{
    file::{Entry, Loaded, Refused},
    name::AppId,
    problem::{Problem, Problems, Severity},
    route::{Change, Conflict, PathAccess},
    spec::{Config, ListenAddr, ServerSpec},
};
use doorbell_supervisor::protocol::{Answer, ConfigureError, Lineage, Rejected, Wish};
use tokio::sync::OwnedMutexGuard;

use super::{House, Inner, Routes, put};
use crate::{
    clock,
    difference::Difference,
    ledger::{self, InForce, Ledger, List},
    link::NoSupervisor,
};

/// The ledger, held: whoever has it is the only one who changes what holds.
pub(super) type Held = OwnedMutexGuard<Ledger>;

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

/// What is to be said to the supervisor, and what is so when it agrees.
struct Plan {
    difference: Difference,
    routes: Routes,
    conflicts: Vec<Conflict>,
    wish: Wish,
}

impl House {
    /// Makes what was loaded with the ledger's list the configuration that holds.
    pub(super) async fn hold(
        &self,
        mut loaded: Loaded,
        mut ledger: Held,
    ) -> (Result<ReloadReport, ReloadError>, Held) {
        let mut without: Vec<Refused> = Vec::new();
        loop {
            let kept = self.keep_in_force(&mut loaded, &ledger);
            let refused = loaded.refused.clone();
            let doors = doors(&loaded, &ledger.list);
            let in_force = ledger.in_force_but(refused.iter().chain(&without), &kept);
            let in_force = Arc::new(in_force);
            let outcome = match self.take_over(loaded, &in_force, &ledger.list).await {
                Err(ReloadError::Configure(ConfigureError::Listen(address, why))) => {
                    let owner = doors.into_iter().find(|(door, _)| *door == address);
                    if let Some((_, app)) = owner {
                        without.push(cannot_listen(app, &address, &why));
                        let mut list = List::clone(&ledger.list);
                        list.retain(|id, _| without.iter().all(|one| one.app != *id));
                        (loaded, ledger) = self.load(ledger, list).await;
                        continue;
                    }
                    Err(ConfigureError::Listen(address, why).into())
                }
                Ok(mut report) => {
                    report.warnings.extend(without.iter().map(left_out));
                    ledger.refused = refused.into_iter().chain(without).collect();
                    ledger.holds(in_force);
                    self.publish(&ledger);
                    Ok(report)
                }
                Err(error) => Err(error),
            };
            return (self.told(outcome), ledger);
        }
    }

    /// Whether the supervisor could make these apps of it hold.
    ///
    /// # Errors
    /// Says why not.
    pub(super) async fn try_out(
        &self,
        config: &Config,
        is_tried: impl Fn(&AppId) -> bool,
    ) -> Result<(), ReloadError> {
        let inner = self.inner.lock().await;
        let mut plan = self.plan(&inner, config, Lineage::default());
        plan.difference.put.retain(|app| is_tried(&app.id));
        // Nothing else can be in the way.
        if plan.difference.put.iter().all(|app| app.tcp().is_none()) {
            return Ok(());
        }
        if let Wish::Configure { is_trial, .. } = &mut plan.wish {
            *is_trial = true;
        }
        self.configured(&plan.difference, plan.wish).await.map(drop)
    }

    /// Apps that are in force as they are written stay so, though they cannot be loaded any more; tells
    /// which.
    fn keep_in_force(&self, loaded: &mut Loaded, ledger: &Ledger) -> Vec<AppId> {
        let Ok(config) = &mut loaded.outcome else { return Vec::new() };
        let routes = self.routes.load();
        let stays = loaded.refused.iter().map(|refused| &refused.app);
        let stays = stays.filter(|app| ledger.is_in_force(app));
        let kept: Vec<_> = stays.filter_map(|app| routes.app(app.as_str()).cloned()).collect();
        config.apps.extend(kept.iter().cloned());
        kept.into_iter().map(|app| app.id.clone()).collect()
    }

    fn plan(&self, inner: &Inner, config: &Config, lineage: Lineage) -> Plan {
        let mut difference = inner.difference(config);
        let left = lineage.renamed.iter().map(|(from, _)| from);
        difference.replace(lineage.deleted.iter().chain(left).cloned(), &config.apps);
        let changes = difference.gone.iter().cloned().map(Change::Remove);
        let (routes, conflicts) =
            self.routes.load().with(changes.chain(difference.put.iter().map(put)));
        let server = &config.server;
        let access = if server.path_access { PathAccess::On } else { PathAccess::Off };
        let routes = routes.with_settings(access, server.default_app.clone());
        let rejected = conflicts.iter().map(|conflict| Rejected {
            app: conflict.app.clone(),
            keeps_older: routes.app(conflict.app.as_str()).is_some(),
        });
        let wish = Wish::Configure {
            server: Box::new(server.clone()),
            gone: difference.gone.clone(),
            rejected: rejected.collect(),
            is_whole: inner.server.is_none(),
            is_trial: false,
            lineage,
        };
        Plan { difference, routes, conflicts, wish }
    }

    async fn configured(
        &self,
        difference: &Difference,
        wish: Wish,
    ) -> Result<Vec<ListenAddr>, ReloadError> {
        match self.link.wish(&difference.put, wish).await? {
            Answer::Configured(outcome) => Ok(outcome?),
            Answer::Operated(_) | Answer::Usages(_) | Answer::Upgraded(_) => {
                Err(NoSupervisor.into())
            }
        }
    }

    /// Who is whom among the apps of the registry. One that was left out, because a file has an app of its id, is
    /// not the app that runs.
    fn lineage(
        &self,
        before: &Arc<List>,
        after: &Arc<List>,
        in_force: &InForce,
        config: &Config,
    ) -> Lineage {
        let (was_in_force, routes) = (self.in_force(), self.routes.load());
        let was_of_file =
            |app: &AppId| routes.app(app.as_str()).is_some() && !was_in_force.contains_key(app);
        let is_of_file = |app: &AppId| {
            !in_force.contains_key(app) && config.apps.iter().any(|one| one.id == *app)
        };
        let Lineage { renamed, mut deleted } = ledger::lineage(before, after);
        let (to_a_file, mut renamed): (Vec<_>, Vec<_>) =
            renamed.into_iter().partition(|(_, to)| is_of_file(to));
        deleted.extend(to_a_file.into_iter().map(|(from, _)| from));
        renamed.retain(|(from, _)| !was_of_file(from));
        deleted.retain(|app| !was_of_file(app));
        Lineage { renamed, deleted }
    }

    /// Makes a configuration the one that holds.
    async fn take_over(
        &self,
        loaded: Loaded,
        in_force: &Arc<InForce>,
        list: &Arc<List>,
    ) -> Result<ReloadReport, ReloadError> {
        let mut inner = self.inner.lock().await;
        // The mistake of a config that is wrong is in one of these.
        self.sources.send_replace(Arc::new(loaded.sources));
        let config = loaded.outcome?;
        if inner.is_untold {
            return Err(NoSupervisor.into());
        }
        let traced = self.lineage(&inner.list, list, in_force, &config);
        let Plan { difference, routes, conflicts, wish } =
            self.plan(&inner, &config, traced.clone());
        self.retry_upgrades(&self.changed_with_upgrade(&inner, &difference)).await;
        self.listens_on(self.configured(&difference, wish).await?);
        self.routes.store(Arc::new(routes));
        self.scraper.forget(&difference.gone);
        self.in_force.store(Some(Arc::clone(in_force)));
        let is_of_file = |app: &AppId| !in_force.contains_key(app);
        self.file_apps.change(&difference, inner.server.is_none(), is_of_file);
        self.tell(&difference, &traced);
        let server = &config.server;
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
        let is_rejected = |app: &AppId| conflicts.iter().any(|conflict| conflict.app == *app);
        (inner.rejected, inner.apps) =
            config.apps.into_iter().partition(|app| is_rejected(&app.id));
        inner.server = Some(config.server);
        inner.list = Arc::clone(list);
        self.reload_good.store(true, Ordering::Relaxed);
        self.reload_at.store(clock::unix_seconds(), Ordering::Relaxed);
        Ok(report)
    }

    /// Apps of files that are others now, and have an upgrade: one that failed is tried again. For apps of the
    /// registry that is done in the transaction that changes them.
    fn changed_with_upgrade<'d>(
        &self,
        before: &Inner,
        difference: &'d Difference,
    ) -> Vec<&'d AppId> {
        let upgraded = difference.put.iter().filter(|app| app.upgrade().is_some());
        let mut upgraded = upgraded.map(|app| &app.id).peekable();
        if upgraded.peek().is_none() {
            return Vec::new();
        }
        let list = self.list();
        let known: HashSet<&AppId> = before.apps.iter().map(|app| &app.id).collect();
        upgraded.filter(|app| known.contains(app) && !list.contains_key(app.app_str())).collect()
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

    /// Reads a list of apps beside the files, as they were when they were last good if that will do.
    pub(super) async fn load(&self, mut ledger: Held, list: List) -> (Loaded, Held) {
        let path = self.config_path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let entries = Ledger::entries(&list);
            let archive = &mut ledger.archive;
            let loaded = archive
                .load_entries(&|name| std::env::var(name).ok(), &entries)
                .unwrap_or_else(|| Self::read(&path, archive, &entries));
            (loaded, ledger)
        });
        super::finished(reading).await
    }
}

/// The addresses of TCP apps of the registry.
fn doors(loaded: &Loaded, list: &List) -> Vec<(ListenAddr, AppId)> {
    let apps = loaded.outcome.iter().flat_map(|config| &config.apps);
    let of_registry = apps.filter(|app| list.contains_key(&app.id));
    let tcp = of_registry.filter_map(|app| Some((&app.id, app.tcp()?)));
    tcp.flat_map(|(id, tcp)| tcp.listen.iter().map(|door| (door.clone(), id.clone()))).collect()
}

fn cannot_listen(app: AppId, address: &ListenAddr, why: &str) -> Refused {
    let problem = Problem {
        severity: Severity::Error,
        file: Entry::place(&app),
        line: 0,
        column: 0,
        length: 0,
        excerpt: String::new(),
        caret: 0,
        message: format!("cannot listen on {address}: {why}"),
        note: None,
        help: Some(
            "free the address, or give the app another; `doorbell reload` tries again".into(),
        ),
    };
    Refused { app, problems: Problems(vec![problem]) }
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
