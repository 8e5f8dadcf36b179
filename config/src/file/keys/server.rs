//! `[server]`.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, ServerPageKeys};
use crate::{
    file::{
        format::{FilePath, LogLevel, Positive},
        text::{At, Text},
    },
    name::{AppId, ByteSize},
    registry::Location,
    spec::{ListenAddr, ServerLimits, ServerSpec, ServerTimeouts},
};

/// Doorbell itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerKeys {
    /// Where clients connect: one address or a list. A Unix socket is open to its owner and group
    /// (0660), and who connects there is believed as one of `trusted_proxies` is.
    pub listen: At<OneOrMany<ListenAddr>>,
    /// Where operators connect: one address or a list, at least one of them a Unix socket, which
    /// only its owner may open and which the `doorbell` commands use. TCP addresses give metrics
    /// and health, and the admin API to those who have a token; all of it to those who ask by an IP
    /// address or as `localhost`: a scraper that uses another name gets 403.
    pub admin: At<OneOrMany<ListenAddr>>,
    /// Folder for what outlives a restart, such as which apps are disabled. Readable by its owner
    /// only.
    pub state_dir: Text<FilePath>,
    /// Where apps are stored that are added at run time, by `doorbell app add` or the admin API: a
    /// PostgreSQL database that several Doorbells share, each serving all of them, or a file of SQLite.
    #[schemars(extend("x-default" = "registry/registry.db in `state_dir`"))]
    pub registry: Option<Text<Location>>,
    /// Folder for the output of apps, one folder per app.
    pub log_dir: Text<FilePath>,
    /// The user that faces the internet: the proxy and the control process run as this one, where
    /// Doorbell itself is started as root. It has to be able to read the configuration.
    #[schemars(extend("x-default" = "the one that starts Doorbell"))]
    pub user: Option<String>,
    /// Load balancers and proxies in front, whose `X-Forwarded-*`, `Forwarded` and `X-Request-ID`
    /// headers are believed.
    pub trusted_proxies: Vec<At<Text<IpNet>>>,
    /// Whether every app is also reachable at `/apps/<id>/` and `/_app/<id>/`, on hosts that no
    /// app claims.
    pub path_access: bool,
    /// The app that answers where nothing else matches.
    #[schemars(extend("x-default" = "none: 404"))]
    pub default_app: Option<At<Text<AppId>>>,
    /// Caps over all apps.
    pub limits: ServerLimitKeys,
    /// Deadlines of the client side.
    pub timeouts: ServerTimeoutKeys,
    /// One line per request.
    #[schemars(extend("x-default" = "none"))]
    pub access_log: Option<AccessLogKeys>,
    /// Doorbell's own log, on standard error.
    pub log: LogKeys,
    /// Pages of your own.
    pub pages: ServerPageKeys,
}

/// Caps over all apps.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLimitKeys {
    /// Client connections open at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: usize,
    /// Bytes of a request's line and header fields together; more, or over 128 fields, is answered
    /// 431. At most 1MiB.
    pub head: At<Text<ByteSize>>,
    /// Bytes of a request's target; more is answered 414. Not more than `head`.
    pub uri: At<Text<ByteSize>>,
    /// Requests held for apps that are starting, over all apps; more are answered 503.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub held_requests: usize,
    /// Apps that may be starting at once; the rest wait in a fair line.
    #[schemars(range(min = 1, max = 100_000), extend("x-default" = "twice the processors"))]
    pub parallel_starts: Option<usize>,
    /// Memory that all apps may take together: before it is passed, those that nobody uses are frozen or
    /// stopped, the longest idle and quickest to start first, and a start waits for that. Where nobody can
    /// yield, it goes on all the same. With or without this they yield when the machine itself is short.
    #[schemars(extend("x-default" = "what the machine has"))]
    pub memory: Option<Text<ByteSize>>,
    /// Bytes per second that a request body must reach on average, after a grace of
    /// `timeouts.body_idle`; `0B` turns this off.
    pub body_rate: Text<ByteSize>,
}

impl Default for ServerLimitKeys {
    fn default() -> Self {
        let limits = ServerLimits::default();
        Self {
            connections: limits.connections,
            head: At::default(Text(limits.head)),
            uri: At::default(Text(limits.uri)),
            held_requests: limits.held_requests,
            parallel_starts: None,
            memory: None,
            body_rate: Text(limits.body_rate),
        }
    }
}

/// Deadlines of the client side.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTimeoutKeys {
    /// From a request's first byte to the end of its head.
    pub header: Text<Positive>,
    /// Between two requests on one connection.
    pub keep_alive: Text<Positive>,
    /// Between two pieces of a request body. However long an upload takes, it is not cut while it
    /// moves.
    pub body_idle: Text<Positive>,
    /// Between two pieces of a response that the client takes.
    pub write_idle: Text<Positive>,
    /// For running requests to end when Doorbell is stopped. Apps then have 20 seconds to end,
    /// whatever their `stop.grace`.
    pub shutdown: Text<Duration>,
    /// For WebSockets and running requests of the old version to end after `doorbell upgrade`; new
    /// connections are the new version's.
    pub upgrade: Text<Duration>,
}

impl Default for ServerTimeoutKeys {
    fn default() -> Self {
        let timeouts = ServerTimeouts::default();
        let positive = |duration| Text(Positive(duration));
        Self {
            header: positive(timeouts.header),
            keep_alive: positive(timeouts.keep_alive),
            body_idle: positive(timeouts.body_idle),
            write_idle: positive(timeouts.write_idle),
            shutdown: Text(timeouts.shutdown),
            upgrade: Text(timeouts.upgrade),
        }
    }
}

/// One line per request.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLogKeys {
    /// The file that lines are appended to, or `stdout`. Opened anew on SIGHUP.
    pub path: Text<FilePath>,
    /// How a line looks.
    #[serde(default)]
    pub format: AccessLogChoice,
}

/// How an access log line looks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogChoice {
    /// The format of that name in Nginx.
    #[default]
    Combined,
    /// One JSON object a line, with the keys of Caddy.
    Json,
}

/// Doorbell's own log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogKeys {
    /// What is worth a line.
    pub level: Text<LogLevel>,
    /// How a line looks.
    pub format: LogChoice,
}

/// How a line of the own log looks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogChoice {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for LogKeys {
    fn default() -> Self {
        Self {
            level: Text(LogLevel(ServerSpec::default().log.level)),
            format: LogChoice::default(),
        }
    }
}

impl Default for ServerKeys {
    fn default() -> Self {
        let server = ServerSpec::default();
        let list = |list: Vec<ListenAddr>| {
            At::default(OneOrMany::Many(list.into_iter().map(|at| At::default(Text(at))).collect()))
        };
        Self {
            listen: list(server.listen),
            admin: list(server.admin),
            state_dir: Text(FilePath(server.state_dir)),
            log_dir: Text(FilePath(server.log_dir)),
            user: None,
            registry: None,
            trusted_proxies: Vec::new(),
            path_access: server.path_access,
            default_app: None,
            limits: ServerLimitKeys::default(),
            timeouts: ServerTimeoutKeys::default(),
            access_log: None,
            log: LogKeys::default(),
            pages: ServerPageKeys::default(),
        }
    }
}
