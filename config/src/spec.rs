//! What should be: the validated domain that everything else works on.
//!
//! Values here are correct by construction; the shape of the file, with its optional keys and its
//! mistakes, is [`crate::file`]. Nothing here spawns a process, opens a socket or speaks HTTP.
//! Times are [`Duration`]s, sizes are [`ByteSize`]s. Read `route` next for how a request finds an
//! [`AppSpec`].

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    interned::Interned,
    name::{AppId, ByteSize, HostPattern, PathPrefix},
    problem::Problem,
    registry::Location,
};

mod database;
mod default;
mod display;
mod enclosure;
mod given;
mod hours;
mod pages;
mod resources;
mod server;
mod shared;
mod tcp;
mod template;
mod upgrade;
mod wake;

pub use database::{DatabasePlace, DatabaseSpec, DatabaseUrl, Dialect, HIDDEN, SEALED};
pub use enclosure::EnclosureSpec;
pub use given::{Given, GivenSpec, Secret, UpgradeTurn};
pub(crate) use hours::nearest_zone;
pub use hours::{Awake, AwakeSpec, HoursNow, Window};
pub use pages::{AppPages, OwnPages};
pub use resources::{MilliCores, ResourceSpec, UserSpec};
pub use server::{
    AccessLogFormat, AccessLogSpec, ListenAddr, LogFormat, LogOutput, LogSpec, ServerLimits,
    ServerSpec, ServerTimeouts,
};
pub use shared::{SharedReadySpec, SharedSpec};
pub use tcp::{AppKind, ProxyProtocol, TcpSpec};
pub use template::{DatabasePart, Placeholder, PlaceholderValues, Template, TemplatePart};
pub use upgrade::UpgradeSpec;
pub use wake::{AgentPattern, AsleepSpec, KeepsAwake, MethodName, Visitor, WakeSpec};

/// One complete, valid configuration: the server's own settings and every app.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of Doorbell itself.
    pub server: ServerSpec,
    /// Where apps are added at run time, unless in the state folder. It may hold a password, and is for
    /// nobody but who opens it: so it is no part of the settings, which others are told.
    pub registry: Option<Location>,
    /// Every app, in the order of the files: where two claim one route, the earlier wins.
    pub apps: Vec<Arc<AppSpec>>,
    /// What is odd, but keeps nothing from being used.
    pub warnings: Vec<Problem>,
}

/// One app: what the operator wants, complete and valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Its unique id.
    pub id: AppId,
    /// What people read; the id unless given.
    pub name: String,
    /// Which requests are for it; route tables share it.
    pub routes: Arc<RouteSpec>,
    /// What answers them.
    pub backend: Backend,
    /// Caps on its requests.
    pub limits: Interned<AppLimits>,
    /// Deadlines of its requests.
    pub timeouts: Interned<AppTimeouts>,
    /// Whether the app speaks HTTP/2 (prior knowledge on plain connections) instead of HTTP/1.1.
    pub http2: bool,
    /// Whether `X-App` and `X-Hostname` from clients reach the app.
    pub client_app_headers: bool,
    /// Whether it stands before the others where apps are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Whether visitors get the maintenance page instead of the app.
    #[serde(default)]
    pub maintenance: bool,
    /// What browsers see in its place.
    #[serde(default)]
    pub pages: Interned<AppPages>,
    /// Who may wake it and keeps it awake; `None` is everybody.
    #[serde(default)]
    pub wake: Option<Interned<WakeSpec>>,
    /// What its clients speak.
    #[serde(default)]
    pub kind: AppKind,
}

/// Which requests are for an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Hosts; empty with paths means any host.
    #[serde(deserialize_with = "without_room")]
    pub hosts: Vec<HostPattern>,
    /// Path prefixes; empty with hosts means `/`. Both empty: path access only.
    #[serde(deserialize_with = "without_room")]
    pub paths: Vec<PathPrefix>,
    /// What happens to the matched prefix of `paths`.
    pub prefix: PrefixRule,
    /// What happens to `/apps/<id>` and `/_app/<id>`.
    pub path_access: PrefixRule,
    /// Whether cookies are kept to a matched prefix of `paths` that the app sees. To one that it does not see,
    /// and to path access, they always are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scope_cookies: bool,
}

