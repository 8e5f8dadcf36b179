//! The proxies: usually one, two while one takes over from the other.

use std::{
    collections::BTreeSet,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Hub, HubError,
    configure::Listener,
    launch::{Fate, Image, Runner},
    overdue,
    peer::{Peer, Told},
    switchboard::Number,
};
use crate::{
    message::{GateOrder, GateReport},
    protocol::{
        Apply, Drain, FromProxy, Hello, Listening, PROXY_LIMITS, RETURNING_LIMITS, Role, ToControl,
        ToProxy, VERSION, portions,
    },
    reception::Known,
};

/// A proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) peer: Peer,
    pub(super) stage: Stage,
    /// It outlived an earlier supervisor.
    pub(super) is_back: bool,
    /// By when it has to have done what it is about: said who it is, taken over the last configuration
    /// that it was told, or ended.
    pub(super) due: Option<Instant>,
    /// The last one that it was told, and the last that it has taken over.
    pub(super) last_turn: u64,
    applied: u64,
    /// Echoes that it has not come to.
    echoes: BTreeSet<u64>,
    /// Listeners that it came back with and is to give up.
    needless: Vec<u64>,
}

/// How far a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Started; it has not said who it is.
    Coming,
    /// It came back, and only finishes what it has.
    Leaving,
    /// It waits for its first configuration.
    Waiting,
    /// Likewise, and only finishes what it has.
    WaitingToLeave,
    /// It has been sent one.
    Told,
    /// It serves.
    Serving,
    /// It finishes what it has.
    Draining,
}

impl Proxy {
    pub(super) fn order(&self, order: GateOrder) {
        self.peer.tell(&ToProxy::Order(order));
    }

    /// Tells it what holds from here on.
    pub(super) fn apply(&mut self, apply: Apply) {
        self.last_turn = apply.turn;
        self.is_due();
        self.peer.tell(&ToProxy::Apply(Box::new(apply)));
    }

    /// Has it say when it has come to this.
    pub(super) fn echo(&mut self, number: u64) {
        self.echoes.insert(number);
        self.is_due();
        self.peer.tell(&ToProxy::Echo(number));
    }

    pub(super) fn has_echoed(&mut self, number: u64) {
        self.echoes.remove(&number);
        self.comes_along();
    }

    /// It has something to do.
    fn is_due(&mut self) {
        if self.stage != Stage::Draining {
            self.due.get_or_insert_with(overdue::soon);
        }
    }

    /// It has done something of what it has to.
    fn comes_along(&mut self) {
        if self.stage != Stage::Draining {
            let is_done = self.applied >= self.last_turn && self.echoes.is_empty();
            self.due = (!is_done).then(overdue::soon);
        }
    }

    /// Has it finish what it has.
    pub(super) fn drain(&mut self, limit: Duration, manner: Drain) {
        self.stage = Stage::Draining;
        self.due = Some(overdue::end_of(limit));
        self.peer.tell(&ToProxy::Drain { limit, manner });
    }

    /// Whether it has not said who it is.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.stage, Stage::Coming | Stage::Leaving)
    }

    /// Whether it only finishes what it has.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving | Stage::WaitingToLeave | Stage::Draining)
    }

    /// Whether it is kept up to date.
    pub(super) fn takes_part(&self) -> bool {
        match self.stage {
            Stage::Coming | Stage::Leaving | Stage::Waiting | Stage::WaitingToLeave => false,
            Stage::Told | Stage::Serving | Stage::Draining => true,
        }
    }
}

impl Hub {
    pub(super) fn start_proxy(&mut self, image: Image) -> io::Result<Number> {
        let (ours, theirs) = UnixStream::pair()?;
        let (launcher, reception) = (&self.options.launcher, self.reception.as_ref());
        let runner = launcher.start(Role::Proxy, theirs, reception, image)?;
        let number = self.next_role();
        self.attach_proxy(number, ours, runner, None)?;
        Ok(number)
    }

