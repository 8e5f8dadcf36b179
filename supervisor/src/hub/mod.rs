//! The supervisor's process: it stands between the desk, which owns every app, and the other roles.
//!
//! It starts the control process and the proxy, hands out listening sockets, keeps the configuration
//! that holds, carries orders to gates and reports back, and sees to it that what dies comes back. It
//! is one task; whatever takes time (a role's answer, a verb's effect) is awaited elsewhere and comes
//! back as an event.
//!
//! `proxies` and `office` are about the two kinds of roles, `overdue` about those that hang, `configure`
//! about what is to be, `echo` about when that is told, `switchboard` makes one gate of many,
//! `rehearsal` and `upgrade` make room for another version, `closing` is the end.

mod catalog;
mod closing;
mod configure;
mod credential;
mod echo;
mod launch;
mod office;
mod overdue;
mod peer;
mod proxies;
mod rehearsal;
mod returning;
mod seed;
mod signals;
mod socket_file;
mod sockets;
mod switchboard;
mod upgrade;

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use doorbell_config::spec::ServerSpec;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::Instant,
};

use self::{
    catalog::Catalog,
    closing::Closing,
    configure::{Listener, Turn},
    echo::Echo,
    office::Office,
    peer::Told,
    proxies::Proxy,
    returning::Returning,
    signals::{Asked, Signals},
    switchboard::{Number, Outcome, Switchboard},
    upgrade::Upgrade,
};
pub use self::{
    launch::{Launcher, Processes, StartTask, User},
    rehearsal::{REHEARSE, Rehearsed, SPEAKS, Successor, understand},
    signals::{hold_signals, let_signals_in},
};
pub use crate::driver::keep_descriptors;
use crate::{
    driver::{Custody, Errand},
    message::GateOrder,
    protocol::{Answer, ConfigureError, Role, Seed, ToControl},
    reception::{KnownListener, Reception},
    service_notify,
    snapshots::Change,
    supervisor::{ShutdownReport, Supervisor, SupervisorError, SupervisorOptions},
};

/// Events that may wait for the hub.
const EVENTS: usize = 1024;
/// A role that lived this long and ends is started again at once.
const SETTLED: Duration = Duration::from_secs(5);
/// Pause before a role that ends again and again is started again: doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the supervisor's process needs to know at its start.
#[derive(Debug)]
pub struct HubOptions {
    /// For the desk.
    pub supervisor: SupervisorOptions,
    /// The settings of the start, some of which hold until the end.
    pub server: ServerSpec,
    /// How roles are started.
    pub launcher: Launcher,
    /// Threads of a proxy, and sockets of a listener.
    pub workers: usize,
    /// What this process becomes by an upgrade, if it can.
    pub successor: Option<Successor>,
    /// Whether an earlier version became this.
    pub is_upgraded: bool,
    /// The folder of the control process, made for it.
    pub control_dir: PathBuf,
}

/// Why Doorbell ended other than it should.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The desk cannot be set up.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// A system call failed.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
    /// An admin address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Admin(doorbell_config::spec::ListenAddr, io::Error),
    /// The first configuration cannot be taken over.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// A role ended before anything was served; it said why in the log.
    #[error("the {0:?} process ended before it was of use")]
    Role(Role),
}

/// What happens.
enum Event {
    /// A role says something, or is gone.
    Told(Number, Told),
    /// A wish of this control process is fulfilled.
    Answered { control: Number, wish: u64, answer: Answer },
    /// What came of a wish of a control process is on its way to the gates.
    Fenced { wish: (Number, u64), answer: Answer },
    /// A role that ended is to be started again.
    Restart(Role),
    /// A process wants to come back.
    Came(u32, std::os::unix::net::UnixStream),
    /// Whether a new binary can take over, or why not.
    Rehearsed(Result<(), String>),
    /// One that was expected back has ended.
    Lost(Number),
    /// Everybody is there: this may be configured now.
    Configure((Number, u64), Box<catalog::Wanted>),
    /// The desk is closed.
    DeskClosed(ShutdownReport),
}