/// A list as long as it is, and no longer: there are thousands of apps.
fn without_room<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let mut list = Vec::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// What happens to the matched path prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixRule {
    /// The app sees the path as the client sent it.
    Keep,
    /// The app sees the rest; it learns the prefix from `X-Forwarded-Prefix`.
    Strip,
}

/// What answers an app's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// A program that Doorbell starts and stops.
    Process(Interned<ProcessSpec>),
    /// Servers that somebody else runs.
    Upstream(Interned<UpstreamSpec>),
    /// The instance of another app, which serves several.
    Shared(Interned<SharedSpec>),
}

/// A program that Doorbell starts and stops. Two equal values need no restart between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// When it starts.
    pub start: StartMode,
    /// How many run side by side, each with an endpoint of its own: its replicas. At least one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub instances: u8,
    /// Program and arguments, placeholders allowed in arguments; never given to a shell.
    pub command: Interned<Vec<Template>>,
    /// Working folder.
    pub directory: PathBuf,
    /// Environment on top of a minimal one (`PATH`, `HOME`, `LANG`, ...), never all of ours.
    pub env: Interned<BTreeMap<String, Template>>,
    /// Which version it is, if the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Box<str>>,
    /// What is run before the first start of a version. Invariant: then there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Interned<UpgradeSpec>>,
    /// Where it is to listen.
    pub endpoint: EndpointSpec,
    /// How we learn that it can answer.
    pub ready: Interned<ReadySpec>,
    /// Whether it and its descendants can gain no privileges (`PR_SET_NO_NEW_PRIVS`, prctl(2)).
    #[serde(default)]
    pub no_new_privs: bool,
    /// Apps that are ready before it starts, and stopped after it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub needs: Interned<Vec<AppId>>,
    /// When it is kept awake; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awake: Option<Interned<AwakeSpec>>,
    /// When it may be frozen for want of visits; `None` is never.
    pub idle_freeze_after: Option<Duration>,
    /// When it may be stopped for want of visits; `None` is never.
    pub idle_stop_after: Option<Duration>,
    /// Longest time for which its own work may keep it awake at once.
    #[serde(default = "ProcessSpec::awake_at_most")]
    pub awake_at_most: Duration,
    /// How it is stopped.
    pub stop: Interned<StopSpec>,
    /// What follows a crash or a failed start.
    pub back_off: Interned<BackOffSpec>,
    /// How its output is kept.
    pub logs: Interned<OutputSpec>,
    /// What it sees of the file system, and may change there.
    #[serde(default)]
    pub enclosure: Interned<EnclosureSpec>,
    /// What it may take of the machine.
    pub resources: Interned<ResourceSpec>,
    /// Whom it runs as; `None` is who runs Doorbell.
    pub user: Option<Interned<UserSpec>>,
    /// What it is given that nobody else may see; `None` is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Interned<GivenSpec>>,
    /// Its database, if it has one that is ours to make or to tell. It may hold a password for a whole
    /// server: where it was read it stays, and no other process is told.
    #[serde(skip)]
    pub database: Option<Arc<DatabaseSpec>>,
}

fn one() -> u8 {
    1
}

/// Most apps run once.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(instances: &u8) -> bool {
    *instances == 1
}

/// Most apps need no other: their definitions are shorter for that.
fn is_empty<T>(list: &Interned<Vec<T>>) -> bool {
    list.is_empty()
}

/// When an app starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StartMode {
    /// On its first request; stopped when idle.
    OnDemand,
    /// With Doorbell, and on request; stopped when idle.
    WithServer,
    /// With Doorbell; never stopped for idleness, started again when it ends.
    Always,
    /// Not at all until `doorbell enable`; requests get 503.
    Disabled,
}

