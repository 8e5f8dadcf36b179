//! How a program is run: one task per instance, from spawn to the end of its last process.
//!
//! The driver decides nothing about an app's life. It carries out what `lifecycle` decided and
//! tells what happened. A driver for containers would stand beside this one with the same
//! [`Order`]s and [`Note`]s; a trait waits until there are two.
//!
//! Read [`instance`] first, then `tree` for what belongs to an instance and `stop` for how it ends.

mod account;
mod adopt;
pub(crate) mod advance;
mod cgroup;
pub(crate) mod children;
mod custody;
mod doctor;
mod ear;
mod enclosure;
mod endpoint;
mod errand;
mod freezer;
mod instance;
mod launch;
mod leftover;
mod listener;
mod mark;
mod notify;
mod outfit;
mod procfs;
mod rank;
mod reclaim;
mod record;
mod root;
mod sock_diag;
mod spawn;
mod stop;
mod sys;
mod tidy;
mod tree;
mod usage;
mod vigil;
mod wall;
mod watch;

use std::{
    collections::HashMap,
    convert::Infallible,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard, TryLockError},
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, OutputSpec, ProcessSpec, StopSpec},
};
use rustix::process::{Resource, Rlimit, getegid, getrlimit, setrlimit};
use tokio::{
    sync::{Notify, mpsc, watch as channel},
    time::Instant,
};

pub use self::{
    account::{Account, AccountError},
    advance::Advances,
    cgroup::make_way,
    ear::Deputy,
    sys::keep_descriptors,
};
pub(crate) use self::{
    adopt::Adoptee,
    children::{adopt_strays, reap_strays},
    custody::Custody,
    doctor::look,
    ear::Heard,
    endpoint::{create_for, create_private, share_folder, share_socket},
    errand::Errand,
    leftover::Leftovers,
    procfs::{Process, Scanner, has_threads},
    reclaim::has_swap,
    record::{Phase, Record, boot},
    root::{Exit, Root},
    sys::{SIGNAL_INFO, hold_signals, signal_descriptor, watch_for},
    usage::Meter,
    vigil::Vigil,
    watch::any_gone,
};
use self::{
    cgroup::{Cgroups, Group, Purpose},
    endpoint::Ports,
    rank::Rank,
    tree::Tree,
};
use crate::{
    lifecycle::Failure,
    machine::Ability,
    message::{Endpoint, Generation, Question, StartTimes},
    output::{Logs, Tail},
    probe::{LastLook, Pace},
    protocol::Lineage,
};

/// The folder in the state folder for what concerns this run alone.
pub(crate) const RUN: &str = "run";

/// Characters that are kept of what a proxy says of an instance.
const MOST_WORDS: usize = 400;

/// What all instances share.
#[derive(Debug)]
pub(crate) struct Driver {
    state_dir: PathBuf,
    ports: Arc<Ports>,
    scanner: Arc<Scanner>,
    pace: Pace,
    logs: Logs,
    /// Soft limit on open files that instances get, if not ours.
    open_files: Option<u64>,
    cgroups: Cgroups,
    /// What puts apps behind us where the processor is short.
    rank: Rank,
    /// The group of the other roles, where they are another user.
    group: Option<u32>,
    /// What another process kept open for instances of an earlier supervisor.
    held: Mutex<HashMap<(AppId, Generation), Vec<OwnedFd>>>,
    /// Instances of an earlier supervisor that ended while there was none.
    dead: Mutex<Vec<(AppId, Generation)>>,
    /// Whoever keeps open what is to outlive us.
    custodian: mpsc::Sender<Custody>,
    /// Whether that is another process, which outlives us.
    has_custodian: bool,
    /// Whoever knows what programs are given.
    errands: mpsc::Sender<Errand>,
    upgrades: instance::Turns,
    /// Where it gets what must not wait until it is told.
    advances: Mutex<Option<Arc<OwnedFd>>>,
}

/// One instance to be run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) app: Arc<AppSpec>,
    pub(crate) generation: Generation,
    /// Of the definition, as far as it matters to a program.
    pub(crate) fingerprint: u64,
    /// How long it stood in the line.
    pub(crate) queued: Duration,
    pub(crate) admitted: Instant,
    pub(crate) work: Work,
}

/// What an instance is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// To serve.
    Serve,
    /// To bring the app's data up to date.
    Upgrade,
}

/// What an instance is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// End: signal, grace, SIGKILL.
    Stop(StopSpec),
    /// End at once.
    Kill,
}

