//! What is to be: the configuration that holds, and how another takes its place.
//!
//! All or nothing up to the point where something begins to change: new listening sockets and the
//! access log are opened first. Then, in this order: the desk learns of the apps, the proxies get the
//! table, and after that the orders for its gates. Whoever asked is answered when these have arrived too (`echo`).

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use doorbell_config::spec::{AccessLogSpec, ListenAddr, LogOutput, ServerSpec};

use super::{
    Hub, HubError,
    catalog::{Door, Wanted, without_program},
    peer::Peer,
    returning::inode,
    sockets,
    switchboard::Number,
};
use crate::{
    message::Instruction,
    protocol::{Answer, Apply, ConfigureError, Lineage, Listening, ToControl, ToProxy, portions},
    reception::KnownListener,
    service_notify,
};

/// An address listened on.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) listening: Listening,
    pub(super) sockets: Vec<Arc<OwnedFd>>,
}

/// The access log, opened for the proxies.
#[derive(Clone, Debug, Default)]
pub(super) struct LogFile {
    spec: Option<AccessLogSpec>,
    file: Option<Arc<OwnedFd>>,
}

/// A configuration that proxies are about to take over.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    waiting: BTreeSet<Number>,
    /// Who wants to know: the control process, and the number of its wish.
    wish: (Number, u64),
}

/// What was opened for it.
struct Opened {
    listeners: Vec<Listener>,
    access_log: LogFile,
}

impl LogFile {
    fn open(spec: Option<&AccessLogSpec>) -> io::Result<Self> {
        let file = match spec.map(|spec| &spec.output) {
            Some(LogOutput::File(path)) => Some(Arc::new(OwnedFd::from(open_file(path)?))),
            Some(LogOutput::Stdout) | None => None,
        };
        Ok(Self { spec: spec.cloned(), file })
    }

    pub(super) fn tell(&self, peer: &Peer) {
        let file = self.file.iter().cloned().collect();
        peer.tell_with(&ToProxy::AccessLog(self.spec.clone()), file);
    }
}

/// Readable by the owner and the group, as log readers expect.
fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Whether it is the address of a TCP app.
fn is_of_app(address: &ListenAddr, doors: &[Door]) -> bool {
    doors.iter().any(|door| door.app.is_some() && door.address == *address)
}

impl Hub {
    /// Makes a configuration the one that holds. The wish is answered when every proxy has it.
    pub(super) async fn configure(&mut self, wish: (Number, u64), wanted: Wanted) {
        if !self.returning.is_over() {
            self.returning.postponed.push((wish, wanted));
            return;
        }
        let is_first = self.is_first_start();
        if is_first && !wanted.is_whole {
            // It was on its way when another supervisor was there.
            return self.refuse_configuration(wish, ConfigureError::Anew);
        }
        let doors = self.catalog.doors(&wanted);
        if wanted.is_trial {
            let outcome = self.try_doors(&doors).map(|()| self.addresses());
            return self.answer(wish.0, wish.1, Answer::Configured(outcome));
        }
        let opened = match self.open_for(&wanted.server, &doors) {
            Ok(opened) => opened,
            Err(ConfigureError::Listen(address, why)) if is_of_app(&address, &doors) => {
                // What is to be done without that app is for the control process to say.
                let error = ConfigureError::Listen(address, why);
                return self.answer(wish.0, wish.1, Answer::Configured(Err(error)));
            }
            Err(error) => return self.refuse_configuration(wish, error),
        };
        if self.instruct(&wanted, is_first).await.is_err() {
            return self.refuse_configuration(wish, ConfigureError::Closing);
        }
        self.catalog.change(&wanted);
        let (told, waiting) = (self.taking_part(), self.serving());
        let ignore = self.change_listeners(&doors, &opened);
        let log_changed = self.access_log.spec != opened.access_log.spec;
        if log_changed {
            self.access_log = opened.access_log.clone();
        }
        let number = self.next.turn;
        self.next.turn += 1;
        self.tell_proxies(&told, &wanted, &opened, log_changed, (number, ignore));
        self.listeners.extend(opened.listeners);
        self.server = Some(wanted.server);
        self.note_listeners();
        self.note_settings();
        self.tell_listening();
        if waiting.is_empty() {
            // The first ones, that have waited for it.
            let coming: Vec<_> = self.proxies.keys().copied().collect();
            let waiting = coming.iter().copied().collect();
            self.turns.push(Turn { number, waiting, wish });
            coming.into_iter().for_each(|proxy| self.bring_up(proxy));
        } else {
            self.turns.push(Turn { number, waiting, wish });
        }
        self.end_turn(0, None);
    }

    /// Opens what is new, and closes it again.
    fn try_doors(&mut self, doors: &[Door]) -> Result<(), ConfigureError> {
        if self.closing.is_some() {
            return Err(ConfigureError::Closing);
        }
        for door in doors {
            if self.listeners.iter().any(|one| one.listening.configured == door.address) {
                continue;
            }
            let opened = self
                .open_listener(door, &[])
                .map_err(|error| ConfigureError::Listen(door.address.clone(), error.to_string()))?;
            opened.forget_file();
        }
        Ok(())
    }