    /// Takes on a proxy at the other end of a connection.
    pub(super) fn attach_proxy(
        &mut self,
        number: Number,
        connection: UnixStream,
        runner: Runner,
        known: Option<&Known>,
    ) -> io::Result<()> {
        let events = self.events.0.clone();
        let limits = if known.is_some() { RETURNING_LIMITS } else { PROXY_LIMITS };
        let peer = Peer::attach(connection, runner, number, limits, events, Told::Proxy)?;
        let is_leaving = known.is_some_and(|known| known.is_draining);
        let stage = if is_leaving { Stage::Leaving } else { Stage::Coming };
        let (is_back, due) = (known.is_some(), Some(overdue::soon()));
        let (last_turn, applied, echoes, needless) = (0, 0, BTreeSet::new(), Vec::new());
        let proxy = Proxy { peer, stage, is_back, due, last_turn, applied, echoes, needless };
        self.proxies.insert(number, proxy);
        self.note_roles();
        Ok(())
    }

    pub(super) fn told_by_proxy(&mut self, number: Number, told: Told) {
        let (told, descriptors) = match told {
            Told::Proxy(told, descriptors) => (told, descriptors),
            Told::Control(..) => return,
            Told::Gone(error) => return self.proxy_gone(number, error),
        };
        match told {
            FromProxy::Hello(hello) => self.greeted(number, &hello),
            FromProxy::Listening(listening) => self.brought(number, listening, descriptors),
            FromProxy::Introduced => self.introduced(number),
            FromProxy::Report(report) => self.reported(number, report),
            FromProxy::Applied { turn } => self.applied(number, turn),
            FromProxy::Echoed(echo) => self.echoed(number, echo),
        }
    }

    fn greeted(&mut self, number: Number, hello: &Hello) {
        if hello.protocol != VERSION || hello.role != Role::Proxy {
            self.expel(number, "speaks another protocol");
        }
        // Whether it is to end stands in our own list; that it says so too changes nothing.
    }

    /// A proxy that outlived its supervisor brings its listening sockets.
    fn brought(&mut self, number: Number, listening: Listening, sockets: Vec<OwnedFd>) {
        let is_coming_back =
            self.proxies.get(&number).is_some_and(|proxy| proxy.is_back && proxy.is_coming());
        if !is_coming_back {
            return self.expel(number, "brought sockets that are not ours");
        }
        if !self.returning.knows(&listening, &sockets) {
            // It was killed while this one was on its way out, say.
            tracing::warn!(number, address = %listening.address, "a proxy listens where it need not");
            if let Some(proxy) = self.proxies.get_mut(&number) {
                proxy.needless.push(listening.number);
            }
            return;
        }
        // Two proxies may bring the same.
        if self.listeners.iter().all(|known| known.listening.number != listening.number) {
            let sockets = sockets.into_iter().map(Arc::new).collect();
            self.listeners.push(Listener { listening, sockets });
        }
    }

    fn introduced(&mut self, number: Number) {
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        proxy.stage = match proxy.stage {
            Stage::Coming => Stage::Waiting,
            Stage::Leaving => Stage::WaitingToLeave,
            Stage::Waiting
            | Stage::WaitingToLeave
            | Stage::Told
            | Stage::Serving
            | Stage::Draining => {
                return self.expel(number, "introduced itself twice");
            }
        };
        proxy.due = None;
        let server = self.server.as_ref().unwrap_or(&self.options.server);
        proxy.peer.tell(&ToProxy::Welcome {
            number,
            workers: self.options.workers,
            server: Box::new(server.clone()),
        });
        self.bring_up(number);
        self.look_who_is_back();
    }

    /// Tells a proxy all that there is, if there is a configuration.
    pub(super) fn bring_up(&mut self, number: Number) {
        let Some(server) = self.server.clone() else { return };
        self.revive_listeners();
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        proxy.stage = match proxy.stage {
            Stage::Waiting => Stage::Told,
            Stage::WaitingToLeave => {
                // It knows better how long it has; this is the longest.
                proxy.due = Some(overdue::end_of(server.timeouts.upgrade));
                Stage::Draining
            }
            Stage::Coming | Stage::Leaving | Stage::Told | Stage::Serving | Stage::Draining => {
                return;
            }
        };
        let peer = &proxy.peer;
        for apps in portions(&self.catalog.served()) {
            peer.tell(&ToProxy::Apps(apps.to_vec()));
        }
        // One that only finishes what it has listens no more.
        let listeners = self.listeners.iter().filter(|_| proxy.stage == Stage::Told);
        for listener in listeners {
            peer.tell_with(&ToProxy::Listen(listener.listening.clone()), listener.sockets.clone());
        }
        self.access_log.tell(peer);
        let turn = self.next.turn;
        self.next.turn += 1;
        let (gone, ignore) = (Vec::new(), std::mem::take(&mut proxy.needless));
        proxy.apply(Apply { turn, server, is_whole: true, gone, ignore });
        let orders = self.board.join(number);
        proxy.peer.tell(&ToProxy::Gates(orders));
        self.introduce(number);
    }

