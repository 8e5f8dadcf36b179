//! The task of one instance: prepare, spawn, wait for readiness, watch, end.
//!
//! It tells the desk what happens through [`Note`]s and obeys [`Order`]s. Whatever happens, `Gone`
//! is told last, when no process is left and the endpoint is free.

use std::{convert::Infallible, future::pending, io, sync::Arc, time::Duration};

use doorbell_config::spec::{Given, Probe, ProcessSpec, StopSpec};
use tokio::{
    sync::{Notify, mpsc, watch as channel},
    time::{Instant, sleep},
};

use super::{
    Adoptee, Driver, Job, Leftovers, Note, Order, Report, Witness, Work, custody,
    ear::Ear,
    endpoint::Place,
    mark::Mark,
    notify::NotifySocket,
    record::{Notebook, Phase},
    root::{Exit, Root},
    spawn::Spawned,
    stop::Ending,
    tree::Tree,
    vigil::Door,
    watch,
};
use crate::{
    message::{Endpoint, StartTimes},
    output::Capture,
    probe::{self, Started},
};

pub(super) use self::{
    begin::door,
    upgrade::{Turn, Turns},
};
use self::{
    begin::{Prepared, SpawnError, listen_for_notes, spawn_blocking},
    end::End,
    upgrade::Begun,
};

#[path = "awake.rs"]
mod awake;
#[path = "begin.rs"]
mod begin;
#[path = "elsewhere.rs"]
mod elsewhere;
#[path = "end.rs"]
mod end;
#[path = "frost.rs"]
mod frost;
#[path = "inspect.rs"]
mod inspect;
#[path = "ready.rs"]
mod ready;
#[path = "upgrade.rs"]
mod upgrade;

/// Looks for what a first process that ended well may have left behind: the table of processes is no
/// picture of one moment, and who forks twice may be between two parents while it is read.
const LOOKS_FOR_A_FORK: usize = 5;
/// Looks at an endpoint that is said to refuse connections, and the time between them.
const CHECKS: u32 = 3;
const CHECK_PACE: Duration = Duration::from_millis(200);

