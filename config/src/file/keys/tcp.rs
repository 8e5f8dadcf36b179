//! `[tcp.<id>]`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AppKeys, AppLimitKeys, AppTimeoutKeys, BackOffKeys, DatabaseKeys, IdleKeys, OneOrMany,
    OutputKeys, ReadyChoice, SecretChoice, StartChoice, StopKeys, UpgradeChoice,
};
use crate::{
    file::{
        format::{EnvName, FilePath, LineText, OrNever, Positive, UserName, VersionText},
        text::{At, Text},
    },
    name::{AppId, ByteSize},
    spec::{AppLimits, AppTimeouts, ListenAddr, Template, Window},
};

/// A program whose clients speak anything over TCP, such as a database. A connection to one of its
/// addresses starts it, is held until it is ready, and is then joined to it, byte for byte. A start
/// that fails resets the connections that waited.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpKeys {
    /// What people read.
    #[serde(default)]
    #[schemars(extend("x-default" = "the id"))]
    pub name: Option<Text<LineText>>,
    /// Where clients connect: one address or a list, none of which stands anywhere else. A Unix
    /// socket is open to its owner and group (0660).
    pub listen: At<OneOrMany<ListenAddr>>,
    /// Whether each connection to the program begins with a line that names the client (PROXY
    /// protocol, version 1). Programs that do not expect it take it for nonsense.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// When the program runs.
    #[serde(default)]
    #[schemars(extend("x-default" = "on-demand"))]
    pub start: Option<At<StartChoice>>,
    /// How many of the program run side by side, started and put to sleep together. Each has a port or
    /// socket of its own, and finds its number from 1 on in `DOORBELL_REPLICA`; a connection goes
    /// to the one with the fewest.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64), extend("x-default" = "`1`"))]
    pub instances: Option<At<u8>>,
    /// The program and its arguments, run without a shell. Placeholders are filled into the
    /// arguments.
    pub command: At<Vec<At<Text<Template>>>>,
    /// The folder the program runs in.
    #[serde(default)]
    #[schemars(extend("x-default" = "the folder of the file that defines the app"))]
    pub directory: Option<At<Text<FilePath>>>,
    /// Environment variables, on top of a few such as `PATH` and `LANG`. `PORT` and `HOST` are set
    /// to the address to listen on unless they are here, or the app listens on a `{socket}`.
    #[serde(default)]
    #[schemars(extend("x-default" = "none", "propertyNames" = {"format": "env-name"}, "x-secret" = true))]
    pub env: Option<At<BTreeMap<String, At<Text<Template>>>>>,
    /// Gives the program a secret of its own as `{secret}` in `env`: 64 random digits, stored sealed, shown to
    /// nobody, the same at each start.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub secret: Option<At<SecretChoice>>,
    /// Names of environment variables whose values are stored sealed, by `doorbell secret set`, and stand in no
    /// file. Without one of them the app does not start.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub secrets: Option<At<Vec<At<Text<EnvName>>>>>,
    /// Which version of its program the app is: any text, given as `{version}`. A change of it is a new start,
    /// and runs `upgrade` first.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub version: Option<At<Text<VersionText>>>,
    /// What brings the app's data up to date with `version`: a command, or a table. It is run to its end before
    /// the first start of a version, once, and as the app is run. While it runs, and if it fails, what served
    /// before goes on, unless the app has a fixed `port`; an app that served nobody is `failed` then, until an
    /// operator decides.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub upgrade: Option<At<UpgradeChoice>>,
    /// The loopback port that the program listens on, when it cannot be told one; not one of `listen`.
    #[serde(default)]
    #[schemars(range(min = 1), extend("x-default" = "a free one, given as `{port}` and `PORT`"))]
    pub port: Option<At<u16>>,
    /// How Doorbell learns that the program can serve: a word, or a table without `http`.
    #[serde(default)]
    #[schemars(extend("x-default" = "connect"))]
    pub ready: Option<At<ReadyChoice>>,
    /// Whether the program and all that it starts can gain no privileges, as by `sudo` (prctl(2)).
    /// Where Doorbell is not root, this lets the kernel tell when the program listens, and hold
    /// `read_only_paths = ["/"]`.
    #[serde(default)]
    #[schemars(extend("x-default" = "`false`"))]
    pub no_new_privs: Option<At<bool>>,
    /// Whether the program has `/tmp` and `/var/tmp` of its own, which go with it. `doorbell doctor` tells
    /// what holds of this and the next two; all of it takes root.
    #[serde(default)]
    #[schemars(extend("x-default" = "`false`"))]
    pub private_tmp: Option<At<bool>>,
    /// Files and folders, with all below them, that the program cannot change: `["/"]` for all there is.
    /// What is root itself could undo it: give the app a `user`.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub read_only_paths: Option<At<Vec<At<Text<FilePath>>>>>,
    /// Those below `read_only_paths` that it can.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub read_write_paths: Option<At<Vec<At<Text<FilePath>>>>>,
    /// Apps that this one cannot do without: ids of apps that have a `command`. It starts when all of
    /// them are ready, and they are stopped after it.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub needs: Option<At<Vec<At<Text<AppId>>>>>,
    /// Hours in which the program, once it runs, is neither frozen nor stopped for idleness: one text
    /// or a list. Hours over midnight belong to the day on which they begin. After their end `idle`
    /// holds as ever, counted from there. They do not start the program: see `prewarm`.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub keep_awake: Option<At<OneOrMany<Window>>>,
    /// How long before its hours (`keep_awake`) the program is started; `0s` is when they begin, `1d`
    /// the most. Until they end it is started again when it ends, unless an operator stopped it.
    #[serde(default)]
    #[schemars(extend("x-default" = "not at all"))]
    pub prewarm: Option<At<Text<Duration>>>,
    /// When the program may sleep. An open connection keeps it awake.
    #[serde(default)]
    pub idle: Option<At<IdleKeys>>,
    /// How the program is stopped.
    #[serde(default)]
    pub stop: Option<At<StopKeys>>,
    /// What follows a crash or a failed start.
    #[serde(default)]
    pub back_off: Option<At<BackOffKeys>>,
    /// How the program's output is kept.
    #[serde(default)]
    pub logs: Option<At<OutputKeys>>,
    /// The user that the program runs as; only root can give one.
    #[serde(default)]
    #[schemars(extend("x-default" = "the one that runs Doorbell"))]
    pub user: Option<At<Text<UserName>>>,
    /// The group that the program runs as.
    #[serde(default)]
    #[schemars(extend("x-default" = "the user's own, with all that the user is in"))]
    pub group: Option<At<Text<UserName>>>,
    /// The program's database.
    #[serde(default)]
    pub database: Option<At<DatabaseKeys>>,
    /// Caps on the app's connections, and on what the program takes of the machine.
    #[serde(default)]
    pub limits: TcpLimitKeys,
    /// Deadlines of the app's connections.
    #[serde(default)]
    pub timeouts: TcpTimeoutKeys,
}

