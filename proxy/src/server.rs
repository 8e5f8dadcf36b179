//! Doorbell from its start to its end, on one page.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
use doorbell_config::{
    file::{Archive, Loaded, Seen},
    spec::{Config, ListenAddr},
};
use doorbell_supervisor::{Supervisor, SupervisorOptions};
use pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    admin::{self, Admin},
    allocator,
    app::{Gates, Table},
    gatekeeper,
    house::House,
    logging,
    metrics::{AppMetrics, ServerMetrics},
    service_notify,
    shared::Shared,
    watch as config_watch,
    worker::Worker,
};

/// Looks at open connections this often while they drain.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// Time for what still runs beside the workers when all is over.
const LAST_TASKS: Duration = Duration::from_millis(500);
/// Time for stopping apps whatever their own grace, after running requests had theirs.
const STOP_APPS: Duration = Duration::from_secs(20);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why Doorbell cannot start; or that it could not end cleanly.
pub fn serve(config_path: PathBuf) -> anyhow::Result<()> {
    let mut archive = Archive::default();
    let Loaded { sources, outcome } = House::read(&config_path, &mut archive);
    let config = outcome?;
    logging::start(&config.server.log)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let open_files = raise_descriptor_limit();
    allocator::purge_in_background();
    // Pingora's own clock is a thread that wakes a hundred times a second once it was used.
    set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot make a runtime")?;
    let outcome = runtime.block_on(run((config_path, archive), sources, config, open_files));
    // A disk that hangs holds threads of the runtime, which would be waited for without end.
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

async fn run(
    file: (PathBuf, Archive),
    sources: Vec<Seen>,
    config: Config,
    open_files: Option<u64>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let options = SupervisorOptions {
        state_dir: config.server.state_dir.clone(),
        log_dir: config.server.log_dir.clone(),
        parallel_starts: config.server.limits.parallel_starts,
        open_files,
    };
    let (supervisor, orders) = Supervisor::start(options)?;
    let shared = Arc::new(shared(&config, &supervisor));
    tokio::spawn(gatekeeper::obey(Arc::clone(&shared), orders));

    let (shutdown, shutting_down) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let workers = start_workers(&shared, &shutting_down, &ended)?;
    let addresses = config.server.admin.clone();
    let house = Arc::new(House::new(shared, supervisor, file, workers));
    let admin = Arc::new(Admin { house: Arc::clone(&house), ready: AtomicBool::new(false) });
    let loaded = Loaded { sources, outcome: Ok(config) };
    if let Err(error) = open(&admin, &addresses, loaded).await {
        // Apps may run already.
        house.supervisor.shutdown(STOP_APPS).await;
        return Err(error);
    }
    let watcher = tokio::spawn(config_watch::reload_on_change(Arc::clone(&house)));
    admin.ready.store(true, Ordering::Relaxed);
    service_notify::say("READY=1\nSTATUS=serving");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");

    reload_until_stopped(&house, &mut signals).await;

    service_notify::say("STOPPING=1");
    admin.ready.store(false, Ordering::Relaxed);
    watcher.abort();
    shut_down(&house, &shutdown, &end, &mut signals).await;
    clean_up(house, &addresses).await
}

async fn reload_until_stopped(house: &House, signals: &mut Signals) {
    while signals.next().await == Asked::Reload {
        service_notify::say("RELOADING=1");
        house.reopen_logs();
        // The outcome is logged and counted where it happens.
        drop(house.reload().await);
        service_notify::say("READY=1");
    }
}

/// When nothing runs any more: the last lines of the logs, and the admin sockets' files.
async fn clean_up(house: Arc<House>, addresses: &[ListenAddr]) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        // What workers cut off is logged too.
        house.join_workers();
        if let Some(log) = house.shared.access_log.swap(None) {
            log.close();
        }
    })
    .await
    .context("the last lines of the access log")?;
    for address in addresses {
        if let ListenAddr::Unix(path) = address {
            // Somebody else may have removed it already.
            drop(std::fs::remove_file(path));
        }
    }
    Ok(())
}

/// Operators first, so that a second Doorbell on the same socket starts nothing; then the doors.
async fn open(admin: &Arc<Admin>, addresses: &[ListenAddr], loaded: Loaded) -> anyhow::Result<()> {
    admin::serve(Arc::clone(admin), addresses).await?;
    admin.house.take_over(loaded).await?;
    Ok(())
}

/// Nobody new, who is there finishes, then the apps, then the logs.
async fn shut_down(
    house: &House,
    shutdown: &watch::Sender<bool>,
    end: &watch::Sender<bool>,
    signals: &mut Signals,
) {
    let limit = house.shared.table.load().server.timeouts.shutdown;
    let deadline = Instant::now() + limit;
    tracing::info!(?limit, "shutting down: no new connections, running requests finish");
    house.close_doors().await;
    // Nobody may listen any more, which is as good.
    let _ = shutdown.send(true);
    let open = &house.shared.metrics.connections;
    while open.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        tokio::select! {
            () = tokio::time::sleep(DRAIN_LOOK) => {}
            asked = signals.next() => if asked == Asked::Stop {
                tracing::warn!("asked again: not waiting any longer");
                break;
            },
        }
    }
    let left = open.load(Ordering::Relaxed);
    if left > 0 {
        tracing::warn!(left, "connections cut at the end of timeouts.shutdown");
    }
    let _ = end.send(true);
    let report = house.supervisor.shutdown(STOP_APPS).await;
    tracing::info!(stopped = report.stopped, killed = report.killed, "apps stopped");
    if report.left > 0 {
        tracing::error!(left = report.left, "processes could not be ended");
    }
}

fn shared(config: &Config, supervisor: &Supervisor) -> Shared {
    let reports = supervisor.clone();
    let sink = Arc::new(move |report| reports.report(report));
    Shared {
        table: ArcSwap::from_pointee(Table::empty(config.server.clone())),
        gates: Gates::new(config.server.limits.held_requests, sink),
        metrics: Arc::new(ServerMetrics::default()),
        other: Arc::new(AppMetrics::default()),
        access_log: ArcSwapOption::empty(),
    }
}

fn start_workers(
    shared: &Arc<Shared>,
    shutting_down: &watch::Receiver<bool>,
    ended: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<Worker>> {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (0..count)
        .map(|number| {
            Worker::start(number, Arc::clone(shared), shutting_down.clone(), ended.clone())
        })
        .collect::<Result<_, _>>()
        .context("cannot start a worker")
}

/// As many descriptors as we may have: two per proxied connection. Gives the limit from before.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, ..before };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    before.current
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
        }
    }
}
