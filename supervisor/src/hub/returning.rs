//! Roles that outlived an earlier supervisor: they are expected for a while, and taken on as they are.
//!
//! Until everybody is back, or given up, nothing is configured: a listening socket that is on its way
//! must not be opened a second time.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, timeout};

use super::{
    Event, Hub, HubError,
    catalog::Wanted,
    configure::Listener,
    launch::{Image, Runner},
    sockets,
    switchboard::Number,
};
use crate::{
    driver::{any_gone, children},
    protocol::{Listening, Role},
    reception::{self, Known, KnownListener, Reception},
};

/// How long roles are waited for that an earlier supervisor had.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom we expect back.
#[derive(Default)]
pub(super) struct Returning {
    expected: Vec<Known>,
    /// Those who came, and have not introduced themselves yet.
    arriving: Vec<Number>,
    /// What the earlier supervisor listened on.
    listeners: Vec<KnownListener>,
    /// Given up then.
    deadline: Option<Instant>,
    /// Whether the control process is an earlier supervisor's.
    control_is_back: bool,
    /// Those who are still expected were killed.
    is_given_up: bool,
    /// Those who were killed because all is about to end.
    killed: Vec<OwnedFd>,
    /// What is to be configured when everybody is there, in this order.
    pub(super) postponed: Vec<((Number, u64), Wanted)>,
}