    /// Opens what a configuration needs and we have not.
    fn open_for(&mut self, server: &ServerSpec, doors: &[Door]) -> Result<Opened, ConfigureError> {
        if self.closing.is_some() {
            return Err(ConfigureError::Closing);
        }
        let access_log = if self.access_log.spec == server.access_log {
            self.access_log.clone()
        } else {
            match LogFile::open(server.access_log.as_ref()) {
                Ok(log) => log,
                Err(error) if self.has_survivors && self.is_first_start() => {
                    tracing::error!(%error, "there is no access log until this is mended");
                    LogFile::default()
                }
                Err(error) => return Err(ConfigureError::AccessLog(error.to_string())),
            }
        };
        let mut listeners: Vec<Listener> = Vec::new();
        for door in self.doors_to_open(doors) {
            let configured = &door.address;
            match self.open_listener(door, &listeners) {
                Ok(listener) => listeners.push(listener),
                Err(error) if self.has_survivors && self.is_first_start() => {
                    tracing::error!(address = %configured, %error, "cannot listen any more");
                }
                Err(error) => {
                    let fresh = listeners.iter().filter(|one| !self.listens_at(&one.listening));
                    fresh.for_each(Listener::forget_file);
                    return Err(ConfigureError::Listen(configured.clone(), error.to_string()));
                }
            }
        }
        Ok(Opened { listeners, access_log })
    }

