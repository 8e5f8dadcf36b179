//! The one task that owns every app: it takes requests, reports and timers, asks `lifecycle` what
//! to do, and does it.
//!
//! A sleeping app is an entry in a map: no task, no channel, no timer. An app that runs has one
//! task per instance (`driver`), owned here. The desk never waits for anybody: what it has for the
//! gates waits in an outbox while their channel is full, disks are left to other threads.
//!
//! `define` applies definitions, `operate` verbs, `progress` what instances and gates report;
//! `app` is what is kept per app, `bonds` who needs whom, `needs` what comes of that, `replicas` how apps
//! run several times, `hours` when they are kept awake, `effects` how decisions are carried out, `shutdown` the
//! end.

mod adopt;
mod app;
mod bonds;
mod carry;
mod define;
mod effects;
mod fingerprint;
mod hours;
mod line;
mod needs;
mod operate;
mod phases;
mod progress;
mod replicas;
mod room;
mod shutdown;
mod state_dir;
mod timers;
mod timetable;
mod vigil;
mod yielding;

use std::{
    collections::{HashMap, VecDeque},
    fs::DirBuilder,
    future::pending,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use doorbell_config::name::{AppId, ByteSize};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch as channel},
    task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use self::{
    app::App,
    bonds::Bonds,
    carry::Carried,
    line::Line,
    room::Room,
    shutdown::Shutdown,
    state_dir::{Generations, StateDir, SwitchFile, Switches},
    timers::Timers,
    timetable::{Ring, Timetable},
    yielding::Round,
};
pub(crate) use self::{carry::forget as forget_carried, state_dir::replace};
use crate::{
    driver::{self, Adoptee, Custody, Driver, Errand, Leftovers, Meter, Note, Report},
    lifecycle::{Event, Off},
    mailbox::Mailbox,
    memory::{Shortage, Warden},
    message::{GateOrder, Generation, Instruction, Refusal, RefusalReason},
    snapshots::Snapshots,
    supervisor::{Request, SupervisorError, SupervisorOptions},
};

/// Reports of instances that may wait for the desk.
const REPORTS: usize = 1024;

/// The desk's ends of the channels.
pub(crate) struct Channels {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) orders: mpsc::Sender<GateOrder>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) snapshots: Snapshots,
    pub(crate) custodian: mpsc::Sender<Custody>,
    pub(crate) errands: mpsc::Sender<Errand>,
}

pub(crate) struct Desk {
    /// Boxed, as the map has room to grow.
    apps: HashMap<AppId, Box<App>>,
    /// Who needs whom.
    bonds: Bonds,
    /// Apps whose first replica waits a failure out, which refuses nobody, as a further one is expected; with
    /// what they are refused with otherwise.
    withheld: HashMap<AppId, RefusalReason>,
    /// Whether apps are being defined, and bonds are of before.
    is_defining: bool,
    /// Whether definitions changed that bonds are made of.
    bonds_changed: bool,
    /// Apps that new definitions disable, until it is known who needs them.
    forbidden: Vec<AppId>,
    /// Apps whose descent has just begun.
    descended: Vec<AppId>,
    /// Whether apps were defined before: gates of the first ones are fresh.
    is_set_up: bool,
    /// An earlier version became us.
    took_over: bool,
    channels: Channels,
    /// Orders for the gates that their channel had no room for.
    outbox: VecDeque<Outgoing>,
    /// What is to be played next, in order.
    events: VecDeque<(AppId, Event)>,
    timers: Timers,
    /// When hours of apps begin or end.
    timetable: Timetable,
    line: Line,
    generations: Generations,
    switches: Switches,
    switch_file: SwitchFile,
    driver: Arc<Driver>,
    meter: Arc<Meter>,
    leftovers: Leftovers,
    /// Instances of an earlier supervisor, until their apps are defined.
    adoptees: HashMap<AppId, Vec<Adoptee>>,
    is_adopting: bool,
    /// What an earlier version knew of apps, until they are defined.
    carried: HashMap<AppId, Carried>,
    /// How long starts of apps took that are not defined yet, or no more.
    start_times: HashMap<AppId, Vec<Duration>>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    tasks: JoinSet<()>,
    instances: HashMap<Id, (AppId, Generation)>,
    errands: JoinSet<()>,
    /// The search for processes that nobody adopted; starts wait for it.
    sweep: Option<JoinHandle<()>>,
    shutdown: Option<Shutdown>,
    /// Memory that apps may take, and who is to yield some.
    room: Room,
    round: Option<Round>,
    shortages: mpsc::Receiver<Shortage>,
    /// Until it begins to watch.
    warden: Option<Warden>,
    look: Arc<Notify>,
    look_deadline: Option<Instant>,
    budget: channel::Sender<Option<ByteSize>>,
    /// Locked as long as the desk lives.
    state_dir: StateDir,
}

/// What waits for its way out.
#[derive(Debug)]
enum Outgoing {
    Order(GateOrder),
    /// Somebody wants to know when all before it is out.
    Fence(oneshot::Sender<()>),
}

