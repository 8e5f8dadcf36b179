//! What the processes say to each other: the supervisor in the middle, one control process, and one
//! proxy or two (during an upgrade).
//!
//! These messages are the trust boundary. Only the control process says what is to run
//! ([`FromControl`]); a proxy, which faces the internet, can say no more than what its gates see
//! ([`FromProxy`]), and of that only what is plausible is believed (`hub`). How messages travel is
//! [`crate::wire`]. A field that is added later needs a default; a change of meaning a new
//! [`VERSION`]: "Two versions" in docs/architecture.md. What each kind looks like stands in
//! `tests/fixtures/wire`.

use std::{sync::Arc, time::Duration};

use doorbell_config::{
    name::AppId,
    spec::{AccessLogSpec, AppSpec, Given, ListenAddr, ServerSpec},
};
use serde::{Deserialize, Serialize};

use crate::{
    machine::Ability,
    message::{GateOrder, GateReport, Generation, Snapshot, Usage, Verb},
    supervisor::OperateError,
    wire::{Limits, MOST_DESCRIPTORS},
};

/// The protocol's version. Who does not speak it is not taken on.
pub const VERSION: u32 = 1;

/// Versions that this one can take over from.
pub const TAKES_OVER_FROM: [u32; 1] = [VERSION];

/// What a proxy may send: small reports, and no descriptor.
pub const PROXY_LIMITS: Limits = Limits { text: 64 * 1024, descriptors: 0 };
/// What one may send that outlived its supervisor: the listening sockets too that it brings back.
pub const RETURNING_LIMITS: Limits = Limits { text: 64 * 1024, descriptors: MOST_DESCRIPTORS };
/// What the control process, and the supervisor itself, may send.
pub const TRUSTED_LIMITS: Limits =
    Limits { text: 256 * 1024 * 1024, descriptors: MOST_DESCRIPTORS };
/// Apps of one message.
const APPS_AT_ONCE: usize = 500;
/// Bytes of their pages, less than what a frame holds also where each byte is escaped.
const PAGES_AT_ONCE: usize = 16 * 1024 * 1024;

/// Cuts apps into portions that fit into a message each.
pub fn portions(apps: &[Arc<AppSpec>]) -> impl Iterator<Item = &[Arc<AppSpec>]> {
    let mut rest = apps;
    std::iter::from_fn(move || {
        let mut pages = 0;
        let fits = |app: &&Arc<AppSpec>| {
            pages += app.pages.own.size();
            pages <= PAGES_AT_ONCE
        };
        let most = &rest[..rest.len().min(APPS_AT_ONCE)];
        let portion = most.iter().take_while(fits).count().max(1).min(most.len());
        let (first, later) = rest.split_at(portion);
        rest = later;
        (!first.is_empty()).then_some(first)
    })
}

/// How words end of what is not possible yet, and will be.
pub const IN_A_MOMENT: &str = "try again in a moment";

/// What passes of operators are signed with: known to the supervisor, which keeps it, and the control
/// process. It is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub [u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The parts of Doorbell that are processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Faces operators: configuration, admin socket, metrics.
    Control,
    /// Faces the internet.
    Proxy,
}

/// The first message of every role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it is.
    pub role: Role,
    /// Its number, if it had one from an earlier supervisor.
    pub number: Option<u32>,
    /// Whether it was told to end, and only finishes what it has.
    #[serde(default)]
    pub is_draining: bool,
    /// The protocol that it speaks.
    pub protocol: u32,
    /// Its version, for the log.
    pub version: String,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Its number, which no other listener ever had.
    pub number: u64,
    /// As it is configured.
    pub configured: ListenAddr,
    /// The same, but for port 0: that is the port it became.
    pub address: ListenAddr,
    /// The TCP app whose clients connect there; `None` for HTTP.
    #[serde(default)]
    pub app: Option<AppId>,
}