    /// Connects a proxy and the control process, for the figures.
    pub(super) fn introduce(&self, number: Number) {
        let Some(proxy) = self.proxies.get(&number).filter(|proxy| proxy.takes_part()) else {
            return;
        };
        if !self.office.is_open() {
            return;
        }
        match UnixStream::pair() {
            Ok((one, other)) => {
                proxy.peer.tell_with(&ToProxy::Control, vec![Arc::new(OwnedFd::from(one))]);
                let socket = vec![Arc::new(OwnedFd::from(other))];
                let pid = proxy.peer.runner.pid;
                self.office.tell_with(&ToControl::Proxy { number, pid }, socket);
            }
            Err(error) => tracing::error!(%error, "figures of a proxy cannot be asked for"),
        }
    }

    fn reported(&mut self, number: Number, report: GateReport) {
        // The gate of an app that was removed may still say something; others were never there.
        if self.desk.snapshot(report.app()).is_none() {
            return tracing::debug!(number, app = %report.app(), "a gate of no app speaks");
        }
        let outcome = self.board.report(number, report);
        self.pass_on(outcome);
    }

    fn applied(&mut self, number: Number, turn: u64) {
        if let Some(proxy) = self.proxies.get_mut(&number) {
            // One that gives up listeners may be told after a later one.
            proxy.applied = proxy.applied.max(turn);
            proxy.comes_along();
            if proxy.stage == Stage::Told {
                proxy.stage = Stage::Serving;
                tracing::debug!(number, pid = proxy.peer.runner.pid, "a proxy serves");
            }
        }
        self.end_turn(number, Some(turn));
    }

    fn proxy_gone(&mut self, number: Number, error: Option<io::Error>) {
        let Some(proxy) = self.proxies.remove(&number) else { return };
        if let Some(error) = error {
            tracing::error!(number, %error, "the proxy is not understood, and replaced");
            proxy.peer.runner.tell(Fate::Die);
        }
        proxy.peer.runner.tell(Fate::Leave);
        self.note_roles();
        let outcome = self.board.leave(number);
        self.pass_on(outcome);
        self.end_turn(number, None);
        self.lose_echoes(number);
        if self.closing.is_some() {
            return self.look_whether_drained();
        }
        if !self.returning.is_over() {
            return self.look_who_is_back();
        }
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is(number)) {
            self.upgrade_failed("its proxy ended before it served; it said why in the log");
            // The old one may have ended meanwhile.
            if !self.has(Role::Proxy) {
                self.restart_later(Role::Proxy, Duration::ZERO);
            }
            return;
        }
        match proxy.stage {
            Stage::Draining | Stage::Leaving | Stage::WaitingToLeave => {}
            // Nothing ever worked: whoever started us is to know.
            Stage::Coming | Stage::Waiting | Stage::Told
                if self.is_first_start() && !self.has_survivors =>
            {
                self.fail(HubError::Role(Role::Proxy));
            }
            Stage::Coming | Stage::Waiting | Stage::Told | Stage::Serving => {
                tracing::warn!(
                    number,
                    pid = proxy.peer.runner.pid,
                    "the proxy is gone; starting another"
                );
                self.restart_later(Role::Proxy, proxy.peer.since.elapsed());
            }
        }
    }

    /// Ends a proxy that breaks the rules, and hears it no more.
    pub(super) fn expel(&mut self, number: Number, why: &'static str) {
        self.proxy_gone(number, Some(io::Error::other(format!("it {why}"))));
    }

    /// Proxies that are kept up to date.
    pub(super) fn taking_part(&self) -> BTreeSet<Number> {
        let taking_part = self.proxies.iter().filter(|(_, proxy)| proxy.takes_part());
        taking_part.map(|(number, _)| *number).collect()
    }

    /// Those of them that serve, or are about to.
    pub(super) fn serving(&self) -> BTreeSet<Number> {
        let mut serving = self.taking_part();
        serving.retain(|number| self.proxies.get(number).is_some_and(|proxy| !proxy.is_leaving()));
        serving
    }
}
