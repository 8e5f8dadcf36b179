//! Where the kernel tells that a process of an instance is about to listen: a seccomp(2) filter that has
//! listen(2) wait until we let it go on.
//!
//! An app needs to know nothing of it. What is told comes before the app listens, by the few
//! microseconds that the call takes; so it is an occasion to connect, and no proof. The address is taken
//! from the app's own socket, which is given back before the app goes on: nothing that it opens is open
//! because of us when it looks.
//!
//! Invariant: nobody waits in listen(2) for us alone, and no listen fails because of us, as long as the
//! supervisor or the control process lives. Both have the descriptor ([`Custody`]); the [`Deputy`] of the
//! control process serves it from a supervisor's end until the next one has taken it up, and what one of
//! them did not live to answer stands in the [`Letter`]. Guarded by `listening` of the system tests.
//!
//! What an app does to us is bounded: one look at a time, each with a deadline and off the runtime (to
//! close a descriptor of an app's may take as long as the app likes), a pace for floods, a number of
//! addresses that are remembered.
//!
//! [`Custody`]: super::Custody

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::getsockname,
    process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use tokio::{
    io::unix::AsyncFd,
    sync::watch as channel,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout},
};

use super::{
    children, procfs,
    sys::{
        self,
        notices::{self, Letter, Notice, Turn},
    },
};

/// How long an app waits for our look at its socket.
const LOOK: Duration = Duration::from_millis(250);
/// Calls of one app in a [`WINDOW`] that are answered at once, and those of them that are looked at.
const BURST: u32 = 256;
const LOOKS: u32 = 64;
const WINDOW: Duration = Duration::from_secs(1);
/// Time between two answers beyond that, and while it is somebody else's turn.
const PACE: Duration = Duration::from_millis(1);
/// Time until the next try after the kernel refused us.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Addresses that are remembered of one instance.
const MOST: usize = 16;

/// The descriptors of an ear, which others keep too.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) notices: OwnedFd,
    pub(crate) letter: OwnedFd,
}

/// Where an instance was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// How often perhaps beyond loopback.
    pub(crate) beyond: u64,
    /// TCP addresses, in the order in which they were heard first.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What one call of listen(2) is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Tcp(SocketAddr),
    /// Reachable on this machine alone.
    Local,
    Unknown,
}

/// An instance that is listened to; no more, once it is dropped.
#[derive(Debug)]
pub(crate) struct Ear {
    heard: channel::Sender<Heard>,
    service: AbortHandle,
}

/// Lets apps listen in the place of a supervisor that is gone, until it is dropped.
#[derive(Debug)]
pub struct Deputy(JoinHandle<()>);

/// What became of a turn.
enum Outcome<T> {
    Called(T),
    Nobody,
    /// It is another process's turn.
    Taken,
    /// No process has the filter any more.
    Over,
}

/// The descriptors, in use.
struct Service {
    notices: AsyncFd<OwnedFd>,
    letter: Letter,
    /// The last look, which may still go on.
    look: Option<JoinHandle<Socket>>,
}

impl Parts {
    /// Finds them among what is kept for an instance, where they are next to each other.
    pub(crate) fn among(held: &mut Vec<OwnedFd>) -> Option<Self> {
        let at = held.iter().position(|one| notices::is_of_filter(one.as_fd()))?;
        let letter = (at + 1 < held.len()).then(|| held.remove(at + 1))?;
        Some(Self { notices: held.remove(at), letter })
    }

    /// To be kept elsewhere.
    pub(crate) fn kept(&self) -> io::Result<[Arc<OwnedFd>; 2]> {
        Ok([Arc::new(self.notices.try_clone()?), Arc::new(self.letter.try_clone()?)])
    }
}

impl Ear {
    /// Listens from here on.
    pub(crate) fn open(parts: Parts) -> io::Result<Self> {
        let service = Service::open(parts)?;
        let heard = channel::Sender::new(Heard::default());
        let service = tokio::spawn(attend(service, heard.clone())).abort_handle();
        Ok(Self { heard, service })
    }

