//! The proxy from its start to its end: it faces the internet, and has nothing but connections.
//!
//! All that it knows comes from the supervisor, over one connection: settings, apps, listening
//! sockets, the file of the access log, orders for gates. It reads no file and starts no process.

use std::{
    collections::HashSet,
    fs::File,
    io::ErrorKind,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use arc_swap::{ArcSwap, ArcSwapOption};
use doorbell_config::spec::{AccessLogSpec, AppSpec, LogOutput, LogSpec, ServerSpec};
use doorbell_supervisor::{
    protocol::{Apply, Drain, FromProxy, Hello, Listening, Role, TRUSTED_LIMITS, ToProxy, VERSION},
    reception,
    wire::{self, Frame, Receiver, Sender},
};
use pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    access_log::{AccessLog, LogSink},
    app::{Gates, Table},
    difference::Difference,
    figures_desk,
    gate::ReportSink,
    gatekeeper,
    health::HealthChecks,
    listener::Socket,
    logging,
    metrics::{AppMetrics, ServerMetrics},
    pass::desk::Desk,
    readiness::Probes,
    shared::Shared,
    worker::{Endings, Order, Worker},
};

/// How long somebody is waited for who hears the last figures.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Looks at open connections this often while they drain.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Whether the role is a process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Household {
    /// It is: it begins to log by itself, outlives its supervisor, and finds the next one here.
    Own {
        /// Where to call.
        reception: PathBuf,
        /// What it gave up, in words.
        confined: String,
    },
    /// It is a task among others.
    Shared,
}

impl Household {
    /// Another supervisor, if one will come.
    pub async fn next_supervisor(&self) -> Option<UnixStream> {
        match self {
            Self::Own { reception, .. } => reception::call(reception).await,
            Self::Shared => None,
        }
    }

    /// Begins to log, if nobody does it for us.
    ///
    /// # Errors
    /// If the level is no filter.
    pub fn start_logging(&self, role: Role, spec: &LogSpec) -> anyhow::Result<()> {
        if let Self::Own { confined, .. } = self {
            logging::start(spec)?;
            tracing::info!(?role, pid = std::process::id(), "confined: {confined}");
        }
        Ok(())
    }
}

/// Why there are no more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was to end, and has.
    Drained,
    /// The supervisor is gone.
    Orphaned,
}

/// The way back to the supervisor.
type Line = Arc<ArcSwapOption<Sender>>;

/// A proxy at work.
struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    line: Line,
    /// What the supervisor calls us.
    number: u32,
    /// What is listened on, with sockets to hand back to a supervisor that has lost its own.
    listening: Vec<(Listening, Vec<Arc<OwnedFd>>)>,
    /// For the next `Apply`.
    apps: Vec<Arc<AppSpec>>,
    sockets: Vec<(Listening, Vec<OwnedFd>)>,
    access_log: Option<AccessLogSpec>,
    health: HealthChecks,
    shutdown: watch::Sender<bool>,
    hang_up: watch::Sender<bool>,
    end: watch::Sender<bool>,
    /// Since it is to end, until when running exchanges may take.
    draining: Option<(Instant, Drain)>,
    /// Those who wait for the workers to have closed their doors.
    doors: TaskTracker,
    /// Whoever asks for figures.
    control: Option<figures_desk::Desk>,
}

/// Serves until it is told to end, or nobody will ever tell it.
///
/// # Errors
/// Why it cannot start, or does not understand what it is told.
pub async fn run(connection: UnixStream, household: Household) -> anyhow::Result<()> {
    let (sender, mut receiver) = wire::open::<ToProxy>(connection, TRUSTED_LIMITS)?;
    sender.send(&FromProxy::Hello(hello(None, false)))?;
    sender.send(&FromProxy::Introduced)?;
    let Some((ToProxy::Welcome { number, workers, server }, _)) = receiver.next().await? else {
        bail!("the supervisor began with something else than a welcome");
    };
    household.start_logging(Role::Proxy, &server.log)?;
    install_tls_provider();
    // Pingora's own clock is a thread that wakes a hundred times a second once it was used.
    set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    let mut proxy = Proxy::new(*server, number, workers, sender)?;
    let served = proxy.serve_whoever_supervises(receiver, &household).await;
    let (messages, outcome) = match served {
        Ok(messages) => (messages, Ok(())),
        Err(error) => (None, Err(error)),
    };
    proxy.finish(messages).await;
    outcome
}

