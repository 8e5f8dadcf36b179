//! The keys of an app that Doorbell starts.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer, value::StrDeserializer},
};

use crate::{
    file::{
        format::{LineText, OrNever, Positive, ProbeHost, ProbePath},
        text::{At, Text},
    },
    name::ByteSize,
    spec::{BackOffSpec, ListenNotice, OutputSpec, ProcessSpec, ReadySpec, StartMode, StopSpec},
};

/// Where an app's secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecretChoice {
    /// It is generated at the first start, once and for all.
    Auto,
}

/// When the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartChoice {
    /// From its first request until it is idle.
    OnDemand,
    /// From Doorbell's start until it is idle, and on request.
    WithServer,
    /// From Doorbell's start on; never stopped for idleness, started again when it ends.
    Always,
    /// Not until `doorbell enable`; requests are answered 503.
    Disabled,
}

impl From<StartChoice> for StartMode {
    fn from(choice: StartChoice) -> Self {
        match choice {
            StartChoice::OnDemand => Self::OnDemand,
            StartChoice::WithServer => Self::WithServer,
            StartChoice::Always => Self::Always,
            StartChoice::Disabled => Self::Disabled,
        }
    }
}

/// How Doorbell learns that the program can answer: a word, or a table.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ReadyChoice {
    /// One of these words.
    Word(ReadyWord),
    /// The choice with details.
    Table(Box<ReadyKeys>),
}

/// How Doorbell learns that the program can answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyWord {
    /// It accepts a connection.
    Connect,
    /// It says `READY=1` on `NOTIFY_SOCKET`, as for systemd.
    Notify,
    /// Doorbell listens, and the program inherits the socket (`LISTEN_FDS`), as from systemd.
    SocketActivation,
}

/// How Doorbell learns that the program can answer: at most one of `http`, `notify` and
/// `socket_activation`; without them, by connecting.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadyKeys {
    /// Ask for this path until the answer is right.
    #[schemars(extend("x-default" = "none"))]
    pub http: Option<At<Text<ProbePath>>>,
    /// The status that is right.
    #[schemars(range(min = 100, max = 599), extend("x-default" = "any of 200 to 399"))]
    pub status: Option<At<u16>>,
    /// What a right answer's body contains, within its first 64 KiB.
    #[schemars(extend("x-default" = "anything"))]
    pub body: Option<At<Text<LineText>>>,
    /// The `Host` to ask for.
    #[schemars(extend("x-default" = "the app's first host without a wildcard, or `localhost`"))]
    pub host: Option<At<Text<ProbeHost>>>,
    /// The program says `READY=1` on `NOTIFY_SOCKET`.
    pub notify: At<bool>,
    /// The program inherits the listening socket.
    pub socket_activation: At<bool>,
    /// Whether the kernel tells Doorbell when the program listens, where it can: readiness is then
    /// known at once. Not for a program that runs containers or has such a filter of its own.
    pub listen: ListenChoice,
    /// From start to ready; then the start has failed.
    pub deadline: Text<Positive>,
}

/// How Doorbell learns that the program listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenChoice {
    /// The kernel tells (seccomp(2)), if Doorbell is root or the app has `no_new_privs`; else by
    /// connecting again and again.
    #[default]
    Auto,
    /// By connecting again and again.
    Never,
}

impl From<ListenChoice> for ListenNotice {
    fn from(choice: ListenChoice) -> Self {
        match choice {
            ListenChoice::Auto => Self::Auto,
            ListenChoice::Never => Self::Never,
        }
    }
}

impl Default for ReadyKeys {
    fn default() -> Self {
        Self {
            http: None,
            status: None,
            body: None,
            host: None,
            notify: At::default(false),
            socket_activation: At::default(false),
            listen: ListenChoice::default(),
            deadline: Text(Positive(ReadySpec::default().deadline)),
        }
    }
}

impl<'de> Deserialize<'de> for ReadyChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadyVisitor)
    }
}