/// What an instance tells. `Gone` is always last.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// Somebody else is at its upgrade, for this long at most.
    AwaitsUpgrade {
        limit: Duration,
    },
    /// Its upgrade runs, and may take this long.
    Upgrading {
        pid: u32,
        limit: Duration,
    },
    Spawned(u32),
    Ready {
        endpoint: Endpoint,
        times: StartTimes,
    },
    /// It goes on after it stood still, and listens.
    Thawed,
    /// It stands still, and what memory it could give back is given back, or takes too long.
    GaveBack,
    /// It was looked at, and accepts connections.
    Accepts,
    Failed {
        failure: Failure,
        reason: String,
    },
    /// It is served where it was not told to listen, which an operator should know.
    Elsewhere(String),
    /// Something an operator should know.
    Warning(String),
    /// It listens here, and is to be asked whether it is ready.
    Probe(Endpoint, Box<Question>),
    /// It is to be asked no more.
    EndProbe,
    /// All that keeps it awake from now on, and which telling of that this is.
    Vigils(Vec<Vigil>, u64),
    Gone,
}

/// A note and whom it is about.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    pub(crate) note: Note,
}

/// The desk's hold on an instance.
#[derive(Debug)]
pub(crate) struct Handle {
    orders: channel::Sender<Order>,
    check: Arc<Notify>,
    answered: Arc<Notify>,
    granted: channel::Sender<u64>,
    frost: channel::Sender<bool>,
    witness: Arc<Witness>,
}

/// What can be seen of an instance from outside its task.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    tail: Arc<Tail>,
    last_look: LastLook,
    tree: Mutex<Option<Tree>>,
    group: Mutex<Option<Group>>,
}

impl Driver {
    pub(crate) fn new(
        state_dir: PathBuf,
        log_dir: PathBuf,
        open_files: Option<u64>,
        group: Option<u32>,
        (custodian, has_custodian): (mpsc::Sender<Custody>, bool),
        errands: mpsc::Sender<Errand>,
    ) -> Self {
        let cgroups = Cgroups::find(&cgroup::name_of(&state_dir), Purpose::Use);
        cgroups.sweep();
        for problem in cgroups.problems() {
            tracing::debug!(problem, "control groups");
        }
        Self {
            state_dir,
            ports: Arc::new(Ports::new()),
            scanner: Arc::default(),
            pace: Pace::default(),
            logs: Logs::new(log_dir),
            open_files,
            rank: Rank::here(&cgroups),
            cgroups,
            group,
            held: Mutex::default(),
            dead: Mutex::default(),
            custodian,
            has_custodian,
            errands,
            upgrades: instance::Turns::default(),
            advances: Mutex::default(),
        }
    }

    /// Takes back what another process held for an instance.
    pub(crate) fn hand_back(&self, app: AppId, generation: Generation, held: Vec<OwnedFd>) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((app, generation), held);
    }

    /// What holds here.
    pub(crate) fn abilities(&self) -> Vec<Ability> {
        doctor::abilities(&self.cgroups)
    }

    pub(crate) fn scanner(&self) -> Arc<Scanner> {
        self.scanner.clone()
    }

    /// The output of an app's instances is kept like this from here on.
    pub(crate) fn logs_are(&self, app: &AppId, spec: OutputSpec) {
        self.logs.change(app, spec);
    }

    /// The output of apps goes with them; it is done by [`Driver::settle_logs`], or before any more is written.
    pub(crate) fn logs_follow(&self, lineage: &Lineage) {
        self.logs.follow(lineage);
    }

    /// Moves what is to be moved, which takes as long as the disk does.
    pub(crate) fn settle_logs(&self) {
        self.logs.settle();
    }

    /// Lets the other roles through a folder, where they are another user.
    pub(crate) fn let_through(&self, folder: &Path) -> io::Result<()> {
        self.group.map_or(Ok(()), |group| share_folder(folder, group, 0o710))
    }

    /// Lets the proxy connect to an app's socket, where one of them is another user: even if we are
    /// root, the proxy has nothing of what root may.
    fn let_connect(&self, endpoint: &Endpoint) {
        let Endpoint::Unix(path) = endpoint else { return };
        let own = endpoint::is_of_another_user(path).then(|| getegid().as_raw());
        if let Some(group) = self.group.or(own)
            && let Err(error) = share_socket(path, group)
        {
            tracing::error!(path = %path.display(), %error, "the proxy cannot connect to this app");
        }
    }

    /// Folder of the sockets of all apps.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.state_dir.join(RUN)
    }

    /// The task of one instance, and the hold on it.
    pub(crate) fn instance(
        self: &Arc<Self>,
        job: Job,
        reports: mpsc::Sender<Report>,
    ) -> (Handle, impl Future<Output = ()> + Send + 'static) {
        let (handle, wires) = Handle::new(reports);
        (handle, instance::run(self.clone(), job, wires))
    }
}