fn hello(number: Option<u32>, is_draining: bool) -> Hello {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Hello { role: Role::Proxy, number, is_draining, protocol: VERSION, version }
}

/// Another role in this process may have done it.
fn install_tls_provider() {
    // The error is the provider that is there.
    drop(rustls::crypto::ring::default_provider().install_default());
}

impl Proxy {
    fn new(
        server: ServerSpec,
        number: u32,
        workers: usize,
        sender: Sender,
    ) -> anyhow::Result<Self> {
        let line: Line = Arc::new(ArcSwapOption::from_pointee(sender));
        let shared = Arc::new(shared(server, Arc::clone(&line)));
        let (shutdown, shutting_down) = watch::channel(false);
        let (hang_up, hanging_up) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let endings = Endings { shutdown: shutting_down, hang_up: hanging_up, end: ended };
        let workers = (0..workers)
            .map(|number| Worker::start(number, Arc::clone(&shared), endings.clone()))
            .collect::<Result<_, _>>()
            .context("cannot start a worker")?;
        Ok(Self {
            shared,
            workers,
            line,
            number,
            listening: Vec::new(),
            apps: Vec::new(),
            sockets: Vec::new(),
            access_log: None,
            health: HealthChecks::default(),
            shutdown,
            hang_up,
            end,
            draining: None,
            doors: TaskTracker::new(),
            control: None,
        })
    }

    /// Serves on when the supervisor is gone: running apps answer as before, and who wants another
    /// waits until somebody is there who can start it.
    async fn serve_whoever_supervises(
        &mut self,
        mut messages: Receiver<ToProxy>,
        household: &Household,
    ) -> anyhow::Result<Option<Receiver<ToProxy>>> {
        while self.serve(&mut messages).await? == End::Orphaned {
            self.line.store(None);
            // What it began to tell is told anew.
            self.apps.clear();
            self.sockets.clear();
            let drained = self.drained();
            let connection = tokio::select! {
                connection = household.next_supervisor() => connection,
                () = drained => None,
            };
            let Some(connection) = connection else { return Ok(None) };
            match self.introduce_again(connection) {
                Ok(receiver) => messages = receiver,
                // One that is being killed seemed to be there: `messages` still say that it is gone.
                Err(error) => tracing::debug!(%error, "the supervisor is gone again"),
            }
        }
        Ok(Some(messages))
    }

    /// Tells a new supervisor who it is, and what it has.
    fn introduce_again(&self, connection: UnixStream) -> anyhow::Result<Receiver<ToProxy>> {
        let (sender, receiver) = wire::open::<ToProxy>(connection, TRUSTED_LIMITS)?;
        sender.send(&FromProxy::Hello(hello(Some(self.number), self.draining.is_some())))?;
        if self.draining.is_none() {
            for (listening, sockets) in &self.listening {
                let message = FromProxy::Listening(listening.clone());
                sender.send_frame(Frame::with(&message, sockets.clone())?)?;
            }
        }
        sender.send(&FromProxy::Introduced)?;
        self.line.store(Some(Arc::new(sender)));
        Ok(receiver)
    }