impl Returning {
    /// Whether everybody is there.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_none()
    }

    /// Whether these sockets are those that an earlier supervisor opened for this address.
    pub(super) fn knows(&self, listening: &Listening, sockets: &[OwnedFd]) -> bool {
        let known = self.listeners.iter().find(|known| known.listening == *listening);
        known.is_some_and(|known| {
            !sockets.is_empty()
                && sockets.iter().all(|socket| {
                    inode(socket).is_some_and(|inode| known.inodes.contains(&inode))
                        && sockets::listens_on(socket, &listening.address)
                })
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn is_control_back(&self) -> bool {
        self.control_is_back
    }
}

impl Hub {
    /// Opens for roles of an earlier supervisor, and starts those that it had not.
    pub(super) fn expect(&mut self) -> Result<(), HubError> {
        let Some(reception) = self.reception.clone() else { return self.start_missing() };
        let (expected, highest) = reception.known();
        let listener = reception
            .open(self.options.supervisor.group)
            .map_err(|error| HubError::System("open for the other processes", error))?;
        let events = self.events.0.clone();
        tokio::spawn(async move {
            loop {
                let caller = listener.accept().await.and_then(|(stream, _)| {
                    let stream = stream.into_std()?;
                    Ok((reception::caller(&stream)?, stream))
                });
                match caller {
                    Ok((pid, stream)) => {
                        // An error means that all is over.
                        if events.send(Event::Came(pid, stream)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "one of doorbell's processes cannot come back");
                        tokio::time::sleep(PATIENCE / 50).await;
                    }
                }
            }
        });
        self.next.role = highest;
        self.returning.listeners = reception.known_listeners();
        let numbers = self.returning.listeners.iter().map(|known| known.listening.number);
        self.next.listener = numbers.max().map_or(0, |highest| highest.saturating_add(1));
        if expected.is_empty() {
            return match self.start_missing() {
                // Apps that run are not to pay for it.
                Err(error) if self.has_survivors => {
                    tracing::error!(%error, "trying again");
                    self.restart_all_later();
                    Ok(())
                }
                other => other,
            };
        }
        for Known { role, number, pid, .. } in &expected {
            tracing::info!(?role, number, pid, "outlived its supervisor; expected back");
        }
        self.watch_for_the_end_of(&expected);
        self.returning.deadline = Some(Instant::now() + PATIENCE);
        self.returning.expected = expected;
        Ok(())
    }

    /// Who ends before it comes is not waited for.
    fn watch_for_the_end_of(&self, expected: &[Known]) {
        for known in expected.iter().cloned() {
            let events = self.events.0.clone();
            tokio::spawn(async move {
                if let Ok(handle) = open(known.pid)
                    && known.lives()
                {
                    any_gone(vec![handle]).await;
                }
                // An error means that all is over.
                let _ = events.send(Event::Lost(known.number)).await;
            });
        }
    }

    /// One that was expected has ended. If it has come meanwhile, its connection tells that too.
    pub(super) fn lost(&mut self, number: Number) {
        let is_lost = |known: &mut Known| known.number == number && !known.lives();
        for known in self.returning.expected.extract_if(.., is_lost) {
            let Known { role, pid, .. } = known;
            tracing::warn!(?role, pid, "ended before it came back, and is replaced");
        }
        self.look_who_is_back();
    }

    /// Somebody is at the door.
    pub(super) fn came(&mut self, pid: u32, stream: UnixStream) {
        let expected = &mut self.returning.expected;
        let Some(at) = expected.iter().position(|known| known.pid == pid && known.lives()) else {
            return tracing::warn!(pid, "a stranger wants to be one of doorbell's processes");
        };
        let known = expected.swap_remove(at);
        match self.take_back(&known, stream) {
            Ok(()) => {
                self.has_survivors = true;
                tracing::info!(role = ?known.role, pid, "is back");
                self.returning.arriving.push(known.number);
            }
            Err(error) => {
                tracing::error!(role = ?known.role, pid, %error, "cannot be taken back");
                // An end that nobody waits for.
                drop(kill(&known));
            }
        }
    }

    fn take_back(&mut self, known: &Known, stream: UnixStream) -> io::Result<()> {
        let runner = Runner::of(known.role, known.pid, open(known.pid)?)?;
        match known.role {
            Role::Control => {
                self.returning.control_is_back = true;
                self.attach_control(known.number, stream, runner)
            }
            Role::Proxy => self.attach_proxy(known.number, stream, runner, Some(known)),
        }
    }

    /// Somebody has introduced itself, or is gone: is everybody there now?
    pub(super) fn look_who_is_back(&mut self) {
        let (proxies, office) = (&self.proxies, &self.office);
        self.returning.arriving.retain(|number| {
            let is_coming = proxies.get(number).is_some_and(|proxy| proxy.is_coming());
            is_coming || office.is_coming(*number)
        });
        let is_open = !self.returning.is_over();
        if is_open && self.returning.expected.is_empty() && self.returning.arriving.is_empty() {
            self.returning.deadline = None;
            self.note_roles();
            if let Err(error) = self.start_missing() {
                // Who is about to end may hold an address a moment longer: apps are not to pay for it.
                tracing::error!(%error, "trying again");
                self.restart_all_later();
            }
            let (postponed, events) =
                (std::mem::take(&mut self.returning.postponed), self.events.0.clone());
            tokio::spawn(async move {
                for (wish, wanted) in postponed {
                    // An error means that all is over.
                    let _ = events.send(Event::Configure(wish, Box::new(wanted))).await;
                }
            });
        }
    }

    /// Who has not come back is replaced, as soon as its end is seen; or is left to itself, if it
    /// cannot be ended.
    pub(super) fn give_up_waiting(&mut self) {
        if self.returning.is_given_up {
            self.returning.expected.clear();
        }
        self.returning.is_given_up = true;
        self.returning.deadline = Some(Instant::now() + PATIENCE);
        for known in &self.returning.expected {
            let Known { role, pid, .. } = known;
            tracing::error!(?role, pid, "did not come back, and is replaced");
            // Its end is watched already.
            drop(kill(known));
        }
        for number in std::mem::take(&mut self.returning.arriving) {
            self.expel(number, "did not say who it is");
            if self.office.is_coming(number) {
                self.office.end(super::launch::Fate::Die);
            }
        }
        self.look_who_is_back();
    }

    /// All is about to end: who has not come back ends too.
    pub(super) fn expect_nobody(&mut self) {
        self.returning.deadline = None;
        self.returning.arriving.clear();
        self.returning
            .killed
            .extend(self.returning.expected.drain(..).filter_map(|one| kill(&one)));
    }

    /// Waits for the end of those who were killed at the end: until then they hold their sockets.
    pub(super) async fn see_killed_end(&mut self) {
        let ends = async {
            for handle in self.returning.killed.drain(..) {
                any_gone(vec![handle]).await;
            }
        };
        if timeout(PATIENCE, ends).await.is_err() {
            tracing::error!("processes of doorbell's own could not be ended");
        }
    }

    /// Starts what there has to be and is not. Operators first, so that a second Doorbell on the same
    /// socket starts nothing.
    pub(super) fn start_missing(&mut self) -> Result<(), HubError> {
        let started = |role: Role| move |error| HubError::System(role.start(), error);
        if self.office.is_empty() {
            self.open_admin()?;
            self.start_control().map_err(started(Role::Control))?;
        }
        if self.proxies.values().all(|proxy| proxy.is_leaving()) {
            self.start_proxy(Image::Ours).map_err(started(Role::Proxy))?;
        }
        Ok(())
    }

    /// Writes down who runs, for a supervisor that comes after this one.
    pub(super) fn note_roles(&self) {
        // While some are expected, the old list is the better one.
        let Some(reception) = self.reception.as_ref().filter(|_| self.returning.is_over()) else {
            return;
        };
        let proxies = self.proxies.values().filter_map(|proxy| {
            let pid = proxy.peer.runner.pid?;
            let is_draining = proxy.is_leaving();
            Some(Known { is_draining, ..Known::of(Role::Proxy, proxy.peer.number, pid)? })
        });
        let control = self.office.known();
        let control = control.and_then(|(number, pid)| Known::of(Role::Control, number, pid));
        let known: Vec<_> = proxies.chain(control).collect();
        if let Err(error) = reception.note(&known) {
            tracing::error!(%error, "cannot write down which processes are ours");
        }
    }

    /// Writes down what is listened on, likewise.
    pub(super) fn note_listeners(&self) {
        let Some(reception) = &self.reception else { return };
        // Those that proxies may not have given up yet are known too.
        let known = self.listeners.iter().map(Listener::known).chain(self.leaving.iter().cloned());
        if let Err(error) = reception.note_listeners(&known.collect::<Vec<_>>()) {
            tracing::error!(%error, "cannot write down which sockets are ours");
        }
    }

    /// Ends because what is to be cannot begin; not while something lives on that was there before.
    pub(super) fn fail_unless_survived(&mut self, error: HubError) {
        if self.has_survivors {
            tracing::error!(%error, "cannot go on as before; what runs, runs on");
        } else {
            self.fail(error);
        }
    }
}

/// What tells a socket from every other.
pub(super) fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|found| found.st_ino)
}