struct ReadyVisitor;

impl<'de> Visitor<'de> for ReadyVisitor {
    type Value = ReadyChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word or a table")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ReadyChoice, E> {
        ReadyWord::deserialize(StrDeserializer::new(word)).map(ReadyChoice::Word)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<ReadyChoice, A::Error> {
        ReadyKeys::deserialize(MapAccessDeserializer::new(table))
            .map(|keys| ReadyChoice::Table(keys.into()))
    }
}

/// When the program may sleep.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdleKeys {
    /// Freeze it after this time without a request, download or open WebSocket: its processes stand
    /// still and use no processor, and their memory may be given back. The next request thaws it in
    /// milliseconds. Shorter than `stop_after`.
    pub freeze_after: Text<OrNever>,
    /// Stop it after this time without a request, download or open WebSocket.
    pub stop_after: Text<OrNever>,
    /// Longest time for which the program's own work may keep it awake at once, as it asks at
    /// `DOORBELL_SOCKET`; `0s` lets none. From its next start on.
    pub awake_at_most: Text<Duration>,
}

impl Default for IdleKeys {
    fn default() -> Self {
        Self {
            freeze_after: Text(OrNever(None)),
            stop_after: Text(OrNever(Some(ProcessSpec::IDLE_STOP_AFTER))),
            awake_at_most: Text(ProcessSpec::AWAKE_AT_MOST),
        }
    }
}

/// How the program is stopped: the signal, then, after the grace, SIGKILL; each to all processes
/// it started.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopKeys {
    /// The first signal.
    pub signal: SignalChoice,
    /// From the signal to SIGKILL. When Doorbell itself is stopped, apps have 20 seconds in all.
    pub grace: Text<Positive>,
    /// For running requests to end before the signal, when the app is replaced, removed, stopped or
    /// disabled.
    pub drain: Text<Duration>,
}

impl Default for StopKeys {
    fn default() -> Self {
        let stop = StopSpec::default();
        Self {
            signal: SignalChoice::Term,
            grace: Text(Positive(stop.grace)),
            drain: Text(stop.drain),
        }
    }
}

/// A signal, signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SignalChoice {
    /// Ask to end.
    #[serde(rename = "SIGTERM")]
    Term,
    /// As Ctrl-C does.
    #[serde(rename = "SIGINT")]
    Int,
    /// End gracefully, for Nginx and PHP-FPM.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// As when a terminal goes.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// What the program makes of it.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// What the program makes of it.
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// End gracefully, for Apache.
    #[serde(rename = "SIGWINCH")]
    Winch,
    /// At once, without a chance to tidy up.
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl SignalChoice {
    /// Its number on Linux, on all processors but MIPS and the like.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
            Self::Winch => 28,
        }
    }
}

/// What follows a crash or a failed start: a delay that doubles each time, with jitter.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackOffKeys {
    /// The first delay. Not more than `max`.
    pub initial: At<Text<Positive>>,
    /// The longest delay.
    pub max: At<Text<Positive>>,
    /// Running this long forgives earlier failures.
    pub reset_after: Text<Positive>,
}

impl Default for BackOffKeys {
    fn default() -> Self {
        let back_off = BackOffSpec::default();
        Self {
            initial: At::default(Text(Positive(back_off.initial))),
            max: At::default(Text(Positive(back_off.max))),
            reset_after: Text(Positive(back_off.reset_after)),
        }
    }
}

/// How the program's output is kept, from its next start on. Lines longer than 64 KiB are split.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutputKeys {
    /// A new file is begun before one grows past this; at least `4KiB`.
    pub max_size: At<Text<ByteSize>>,
    /// Older files that are kept.
    #[schemars(range(min = 0, max = 10_000))]
    pub keep: usize,
}

impl Default for OutputKeys {
    fn default() -> Self {
        let output = OutputSpec::default();
        Self { max_size: At::default(Text(output.max_size)), keep: output.keep }
    }
}
