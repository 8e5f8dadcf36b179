//! Settings of Doorbell itself: where it listens, what it keeps, and its caps on clients.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::OwnPages;
use crate::name::{AppId, ByteSize};

/// Settings of Doorbell itself, `[server]` in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Where clients connect.
    pub listen: Vec<ListenAddr>,
    /// Where operators connect. Unix sockets (mode 0600) carry every verb; TCP addresses metrics and
    /// health, and the verbs for those who have a token.
    pub admin: Vec<ListenAddr>,
    /// Folder for state that outlives a restart, such as which apps are disabled. Made 0700.
    pub state_dir: PathBuf,
    /// Folder for the captured output of apps, one folder per app.
    pub log_dir: PathBuf,
    /// Who the proxy and the control process run as, if not as the supervisor does.
    pub user: Option<String>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether every app is also reachable at `/apps/<id>/` and `/_app/<id>/` on hosts that no app
    /// claims.
    pub path_access: bool,
    /// The app that answers where no route matches.
    pub default_app: Option<AppId>,
    /// Caps on what clients may use.
    pub limits: ServerLimits,
    /// Deadlines of the client side.
    pub timeouts: ServerTimeouts,
    /// One line per request.
    pub access_log: Option<AccessLogSpec>,
    /// Doorbell's own log.
    pub log: LogSpec,
    /// Pages in the place of Doorbell's own, for apps that have none.
    #[serde(default)]
    pub pages: OwnPages,
}

/// Caps over all apps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLimits {
    /// Client connections open at once.
    pub connections: usize,
    /// Bytes of request line and header fields together; more is 431.
    pub head: ByteSize,
    /// Bytes of the request target; more is 414.
    pub uri: ByteSize,
    /// Requests held at gates over all apps.
    pub held_requests: usize,
    /// Apps that may be starting at once; the rest wait in a fair line.
    pub parallel_starts: usize,
    /// Memory that all apps may take together before those that nobody uses yield theirs; `None` is no
    /// limit but the machine's.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// Lowest accepted average rate of a request body, bytes per second, after a grace of
    /// [`ServerTimeouts::body_idle`]. Zero turns it off.
    pub body_rate: ByteSize,
}

/// Deadlines of the client side; each is an idle limit unless it says total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTimeouts {
    /// Total, from a request's first byte to the end of its head.
    pub header: Duration,
    /// Between two requests on one connection.
    pub keep_alive: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
    /// Between two successful writes to a client.
    pub write_idle: Duration,
    /// Total, from SIGTERM to the last running request's end.
    pub shutdown: Duration,
    /// Total, from an upgrade to the last exchange of the old version.
    pub upgrade: Duration,
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogSpec {
    /// Where lines go.
    pub output: LogOutput,
    /// How a line looks.
    pub format: AccessLogFormat,
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Appended to this file, reopened on SIGHUP.
    File(PathBuf),
}

/// How an access log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessLogFormat {
    /// Nginx's `combined`, byte for byte.
    Combined,
    /// One JSON object a line, with Caddy's keys.
    Json,
}

/// Doorbell's own log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Filter in the syntax of `tracing_subscriber::EnvFilter`, such as `info`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the own log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListenAddr {
    /// `"0.0.0.0:80"`, `"[::]:80"`, `":80"` (every address).
    Tcp(SocketAddr),
    /// `"unix:/run/doorbell/http.sock"`.
    Unix(PathBuf),
}