    /// What was heard, and will be.
    pub(crate) fn heard(&self) -> channel::Receiver<Heard> {
        let mut heard = self.heard.subscribe();
        if *self.heard.borrow() != Heard::default() {
            heard.mark_changed();
        }
        heard
    }

    /// An address that was heard before.
    pub(crate) fn remember(&self, address: SocketAddr) {
        self.heard.send_modify(|heard| heard.note(Socket::Tcp(address)));
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.service.abort();
    }
}

impl Deputy {
    /// For an instance whose descriptors these are, if an ear is among them. Needs a Tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// If the system does not let it be watched: then its app waits in listen(2) until there is a
    /// supervisor.
    pub fn among(held: &[Arc<OwnedFd>]) -> io::Result<Option<Self>> {
        let mut held = held.iter().map(|one| one.try_clone()).collect::<Result<Vec<_>, _>>()?;
        let Some(parts) = Parts::among(&mut held) else { return Ok(None) };
        let service = Service::open(parts)?;
        Ok(Some(Self(tokio::spawn(let_all_go_on(service)))))
    }
}

impl Drop for Deputy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Heard {
    fn note(&mut self, socket: Socket) {
        match socket {
            Socket::Tcp(address) => {
                self.beyond += u64::from(!is_loopback(address.ip()));
                if !self.addresses.contains(&address) && self.addresses.len() < MOST {
                    self.addresses.push(address);
                }
            }
            Socket::Local => {}
            Socket::Unknown => self.beyond += 1,
        }
    }

    /// Whether this very address, or its every address, was heard: then whoever answers there is it.
    pub(crate) fn includes(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_it = |heard: IpAddr| {
            heard == ip || heard.is_unspecified() && heard.is_ipv4() == ip.is_ipv4()
        };
        self.addresses.iter().any(|heard| heard.port() == address.port() && is_it(heard.ip()))
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// How often an app has called of late.
struct Flow {
    calls: u32,
    since: Instant,
}

impl Flow {
    fn new() -> Self {
        Self { calls: 0, since: Instant::now() }
    }

    /// Whether a call is worth a look.
    fn is_calm(&self) -> bool {
        self.calls < LOOKS
    }

    /// Waits after a call was answered, as long as there are too many.
    async fn pass(&mut self) {
        if self.since.elapsed() > WINDOW {
            *self = Self::new();
        }
        self.calls += 1;
        match self.calls {
            ..BURST => tokio::task::consume_budget().await,
            BURST.. => sleep(PACE).await,
        }
    }
}

/// Hears one call after the other, until no process is left that could make one.
async fn attend(mut service: Service, heard: channel::Sender<Heard>) {
    let mut flow = Flow::new();
    loop {
        let outcome = service.hear(flow.is_calm(), &heard).await;
        if service.goes_on(outcome, &mut flow).await == Goes::Nowhere {
            return;
        }
    }
}

/// Lets go on whoever calls, likewise.
async fn let_all_go_on(mut service: Service) {
    let mut flow = Flow::new();
    loop {
        let outcome = service.let_go_on();
        if service.goes_on(outcome, &mut flow).await == Goes::Nowhere {
            return;
        }
    }
}

/// Whether there may be more calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    Nowhere,
}

impl Service {
    fn open(Parts { notices, letter }: Parts) -> io::Result<Self> {
        Ok(Self { notices: sys::watch(notices)?, letter: Letter::open(letter)?, look: None })
    }

    /// Waits until there may be something to do.
    async fn goes_on(&mut self, outcome: io::Result<Outcome<()>>, flow: &mut Flow) -> Goes {
        match outcome {
            Ok(Outcome::Called(())) => flow.pass().await,
            Ok(Outcome::Nobody) => self.until_called().await,
            Ok(Outcome::Taken) => sleep(PACE).await,
            Ok(Outcome::Over) => return Goes::Nowhere,
            Err(error) => {
                tracing::warn!(%error, "cannot hear whether an app listens; trying again");
                sleep(AFTER_ERROR).await;
            }
        }
        Goes::On
    }

