//! The supervisor's interface: messages in, messages and snapshots out.
//!
//! All of it is serialisable, because the supervisor, the control part and the proxy are to be
//! processes of their own one day. Nothing here is shared memory but what [`crate::Snapshots`]
//! publishes. The gate lives on the proxy's side: [`GateOrder`]s go there, [`GateReport`]s come
//! back. Every message about an instance carries its [`Generation`]; stale ones are dropped.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, HttpProbe, StartMode},
};
use serde::{Deserialize, Serialize};

/// The number of one run of an app; rises with every start, across restarts of Doorbell too.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// From control to the supervisor: what should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Instruction {
    /// The complete set of apps: unknown ones are added, changed ones replaced, missing ones
    /// drained, stopped and forgotten. Sent at load and after each reload.
    DefineAll(Vec<Arc<AppSpec>>),
    /// What a reload changes, as a whole: who needs whom is looked at when all of it is known.
    Change {
        /// Drained, stopped and forgotten.
        gone: Vec<AppId>,
        /// Added, or replaced.
        put: Vec<Arc<AppSpec>>,
    },
    /// Add this app, or replace its definition.
    Define(Arc<AppSpec>),
    /// Drain, stop and forget this app.
    Remove(AppId),
}

/// What an operator asks for one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Start now, forgetting any back-off.
    Start,
    /// Stop now; the next request starts it again.
    Stop,
    /// New instance ready, then the old one drained. Starts a stopped app.
    Restart,
    /// Undo `disable`.
    Enable,
    /// Stop, and refuse requests until `enable`; outlives a restart of Doorbell.
    Disable,
}

