//! `[app.<id>]`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AppPageKeys, BackOffKeys, DatabaseKeys, IdleKeys, OneOrMany, OutputKeys, ReadyChoice,
    SecretChoice, StartChoice, StopKeys, UpgradeChoice, UpstreamChoice, WaitingPageKeys, WakeKeys,
};
use crate::{
    file::{
        format::{
            EnvName, FilePath, LineText, OrNever, OrUnlimited, Positive, UserName, VersionText,
        },
        text::{At, Text},
    },
    name::{AppId, ByteSize, HostPattern, PathPrefix},
    spec::{AppLimits, AppTimeouts, Template, Window},
};

/// One app: a `command` that Doorbell starts, an `upstream` that somebody else runs, or a share in the
/// program of another app (`shared_with`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppKeys {
    /// What people read.
    #[schemars(extend("x-default" = "the id"))]
    pub name: Option<Text<LineText>>,
    /// Hosts whose requests are for this app. The exact host beats a wildcard, a longer wildcard a
    /// shorter one, any wildcard `*`.
    pub hosts: Vec<At<Text<HostPattern>>>,
    /// Paths whose requests are for this app, on each of `hosts`, or on any host when there are
    /// none. The longest path wins. With neither `hosts` nor `paths`, the app is reachable at
    /// `/apps/<id>/` only.
    #[schemars(extend("x-default" = "`/`, when there are `hosts`"))]
    pub paths: Vec<At<Text<PathPrefix>>>,
    /// Whether the matched path is taken off before the app sees the request. The app learns it
    /// from `X-Forwarded-Prefix`; `Location` and cookie paths in its answers are put right.
    pub strip_prefix: bool,
    /// The same for `/apps/<id>/` and `/_app/<id>/`.
    pub path_access: PrefixChoice,
    /// Whether cookies that the app sets are kept to the matched path where the app sees it, so that no other
    /// app of the host gets them. Where it is taken off, and below `/apps/<id>/`, they always are.
    pub scope_cookies: bool,
    /// When the program runs.
    #[schemars(extend("x-default" = "on-demand"))]
    pub start: Option<At<StartChoice>>,
    /// How many of the program run side by side, started and put to sleep together. Each has a port or
    /// socket of its own, and finds its number from 1 on in `DOORBELL_REPLICA`; a request goes to
    /// the one with the fewest.
    #[schemars(range(min = 1, max = 64), extend("x-default" = "`1`"))]
    pub instances: Option<At<u8>>,
    /// The program and its arguments, run without a shell. Placeholders are filled into the
    /// arguments.
    #[schemars(extend("x-default" = "none"))]
    pub command: Option<At<Vec<At<Text<Template>>>>>,
    /// The folder the program runs in.
    #[schemars(extend("x-default" = "the folder of the file that defines the app"))]
    pub directory: Option<At<Text<FilePath>>>,
    /// Environment variables, on top of a few such as `PATH` and `LANG`. `PORT` and `HOST` are set
    /// to the address to listen on unless they are here, or the app listens on a `{socket}`.
    #[schemars(extend("x-default" = "none", "propertyNames" = {"format": "env-name"}, "x-secret" = true))]
    pub env: Option<At<BTreeMap<String, At<Text<Template>>>>>,
    /// Gives the program a secret of its own as `{secret}` in `env`: 64 random digits, stored sealed, shown to
    /// nobody, the same at each start.
    #[schemars(extend("x-default" = "none"))]
    pub secret: Option<At<SecretChoice>>,
    /// Names of environment variables whose values are stored sealed, by `doorbell secret set`, and stand in no
    /// file. Without one of them the app does not start.
    #[schemars(extend("x-default" = "none"))]
    pub secrets: Option<At<Vec<At<Text<EnvName>>>>>,
    /// Which version of its program the app is: any text, given as `{version}`. A change of it is a new start,
    /// and runs `upgrade` first.
    #[schemars(extend("x-default" = "none"))]
    pub version: Option<At<Text<VersionText>>>,
    /// What brings the app's data up to date with `version`: a command, or a table. It is run to its end before
    /// the first start of a version, once, and as the app is run. While it runs, and if it fails, what served
    /// before goes on, unless the app has a fixed `port`; an app that served nobody is `failed` then, until an
    /// operator decides.
    #[schemars(extend("x-default" = "none"))]
    pub upgrade: Option<At<UpgradeChoice>>,
    /// The loopback port that the program listens on, when it cannot be told one. When such an app is
    /// changed or restarted, requests are held from the old instance's end until the new one is
    /// ready: two cannot have the same port.
    #[schemars(range(min = 1), extend("x-default" = "a free one, given as `{port}` and `PORT`"))]
    pub port: Option<At<u16>>,
    /// How Doorbell learns that the program can answer: a word, or a table.
    #[schemars(extend("x-default" = "connect"))]
    pub ready: Option<At<ReadyChoice>>,
    /// Whether the program and all that it starts can gain no privileges, as by `sudo` (prctl(2)).
    /// Where Doorbell is not root, this lets the kernel tell when the program listens, and hold
    /// `read_only_paths = ["/"]`.
    #[schemars(extend("x-default" = "`false`"))]
    pub no_new_privs: Option<At<bool>>,
    /// Whether the program has `/tmp` and `/var/tmp` of its own, which go with it. `doorbell doctor` tells
    /// what holds of this and the next two; all of it takes root.
    #[schemars(extend("x-default" = "`false`"))]
    pub private_tmp: Option<At<bool>>,
    /// Files and folders, with all below them, that the program cannot change: `["/"]` for all there is.
    /// What is root itself could undo it: give the app a `user`.
    #[schemars(extend("x-default" = "none"))]
    pub read_only_paths: Option<At<Vec<At<Text<FilePath>>>>>,
    /// Those below `read_only_paths` that it can.
    #[schemars(extend("x-default" = "none"))]
    pub read_write_paths: Option<At<Vec<At<Text<FilePath>>>>>,
    /// Apps that this one cannot do without: ids of apps that have a `command`. It starts when all of
    /// them are ready, and they are stopped after it.
    #[schemars(extend("x-default" = "none"))]
    pub needs: Option<At<Vec<At<Text<AppId>>>>>,
    /// Hours in which the program, once it runs, is neither frozen nor stopped for idleness: one text
    /// or a list. Hours over midnight belong to the day on which they begin. After their end `idle`
    /// holds as ever, counted from there. They do not start the program: see `prewarm`.
    #[schemars(extend("x-default" = "none"))]
    pub keep_awake: Option<At<OneOrMany<Window>>>,
    /// How long before its hours (`keep_awake`) the program is started; `0s` is when they begin, `1d`
    /// the most. Until they end it is started again when it ends, unless an operator stopped it.
    #[schemars(extend("x-default" = "not at all"))]
    pub prewarm: Option<At<Text<Duration>>>,
    /// When the program may sleep.
    pub idle: Option<At<IdleKeys>>,
    /// Which requests may wake the program, and keep it awake.
    #[schemars(extend("x-default" = "every request"))]
    pub wake: Option<At<WakeKeys>>,
    /// How the program is stopped.
    pub stop: Option<At<StopKeys>>,
    /// What follows a crash or a failed start.
    pub back_off: Option<At<BackOffKeys>>,
    /// How the program's output is kept.
    pub logs: Option<At<OutputKeys>>,
    /// Servers that somebody else runs: one, a list, or a table.
    #[schemars(extend("x-default" = "none"))]
    pub upstream: Option<At<UpstreamChoice>>,
    /// The app whose program answers for this one too, and tells them apart by the header `X-App`, which
    /// is set to this app's id. It has a `command`; this one has neither, and of the keys about a program
    /// only `wake` and `ready = { http = ... }`: what a new run is asked, with that header, before this
    /// app's first requests. A visit to either wakes both.
    #[schemars(extend("x-default" = "none"))]
    pub shared_with: Option<At<Text<AppId>>>,
    /// Whether the app speaks HTTP/2 rather than HTTP/1.1; without TLS, by prior knowledge (h2c).
    pub http2: bool,
    /// Whether `X-App` and `X-Hostname` headers from clients reach the app. Where apps share its program, they never
    /// do; with this, a request at its own hosts is for the one that `X-App`, `?__appName=` or `/__app/<id>/` names,
    /// as if it had come there, and without it, what selects another is left out or refused.
    pub client_app_headers: bool,
    /// Whether it stands before the others where apps are listed.
    pub pinned: bool,
    /// Whether visitors get a page that says so (503) instead of the app. It is not woken; what runs
    /// goes on.
    pub maintenance: bool,
    /// What a browser shows while the app starts.
    pub waiting_page: WaitingPageKeys,
    /// Pages of your own.
    pub pages: AppPageKeys,
    /// The user that the program runs as; only root can give one.
    #[schemars(extend("x-default" = "the one that runs Doorbell"))]
    pub user: Option<At<Text<UserName>>>,
    /// The group that the program runs as.
    #[schemars(extend("x-default" = "the user's own, with all that the user is in"))]
    pub group: Option<At<Text<UserName>>>,
    /// The program's database.
    pub database: Option<At<DatabaseKeys>>,
    /// Caps on the app's requests, and on what the program takes of the machine.
    pub limits: AppLimitKeys,
    /// Deadlines of the app's requests.
    pub timeouts: AppTimeoutKeys,
}