    /// Waits until somebody may have called. Whoever has called before is there too.
    async fn until_called(&mut self) {
        match self.notices.readable().await {
            // Somebody may be there already: the next look tells.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => sleep(AFTER_ERROR).await,
        }
    }

    /// Hears one call, and lets it go on.
    async fn hear(
        &mut self,
        is_looked_at: bool,
        heard: &channel::Sender<Heard>,
    ) -> io::Result<Outcome<()>> {
        let filter = self.notices.as_fd();
        let (mut turn, notice) = match receive(&self.notices, &mut self.letter)? {
            Outcome::Called(called) => called,
            Outcome::Nobody => return Ok(Outcome::Nobody),
            Outcome::Taken => return Ok(Outcome::Taken),
            Outcome::Over => return Ok(Outcome::Over),
        };
        let socket = match is_looked_at.then(|| caller(filter, notice)).flatten() {
            Some(process) => look(&mut self.look, process, notice.socket).await,
            None => Socket::Unknown,
        };
        // First, so that who connects in the very moment knows whom he found.
        heard.send_modify(|heard| heard.note(socket));
        notices::let_go_on(filter, notice.id)?;
        // Before our turn ends, so that nobody answers again.
        notices::forget(&mut turn);
        Ok(Outcome::Called(()))
    }