/// A process that is not our child.
fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = children::to_rustix(pid).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Ends a role, and gives a handle on it while it has not ended.
fn kill(known: &Known) -> Option<OwnedFd> {
    let handle = open(known.pid).ok()?;
    // It may have ended between the look and the handle.
    known.lives().then_some(())?;
    // An error means that it has ended by itself.
    let _ = pidfd_send_signal(&handle, Signal::KILL);
    Some(handle)
}

impl Reception {
    /// The place for roles that are processes.
    pub(super) fn of(launcher: &super::Launcher, folder: &std::path::Path) -> Option<Self> {
        match launcher {
            super::Launcher::Processes(_) => Some(Self::new(folder)),
            super::Launcher::Tasks(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use doorbell_config::{name::AppId, spec::ListenAddr};

    use super::*;

    fn listener() -> (ListenAddr, OwnedFd) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (ListenAddr::Tcp(socket.local_addr().unwrap()), socket.into())
    }

    #[test]
    fn only_the_sockets_that_an_earlier_supervisor_opened_for_an_address_are_taken_back() {
        let ((address, ours), (elsewhere, foreign)) = (listener(), listener());
        let folder = tempfile::tempdir().unwrap();
        let by_path = OwnedFd::from(UnixListener::bind(folder.path().join("x.sock")).unwrap());
        let stream = OwnedFd::from(UnixStream::pair().unwrap().0);
        let listening = Listening { number: 3, configured: address.clone(), address, app: None };
        let inodes = [&ours, &by_path, &stream].map(|socket| inode(socket).unwrap()).into();
        let known = KnownListener { listening: listening.clone(), inodes };
        let returning = Returning { listeners: vec![known], ..Returning::default() };
        let copy = |socket: &OwnedFd| socket.try_clone().unwrap();
        let knows = |listening: &Listening, sockets: &[&OwnedFd]| {
            let sockets: Vec<_> = sockets.iter().map(|socket| copy(socket)).collect();
            returning.knows(listening, &sockets)
        };
        assert!(knows(&listening, &[&ours]) && knows(&listening, &[&ours, &ours]));
        assert!(!knows(&listening, &[]), "none");
        assert!(!knows(&listening, &[&foreign]), "another one");
        assert!(!knows(&listening, &[&ours, &foreign]), "another one beside ours");
        for other in [&by_path, &stream] {
            assert!(!knows(&listening, &[other]), "ours, and for something else");
        }
        let others = [
            Listening { number: 4, ..listening.clone() },
            Listening { address: elsewhere, ..listening.clone() },
            Listening { app: AppId::parse("db").ok(), ..listening },
        ];
        for other in &others {
            assert!(!knows(other, &[&ours]) && !knows(other, &[&foreign]), "{other:?}");
        }
    }
}