/// What happens to a matched prefix.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixChoice {
    /// The app sees the path without it.
    #[default]
    Strip,
    /// The app sees the path as it came.
    Keep,
}

/// Caps on the app's requests, and on what the program takes of the machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppLimitKeys {
    /// Requests held while the app starts; more are answered 503.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub held_requests: usize,
    /// Bytes of a request body; more are answered 413.
    pub body: Text<OrUnlimited>,
    /// Memory of all its processes together; an app that needs more is ended, and its state says so.
    /// `doorbell doctor` tells what holds on this machine.
    #[schemars(extend("x-default" = "none"))]
    pub memory: Option<At<Text<ByteSize>>>,
    /// Processor time of all its processes together, in cores: `0.5` is half of one.
    #[schemars(range(min = 0.01, max = 1024.0), extend("x-default" = "none"))]
    pub cpu: Option<At<f64>>,
    /// Processes and threads at once.
    #[schemars(range(min = 1, max = 4_000_000), extend("x-default" = "none"))]
    pub processes: Option<At<u32>>,
    /// Files and sockets that each of its processes may have open at once.
    #[schemars(range(min = 16, max = 1_000_000_000), extend("x-default" = "those of Doorbell's own start"))]
    pub files: Option<At<u64>>,
}

impl Default for AppLimitKeys {
    fn default() -> Self {
        let limits = AppLimits::default();
        Self {
            held_requests: limits.held_requests,
            body: Text(OrUnlimited(limits.body)),
            memory: None,
            cpu: None,
            processes: None,
            files: None,
        }
    }
}