/// From the supervisor to a proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToProxy {
    /// The beginning.
    Welcome {
        /// Its number; it says so when it comes back.
        number: u32,
        /// Threads to serve with: as many as each listener has sockets.
        workers: usize,
        /// Settings to begin with.
        server: Box<ServerSpec>,
    },
    /// Apps that the next `Apply` puts into the table. What concerns their programs is left out.
    Apps(Vec<Arc<AppSpec>>),
    /// With a socket for each worker; listened on from the next `Apply` on.
    Listen(Listening),
    /// With the file it is to be written to, unless there is none or it is standard output.
    AccessLog(Option<AccessLogSpec>),
    /// Makes a configuration the one that holds; answered by [`FromProxy::Applied`].
    Apply(Box<Apply>),
    /// For a gate.
    Order(GateOrder),
    /// Say when all before it has arrived: [`FromProxy::Echoed`].
    Echo(u64),
    /// All that gates have to know: those that are not named here are closed, and hold.
    Gates(Vec<GateOrder>),
    /// With a connection to the control process, which asks for figures there.
    Control,
    /// Accept nobody any more, let running exchanges finish, and end.
    Drain {
        /// Time for that; then they are cut.
        limit: Duration,
        /// What becomes of connections that wait for a request.
        manner: Drain,
    },
}

/// Why a proxy is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Another one goes on: who is connected may ask once more, and is told to connect anew.
    ForAnother,
    /// Doorbell ends: who asks nothing is let go at once.
    ForGood,
}

/// A change of the configuration, as a proxy sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Apply {
    /// The number of the change, for the answer.
    pub turn: u64,
    /// Settings from here on.
    pub server: ServerSpec,
    /// Whether apps that were not sent are gone.
    pub is_whole: bool,
    /// Apps that are gone.
    pub gone: Vec<AppId>,
    /// Listeners, by number, that are given up: who waits there is still accepted.
    pub ignore: Vec<u64>,
}

/// From a proxy to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromProxy {
    /// The beginning.
    Hello(Hello),
    /// With its sockets, from a proxy that outlived its supervisor.
    Listening(Listening),
    /// No more of that; it waits for its `Welcome`.
    Introduced,
    /// From a gate.
    Report(GateReport),
    /// The configuration of this turn holds.
    Applied {
        /// Its number.
        turn: u64,
    },
    /// All that was sent before this echo has arrived.
    Echoed(u64),
}

/// From the supervisor to the control process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToControl {
    /// The beginning. With the keys of secrets, where they are a credential of systemd.
    Welcome {
        /// Its number; it says so when it comes back.
        number: u32,
        /// The settings that hold; `None` before the first configuration.
        server: Option<Box<ServerSpec>>,
        /// Figures that an earlier control process asked to keep.
        kept: String,
        /// The supervisor's version, if it came about by an upgrade.
        #[serde(default)]
        upgraded_to: Option<String>,
        /// What the machine lets it do.
        #[serde(default)]
        abilities: Vec<Ability>,
        /// What passes of operators are signed with; `None` if it could not be kept.
        #[serde(default)]
        seed: Option<Seed>,
        /// Whether there are keys of secrets that it could not open for it.
        #[serde(default)]
        lacks_keys: bool,
    },
    /// Apps of the configuration that holds.
    Apps(Vec<Arc<AppSpec>>),
    /// Apps of these whose routes belong to others.
    Rejected(Vec<AppId>),
    /// What proxies have in their place, where there is something.
    ServedInstead(Vec<Arc<AppSpec>>),
    /// With the socket of an admin address.
    Admin(ListenAddr),
    /// The welcome is complete. With a socket from which the ears of instances come in advance
    /// (`Advances`).
    Begin,
    /// Something about an app.
    Snapshot(Box<Snapshot>),
    /// The app is gone for good.
    Forgotten(AppId),
    /// What became of a wish.
    Answer {
        /// Its number.
        wish: u64,
        /// What it gave.
        answer: Box<Answer>,
    },
    /// With a connection to a proxy, to ask for figures.
    Proxy {
        /// Its number.
        number: u32,
        /// Its process, which is no operator; `None` if it is ours.
        #[serde(default)]
        pid: Option<u32>,
    },
    /// Addresses listened on now.
    Listening(Vec<ListenAddr>),
    /// Read the configuration again.
    Reload,
    /// Doorbell shuts down: it is not ready any more.
    Closing,
    /// With the read end of an instance's output, to be kept open, its notify socket if it has one, so
    /// that nothing said in the meantime is lost with the supervisor, and its ear.
    Hold {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// Say what the program of this app is given that nobody else may see: it is about to start.
    Prepare {
        /// The app, or one of its replicas.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// The question's number, for the answer. Those about upgrades of one app are answered in their order.
        #[serde(default)]
        number: u64,
        /// What else.
        #[serde(default)]
        question: Question,
    },
    /// Let go of them.
    Release {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// A younger control process has taken over, or all is over: answer what is asked, and end.
    End,
}

/// What a start asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What its program is given that nobody else may see.
    pub is_given: bool,
    /// Whether its data is up to date with this.
    pub version: Option<WantedVersion>,
    /// It tells what came of its upgrade.
    pub upgraded: Option<Upgraded>,
}