/// How an instance is connected to the desk.
#[derive(Clone)]
pub(super) struct Wires {
    pub(super) inbox: channel::Receiver<Order>,
    pub(super) check: Arc<Notify>,
    /// It was asked whether it is ready, and is.
    pub(super) answered: Arc<Notify>,
    /// What keeps it awake is known to the desk, and holds.
    pub(super) granted: channel::Receiver<u64>,
    /// Whether it is to stand still.
    pub(super) frost: channel::Receiver<bool>,
    pub(super) witness: Arc<Witness>,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Wires {
    async fn tell(&self, job: &Job, note: Note) {
        let report = Report { app: job.app.id.clone(), generation: job.generation, note };
        // The desk outlives its instances; without it nobody needs to know.
        let _ = self.reports.send(report).await;
    }
}

/// Why an instance did not become ready.
enum Unready {
    /// It is to end.
    Ordered(Order),
    /// It has.
    Ended(End),
}

/// A spawned instance.
pub(super) struct Instance {
    pub(super) driver: Arc<Driver>,
    pub(super) job: Job,
    pub(super) stop: StopSpec,
    pub(super) place: Place,
    pub(super) notify: Option<NotifySocket>,
    /// Where the kernel tells when it listens, if it does.
    pub(super) ear: Option<Ear>,
    pub(super) root: Root,
    pub(super) capture: Capture,
    pub(super) wires: Wires,
    /// While it is starting.
    pub(super) started: Option<Started>,
    pub(super) spawned_at: Instant,
    /// Whether an earlier supervisor started it.
    pub(super) is_adopted: bool,
    /// What is written down of it.
    pub(super) notebook: Arc<Notebook>,
    /// Where it asks to be kept awake; `None` where that cannot be had.
    pub(super) door: Option<Door>,
}

/// Runs one instance to its end.
pub(super) async fn run(driver: Arc<Driver>, job: Job, wires: Wires) {
    begin(driver, job, wires, None).await;
}

/// The same, perhaps behind an upgrade that an earlier supervisor began.
async fn begin(driver: Arc<Driver>, mut job: Job, wires: Wires, begun: Option<Begun>) {
    let reports = wires.reports.clone();
    let begins = Instant::now();
    let spawned = match upgrade::prepare(&driver, &job, &wires, begun).await {
        Ok(given) => {
            // Of the starts that are usual an upgrade is no part.
            if job.process().is_ok_and(|process| process.upgrade.is_some()) {
                job.admitted += begins.elapsed();
            }
            Instance::spawn(driver.clone(), job.clone(), wires, &given).await
        }
        Err(error) => Err(error),
    };
    let spawned = spawned
        .map_err(|error| End { failure: error.failure(), ..End::crashed(error.to_string()) });
    live_and_go(&driver, &job, spawned, &reports).await;
}

/// Takes up one instance as it is, and runs it to its end.
pub(super) async fn take_up(
    driver: Arc<Driver>,
    job: Job,
    wires: Wires,
    adoptee: Adoptee,
    turn: Option<Turn>,
) {
    if adoptee.phase() == Phase::Upgrading {
        return begin(driver, job, wires, Some(Begun { adoptee, turn })).await;
    }
    let reports = wires.reports.clone();
    let adopted = Instance::adopt(driver.clone(), job.clone(), wires, adoptee);
    let adopted = adopted.map_err(|error| End::crashed(format!("cannot be taken up: {error}")));
    if adopted.is_err() {
        // Nobody else will: it was spared when others were ended.
        driver.end_leftovers_of(&job).await;
    }
    live_and_go(&driver, &job, adopted, &reports).await;
}

impl Driver {
    /// Ends what there is of an instance that nobody holds.
    async fn end_leftovers_of(&self, job: &Job) {
        let rest = Leftovers::of_one(&self.state_dir, &job.app.id, job.generation);
        if let Err(error) = self.end_leftovers(&rest).await {
            tracing::error!(app = %job.app.id, %error, "processes of an app cannot be found");
        }
    }
}

async fn live_and_go(
    driver: &Driver,
    job: &Job,
    instance: Result<Instance, End>,
    reports: &mpsc::Sender<Report>,
) {
    let report = |note| Report { app: job.app.id.clone(), generation: job.generation, note };
    match instance {
        Ok(instance) => instance.live().await,
        Err(End { failure, reason, .. }) => {
            let failed = Note::Failed { failure, reason };
            // The desk outlives its instances; without it nobody needs to know.
            let _ = reports.send(report(failed)).await;
        }
    }
    driver.forget(job);
    let _ = reports.send(report(Note::Gone)).await;
}

impl Instance {
    async fn spawn(
        driver: Arc<Driver>,
        job: Job,
        wires: Wires,
        given: &Given,
    ) -> Result<Self, SpawnError> {
        let process = job.process()?.clone();
        let started = driver.pace.start();
        let notify = match process.ready.probe {
            Probe::Notify => Some(listen_for_notes(&driver, &job)?),
            Probe::Connect | Probe::Http(_) | Probe::SocketActivation => None,
        };
        let path = notify.as_ref().map(|socket| socket.path().to_owned());
        let (shared, ours, given) = (driver.clone(), job.clone(), given.clone());
        let spawning = tokio::task::spawn_blocking(move || {
            spawn_blocking(&shared, &ours, &process, path.as_deref(), &given)
        });
        let Prepared { place, spawned, record, group, vigils } =
            spawning.await.map_err(io::Error::from)??;
        let spawned_at = Instant::now();
        let Spawned { root, output, ear } = spawned;
        let kept = custody::keep(&output, notify.as_ref(), ear.as_ref(), vigils.as_ref())?;
        driver.hold(&job, kept);
        let ear = ear.map(Ear::open).transpose()?;
        let mark = Mark::of_instance(&driver.state_dir, &job.app.id, job.generation);
        let tree = Tree::of(root.pid(), mark, output.identity());
        wires.witness.is_of(tree, group);
        // Behind that, for who asks is looked for in the tree.
        let door = vigils.map(|vigils| vigils.open(wires.witness.clone())).transpose()?;
        let spec = job.process()?;
        let stop = *spec.stop;
        let log = driver.logs.open(&job.app.id, *spec.logs);
        let capture = Capture::start(output, log, wires.witness.tail.clone())?;
        let started = Some(started);
        Ok(Self {
            driver,
            job,
            stop,
            place,
            notify,
            ear,
            root,
            capture,
            wires,
            started,
            spawned_at,
            is_adopted: false,
            notebook: Arc::new(Notebook::new(record)),
            door,
        })
    }

