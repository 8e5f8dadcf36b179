//! The handle through which everyone else talks to the supervisor.
//!
//! It holds no state of any app: it carries requests to the desk and reads what the desk
//! published. Read `desk` next.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use doorbell_config::name::{AppId, ByteSize};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    desk::{Channels, Desk, forget_carried},
    driver::{Custody, Driver, Errand, Meter},
    machine::Ability,
    mailbox::Mailbox,
    message::{GateOrder, GateReport, Generation, Instruction, Snapshot, Usage, Verb},
    protocol::Lineage,
    snapshots::{Change, Snapshots},
};

/// Orders that may wait for the gates before the desk keeps them to itself.
const ORDERS: usize = 1024;
/// Requests of operators that may wait for the desk.
const REQUESTS: usize = 64;

/// Starts that may wait to ask for what they are given.
const ERRANDS: usize = 1024;
/// Instances that may wait to be taken into custody.
const CUSTODY: usize = 4096;

/// What a supervisor needs to know at its start.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// Folder for state that outlives a restart, and for sockets of instances (`run/`). Made 0700.
    pub state_dir: PathBuf,
    /// Folder for captured output, one folder per app.
    pub log_dir: PathBuf,
    /// Apps that may be starting at once; the rest wait in a fair line. At least 1.
    pub parallel_starts: usize,
    /// Memory that all apps may take together before those that nobody uses yield; `None` is all there is.
    pub memory: Option<ByteSize>,
    /// Soft limit on open files that apps get; `None` where it is ours. Programs that close or
    /// count all descriptors they may have are slow with the many that we need.
    pub open_files: Option<u64>,
    /// The group of the other processes, where they run as another user: they get through to the
    /// sockets of apps, and may read what apps print.
    pub group: Option<u32>,
    /// Whether another process keeps open what is to outlive this one.
    pub has_custodian: bool,
    /// The lock on the state folder, from an earlier version that became this one.
    pub lock: Option<Arc<OwnedFd>>,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A folder of ours cannot be used.
    #[error("folder {path} cannot be used: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another Doorbell runs with the same state folder.
    #[error("state folder {0} is in use by another doorbell")]
    InUse(PathBuf),
    /// The system refused something we cannot do without.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Why an instruction was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstructError {
    /// The supervisor has shut down, or does now.
    #[error("doorbell shuts down")]
    ShuttingDown,
}

/// Why a verb was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OperateError {
    /// No such app.
    #[error("app \"{0}\" is not defined")]
    Unknown(AppId),
    /// It is disabled, and only `enable` ends that.
    #[error("app \"{0}\" is disabled: enable it first")]
    Disabled(AppId),
    /// Nothing of it runs here.
    #[error("app \"{0}\" is served by upstream servers, which doorbell does not run")]
    NoProcess(AppId),
    /// It is one of several, which stand and fall together.
    #[error(
        "\"{0}\" is a replica of app \"{app}\": it alone can be restarted; for all else name the app",
        app = .0.app_str()
    )]
    OneReplica(AppId),
    /// It has no instance of its own.
    #[error(
        "app \"{app}\" shares the instance of \"{with}\": say \"{with}\" to start, stop or restart both"
    )]
    Shared {
        /// The app.
        app: AppId,
        /// Whose instance it shares.
        with: AppId,
    },
    /// The start that was waited for failed.
    #[error("app \"{app}\" did not start: {reason}")]
    StartFailed {
        /// The app.
        app: AppId,
        /// Why, in words for operators.
        reason: String,
    },
    /// Another verb, or a removal, came in between.
    #[error("app \"{0}\" was told otherwise in the meantime")]
    Overtaken(AppId),
    /// It was done, but will not outlive a restart of Doorbell.
    #[error("app \"{app}\": the state folder cannot be written: {reason}")]
    NotKept {
        /// The app.
        app: AppId,
        /// What the system says.
        reason: String,
    },
    /// The supervisor has shut down, or does now.
    #[error("doorbell shuts down")]
    ShuttingDown,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Instances that ended within their grace.
    pub stopped: usize,
    /// Instances that were killed because the deadline passed.
    pub killed: usize,
    /// Instances of which something may still run. Zero but for processes that the system cannot
    /// end.
    pub left: usize,
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until the verb is accepted.
    Accepted,
    /// Until it had its effect.
    Done,
}