impl Default for Question {
    fn default() -> Self {
        Self { is_given: true, version: None, upgraded: None }
    }
}

/// The version that an app's data is to be up to date with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedVersion {
    /// The version.
    pub version: String,
    /// How long it takes at most to get there.
    pub lasts: Duration,
}

/// What came of an app's upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version that it was to bring the app's data up to date with.
    pub version: String,
    /// Whether it did.
    pub outcome: Outcome,
}

/// What came of running an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The data is up to date.
    Reached,
    /// It failed, and is not to be tried again by itself. Why, for operators.
    Failed(String),
    /// It was not run to its end, or not at all.
    CalledOff,
}

impl Upgraded {
    /// It was not run to its end, or not at all.
    #[must_use]
    pub fn called_off(version: &str) -> Self {
        Self { version: version.to_owned(), outcome: Outcome::CalledOff }
    }
}

/// From the control process to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromControl {
    /// The beginning.
    Hello(Hello),
    /// With what it held for an instance, from one that outlived its supervisor.
    Held {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
    },
    /// With the socket of an admin address, likewise.
    Admin(ListenAddr),
    /// No more of that; it waits for its `Welcome`.
    Introduced,
    /// Apps that are new or have changed, for the next [`Wish::Configure`].
    Apps(Vec<Arc<AppSpec>>),
    /// Do something, and say what became of it.
    Wish {
        /// Its number, for the answer.
        number: u64,
        /// What.
        wish: Box<Wish>,
    },
    /// What the program of an app is given, or why it cannot start.
    Prepared {
        /// The app.
        app: AppId,
        /// The instance.
        generation: Generation,
        /// The question's number.
        #[serde(default)]
        number: u64,
        /// What.
        given: Result<Given, String>,
    },
    /// Keep these figures for a control process that comes after this one.
    Keep(String),
}

/// What the control process wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Wish {
    /// Make this the configuration that holds, or say why not; then nothing has changed.
    Configure {
        /// Settings.
        server: Box<ServerSpec>,
        /// Apps that are gone.
        gone: Vec<AppId>,
        /// Apps among those sent whose routes belong to others.
        rejected: Vec<Rejected>,
        /// Whether the apps that were sent are all there are, and not what differs from before.
        is_whole: bool,
        /// Whether it is only asked if it could hold.
        is_trial: bool,
        /// Who is whom among the apps that change.
        #[serde(default)]
        lineage: Lineage,
    },
    /// Something for one app; answered when it had its effect.
    Operate(AppId, Verb),
    /// Memory and CPU of every app that runs.
    Usages,
    /// Take on the binary that stands where ours did.
    Upgrade,
}

/// Apps that are the same under another id, and ids that another app has, or none: what operators said of an app
/// (`disable`) is about that app, and not about its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// From which id to which.
    pub renamed: Vec<(AppId, AppId)>,
    /// Ids whose app is no more.
    pub deleted: Vec<AppId>,
}

/// An app that claims routes of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The app.
    pub app: AppId,
    /// Whether it keeps the routes that it had; others may have taken them.
    pub keeps_older: bool,
}

/// What became of a wish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The configuration holds; these addresses are listened on.
    Configured(Result<Vec<ListenAddr>, ConfigureError>),
    /// The verb had its effect.
    Operated(Result<(), OperateError>),
    /// What apps use.
    Usages(Vec<(AppId, Usage)>),
    /// The new binary serves.
    Upgraded(Result<(), String>),
}

/// Why a configuration was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConfigureError {
    /// A listening socket cannot be opened.
    #[error("cannot listen on {0}: {1}")]
    Listen(ListenAddr, String),
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}")]
    AccessLog(String),
    /// It said what differs from what this supervisor does not know.
    #[error("the supervisor is a new one: try again in a moment")]
    Anew,
    /// Doorbell shuts down.
    #[error("doorbell shuts down")]
    Closing,
}

#[cfg(test)]
mod tests;
