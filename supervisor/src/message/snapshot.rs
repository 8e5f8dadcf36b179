//! What outsiders may see of an app.

use doorbell_config::{name::AppId, spec::StartMode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Generation, StartPhase, StartTimes, UsualStart};

/// What outsiders may see of an app.
///
/// Two processes keep one for each app, most of which sleep and have nothing to tell: so what only a few have
/// is behind a pointer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// The app.
    pub app: AppId,
    /// What we want.
    pub goal: GoalName,
    /// What is.
    pub state: StateName,
    /// Why, in words for operators: `exited with status 3 after 0.2 s`.
    pub reason: Option<Box<str>>,
    /// When this state began, seconds since the Unix epoch.
    pub since_unix_seconds: u64,
    /// Start mode; `None` for static upstreams.
    pub start: Option<StartMode>,
    /// The instance of this state, if there is one.
    pub generation: Option<Generation>,
    /// Its first process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub endpoint: Option<Box<Endpoint>>,
    /// Starts so far that became ready, and that failed.
    pub starts: StartCounts,
    /// The last start that became ready.
    pub last_start: Option<Box<StartTimes>>,
    /// Things an operator should know, such as an app that listens beyond loopback.
    pub warnings: Box<[String]>,
    /// Last lines of output of the last failed instance, for operators only.
    pub last_output: Box<[String]>,
    /// How far the last start was when it failed; `None` if the last one did not, or failed for an app
    /// that it needs.
    #[serde(default)]
    pub failed_step: Option<StartPhase>,
    /// How long its starts take.
    #[serde(default)]
    pub usual_start: Option<Box<UsualStart>>,
    /// How often it was put to sleep before its time, because memory was short.
    #[serde(default)]
    pub yields: u64,
    /// What of its own work keeps it awake.
    #[serde(default)]
    pub vigils: Box<[VigilSnapshot]>,
    /// Its hours (`keep_awake`), if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Box<HoursSnapshot>>,
    /// The apps that it waits for, as it needs them; not more than some.
    #[serde(default, skip_serializing_if = "<[AppId]>::is_empty")]
    pub awaits: Box<[AppId]>,
}

/// Work of an app's own that keeps it awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VigilSnapshot {
    /// What the app calls it; `-` if it gave no name.
    pub name: String,
    /// When it ends at the latest, seconds since the Unix epoch.
    pub until_unix_seconds: u64,
}

/// Hours of an app, for outsiders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoursSnapshot {
    /// Whether it is within them.
    pub is: HoursName,
    /// When that changes, seconds since the Unix epoch; `None` if never.
    pub until_unix_seconds: Option<u64>,
    /// The time zone in which they were given; `None` is the server's own.
    pub zone: Option<String>,
}

/// Whether an app is within its hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoursName {
    /// It is kept awake.
    Inside,
    /// It may sleep.
    Outside,
}

/// Starts of an app since Doorbell started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
    /// Its upgrade failed: it is tried again when an operator starts it, or with another definition.
    Failed,
}

/// Memory and CPU of an app's whole process tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Resident bytes, shared pages counted once per process (proportional set size where
    /// readable).
    pub memory_bytes: u64,
    /// User and system time since the instance started, exited children included where known.
    pub cpu_seconds: f64,
    /// Processes in the tree.
    pub processes: u32,
}