    fn let_go_on(&mut self) -> io::Result<Outcome<()>> {
        Ok(match receive(&self.notices, &mut self.letter)? {
            Outcome::Called((mut turn, notice)) => {
                notices::let_go_on(self.notices.as_fd(), notice.id)?;
                notices::forget(&mut turn);
                Outcome::Called(())
            }
            Outcome::Nobody => Outcome::Nobody,
            Outcome::Taken => Outcome::Taken,
            Outcome::Over => Outcome::Over,
        })
    }
}

/// Takes our turn, and whoever called first.
fn receive<'l>(
    notices: &AsyncFd<OwnedFd>,
    letter: &'l mut Letter,
) -> io::Result<Outcome<(Turn<'l>, Notice)>> {
    let filter = notices.as_fd();
    let Some(mut turn) = letter.turn()? else { return Ok(Outcome::Taken) };
    notices::settle(filter, &mut turn)?;
    let mut asked = [PollFd::new(&filter, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let found = asked.first().map_or(PollFlags::empty(), PollFd::revents);
    if !found.contains(PollFlags::IN) {
        let is_over = found.intersects(PollFlags::HUP | PollFlags::ERR);
        return Ok(if is_over { Outcome::Over } else { Outcome::Nobody });
    }
    let called = notices::receive(filter, &mut turn)?;
    Ok(called.map_or(Outcome::Nobody, |notice| Outcome::Called((turn, notice))))
}

/// The process that called, as long as it waits: its pid may be another's when it does not.
fn caller(filter: BorrowedFd<'_>, notice: Notice) -> Option<OwnedFd> {
    let open = |pid| pidfd_open(children::to_rustix(pid)?, PidfdFlags::empty()).ok();
    // There are handles for first threads alone.
    let process = open(notice.thread).or_else(|| open(procfs::process_of(notice.thread)?))?;
    notices::waits(filter, notice.id).then_some(process)
}

/// Looks at the caller's socket, unless an earlier look has not come to its end.
async fn look(last: &mut Option<JoinHandle<Socket>>, process: OwnedFd, number: i32) -> Socket {
    if last.as_ref().is_some_and(|last| !last.is_finished()) {
        return Socket::Unknown;
    }
    let look = last.insert(tokio::task::spawn_blocking(move || {
        // Errors mean that it is gone, or that we may not look.
        socket_of(&process, number).unwrap_or(Socket::Unknown)
    }));
    match timeout(LOOK, look).await {
        Ok(Ok(socket)) => {
            *last = None;
            socket
        }
        Ok(Err(_)) | Err(_) => Socket::Unknown,
    }
}

/// What a process has open under a number.
fn socket_of(process: &OwnedFd, number: i32) -> io::Result<Socket> {
    let socket = pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
    Ok(match SocketAddr::try_from(getsockname(&socket)?) {
        // The kernel picks a port later.
        Ok(address) if address.port() == 0 => Socket::Unknown,
        // Java's are of IPv6 that stands for IPv4.
        Ok(address) => Socket::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Err(_) => Socket::Local,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::File};

    use super::*;
    use crate::driver::{
        Exit, advance::Advance, cgroup::Entrance, launch::Launch, outfit::Outfit, rank::Rank, spawn,
    };
    use crate::output::OutputPipe;

    /// A program that listens and tells what came of it; `None` where there are no filters for us.
    fn listens(folder: &std::path::Path) -> Option<spawn::Spawned> {
        let script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()";
        let launch = Launch {
            program: "/usr/bin/python3".into(),
            arguments: ["python3", "-c", script].map(Into::into).into(),
            environment: BTreeMap::new(),
            directory: "/".into(),
        };
        let heard = Some(Advance { socket: None, words: Vec::new() });
        let outfit = Outfit {
            listener: None,
            limits: Vec::new(),
            groups: Entrance::default(),
            rank: Rank::Group,
            user: None,
            mounts: Vec::new(),
            wall: None,
            no_new_privs: true,
            heard,
        };
        let output = OutputPipe::create(&folder.join("out")).unwrap();
        let spawned = spawn::spawn(&launch, output, outfit).unwrap();
        spawned.ear.is_some().then_some(spawned)
    }

    async fn ends_well(spawned: &spawn::Spawned) {
        let exit = timeout(Duration::from_secs(20), spawned.root.exit()).await.expect("it ends");
        assert_eq!(exit, Exit::Status(0));
    }

    fn again(parts: &Parts) -> Parts {
        let (notices, letter) = (parts.notices.try_clone(), parts.letter.try_clone());
        Parts { notices: notices.unwrap(), letter: letter.unwrap() }
    }

    #[tokio::test]
    async fn an_app_is_heard_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut spawned) = listens(folder.path()) else { return };
        let ear = Ear::open(spawned.ear.take().unwrap()).unwrap();
        let mut heard = ear.heard();
        drop(timeout(Duration::from_secs(20), heard.changed()).await.expect("it is heard"));
        // It is bound, and has no port before it listens only if it asked for none.
        assert_eq!(heard.borrow().addresses.len(), 1);
        ends_well(&spawned).await;
    }

    #[tokio::test]
    async fn whom_somebody_did_not_live_to_answer_the_next_one_lets_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut spawned) = listens(folder.path()) else { return };
        let parts = spawned.ear.take().unwrap();
        let mut first = Service::open(again(&parts)).unwrap();
        loop {
            match receive(&first.notices, &mut first.letter).unwrap() {
                Outcome::Called(_) => break,
                Outcome::Nobody => {}
                Outcome::Taken | Outcome::Over => panic!("nobody else is there"),
            }
            first.until_called().await;
        }
        // It is gone, and has not answered.
        drop(first);
        let mut held = vec![File::open("/dev/null").unwrap().into()];
        held.extend([again(&parts).notices, again(&parts).letter]);
        let held: Vec<_> = held.into_iter().map(Arc::new).collect();
        let deputy = Deputy::among(&held).unwrap();
        assert!(deputy.is_some());
        ends_well(&spawned).await;
    }

    #[test]
    fn only_who_was_heard_at_an_address_is_known_there() {
        let addresses = ["127.0.0.1:80", "0.0.0.0:81", "[::]:82"];
        let addresses = addresses.map(|address| address.parse().unwrap()).into();
        let heard = Heard { addresses, ..Heard::default() };
        let includes = |address: &str| heard.includes(address.parse().unwrap());
        assert!(includes("127.0.0.1:80") && includes("127.0.0.1:81") && includes("[::1]:82"));
        // A stranger may have the other family's port.
        assert!(!includes("127.0.0.1:82") && !includes("[::1]:80") && !includes("127.0.0.1:83"));
    }
}