/// How long programs may take to be executed before another version takes over.
const LAST_STARTS: Duration = Duration::from_secs(5);

/// Held for reading while a program is between its start and its record, so that no other version of us
/// takes over in between.
static STARTING: RwLock<()> = RwLock::new(());

/// As long as it lives no program is started.
pub(crate) struct NobodyStarts(
    #[expect(dead_code, reason = "it is held")] RwLockWriteGuard<'static, ()>,
);

/// Waits until no program is between its start and its record, and lets none begin; `None` if one hangs there.
pub(crate) fn nobody_starts() -> Option<NobodyStarts> {
    let until = Instant::now() + LAST_STARTS;
    loop {
        match STARTING.try_write() {
            Ok(held) => return Some(NobodyStarts(held)),
            Err(TryLockError::Poisoned(held)) => return Some(NobodyStarts(held.into_inner())),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

/// Becomes another program, which takes up what this one leaves; returns only if that fails.
pub(crate) fn become_another(
    program: &Path,
    arguments: &[OsString],
    lock: &OwnedFd,
    open_files: Option<u64>,
    _nobody_starts: &NobodyStarts,
) -> io::Result<Infallible> {
    // The other one is to see the limit that we were started with.
    let raised = getrlimit(Resource::Nofile);
    if let Some(soft) = open_files {
        setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..raised })?;
    }
    let failed = sys::execute(program.as_os_str(), arguments, lock);
    setrlimit(Resource::Nofile, raised)?;
    failed
}

impl Job {
    /// The program; a job is only made for apps that have one.
    fn process(&self) -> io::Result<&ProcessSpec> {
        match &self.app.backend {
            Backend::Process(process) => Ok(process),
            Backend::Upstream(_) | Backend::Shared(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Handle {
    fn new(reports: mpsc::Sender<Report>) -> (Self, instance::Wires) {
        let (orders, inbox) = channel::channel(Order::Run);
        let check = Arc::new(Notify::new());
        let answered = Arc::new(Notify::new());
        let (granted, known) = channel::channel(0);
        let (frost, frozen) = channel::channel(false);
        let witness = Arc::new(Witness::default());
        let wires = instance::Wires {
            inbox,
            check: check.clone(),
            answered: answered.clone(),
            granted: known,
            frost: frozen,
            witness: witness.clone(),
            reports,
        };
        (Self { orders, check, answered, granted, frost, witness }, wires)
    }

    pub(crate) fn stop(&self, spec: StopSpec) {
        self.orders.send_if_modified(|order| match order {
            Order::Run => {
                *order = Order::Stop(spec);
                true
            }
            Order::Stop(_) | Order::Kill => false,
        });
    }

    pub(crate) fn kill(&self) {
        self.orders.send_replace(Order::Kill);
    }

    /// Lets it stand still, or go on. The last word counts.
    pub(crate) fn stand_still(&self, is_to: bool) {
        self.frost.send_replace(is_to);
    }

    /// Asks it to see whether it still listens.
    pub(crate) fn check(&self) {
        self.check.notify_one();
    }

    /// Tells it that what keeps it awake is known up to this telling, and holds.
    pub(crate) fn grant(&self, telling: u64) {
        self.granted.send_replace(telling);
    }

    /// Tells it what came of asking whether it is ready.
    pub(crate) fn probed(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.answered.notify_one(),
            Err(words) => {
                self.witness.last_look.set(words.chars().take(MOST_WORDS).collect());
            }
        }
    }

    /// Its last lines of output.
    pub(crate) fn last_output(&self) -> Vec<String> {
        self.witness.tail.lines()
    }

    /// How the last look at its readiness ended.
    pub(crate) fn last_look(&self) -> Option<String> {
        self.witness.last_look.words()
    }

    pub(crate) fn witness(&self) -> Arc<Witness> {
        self.witness.clone()
    }
}

impl Witness {
    /// Says who the instance is.
    fn is_of(&self, tree: Tree, group: Group) {
        // Once for its upgrade, and once for itself.
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group.clone());
        *self.tree.lock().unwrap_or_else(PoisonError::into_inner) = Some(tree.with(group));
    }

    /// Its control groups; `None` before it is spawned.
    fn group(&self) -> Option<Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the instance's tree; `None` before it is spawned.
    fn with_tree<T>(&self, look: impl FnOnce(&mut Tree) -> T) -> Option<T> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(look)
    }
}