/// Caps on the app's connections, and on what the program takes of the machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpLimitKeys {
    /// Connections held while the program starts; more are reset.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub held_requests: usize,
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

impl Default for TcpLimitKeys {
    fn default() -> Self {
        let held_requests = AppLimits::default().held_requests;
        Self { held_requests, memory: None, cpu: None, processes: None, files: None }
    }
}

/// Deadlines of the app's connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpTimeoutKeys {
    /// How long a connection is held while the program starts; then it is reset. Raise it together
    /// with `ready.deadline`.
    pub hold: Text<Positive>,
    /// For one connection to the program; then the client's is reset.
    pub connect: Text<Positive>,
    /// Between two pieces, in either direction; then both sides are reset.
    pub idle: Text<OrNever>,
}

impl Default for TcpTimeoutKeys {
    fn default() -> Self {
        let AppTimeouts { hold, connect, .. } = AppTimeouts::default();
        Self {
            hold: Text(Positive(hold)),
            connect: Text(Positive(connect)),
            idle: Text(OrNever(None)),
        }
    }
}

/// What only a TCP app has.
#[derive(Clone, Debug)]
pub struct TcpEntrance {
    /// Where clients connect.
    pub listen: At<OneOrMany<ListenAddr>>,
    /// Whether the program is told who they are.
    pub proxy_protocol: bool,
}

impl TcpKeys {
    /// What it has in common with an app that speaks HTTP, and what it has not.
    pub(crate) fn split(self) -> (AppKeys, TcpEntrance) {
        let entrance = TcpEntrance { listen: self.listen, proxy_protocol: self.proxy_protocol };
        let limits = self.limits;
        let keys = AppKeys {
            name: self.name,
            start: self.start,
            instances: self.instances,
            command: Some(self.command),
            directory: self.directory,
            env: self.env,
            secret: self.secret,
            secrets: self.secrets,
            version: self.version,
            upgrade: self.upgrade,
            port: self.port,
            ready: self.ready,
            no_new_privs: self.no_new_privs,
            private_tmp: self.private_tmp,
            read_only_paths: self.read_only_paths,
            read_write_paths: self.read_write_paths,
            needs: self.needs,
            keep_awake: self.keep_awake,
            prewarm: self.prewarm,
            idle: self.idle,
            stop: self.stop,
            back_off: self.back_off,
            logs: self.logs,
            user: self.user,
            group: self.group,
            database: self.database,
            limits: AppLimitKeys {
                held_requests: limits.held_requests,
                memory: limits.memory,
                cpu: limits.cpu,
                processes: limits.processes,
                files: limits.files,
                ..AppLimitKeys::default()
            },
            timeouts: AppTimeoutKeys {
                hold: self.timeouts.hold,
                connect: self.timeouts.connect,
                upgraded_idle: self.timeouts.idle,
                ..AppTimeoutKeys::default()
            },
            ..AppKeys::default()
        };
        (keys, entrance)
    }
}