/// Where an instance is to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndpointSpec {
    /// A free loopback port, picked anew for each instance.
    AnyPort,
    /// This loopback port.
    FixedPort(u16),
    /// A Unix socket in a folder of the app's own.
    Socket,
}

/// How we learn that an instance can answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadySpec {
    /// What is looked at.
    pub probe: Probe,
    /// Whether the kernel is to tell when it listens.
    #[serde(default)]
    pub listen: ListenNotice,
    /// Total, from spawn to ready.
    pub deadline: Duration,
}

/// Whether the kernel is to tell when an instance listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ListenNotice {
    /// Where it can, and it matters to readiness.
    #[default]
    Auto,
    /// It is not asked to.
    Never,
}

/// A readiness check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Probe {
    /// The endpoint accepts a connection.
    Connect,
    /// The endpoint answers a GET as told.
    Http(HttpProbe),
    /// The app says `READY=1` on `NOTIFY_SOCKET`, sd_notify(3).
    Notify,
    /// We listen and the app inherits the socket (`LISTEN_FDS`, sd_listen_fds(3)); ready at once.
    SocketActivation,
}

/// An HTTP check: readiness of an instance, or health of an upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Path with query.
    pub path: String,
    /// Accepted status; `None` is any of 200-399.
    pub status: Option<u16>,
    /// What the body must contain (first 64 KiB), if anything.
    pub body: Option<String>,
    /// `Host` sent; `None` is the first exact host of the app, or `localhost`.
    pub host: Option<String>,
}

/// How an instance is stopped: signal, grace, SIGKILL, each to its whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StopSpec {
    /// First signal's number, signal(7).
    pub signal: i32,
    /// Time between the signal and SIGKILL.
    pub grace: Duration,
    /// How long running requests may go on before the signal when the instance is replaced or
    /// removed.
    pub drain: Duration,
}

/// What follows a crash or a failed start: exponential delays with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackOffSpec {
    /// Delay after the first failure.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Running this long forgives earlier failures.
    pub reset_after: Duration,
}

/// How an app's captured output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutputSpec {
    /// A file is rotated before it grows past this.
    pub max_size: ByteSize,
    /// Rotated files kept besides the current one.
    pub keep: usize,
}

/// Servers that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpstreamSpec {
    /// At least one; requests go round robin.
    pub servers: Vec<UpstreamServer>,
    /// Failures in a row after which a server is left out for `fail_timeout`.
    pub max_fails: u32,
    /// How long a failed server is left out.
    pub fail_timeout: Duration,
    /// Active check, if any.
    pub health: Option<HealthSpec>,
}

/// One upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpstreamServer {
    /// `http://host:port`; the host is resolved when connecting.
    Http {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `https://host:port`; the certificate is verified for `host`.
    Https {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Active health check of upstream servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is asked.
    pub probe: HttpProbe,
    /// Time between two checks of one server.
    pub interval: Duration,
    /// Total time of one check.
    pub timeout: Duration,
}

/// Caps on one app's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppLimits {
    /// Requests held at its gate at once; more is 503.
    pub held_requests: usize,
    /// Bytes of a request body; more is 413. `None` is no limit.
    pub body: Option<ByteSize>,
}

/// Deadlines of one app's requests; idle limits unless they say total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppTimeouts {
    /// Total, at the gate; then 504.
    pub hold: Duration,
    /// Total, one connect to an endpoint; then 502.
    pub connect: Duration,
    /// From the request's end to the response's first byte, and between two pieces of the response
    /// body; then 504. `None` is no limit.
    pub response_idle: Option<Duration>,
    /// Between two pieces in either direction of an upgraded connection. `None` is no limit.
    pub upgraded_idle: Option<Duration>,
    /// Between two successful writes to the app.
    pub write_idle: Duration,
    /// How long an unused upstream connection is kept.
    pub keep_alive: Duration,
}
