//! The running Doorbell: the parts that a reload changes, and the reload itself.
//!
//! A reload is all or nothing up to the point where it begins to act: the file is read and checked,
//! then every new listening socket is opened; only when both are good is anything changed. Order
//! matters from there on: gates before the supervisor (its orders need them), the supervisor before
//! the table (a request for a new app must find somebody to wake it).

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use doorbell_config::{
    file::{Archive, Loaded, Seen},
    problem::Problems,
    spec::{AccessLogSpec, AppSpec, Config, ListenAddr, ServerSpec},
};
use doorbell_supervisor::{InstructError, Supervisor, message::Instruction};
use tokio::sync::{Mutex, oneshot, watch};

use crate::{
    access_log::AccessLog,
    clock,
    difference::Difference,
    health::HealthChecks,
    listener,
    shared::Shared,
    worker::{Order, Worker},
};

/// Why a configuration was not taken over. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] Problems),
    /// A listening socket cannot be opened.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, std::io::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}")]
    AccessLog(std::io::Error),
    /// Doorbell shuts down.
    #[error(transparent)]
    Supervisor(#[from] InstructError),
    /// The same, before the supervisor was asked.
    #[error("doorbell shuts down")]
    Closing,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// An address listened on.
struct Listening {
    /// As it is configured.
    configured: ListenAddr,
    /// The same, but for port 0: that is the port it became.
    address: ListenAddr,
    /// Of its sockets.
    number: u64,
}

/// The running Doorbell.
pub struct House {
    /// State of the data path.
    pub shared: Arc<Shared>,
    /// What runs apps.
    pub supervisor: Supervisor,
    /// The settings of the start, some of which hold until the end.
    started_with: Arc<ServerSpec>,
    config_path: PathBuf,
    workers: Vec<Worker>,
    sources: watch::Sender<Arc<Vec<Seen>>>,
    /// Held during a reload, and locked before `inner`.
    archive: Arc<Mutex<Archive>>,
    inner: Mutex<Inner>,
}

struct Inner {
    listening: Vec<Listening>,
    next_number: u64,
    access_log: Option<AccessLogSpec>,
    health: HealthChecks,
    /// The apps of the table.
    apps: Vec<Arc<AppSpec>>,
    /// Whether the supervisor has heard of them.
    is_set_up: bool,
    /// From the beginning of the shutdown: nothing is taken over any more.
    closing: bool,
}

impl House {
    /// A house that listens on nothing and has no apps; [`House::take_over`] a configuration next.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        supervisor: Supervisor,
        (config_path, archive): (PathBuf, Archive),
        workers: Vec<Worker>,
    ) -> Self {
        let inner = Inner {
            listening: Vec::new(),
            next_number: 0,
            access_log: None,
            health: HealthChecks::default(),
            apps: Vec::new(),
            is_set_up: false,
            closing: false,
        };
        let started_with = Arc::clone(&shared.table.load().server);
        let (sources, inner) = (watch::Sender::default(), Mutex::new(inner));
        let archive = Arc::new(Mutex::new(archive));
        Self { shared, supervisor, started_with, config_path, workers, sources, archive, inner }
    }

    /// Reads the configuration file, but for what the archive knows.
    #[must_use]
    pub fn read(config_path: &std::path::Path, archive: &mut Archive) -> Loaded {
        archive.load(config_path, &|name| std::env::var(name).ok())
    }

    /// Where the output of apps is: a change of the setting waits for the next start.
    #[must_use]
    pub fn log_dir(&self) -> &std::path::Path {
        &self.started_with.log_dir
    }

    /// Reads the file again and takes it over.
    ///
    /// # Errors
    /// Says why not; then nothing has changed.
    pub async fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let (path, archive) = (self.config_path.clone(), Arc::clone(&self.archive));
        // Held to the end: what is read first is taken over first.
        let mut archive = archive.lock_owned().await;
        let reading = tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            let loaded = Self::read(&path, &mut archive);
            tracing::debug!(took = ?since.elapsed(), "configuration read");
            (loaded, archive)
        });
        let outcome = match reading.await {
            Ok((loaded, _archive)) => self.take_over(loaded).await,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        if let Err(error) = &outcome {
            self.shared.metrics.reload_good.store(0, Ordering::Relaxed);
            tracing::error!("configuration not loaded, the old one stays:\n{error}");
        }
        outcome
    }

    /// Makes a configuration the one that holds.
    ///
    /// # Errors
    /// Says why not; then nothing has changed.
    pub async fn take_over(&self, loaded: Loaded) -> Result<ReloadReport, ReloadError> {
        let mut inner = self.inner.lock().await;
        if inner.closing {
            return Err(ReloadError::Closing);
        }
        let since = Instant::now();
        // The mistake of a config that is wrong is in one of these.
        self.sources.send_replace(Arc::new(loaded.sources));
        let config = loaded.outcome?;
        let access_log = self.open_access_log(&inner, &config)?;
        let opened = self.open_listeners(&mut inner, &config)?;
        let before = self.shared.table.load_full();
        let difference = Difference::between(&inner.apps, &config.apps);
        let (table, conflicts) = before.next(&config.server, &difference, &self.shared.gates);
        let table = Arc::new(table);
        self.supervisor.set_parallel_starts(config.server.limits.parallel_starts).await;
        self.instruct(&inner, &difference).await?;
        self.shared.gates.set_held_cap(config.server.limits.held_requests);
        self.shared.table.store(Arc::clone(&table));
        self.shared.gates.prune(&table, &difference.gone);
        if let Some((spec, log)) = access_log {
            self.shared.access_log.store(log.map(Arc::new));
            inner.access_log = spec;
        }
        self.change_listeners(&mut inner, opened, &config.server.listen).await;
        inner.health.change(&table, &difference);
        let report = ReloadReport {
            apps: config.apps.len(),
            needs_restart: needs_restart(&self.started_with, &config.server),
            warnings: conflicts
                .iter()
                .map(ToString::to_string)
                .chain(config.warnings.iter().map(ToString::to_string))
                .collect(),
        };
        // One that was rejected is new to the next table too.
        inner.apps = config.apps;
        inner.apps.retain(|app| conflicts.iter().all(|conflict| conflict.app != app.id));
        inner.is_set_up = true;
        let metrics = &self.shared.metrics;
        metrics.reload_good.store(1, Ordering::Relaxed);
        metrics.reload_at.store(clock::unix_seconds(), Ordering::Relaxed);
        report.log();
        tracing::debug!(took = ?since.elapsed(), "configuration taken over");
        Ok(report)
    }

    /// Files and folders that the configuration was read from, and those of every later reading.
    pub fn sources(&self) -> watch::Receiver<Arc<Vec<Seen>>> {
        self.sources.subscribe()
    }

    /// Addresses listened on now.
    pub async fn listening(&self) -> Vec<ListenAddr> {
        self.inner.lock().await.listening.iter().map(|one| one.address.clone()).collect()
    }

    /// Opens log files anew, for logrotate.
    pub fn reopen_logs(&self) {
        if let Some(log) = self.shared.access_log.load().as_ref() {
            log.reopen();
        }
    }

    /// Stops listening, for good; who is connected stays.
    pub async fn close_doors(&self) {
        let mut inner = self.inner.lock().await;
        inner.closing = true;
        self.change_listeners(&mut inner, Vec::new(), &[]).await;
    }

    /// Waits for the workers' end, blocking this thread.
    pub fn join_workers(&self) {
        for worker in &self.workers {
            worker.join();
        }
    }

    /// One instruction for each app that changed: the supervisor serves others in between.
    async fn instruct(&self, inner: &Inner, difference: &Difference) -> Result<(), InstructError> {
        if !inner.is_set_up {
            let all = Instruction::DefineAll(difference.put.clone());
            return self.supervisor.instruct(all).await;
        }
        for id in &difference.gone {
            self.supervisor.instruct(Instruction::Remove(id.clone())).await?;
        }
        for spec in &difference.put {
            self.supervisor.instruct(Instruction::Define(Arc::clone(spec))).await?;
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "the changed spec and what it opens")]
    fn open_access_log(
        &self,
        inner: &Inner,
        config: &Config,
    ) -> Result<Option<(Option<AccessLogSpec>, Option<AccessLog>)>, ReloadError> {
        let wanted = &config.server.access_log;
        if *wanted == inner.access_log {
            return Ok(None);
        }
        let log = wanted
            .as_ref()
            .map(|spec| AccessLog::open(spec, Arc::clone(&self.shared.metrics)))
            .transpose()
            .map_err(ReloadError::AccessLog)?;
        Ok(Some((wanted.clone(), log)))
    }

    fn open_listeners(
        &self,
        inner: &mut Inner,
        config: &Config,
    ) -> Result<Vec<Opened>, ReloadError> {
        let mut opened: Vec<Opened> = Vec::new();
        for address in &config.server.listen {
            if inner.listening.iter().any(|known| known.configured == *address) {
                continue;
            }
            let number = inner.next_number;
            inner.next_number += 1;
            let ours = inner.listening.iter().chain(opened.iter().map(|one| &one.listening));
            let ours = ours.map(|one| &one.address);
            let (bound, sockets) = listener::open(address, ours, number, self.workers.len())
                .map_err(|error| ReloadError::Listen(address.to_string(), error))?;
            let listening = Listening { configured: address.clone(), address: bound, number };
            opened.push(Opened { listening, sockets });
        }
        Ok(opened)
    }

    async fn change_listeners(
        &self,
        inner: &mut Inner,
        opened: Vec<Opened>,
        wanted: &[ListenAddr],
    ) {
        for Opened { listening, sockets } in opened {
            let address = &listening.address;
            for (worker, socket) in self.workers.iter().zip(sockets) {
                if !worker.tell(Order::Listen(socket)).await {
                    tracing::error!(%address, "a worker has ended and does not listen");
                }
            }
            tracing::info!(%address, "listening");
            inner.listening.push(listening);
        }
        let (keep, drop): (Vec<_>, Vec<_>) =
            inner.listening.drain(..).partition(|one| wanted.contains(&one.configured));
        inner.listening = keep;
        for Listening { address, number, .. } in drop {
            for worker in &self.workers {
                let (done, wait) = oneshot::channel();
                if worker.tell(Order::Ignore(number, done)).await {
                    // A worker that ends in between listens no more either.
                    let _ = wait.await;
                }
            }
            if let ListenAddr::Unix(path) = &address
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(%error, %address, "cannot remove the socket's file");
            }
            tracing::info!(%address, "no longer listening");
        }
    }
}

struct Opened {
    listening: Listening,
    sockets: Vec<listener::Socket>,
}

/// Settings that are read once, at the start.
fn needs_restart(old: &ServerSpec, new: &ServerSpec) -> Vec<String> {
    [
        ("admin", old.admin == new.admin),
        ("state_dir", old.state_dir == new.state_dir),
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