    async fn serve(&mut self, messages: &mut Receiver<ToProxy>) -> anyhow::Result<End> {
        loop {
            let drained = self.drained();
            tokio::select! {
                message = messages.next() => match message {
                    Ok(Some((message, descriptors))) => self.take(message, descriptors).await?,
                    Ok(None) => return Ok(End::Orphaned),
                    // It was killed in the midst of a word.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        return Ok(End::Orphaned);
                    }
                    Err(error) => return Err(error.into()),
                },
                () = drained => return Ok(End::Drained),
            }
        }
    }

    async fn take(&mut self, message: ToProxy, with: Vec<OwnedFd>) -> anyhow::Result<()> {
        match message {
            // A supervisor that is new to us.
            ToProxy::Welcome { number, .. } => self.number = number,
            ToProxy::Apps(apps) => self.apps.extend(apps),
            ToProxy::Listen(listening) => self.sockets.push((listening, with)),
            ToProxy::AccessLog(spec) => self.log_to(spec, with)?,
            ToProxy::Apply(apply) => self.apply(*apply).await,
            ToProxy::Order(order) => gatekeeper::carry_out(&self.shared, order),
            ToProxy::Echo(number) => tell(&self.line, &FromProxy::Echoed(number)),
            ToProxy::Gates(orders) => gatekeeper::begin_anew(&self.shared, orders),
            ToProxy::Control => {
                let connection = with.into_iter().next().context("no connection came")?;
                let connection = UnixStream::from(connection);
                self.control = Some(figures_desk::Desk::open(connection, &self.shared)?);
            }
            ToProxy::Drain { limit, manner } => self.drain(limit, manner).await,
        }
        Ok(())
    }

    /// Takes over a configuration: gates before the table, so that a request for a new app finds one.
    async fn apply(&mut self, apply: Apply) {
        let since = Instant::now();
        let before = self.shared.table.load_full();
        let put = std::mem::take(&mut self.apps);
        let gone = if apply.is_whole { unnamed(&before, &put) } else { apply.gone };
        let difference = Difference { put, gone };
        let (table, conflicts) = before.next(&apply.server, &difference, &self.shared.gates);
        for conflict in conflicts {
            tracing::error!(%conflict, "two apps claim a route, which should have been seen before");
        }
        let table = Arc::new(table);
        self.shared.gates.set_held_cap(apply.server.limits.held_requests);
        self.shared.table.store(Arc::clone(&table));
        self.shared.gates.prune(&table, &before.lost(&table, &difference));
        self.health.change(&table, &difference);
        for (listening, sockets) in std::mem::take(&mut self.sockets) {
            self.listen(listening, sockets).await;
        }
        tracing::debug!(took = ?since.elapsed(), "configuration taken over");
        let ignored = self.ignore(apply.ignore).await;
        let (line, turn) = (Arc::clone(&self.line), apply.turn);
        tokio::spawn(async move {
            for one in ignored {
                // A worker that ends in between listens no more either.
                let _ = one.await;
            }
            tell(&line, &FromProxy::Applied { turn });
        });
    }

    async fn listen(&mut self, listening: Listening, sockets: Vec<OwnedFd>) {
        if self.listening.iter().any(|(known, _)| known.number == listening.number) {
            // A new supervisor sends back what it got from us.
            return;
        }
        let mut kept = Vec::with_capacity(sockets.len());
        for (worker, descriptor) in self.workers.iter().cycle().zip(sockets) {
            let (number, address) = (listening.number, listening.address.clone());
            match descriptor.try_clone() {
                Ok(clone) => kept.push(Arc::new(clone)),
                Err(error) => tracing::error!(%address, %error, "a socket cannot be kept"),
            }
            let app = listening.app.clone();
            let socket = Socket { number, descriptor, address, app };
            if !worker.tell(Order::Listen(socket)).await {
                tracing::error!(address = %listening.address, "a worker has ended and does not listen");
            }
        }
        self.listening.push((listening, kept));
    }

    /// Gives up listeners; what comes back resolves when nobody waits there any more.
    async fn ignore(&mut self, numbers: Vec<u64>) -> Vec<oneshot::Receiver<()>> {
        self.listening.retain(|(listening, _)| !numbers.contains(&listening.number));
        let mut ignored = Vec::new();
        for number in numbers {
            for worker in &self.workers {
                let (done, wait) = oneshot::channel();
                if worker.tell(Order::Ignore(number, done)).await {
                    ignored.push(wait);
                }
            }
        }
        ignored
    }

    fn log_to(&mut self, spec: Option<AccessLogSpec>, with: Vec<OwnedFd>) -> anyhow::Result<()> {
        let log = &self.shared.access_log;
        if let Some(spec) = &spec {
            let sink = match (&spec.output, with.into_iter().next()) {
                (LogOutput::Stdout, _) => LogSink::Stdout,
                (LogOutput::File(_), Some(file)) => LogSink::File(File::from(file)),
                (LogOutput::File(_), None) => bail!("no file came for the access log"),
            };
            match log.load_full().filter(|log| log.format() == spec.format) {
                Some(log) => log.turn_to(sink),
                None => {
                    let metrics = Arc::clone(&self.shared.metrics);
                    log.store(Some(Arc::new(AccessLog::start(spec.format, sink, metrics)?)));
                }
            }
        } else {
            log.store(None);
        }
        self.access_log = spec;
        Ok(())
    }

    /// Accepts nobody any more; who is there may finish.
    async fn drain(&mut self, limit: Duration, manner: Drain) {
        self.draining = Some((Instant::now() + limit, manner));
        self.listening.clear();
        // Nobody may listen any more, which is as good.
        let _ = self.shutdown.send(true);
        match manner {
            Drain::ForAnother => {}
            Drain::ForGood => _ = self.hang_up.send_replace(true),
        }
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            if worker.tell(Order::IgnoreAll(done)).await {
                // A worker that ends in between accepts nobody either.
                self.doors.spawn(async move { drop(wait.await) });
            }
        }
        self.doors.close();
    }

    /// Resolves when it is to end and everybody has left, or stayed too long. Never if it is not.
    fn drained(&self) -> impl Future<Output = ()> + use<> {
        let (until, metrics) = (self.draining, Arc::clone(&self.shared.metrics));
        let doors = self.doors.clone();
        async move {
            let Some((until, manner)) = until else { return std::future::pending().await };
            doors.wait().await;
            let open = || metrics.connections.load(Ordering::Relaxed);
            while open() > 0 && Instant::now() < until {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
            if open() > 0 {
                let setting = match manner {
                    Drain::ForAnother => "timeouts.upgrade",
                    Drain::ForGood => "timeouts.shutdown",
                };
                tracing::warn!(left = open(), "connections cut at the end of {setting}");
            }
        }
    }

    /// Ends the workers, and writes the last lines of the log.
    async fn finish(self, messages: Option<Receiver<ToProxy>>) {
        // Nobody may listen any more, which is as good.
        let _ = self.end.send(true);
        let (workers, shared) = (self.workers, self.shared);
        let joined = tokio::task::spawn_blocking(move || {
            // What workers cut off is logged too.
            workers.iter().for_each(Worker::join);
            if let Some(log) = shared.access_log.swap(None) {
                log.close();
            }
            shared
        });
        match joined.await {
            Ok(shared) => {
                let is_heard = match self.control {
                    Some(control) => control.say_last(&shared).await,
                    None => false,
                };
                if !is_heard && let Some(messages) = messages {
                    // The control process is being replaced.
                    let _ = timeout(LAST_WORDS, say_to_next(messages, &shared)).await;
                }
            }
            Err(error) => tracing::error!(%error, "the last lines of the access log"),
        }
        // The supervisor sees the end also where this process goes on.
        self.line.store(None);
    }
}