/// What wakes the desk.
enum Wake {
    Request(Option<Request>),
    Report(Report),
    Gates(VecDeque<crate::message::GateReport>),
    Timer(AppId, crate::lifecycle::Timer),
    Hours(Ring),
    Ended(Result<(Id, ()), JoinError>),
    Swept,
    Deadline,
    Memory(Shortage),
    MemoryLate,
    Nothing,
}

/// Whether another supervisor's desk has left nothing in these folders that could not be read.
pub(crate) fn understand(state_dir: &Path, run_dir: &Path) -> std::io::Result<()> {
    state_dir::understand(state_dir)?;
    carry::understand(run_dir)
}

impl Desk {
    /// A desk that is ready to run.
    pub(crate) fn new(
        options: SupervisorOptions,
        channels: Channels,
    ) -> Result<Self, SupervisorError> {
        let state_dir = StateDir::open(&options.state_dir, options.lock.as_deref())?;
        driver::adopt_strays()
            .map_err(|source| SupervisorError::System { what: "adopt stray processes", source })?;
        let (state, log) = (state_dir.path().to_owned(), options.log_dir);
        let custodian = channels.custodian.clone();
        let driver = Arc::new(Driver::new(
            state,
            log.clone(),
            options.open_files,
            options.group,
            (custodian, options.has_custodian),
            channels.errands.clone(),
        ));
        let timetable = Timetable::new()
            .map_err(|source| SupervisorError::System { what: "set an alarm", source })?;
        let run_dir = driver.run_dir();
        driver::create_private(&run_dir)
            .map_err(|source| SupervisorError::Folder { path: run_dir.clone(), source })?;
        let_others_in(&driver, &options.group, [state_dir.path(), &run_dir], &log)?;
        let adoptees = driver
            .adoptees()
            .map_err(|source| SupervisorError::Folder { path: run_dir.clone(), source })?;
        let meter = Arc::new(Meter::new(driver.scanner()));
        let (budget, limit) = channel::channel(options.memory);
        let (to, shortages) = mpsc::channel(1);
        let look = Arc::new(Notify::new());
        let warden = Warden { meter: meter.clone(), budget: limit, asked: look.clone(), to };
        let mut room = Room::default();
        room.set_budget(options.memory);
        Ok(Self {
            apps: HashMap::new(),
            bonds: Bonds::default(),
            withheld: HashMap::new(),
            is_defining: false,
            forbidden: Vec::new(),
            bonds_changed: false,
            descended: Vec::new(),
            is_set_up: false,
            took_over: options.lock.is_some(),
            channels,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            timers: Timers::default(),
            timetable,
            line: Line::closed(options.parallel_starts),
            generations: state_dir.generations()?,
            switches: state_dir.switches(),
            switch_file: state_dir.switch_file(),
            meter,
            driver,
            leftovers: Leftovers::of(state_dir.path()),
            adoptees: adopt::by_app(adoptees),
            is_adopting: true,
            carried: carry::read(&run_dir),
            start_times: state_dir.start_times(),
            reports: mpsc::channel(REPORTS),
            tasks: JoinSet::new(),
            instances: HashMap::new(),
            errands: JoinSet::new(),
            sweep: None,
            shutdown: None,
            room,
            round: None,
            shortages,
            warden: Some(warden),
            look,
            look_deadline: None,
            budget,
            state_dir,
        })
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    pub(crate) fn has_adoptees(&self) -> bool {
        !self.adoptees.is_empty()
    }

    pub(crate) fn driver(&self) -> Arc<Driver> {
        self.driver.clone()
    }

    /// Runs until everything is shut down.
    pub(crate) async fn run(mut self) {
        let scanner = self.driver.scanner();
        let reaper = self.errands.spawn(async move {
            if let Err(error) = driver::reap_strays(&scanner).await {
                tracing::error!(%error, "cannot reap stray processes");
            }
        });
        let warden = self.warden.take().map(|warden| self.errands.spawn(warden.watch()));
        while !self.is_over() {
            let wake = self.wake().await;
            self.take(wake);
        }
        reaper.abort();
        warden.iter().for_each(AbortHandle::abort);
        self.finish().await;
    }

    /// Waits for what comes next. Dropping a losing branch loses nothing: each takes its item in
    /// the moment it wins.
    async fn wake(&mut self) -> Wake {
        let deadline = self.shutdown.as_ref().map(|shutdown| shutdown.deadline);
        let memory = self.memory_deadline();
        tokio::select! {
            request = self.channels.requests.recv(), if self.shutdown.is_none() => {
                Wake::Request(request)
            }
            Some(report) = self.reports.1.recv() => Wake::Report(report),
            reports = self.channels.mailbox.take() => Wake::Gates(reports),
            (app, timer) = self.timers.next() => Wake::Timer(app, timer),
            ring = self.timetable.rings(), if self.shutdown.is_none() => Wake::Hours(ring),
            Some(ended) = self.tasks.join_next_with_id() => Wake::Ended(ended),
            Some(()) = ended(&mut self.sweep) => Wake::Swept,
            Some(_) = self.errands.join_next() => Wake::Nothing,
            permit = self.channels.orders.reserve(), if !self.outbox.is_empty() => {
                match (permit, self.outbox.pop_front()) {
                    // The one who asked may have left.
                    (Ok(_), Some(Outgoing::Fence(done))) => _ = done.send(()),
                    (Ok(permit), Some(Outgoing::Order(order))) => permit.send(order),
                    // Nobody forwards requests any more.
                    (Ok(_), None) | (Err(_), _) => self.outbox.clear(),
                }
                Wake::Nothing
            }
            () = until(deadline) => Wake::Deadline,
            Some(shortage) = self.shortages.recv(), if self.shutdown.is_none() => {
                Wake::Memory(shortage)
            }
            () = until(memory) => Wake::MemoryLate,
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Request(Some(request)) => self.request(request),
            // The last handle is gone, so nobody can ask for anything any more.
            Wake::Request(None) => self.shut_down(Duration::ZERO, None),
            Wake::Report(report) => self.report(report),
            Wake::Gates(reports) => reports.into_iter().for_each(|report| self.gate(report)),
            Wake::Timer(app, timer) => self.play(&app, Event::Timer(timer)),
            Wake::Hours(ring) => self.rung(ring),
            Wake::Ended(ended) => self.ended(ended),
            Wake::Swept => {
                self.sweep = None;
                self.line.open();
                self.settle();
            }
            Wake::Deadline => self.kill_all(),
            Wake::Memory(shortage) => self.looked_at_memory(&shortage),
            Wake::MemoryLate => self.memory_is_late(),
            Wake::Nothing => {}
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Trace { lineage, done } => self.trace(&lineage, done),
            Request::Instruct { instruction, done } => {
                self.instruct(instruction);
                // The one who asked may have left.
                let _ = done.send(());
            }
            Request::Operate { app, verb, patience, done } => {
                self.operate(&app, verb, patience, done);
            }
            Request::Fence(done) => self.outbox.push_back(Outgoing::Fence(done)),
            Request::Limit { parallel_starts, memory } => {
                self.line.set_cap(parallel_starts);
                self.room.set_budget(memory);
                // The warden may be gone at the end.
                let _ = self.budget.send(memory);
                self.settle();
            }
            Request::Carry(done) => {
                // The one who asked may have left.
                let _ = done.send(self.carry());
            }
            Request::Shutdown { deadline, done } => self.shut_down(deadline, Some(done)),
        }
    }

    fn instruct(&mut self, instruction: Instruction) {
        self.is_defining = true;
        match instruction {
            Instruction::DefineAll(specs) => {
                self.define_all(&specs);
                self.is_set_up = true;
            }
            Instruction::Change { gone, put } => {
                gone.iter().for_each(|app| self.remove_replicas(app));
                put.iter().for_each(|spec| self.define_replicas(spec));
            }
            Instruction::Define(spec) => self.define_replicas(&spec),
            Instruction::Remove(app) => self.remove_replicas(&app),
        }
        self.end_defining();
        // The first one says what there is.
        if std::mem::take(&mut self.is_adopting) {
            self.end_adoption();
        }
    }

    /// An instance's task is over. Its last report was `Gone`, unless it panicked.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some((app, generation)) = self.instances.remove(&id) else { return };
        if let Err(error) = ended {
            tracing::error!(%app, generation = generation.0, %error, "an instance's task failed");
            self.report(Report { app, generation, note: Note::Gone });
        }
    }