/// What the handle asks of the desk.
#[derive(Debug)]
pub(crate) enum Request {
    Instruct {
        instruction: Instruction,
        done: oneshot::Sender<()>,
    },
    /// Answered when what goes with apps has gone with them.
    Trace {
        lineage: Lineage,
        done: oneshot::Sender<()>,
    },
    Operate {
        app: AppId,
        verb: Verb,
        patience: Patience,
        done: oneshot::Sender<Result<(), OperateError>>,
    },
    /// Answered when the orders that there are have been handed out.
    Fence(oneshot::Sender<()>),
    Limit {
        parallel_starts: usize,
        memory: Option<ByteSize>,
    },
    /// Write down what a later version needs to know; gives what keeps the state folder ours.
    Carry(oneshot::Sender<std::io::Result<OwnedFd>>),
    Shutdown {
        deadline: Duration,
        done: oneshot::Sender<ShutdownReport>,
    },
}

/// The supervisor, for everyone who talks to it. Clones talk to the same one; when the last one is
/// dropped every app is stopped.
#[derive(Clone, Debug)]
pub struct Supervisor {
    requests: mpsc::Sender<Request>,
    mailbox: Arc<Mailbox>,
    snapshots: Snapshots,
    meter: Arc<Meter>,
    driver: Arc<Driver>,
    custody: Arc<Mutex<Option<mpsc::Receiver<Custody>>>>,
    errands: Arc<Mutex<Option<mpsc::Receiver<Errand>>>>,
    has_adoptees: bool,
}