/// Deadlines of the app's requests.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppTimeoutKeys {
    /// How long a request is held while the app starts; then it is answered 504. Raise it together
    /// with `ready.deadline`.
    pub hold: Text<Positive>,
    /// For one connection to the app; then the request is answered 504.
    pub connect: Text<Positive>,
    /// For the first byte of the response, else the request is answered 504; and between two pieces
    /// of it, else it is cut off.
    pub response_idle: Text<OrNever>,
    /// Between two pieces, in either direction, of a WebSocket or another upgraded connection.
    pub upgraded_idle: Text<OrNever>,
    /// Between two pieces of a request that the app takes.
    pub write_idle: Text<Positive>,
    /// How long an unused connection to the app is kept; `0s` closes each after its request. Keep
    /// it below the app's own.
    pub keep_alive: Text<Duration>,
}

impl Default for AppTimeoutKeys {
    fn default() -> Self {
        let timeouts = AppTimeouts::default();
        Self {
            hold: Text(Positive(timeouts.hold)),
            connect: Text(Positive(timeouts.connect)),
            response_idle: Text(OrNever(timeouts.response_idle)),
            upgraded_idle: Text(OrNever(timeouts.upgraded_idle)),
            write_idle: Text(Positive(timeouts.write_idle)),
            keep_alive: Text(timeouts.keep_alive),
        }
    }
}