    async fn live(mut self) {
        let walled = self.notebook.record().walled;
        let unmet = self.job.process().map(|process| self.driver.unmet(process, walled.as_ref()));
        for warning in unmet.unwrap_or_default() {
            self.tell(Note::Warning(warning)).await;
        }
        let order = match self.notebook.record().ready {
            // It was taken up as it serves.
            Some((endpoint, _)) => self.serve(endpoint).await,
            None => {
                self.tell(Note::Spawned(self.root.pid())).await;
                self.say(format!("started, pid {}", self.root.pid())).await;
                match self.start().await {
                    Ok(endpoint) => self.serve(endpoint).await,
                    Err(order) => order,
                }
            }
        };
        self.note(Phase::Leaving).await;
        self.end(order).await;
    }

    /// Waits for readiness, as long as the instance lives and is wanted.
    async fn start(&mut self) -> Result<Endpoint, Order> {
        let mut inbox = self.wires.inbox.clone();
        // Dropping the losers loses nothing: a death can be asked for again, an order stays.
        let outcome = tokio::select! {
            biased;
            order = ordered(&mut inbox) => Err(Unready::Ordered(order)),
            end = self.ended(None) => Err(Unready::Ended(end)),
            ready = self.ready() => ready.map_err(Unready::Ended),
            never = self.keep_vigils() => match never {},
        };
        match outcome {
            Ok((endpoint, times)) => {
                self.started = None;
                self.tell(Note::Ready { endpoint: endpoint.clone(), times }).await;
                self.notebook.change(|record| record.ready = Some((endpoint.clone(), times)));
                self.note(Phase::Ready).await;
                Ok(endpoint)
            }
            Err(why) => {
                if self.is_asked_over_http() {
                    self.tell(Note::EndProbe).await;
                }
                match why {
                    Unready::Ordered(order) => Err(order),
                    Unready::Ended(end) => {
                        self.tell_end(end, "before it was ready").await;
                        Err(Order::Stop(self.stop))
                    }
                }
            }
        }
    }

    fn is_asked_over_http(&self) -> bool {
        let is_http = |process: &ProcessSpec| matches!(process.ready.probe, Probe::Http(_));
        self.job.process().is_ok_and(is_http) || self.may_be_elsewhere()
    }

    /// Writes down how far it is.
    pub(super) async fn note(&self, phase: Phase) {
        self.notebook.change(|record| record.phase = phase);
        self.write_down().await;
    }

    /// Writes down what is.
    pub(super) async fn write_down(&self) {
        let (driver, notebook) = (self.driver.clone(), self.notebook.clone());
        let noted = tokio::task::spawn_blocking(move || {
            notebook.write(|record| driver.note(record));
        });
        if let Err(error) = noted.await {
            tracing::error!(app = %self.job.app.id, %error, "the state of an instance is not noted");
        }
    }

    /// Watches a ready instance until it ends or is told to.
    async fn serve(&mut self, endpoint: Endpoint) -> Order {
        let mut inbox = self.wires.inbox.clone();
        let elsewhere = self.odd_place(&endpoint).map(Note::Elsewhere);
        for note in elsewhere.into_iter().chain(self.deafness().map(Note::Warning)) {
            self.tell(note).await;
        }
        let check = self.wires.check.clone();
        let end = {
            let warnings = self.tell_warnings();
            let checked = async {
                loop {
                    check.notified().await;
                    if self.refuses(&endpoint).await {
                        return;
                    }
                    self.tell(Note::Accepts).await;
                }
            };
            let ended = self.ended(Some(&endpoint));
            let (listening, frost) = (self.hear_out(), self.follow_frost(&endpoint));
            let vigils = self.keep_vigils();
            tokio::pin!(warnings, checked, ended, listening, frost, vigils);
            loop {
                tokio::select! {
                    biased;
                    order = ordered(&mut inbox) => return order,
                    end = &mut ended => break end,
                    () = &mut checked => break End::stopped_listening(),
                    () = &mut listening => {}
                    end = &mut frost => break end,
                    never = &mut vigils => match never {},
                    never = &mut warnings => match never {},
                }
            }
        };
        self.tell_end(end, "").await;
        Order::Stop(self.stop)
    }

