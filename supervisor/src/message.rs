//! The supervisor's interface: messages in, messages and snapshots out.
//!
//! All of it is serialisable, because the supervisor, the control part and the proxy are to be
//! processes of their own one day. Nothing here is shared memory but what [`crate::Snapshots`]
//! publishes. The gate lives on the proxy's side: [`GateOrder`]s go there, [`GateReport`]s come
//! back. Every message about an instance carries its [`Generation`]; stale ones are dropped.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, HttpProbe},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod snapshot;
mod start;

pub use snapshot::{
    GoalName, HoursName, HoursSnapshot, Snapshot, StartCounts, StateName, Usage, VigilSnapshot,
};
pub use start::{StartPhase, StartProgress, StartTimes, UsualStart, WaitsFor};

/// The number of one run of an app; rises with every start, across restarts of Doorbell too.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
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
    /// The same, without waiting for requests and without a grace.
    StopNow,
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

impl Refusal {
    /// What is told when so much time has passed since the order. What a person ends comes no nearer.
    #[must_use]
    pub fn after(&self, passed: Duration) -> Self {
        let retry_after = match self.reason {
            RefusalReason::Disabled | RefusalReason::Removed | RefusalReason::Failed => {
                self.retry_after
            }
            RefusalReason::StartFailed
            | RefusalReason::StartDeadline
            | RefusalReason::BackingOff
            | RefusalReason::ShuttingDown => self.retry_after.saturating_sub(passed),
        };
        Self { reason: self.reason, retry_after }
    }
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
    /// Its upgrade failed: an operator decides what is next.
    Failed,
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
            Self::StartFailed | Self::StartDeadline | Self::BackingOff | Self::Failed => true,
            Self::Disabled | Self::Removed | Self::ShuttingDown => false,
        }
    }
}

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// The servers of the app's `upstream`.
    Upstream,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Upstream => f.write_str("its servers"),
        }
    }
}