impl Supervisor {
    /// Starts the supervisor's task on the current Tokio runtime. Whoever gets the orders must keep
    /// reading them: a gate that does not exist yet holds.
    ///
    /// # Errors
    /// If the folders cannot be used.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time enabled.
    pub fn start(
        options: SupervisorOptions,
    ) -> Result<(Self, mpsc::Receiver<GateOrder>), SupervisorError> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (orders, gates) = mpsc::channel(ORDERS);
        let (mailbox, snapshots) = (Arc::<Mailbox>::default(), Snapshots::new());
        let (custodian, custody) = mpsc::channel(CUSTODY);
        let (errands, asked) = mpsc::channel(ERRANDS);
        let channels = Channels {
            requests: inbox,
            orders,
            mailbox: mailbox.clone(),
            snapshots: snapshots.clone(),
            custodian,
            errands,
        };
        let desk = Desk::new(options, channels)?;
        let (meter, driver, has_adoptees) = (desk.meter(), desk.driver(), desk.has_adoptees());
        // The desk ends with its shutdown, which the last handle's end brings about at the latest.
        tokio::spawn(desk.run());
        let custody = Arc::new(Mutex::new(Some(custody)));
        let errands = Arc::new(Mutex::new(Some(asked)));
        let supervisor =
            Self { requests, mailbox, snapshots, meter, driver, custody, errands, has_adoptees };
        Ok((supervisor, gates))
    }

    /// Applies an instruction; returns when it is applied, which is not when every app it starts is
    /// ready.
    ///
    /// # Errors
    /// When shutting down.
    pub async fn instruct(&self, instruction: Instruction) -> Result<(), InstructError> {
        let (done, applied) = oneshot::channel();
        self.ask(Request::Instruct { instruction, done }, applied)
            .await
            .ok_or(InstructError::ShuttingDown)
    }

    /// Apps have other ids, or are gone for good: what operators switched and what they print goes with them. To be
    /// told before the change that this is a part of.
    ///
    /// # Errors
    /// When shutting down.
    pub async fn trace(&self, lineage: Lineage) -> Result<(), InstructError> {
        let (done, traced) = oneshot::channel();
        self.ask(Request::Trace { lineage, done }, traced).await.ok_or(InstructError::ShuttingDown)
    }

    /// Returns when all orders for gates that there are now have been handed out.
    pub async fn fence(&self) {
        let (done, passed) = oneshot::channel();
        // A desk that is gone has none.
        self.ask(Request::Fence(done), passed).await;
    }

    /// Asks something of one app; returns when it is accepted.
    ///
    /// # Errors
    /// Says why it was not.
    pub async fn operate(&self, app: AppId, verb: Verb) -> Result<(), OperateError> {
        self.operate_with(app, verb, Patience::Accepted).await
    }

    /// Asks something of one app and waits for its effect: ready after `start` and `restart`, no
    /// process left after `stop` and `disable`. The app's own deadlines bound the wait.
    ///
    /// # Errors
    /// Says why it was not accepted, or why it had no effect.
    pub async fn operate_and_wait(
        &self,
        app: AppId,
        verb: Verb,
    ) -> Result<Option<Arc<Snapshot>>, OperateError> {
        self.operate_with(app.clone(), verb, Patience::Done).await?;
        Ok(self.snapshots.one(&app))
    }

    async fn operate_with(
        &self,
        app: AppId,
        verb: Verb,
        patience: Patience,
    ) -> Result<(), OperateError> {
        let (done, outcome) = oneshot::channel();
        self.ask(Request::Operate { app, verb, patience, done }, outcome)
            .await
            .unwrap_or(Err(OperateError::ShuttingDown))
    }

    /// Folder of what concerns this run alone: sockets, records of instances.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.driver.run_dir()
    }

    /// Whether instances of an earlier supervisor were found at the start.
    pub(crate) fn has_adoptees(&self) -> bool {
        self.has_adoptees
    }

    /// What another process is to keep open, for the first who asks.
    pub(crate) fn put_advances(&self, socket: Option<Arc<OwnedFd>>) {
        self.driver.put_advances(socket);
    }

    pub(crate) fn errands(&self) -> Option<mpsc::Receiver<Errand>> {
        self.errands.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is to be taken into custody, once.
    pub(crate) fn custody(&self) -> Option<mpsc::Receiver<Custody>> {
        self.custody.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes back what another process held for an instance while there was no supervisor.
    pub fn hand_back(&self, app: AppId, generation: Generation, held: Vec<OwnedFd>) {
        self.driver.hand_back(app, generation, held);
    }

    /// Writes down what another version of this program is to know of apps, and gives the lock on the
    /// state folder, for it to inherit.
    pub(crate) async fn carry(&self) -> std::io::Result<OwnedFd> {
        let (done, carried) = oneshot::channel();
        let carried = self.ask(Request::Carry(done), carried).await;
        carried.unwrap_or_else(|| Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    /// Nobody took over after all.
    pub(crate) fn forget_carried(&self) {
        forget_carried(&self.run_dir());
    }

    /// Takes a report from a gate. Never blocks and never fails.
    pub fn report(&self, report: GateReport) {
        self.mailbox.post(report);
    }

    /// Changes the cap on parallel starts, and the memory that all apps may take together.
    pub async fn set_limits(&self, parallel_starts: usize, memory: Option<ByteSize>) {
        // A desk that is gone starts nothing, so the caps do not matter any more.
        let _ = self.requests.send(Request::Limit { parallel_starts, memory }).await;
    }

    /// What is known of every app.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// What this machine lets it do.
    #[must_use]
    pub fn abilities(&self) -> Vec<Ability> {
        self.driver.abilities()
    }

    /// What is known of one app.
    #[must_use]
    pub fn snapshot(&self, app: &AppId) -> Option<Arc<Snapshot>> {
        self.snapshots.one(app)
    }

    /// Every change of a snapshot from here on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.snapshots.changes()
    }

    /// Memory and CPU of an app's process tree, at most a second old; `None` if it does not run.
    pub async fn usage(&self, app: &AppId) -> Option<Usage> {
        self.usages().await.into_iter().find(|(id, _)| id == app).map(|(_, usage)| usage)
    }

    /// [`Supervisor::usage`] of every app that runs, in one look at the system.
    pub async fn usages(&self) -> Vec<(AppId, Usage)> {
        self.meter.read().await
    }

    /// Stops every app's process tree, all at once, and ends the supervisor. Waiting and later
    /// requests are refused, running ones are not waited for: drain them first. What still runs at
    /// the deadline is killed.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let (done, report) = oneshot::channel();
        self.ask(Request::Shutdown { deadline, done }, report).await.unwrap_or_default()
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Option<T> {
        self.requests.send(request).await.ok()?;
        answer.await.ok()
    }
}