    /// Tells what an operator should know of it, once it is seen.
    async fn tell_warnings(&self) -> Infallible {
        let beyond = async { self.tell(Note::Warning(self.until_beyond_loopback().await)).await };
        let memory = async { self.tell(Note::Warning(self.until_out_of_memory().await)).await };
        tokio::join!(beyond, memory);
        pending().await
    }

    /// Reads what the app goes on to say of itself, for ever: somebody must, or it would wait in
    /// sendmsg(2) as soon as the socket is full.
    async fn hear_out(&self) {
        let Some(notify) = &self.notify else { return pending().await };
        while let Ok(message) = notify.receive().await {
            if let Some(status) = message.status {
                tracing::debug!(app = %self.job.app.id, status, "an app tells its status");
            }
        }
        pending().await
    }

    /// Waits until the instance has ended by itself. A first process that leaves others behind is
    /// no end: while starting if it ends well (it forked away), later if they still serve.
    async fn ended(&self, serving: Option<&Endpoint>) -> End {
        let exit = self.root.exit().await;
        let (witness, scanner) = (&self.wires.witness, &self.driver.scanner);
        let forks_away = serving.is_none() && exit.is_success();
        let looks = if forks_away { LOOKS_FOR_A_FORK } else { 1 };
        let others = match watch::others(witness, scanner, looks).await {
            Ok(others) => others,
            Err(error) => return End::unwatched(&error),
        };
        let goes_on = !others.is_empty()
            && match serving {
                None => exit.is_success(),
                Some(endpoint) => probe::accepts(endpoint).await,
            };
        if !goes_on {
            return End::of(exit, self.spawned_at);
        }
        tracing::debug!(app = %self.job.app.id, "the first process left others to serve");
        match watch::all_gone(witness, scanner).await {
            Ok(()) => End::last_of_all(),
            Err(error) => End::unwatched(&error),
        }
    }

    /// Whether nobody accepts connections any more.
    async fn refuses(&self, endpoint: &Endpoint) -> bool {
        for _ in 0..CHECKS {
            if !probe::refuses(endpoint).await {
                return false;
            }
            sleep(CHECK_PACE).await;
        }
        true
    }

    async fn end(mut self, order: Order) {
        let stop = match order {
            Order::Run => self.stop,
            Order::Stop(stop) => stop,
            Order::Kill => StopSpec { grace: Duration::ZERO, ..self.stop },
        };
        let ending = Ending {
            app: self.job.app.id.as_str(),
            witness: &self.wires.witness,
            scanner: &self.driver.scanner,
            port: self.place.port(),
        };
        if let Err(error) = ending.end(stop, &mut self.wires.inbox).await {
            tracing::error!(app = %self.job.app.id, %error, "processes cannot be found");
            self.root.kill();
        }
        let exit = self.root.exit().await;
        self.root.reap();
        self.capture.say(format!("{exit}")).await;
        self.capture.finish().await;
    }

    pub(super) async fn tell(&self, note: Note) {
        self.wires.tell(&self.job, note).await;
    }

    async fn tell_end(&self, end: End, when: &str) {
        // What it printed last is to be seen with the news.
        self.capture.settle().await;
        let end = end.or_out_of_memory(self);
        let reason = format!("{} {when}", end.reason);
        let reason = reason.trim_end().to_owned();
        self.tell(Note::Failed { failure: end.failure, reason }).await;
    }

    async fn say(&self, line: String) {
        self.capture.say(line).await;
    }
}

/// The next order but `Run`. If the desk is gone, it is to end at once.
async fn ordered(inbox: &mut channel::Receiver<Order>) -> Order {
    match inbox.wait_for(|order| *order != Order::Run).await {
        Ok(order) => *order,
        Err(_) => Order::Kill,
    }
}

/// The moments of a start.
fn times(job: &Job, spawned: Instant, listens: Instant, ready: Instant) -> StartTimes {
    StartTimes {
        queued: job.queued,
        spawn: spawned.saturating_duration_since(job.admitted),
        listen: listens.saturating_duration_since(spawned),
        ready: ready.saturating_duration_since(listens),
    }
}