    /// Those that go from one app to another come last: the file of a Unix socket is replaced then, and
    /// nothing is to fail behind it.
    fn doors_to_open<'a>(&self, doors: &'a [Door]) -> Vec<&'a Door> {
        let mut missing: Vec<&Door> =
            doors.iter().filter(|door| !self.listeners.iter().any(|one| door.is_of(one))).collect();
        let moves = |door: &&Door| {
            self.listeners.iter().any(|one| one.listening.configured == door.address)
        };
        missing.sort_by_key(moves);
        missing
    }

    /// Whether the address is listened on already, for whomever.
    fn listens_at(&self, listening: &Listening) -> bool {
        self.listeners.iter().any(|one| one.listening.address == listening.address)
    }

    fn open_listener(&mut self, door: &Door, more: &[Listener]) -> io::Result<Listener> {
        let ours = self.listeners.iter().chain(more).map(|one| &one.listening.address);
        let (address, sockets) = sockets::open(&door.address, ours, self.options.workers)?;
        let number = self.next.listener;
        self.next.listener += 1;
        let (configured, app) = (door.address.clone(), door.app.clone());
        Ok(Listener { listening: Listening { number, configured, address, app }, sockets })
    }

    /// The desk serves others between two instructions.
    async fn instruct(
        &self,
        wanted: &Wanted,
        is_first: bool,
    ) -> Result<(), crate::supervisor::InstructError> {
        let limits = &wanted.server.limits;
        self.desk.set_limits(limits.parallel_starts, limits.memory).await;
        if wanted.lineage != Lineage::default() {
            self.desk.trace(wanted.lineage.clone()).await?;
        }
        if is_first {
            return self.desk.instruct(Instruction::DefineAll(wanted.put.clone())).await;
        }
        let (gone, put) = (wanted.gone.clone(), wanted.put.clone());
        self.desk.instruct(Instruction::Change { gone, put }).await
    }

    /// Gives up the listeners that are not wanted any more, and tells which.
    fn change_listeners(&mut self, doors: &[Door], opened: &Opened) -> Vec<u64> {
        for Listener { listening: Listening { address, app, .. }, .. } in &opened.listeners {
            let app = app.as_ref().map(tracing::field::display);
            tracing::info!(%address, app, "listening");
        }
        let (keep, drop): (Vec<_>, Vec<_>) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|one| doors.iter().any(|door| door.is_of(one)));
        self.listeners = keep;
        let fresh = |address: &ListenAddr| {
            opened.listeners.iter().any(|one| one.listening.address == *address)
        };
        for listener in &drop {
            // Of an address that goes to somebody else, the file is the new socket's.
            if !fresh(&listener.listening.address) {
                listener.forget_file();
            }
            tracing::info!(address = %listener.listening.address, "no longer listening");
        }
        let numbers = drop.iter().map(|listener| listener.listening.number).collect();
        // Who waits there is still accepted; our own descriptors would keep them open.
        self.leaving.extend(drop.iter().map(Listener::known));
        numbers
    }

    fn tell_proxies(
        &mut self,
        proxies: &BTreeSet<Number>,
        wanted: &Wanted,
        opened: &Opened,
        log_changed: bool,
        (turn, ignore): (u64, Vec<u64>),
    ) {
        let rejected = wanted.rejected();
        let served = wanted.put.iter().filter(|spec| !rejected.contains_key(&spec.id));
        let served: Vec<_> = served.map(without_program).collect();
        let (server, gone) = (wanted.server.clone(), wanted.unserved());
        let apply = Apply { turn, server, is_whole: false, gone, ignore };
        for (number, proxy) in &mut self.proxies {
            if !proxies.contains(number) {
                continue;
            }
            let peer = &proxy.peer;
            for apps in portions(&served) {
                peer.tell(&ToProxy::Apps(apps.to_vec()));
            }
            for listener in opened.listeners.iter().filter(|_| !proxy.is_leaving()) {
                let listen = ToProxy::Listen(listener.listening.clone());
                peer.tell_with(&listen, listener.sockets.clone());
            }
            if log_changed {
                self.access_log.tell(peer);
            }
            proxy.apply(apply.clone());
        }
    }

    /// Writes down the settings that hold, for a supervisor that comes after this one: the file may have
    /// become wrong by then.
    fn note_settings(&self) {
        if let (Some(reception), Some(server)) = (&self.reception, &self.server)
            && let Err(error) = reception.note_settings(server)
        {
            tracing::error!(%error, "cannot write down the settings that hold");
        }
    }

    fn tell_listening(&self) {
        self.office.tell(&ToControl::Listening(self.addresses()));
    }

    /// Where HTTP is spoken. TCP apps say themselves where their clients connect.
    pub(super) fn addresses(&self) -> Vec<ListenAddr> {
        let http = self.listeners.iter().filter(|one| one.listening.app.is_none());
        http.map(|one| one.listening.address.clone()).collect()
    }

    fn refuse_configuration(&mut self, (control, wish): (Number, u64), error: ConfigureError) {
        let answer = Answer::Configured(Err(error.clone()));
        self.answer(control, wish, answer);
        if self.is_first_start() && self.closing.is_none() && error != ConfigureError::Anew {
            self.fail_unless_survived(HubError::Configure(error));
        }
    }

    /// Sees to it that what is handed on listens: a proxy that was taken over may have shut it down.
    pub(super) fn revive_listeners(&mut self) {
        let mut is_changed = false;
        for Listener { listening, sockets } in &mut self.listeners {
            let address = &listening.address;
            match sockets::revive(address, sockets) {
                Ok(false) => {}
                Ok(true) => {
                    is_changed = true;
                    tracing::error!(%address, "was shut down by a proxy, and is listened on again");
                }
                Err(error) => tracing::error!(%address, %error, "cannot be listened on any more"),
            }
        }
        if is_changed {
            self.note_listeners();
        }
    }

    /// A proxy has taken over the configuration of a turn, or is gone.
    pub(super) fn end_turn(&mut self, proxy: Number, turn: Option<u64>) {
        for pending in &mut self.turns {
            // A proxy takes over one after the other, so that it has all before it too.
            if turn.is_none_or(|turn| turn >= pending.number) {
                pending.waiting.remove(&proxy);
            }
        }
        if self.turns.iter().all(|pending| pending.waiting.is_empty()) && !self.leaving.is_empty() {
            self.leaving.clear();
            self.note_listeners();
        }
        let addresses = self.addresses();
        let over: Vec<Turn> = self.turns.extract_if(.., |one| one.waiting.is_empty()).collect();
        for Turn { wish, number, .. } in over {
            let answer = Answer::Configured(Ok(addresses.clone()));
            if number > 0 {
                self.answer_when_told(wish, answer);
            } else {
                service_notify::say("READY=1\nSTATUS=serving");
                let version = env!("CARGO_PKG_VERSION");
                tracing::info!(version, pid = std::process::id(), "ready");
                self.answer(wish.0, wish.1, answer);
                // Whoever asked for this is told first.
                self.renew_control();
            }
        }
    }

    /// Before anything was ever served.
    pub(super) fn is_first_start(&self) -> bool {
        self.server.is_none() || self.turns.iter().any(|turn| turn.number == 0)
    }

    /// Opens log files anew, for logrotate.
    pub(super) fn reopen_logs(&mut self) {
        match LogFile::open(self.access_log.spec.as_ref()) {
            Ok(fresh) => {
                self.access_log = fresh;
                for proxy in self.proxies.values().filter(|proxy| proxy.takes_part()) {
                    self.access_log.tell(&proxy.peer);
                }
                if self.access_log.file.is_some() {
                    tracing::info!("access log opened anew");
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot open the access log anew; the old file stays");
            }
        }
    }
}

impl Listener {
    /// As the next supervisor is to know it.
    pub(super) fn known(&self) -> KnownListener {
        let inodes = self.sockets.iter().filter_map(|socket| inode(socket)).collect();
        KnownListener { listening: self.listening.clone(), inodes }
    }

    /// Removes the file of a Unix socket that is given up.
    pub(super) fn forget_file(&self) {
        if let ListenAddr::Unix(path) = &self.listening.address
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the socket's file");
        }
    }
}