/// From the supervisor to the gates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateOrder {
    /// Hand out leases on this instance, waiters first. An earlier instance of the app, if its
    /// gate is still open, gets no new leases from here on (and is drained by a later `Shut`).
    ///
    /// It may come again for an instance that is open already, to a gate that reported `Wanted`
    /// though it should be open; then `started` is `None`, so that no start is counted twice.
    Open {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// Where it listens.
        endpoint: Endpoint,
        /// How a cold start went; `None` for one that no request waited for, and for static
        /// upstreams.
        started: Option<StartTimes>,
    },
    /// Hand out leases on this instance again, even if the gate has retired it: the proxy is new, or
    /// other proxies use it.
    Reopen {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// No new leases on this instance; answer [`GateReport::Drained`] when the last
    /// one is back. Requests that come are held if no other instance is open.
    Shut {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// Retire this instance if it has no lease: answer [`GateReport::Retired`], or
    /// [`GateReport::Busy`].
    AskRetire {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// How long it must have been without lease that keeps it awake.
        idle_at_least: Duration,
    },
    /// Answer waiters, and whoever comes while no instance is open, with this refusal. Two may
    /// follow each other: the first is for the waiters, the last for those who come.
    Refuse {
        /// The app.
        app: AppId,
        /// Why, and when to come again.
        refusal: Refusal,
    },
    /// Hold whoever comes while no instance is open, and report [`GateReport::Wanted`]: the normal
    /// mode of a sleeping app, and of a gate that was never told anything. Ends a `Refuse`, and follows
    /// when every gate has retired an instance: it is about to be stopped or frozen.
    Hold {
        /// The app.
        app: AppId,
    },
    /// How far the start is that somebody waits for. Sent when the phase changes, and to the newest
    /// proxy alone: an older version may not know it, and visitors are the newest one's.
    Progress {
        /// The app.
        app: AppId,
        /// How far.
        progress: StartProgress,
    },
    /// Ask this instance until it answers as wanted, and report [`GateReport::Answered`]: it is not
    /// open yet. The supervisor speaks no HTTP.
    Probe {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// Where it listens.
        endpoint: Endpoint,
        /// What it is asked.
        question: Box<Question>,
    },
    /// Ask it no more.
    EndProbe {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// The last order for an app that is gone for good: nothing is to be remembered of its gates. For
    /// whoever stands between; a proxy knows it from its table.
    Forget {
        /// The app.
        app: AppId,
    },
}

impl GateOrder {
    /// Whose gate it is for.
    #[must_use]
    pub fn app(&self) -> &AppId {
        match self {
            Self::Open { app, .. }
            | Self::Reopen { app, .. }
            | Self::Shut { app, .. }
            | Self::AskRetire { app, .. }
            | Self::Refuse { app, .. }
            | Self::Hold { app }
            | Self::Progress { app, .. }
            | Self::Probe { app, .. }
            | Self::EndProbe { app, .. }
            | Self::Forget { app } => app,
        }
    }
}

/// What an instance is asked over HTTP, and what it has to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What is asked for, and the answer that is wanted.
    pub probe: HttpProbe,
    /// `Host` of the request.
    pub host: String,
    /// Whether it is spoken to in HTTP/2, with prior knowledge (RFC 9113 section 3.3).
    pub http2: bool,
}

/// From the gates to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateReport {
    /// A request waits and no instance is open. Sent once until the gate opens or refuses.
    Wanted {
        /// The app.
        app: AppId,
    },
    /// The instance had no lease, and gives no more: freeze or stop it.
    Retired {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// The instance is in use, or was until `idle_for` ago. It may be in use and idle: by requests that
    /// do not keep it awake.
    Busy {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// Time since the last lease that keeps it awake ended; zero while one exists.
        idle_for: Duration,
    },
    /// The last lease of a shut instance is back.
    Drained {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// A connect to a ready instance was refused: its process may be gone, or have stopped
    /// listening.
    Unreachable {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// The instance answered as wanted what it was asked.
    Answered {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// It does not yet. Told when the words change.
    NotAnswered {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// What came instead, for operators.
        words: String,
    },
    /// What an app that shares another's instance is seen to lack there. Told when the words change.
    Lacks {
        /// The app.
        app: AppId,
        /// Its own gate's opening.
        generation: Generation,
        /// What came when the instance was asked for it, for operators; `None` once it is ready.
        words: Option<String>,
    },
}

impl GateReport {
    /// Whose gate says so.
    #[must_use]
    pub fn app(&self) -> &AppId {
        match self {
            Self::Wanted { app }
            | Self::Retired { app, .. }
            | Self::Busy { app, .. }
            | Self::Drained { app, .. }
            | Self::Unreachable { app, .. }
            | Self::Answered { app, .. }
            | Self::NotAnswered { app, .. }
            | Self::Lacks { app, .. } => app,
        }
    }
}

/// Why requests of an app are answered 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When to come again, for `Retry-After`, counted from the order.
    pub retry_after: Duration,
}

/// The reason of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// An operator disabled the app.
    Disabled,
    /// The start failed (exit, or a spawn error) or was called off by an operator's `stop`.
    /// Waiters of that start get this.
    StartFailed,
    /// The start took longer than `ready.deadline`: waiters of that start get 504.
    StartDeadline,
    /// Failed before, waiting for the next try.
    BackingOff,
    /// The app was removed.
    Removed,
    /// Doorbell shuts down.
    ShuttingDown,
}

impl RefusalReason {
    /// Whether the app could not be started.
    #[must_use]
    pub fn is_failed_start(self) -> bool {
        match self {
            Self::StartFailed | Self::StartDeadline | Self::BackingOff => true,
            Self::Disabled | Self::Removed | Self::ShuttingDown => false,
        }
    }
}

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// The servers of the app's `upstream`.
    Upstream,
}

/// How long each phase of a start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTimes {
    /// Waiting for apps that it needs, and in the line for a start, behind the cap on parallel starts.
    pub queued: Duration,
    /// From the front of the line to a running process.
    pub spawn: Duration,
    /// From there to an endpoint that accepts connections.
    pub listen: Duration,
    /// From there to ready.
    pub ready: Duration,
}

impl StartTimes {
    /// From the wish to ready.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.queued + self.spawn + self.listen + self.ready
    }
}

/// How far a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPhase {
    /// In the line for a start, or before it for apps that it needs.
    Queued,
    /// Admitted; its program is being run.
    Spawn,
    /// Its process runs, and does not listen yet, or has not said that it is ready.
    Listen,
    /// It listens, and does not answer as wanted yet.
    Ready,
}

impl StartPhase {
    /// How far it was when it failed, in words for operators.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Queued => "queued: it was in the line",
            Self::Spawn => "spawn: its program did not run",
            Self::Listen => "listen: it did not listen yet",
            Self::Ready => "ready: it did not answer as wanted yet",
        }
    }
}

/// For what a start is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// For its turn in the line.
    #[default]
    Turn,
    /// For apps that it needs, in no line.
    Needs,
}

/// What visitors may know of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartProgress {
    /// How far it is.
    pub phase: StartPhase,
    /// For what it is queued, while it is; an older proxy does without.
    #[serde(default)]
    pub waits_for: WaitsFor,
    /// Time since it was admitted, or in the line.
    pub elapsed: Duration,
    /// How long such starts took before; `None` for the first one that is known.
    pub usual: Option<UsualStart>,
}

/// How long the last starts of an app took, from the front of the line to ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UsualStart {
    /// Half of them took no longer.
    pub median: Duration,
    /// Nine of ten took no longer.
    pub most: Duration,
}

impl UsualStart {
    /// Starts that it is made of, the newest.
    pub const REMEMBERED: usize = 20;