/// Tells the next one who asks for figures the last ones; whatever else is said meanwhile is late.
async fn say_to_next(mut messages: Receiver<ToProxy>, shared: &Arc<Shared>) {
    while let Ok(Some((message, with))) = messages.next().await {
        if let (ToProxy::Control, Some(connection)) = (message, with.into_iter().next())
            && let Ok(control) = figures_desk::Desk::open(UnixStream::from(connection), shared)
            && control.say_last(shared).await
        {
            return;
        }
    }
}

/// Apps of a table that are not among these.
fn unnamed(table: &Table, put: &[Arc<AppSpec>]) -> Vec<doorbell_config::name::AppId> {
    let named: HashSet<_> = put.iter().map(|spec| &spec.id).collect();
    let known = table.routes.targets().map(|app| &app.spec.id);
    known.filter(|id| !named.contains(id)).cloned().collect()
}

fn tell(line: &Line, message: &FromProxy) {
    if let Some(sender) = line.load().as_ref() {
        // A supervisor that is gone is told everything anew when it is back.
        let _ = sender.send(message);
    }
}

fn shared(server: ServerSpec, line: Line) -> Shared {
    let held = server.limits.held_requests;
    let sink: ReportSink = Arc::new(move |report| tell(&line, &FromProxy::Report(report)));
    Shared {
        table: ArcSwap::from_pointee(Table::empty(server)),
        gates: Gates::new(held, Arc::clone(&sink)),
        probes: Probes::new(sink),
        metrics: Arc::new(ServerMetrics::default()),
        other: Arc::new(AppMetrics::default()),
        passes: Desk::default(),
        access_log: ArcSwapOption::empty(),
    }
}