    fn order(&mut self, order: GateOrder) {
        self.outbox.push_back(Outgoing::Order(order));
    }

    fn refuse(&mut self, app: &AppId, off: Off) {
        let refusal = Refusal { reason: off.refusal(), retry_after: off.retry_after() };
        self.order(GateOrder::Refuse { app: app.clone(), refusal });
    }

    /// Plays one event, and all that follow from it.
    fn play(&mut self, app: &AppId, event: Event) {
        self.events.push_back((app.clone(), event));
        self.settle();
    }
}

/// Lets the other roles through to sockets, and lets them read what apps print, where they are another
/// user.
fn let_others_in(
    driver: &Driver,
    group: &Option<u32>,
    through: [&Path; 2],
    logs: &Path,
) -> Result<(), SupervisorError> {
    let Some(group) = *group else { return Ok(()) };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SupervisorError::Folder { path, source }
    };
    for folder in through {
        driver.let_through(folder).map_err(failed(folder))?;
    }
    DirBuilder::new().recursive(true).mode(0o750).create(logs).map_err(failed(logs))?;
    driver::share_folder(logs, group, 0o750).map_err(failed(logs))
}

async fn sweep(leftovers: Leftovers, driver: Arc<Driver>) {
    if let Err(error) = driver.end_leftovers(&leftovers).await {
        tracing::warn!(%error, "cannot look for processes of an earlier doorbell");
    }
}

/// Waits for a task, if there is one. A sweep that failed has said so.
async fn ended(task: &mut Option<JoinHandle<()>>) -> Option<()> {
    match task {
        Some(task) => _ = task.await,
        None => pending().await,
    }
    Some(())
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