    /// Of these times.
    #[must_use]
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut times = times.to_vec();
        times.sort_unstable();
        let rank = |tenths: usize| times.get((times.len() * tenths).div_ceil(10).checked_sub(1)?);
        Some(Self { median: *rank(5)?, most: *rank(9)? })
    }
}

/// What outsiders may see of an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The app.
    pub app: AppId,
    /// What we want.
    pub goal: GoalName,
    /// What is.
    pub state: StateName,
    /// Why, in words for operators: `exited with status 3 after 0.2 s`.
    pub reason: Option<String>,
    /// When this state began, seconds since the Unix epoch.
    pub since_unix_seconds: u64,
    /// Start mode; `None` for static upstreams.
    pub start: Option<StartMode>,
    /// The instance of this state, if there is one.
    pub generation: Option<Generation>,
    /// Its first process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub endpoint: Option<Endpoint>,
    /// Starts so far that became ready, and that failed.
    pub starts: StartCounts,
    /// The last start that became ready.
    pub last_start: Option<StartTimes>,
    /// Things an operator should know, such as an app that listens beyond loopback.
    pub warnings: Vec<String>,
    /// Last lines of output of the last failed instance, for operators only.
    pub last_output: Vec<String>,
    /// How far the last start was when it failed; `None` if the last one did not, or failed for an app
    /// that it needs.
    #[serde(default)]
    pub failed_step: Option<StartPhase>,
    /// How long its starts take.
    #[serde(default)]
    pub usual_start: Option<UsualStart>,
    /// How often it was put to sleep before its time, because memory was short.
    #[serde(default)]
    pub yields: u64,
    /// What of its own work keeps it awake.
    #[serde(default)]
    pub vigils: Vec<VigilSnapshot>,
    /// Its hours (`keep_awake`), if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Box<HoursSnapshot>>,
    /// The apps that it waits for, as it needs them; not more than some.
    #[serde(default, skip_serializing_if = "<[AppId]>::is_empty")]
    pub awaits: Box<[AppId]>,
}

/// Work of an app's own that keeps it awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VigilSnapshot {
    /// What the app calls it; `-` if it gave no name.
    pub name: String,
    /// When it ends at the latest, seconds since the Unix epoch.
    pub until_unix_seconds: u64,
}

/// Hours of an app, for outsiders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoursSnapshot {
    /// Whether it is within them.
    pub is: HoursName,
    /// When that changes, seconds since the Unix epoch; `None` if never.
    pub until_unix_seconds: Option<u64>,
    /// The time zone in which they were given; `None` is the server's own.
    pub zone: Option<String>,
}

/// Whether an app is within its hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoursName {
    /// It is kept awake.
    Inside,
    /// It may sleep.
    Outside,
}

/// Starts of an app since Doorbell started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCounts {
    /// Became ready.
    pub ready: u64,
    /// Exited, could not be spawned, or passed the deadline.
    pub failed: u64,
    /// Of those that became ready, the cold ones: a request waited for them. Replacements of an
    /// instance that served, and starts that nobody waited for, are not.
    pub cold_ready: u64,
    /// Of those that failed, the cold ones.
    pub cold_failed: u64,
}

/// What we want of an app, for outsiders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalName {
    /// It should run.
    Up,
    /// It may sleep.
    Down,
    /// It must not run.
    Disabled,
}

/// What is of an app, for outsiders; the values of the `state` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// No process.
    Stopped,
    /// Waiting for apps that it needs, or in the line for a start.
    Provisioning,
    /// Spawned, not ready yet.
    Starting,
    /// Serving.
    Ready,
    /// Standing still until somebody visits; its memory may have been given back.
    Frozen,
    /// Giving no new leases, running requests go on.
    Draining,
    /// Signalled, not gone yet.
    Stopping,
    /// Failed, waiting to try again.
    BackingOff,
}

/// Memory and CPU of an app's whole process tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident bytes, shared pages counted once per process (proportional set size where
    /// readable).
    pub memory_bytes: u64,
    /// User and system time since the instance started, exited children included where known.
    pub cpu_seconds: f64,
    /// Processes in the tree.
    pub processes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_is_what_most_starts_took() {
        assert_eq!(UsualStart::of(&[]), None);
        let times: Vec<_> = [9, 1, 2, 3, 4, 5, 6, 7, 8, 60].map(Duration::from_secs).into();
        let usual = |median, most| {
            let (median, most) = (Duration::from_secs(median), Duration::from_secs(most));
            Some(UsualStart { median, most })
        };
        assert_eq!(UsualStart::of(&times), usual(5, 9));
        assert_eq!(UsualStart::of(&times[..1]), usual(9, 9));
    }
}