/// The supervisor's process.
struct Hub {
    options: HubOptions,
    desk: Supervisor,
    orders: mpsc::Receiver<GateOrder>,
    custody: mpsc::Receiver<Custody>,
    errands: mpsc::Receiver<Errand>,
    changes: broadcast::Receiver<Change>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    board: Switchboard,
    proxies: BTreeMap<Number, Proxy>,
    office: Office,
    /// The configuration that holds; `None` before the first.
    server: Option<ServerSpec>,
    catalog: Catalog,
    listeners: Vec<Listener>,
    /// Those that proxies are about to give up.
    leaving: Vec<KnownListener>,
    access_log: configure::LogFile,
    turns: Vec<Turn>,
    echoes: Vec<Echo>,
    next: Next,
    restarts: BTreeMap<&'static str, Restarts>,
    reception: Option<Reception>,
    returning: Returning,
    /// Whether something lives that an earlier supervisor started: then nothing is a first start.
    has_survivors: bool,
    upgrade: Option<Upgrade>,
    closing: Option<Closing>,
    failed: Option<HubError>,
    /// What passes of operators are signed with.
    seed: Option<Seed>,
}

/// Numbers that were not given yet.
#[derive(Default)]
struct Next {
    role: Number,
    listener: u64,
    turn: u64,
    echo: u64,
}

/// How often a role ended in a row without having lived.
#[derive(Default)]
struct Restarts {
    in_a_row: u32,
}

/// Runs Doorbell until it is told to end.
///
/// # Errors
/// Why it cannot start.
pub async fn run(options: HubOptions) -> Result<(), HubError> {
    let mut signals = Signals::new().map_err(|error| HubError::System("catch signals", error))?;
    let mut hub = Hub::new(options)?;
    let opened = hub.expect();
    if opened.is_ok() {
        hub.work(&mut signals).await;
    }
    // Apps may run already.
    hub.close_all().await;
    opened?;
    hub.failed.map_or(Ok(()), Err)
}

impl Hub {
    fn new(options: HubOptions) -> Result<Self, HubError> {
        let (desk, orders) = Supervisor::start(options.supervisor.clone())?;
        let changes = desk.changes();
        let twice = || HubError::System("start twice", io::ErrorKind::Other.into());
        let custody = desk.custody().ok_or_else(twice)?;
        let errands = desk.errands().ok_or_else(twice)?;
        let has_survivors = desk.has_adoptees();
        let reception = Reception::of(&options.launcher, &desk.run_dir());
        let seed = seed::seed(&options.supervisor.state_dir)
            .inspect_err(|error| tracing::error!(%error, "there are no passes for operators"));
        Ok(Self {
            options,
            desk,
            orders,
            custody,
            errands,
            changes,
            events: mpsc::channel(EVENTS),
            board: Switchboard::default(),
            proxies: BTreeMap::new(),
            office: Office::default(),
            server: None,
            catalog: Catalog::default(),
            listeners: Vec::new(),
            leaving: Vec::new(),
            access_log: configure::LogFile::default(),
            turns: Vec::new(),
            echoes: Vec::new(),
            next: Next::default(),
            restarts: BTreeMap::new(),
            reception,
            returning: Returning::default(),
            has_survivors,
            upgrade: None,
            closing: None,
            failed: None,
            seed: seed.ok(),
        })
    }

    async fn work(&mut self, signals: &mut Signals) {
        while !self.is_over() {
            let (deadline, returning) = (self.deadline(), self.returning.deadline());
            let due = self.due();
            let upgrade = self.upgrade.as_ref().map(Upgrade::deadline);
            tokio::select! {
                asked = signals.next() => match asked {
                    Ok(asked) => self.asked(asked),
                    Err(error) => self.fail(HubError::System("read signals", error)),
                },
                Some(event) = self.events.1.recv() => self.take(event).await,
                Some(order) = self.orders.recv() => self.order(&order),
                Some(custody) = self.custody.recv() => self.office.take_into_custody(custody),
                Some(errand) = self.errands.recv() => self.office.ask(errand),
                change = self.changes.recv() => self.tell_change(change),
                () = until(deadline) => self.deadline_passed(),
                () = until(returning) => self.give_up_waiting(),
                () = until(due) => self.see_overdue(),
                () = until(upgrade) => self.upgrade_failed("the new proxy does not serve in time"),
            }
            self.look_whether_upgraded().await;
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Told(number, told) if self.proxies.contains_key(&number) => {
                self.told_by_proxy(number, told);
            }
            Event::Told(number, told) => self.told_by_control(number, told).await,
            Event::Answered { control, wish, answer: answer @ Answer::Operated(Ok(())) } => {
                self.answer_when_told((control, wish), answer);
            }
            Event::Answered { control, wish, answer } => self.answer(control, wish, answer),
            Event::Fenced { wish, answer } => self.echo(wish, answer),
            Event::Restart(role) => self.restart(role),
            Event::Came(pid, stream) => self.came(pid, stream),
            Event::Lost(number) => self.lost(number),
            Event::Configure(wish, wanted) => self.configure(wish, *wanted).await,
            Event::Rehearsed(rehearsed) => self.rehearsed(rehearsed),
            Event::DeskClosed(report) => self.desk_closed(report),
        }
    }

    fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Reload if self.closing.is_none() => {
                service_notify::say("RELOADING=1");
                self.reopen_logs();
                self.office.tell(&ToControl::Reload);
                service_notify::say("READY=1");
            }
            Asked::Reload => {}
            Asked::Upgrade => self.upgrade(None),
            Asked::Stop => self.close(),
        }
    }

    fn order(&mut self, order: &GateOrder) {
        let outcome = self.board.order(order);
        self.pass_on(outcome);
    }

    fn pass_on(&mut self, outcome: Outcome) {
        for (number, order) in outcome.orders {
            if let Some(proxy) = self.proxies.get(&number) {
                proxy.order(order);
            }
        }
        for report in outcome.reports {
            self.desk.report(report);
        }
    }

    fn tell_change(&mut self, change: Result<Change, RecvError>) {
        match change {
            Ok(Change::Updated(snapshot)) => {
                self.office.tell(&ToControl::Snapshot(Box::new((*snapshot).clone())));
            }
            Ok(Change::Removed(app)) => self.office.tell(&ToControl::Forgotten(app)),
            // It lags behind; what holds now is told as a whole.
            Err(RecvError::Lagged(_)) => self.tell_snapshots(),
            Err(RecvError::Closed) => {}
        }
    }

    fn tell_snapshots(&self) {
        for snapshot in self.desk.snapshots().all() {
            self.office.tell(&ToControl::Snapshot(Box::new((*snapshot).clone())));
        }
    }

    /// A number that no role had.
    fn next_role(&mut self) -> Number {
        self.next.role += 1;
        self.next.role
    }

    /// Starts a role again, at once or after a pause that grows while it does not live.
    fn restart_later(&mut self, role: Role, lived: Duration) {
        let restarts = self.restarts.entry(role.start()).or_default();
        restarts.in_a_row = if lived >= SETTLED { 0 } else { restarts.in_a_row + 1 };
        let pause = match restarts.in_a_row {
            0 | 1 => Duration::ZERO,
            n => (PAUSE * 2_u32.saturating_pow(n - 2)).min(LONGEST_PAUSE),
        };
        let events = self.events.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // An error means that all is over.
            let _ = events.send(Event::Restart(role)).await;
        });
    }

    fn restart_all_later(&mut self) {
        self.restart_later(Role::Control, Duration::ZERO);
        self.restart_later(Role::Proxy, Duration::ZERO);
    }

    fn restart(&mut self, role: Role) {
        if self.closing.is_some() || !self.returning.is_over() || self.has(role) {
            return;
        }
        // Nobody is started who was in the meantime.
        if let Err(error) = self.start_missing() {
            tracing::error!(?role, %error, "cannot start a process of doorbell's own; trying again");
            self.restart_later(role, Duration::ZERO);
        }
    }

    /// Whether somebody plays this part already, or is about to.
    fn has(&self, role: Role) -> bool {
        match role {
            Role::Control => !self.office.is_empty(),
            Role::Proxy => self.proxies.values().any(|proxy| !proxy.is_leaving()),
        }
    }

    /// Ends, because what is to be cannot even begin.
    fn fail(&mut self, error: HubError) {
        self.failed.get_or_insert(error);
        self.close();
    }
}

impl Role {
    fn start(self) -> &'static str {
        match self {
            Self::Control => "start the control process",
            Self::Proxy => "start the proxy",
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
