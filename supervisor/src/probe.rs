//! Does it listen? Looks at an endpoint until it accepts a connection.
//!
//! Whoever asks brings the deadline, and the watch over the process: a probe goes on until it is
//! dropped. It says how the last look ended, for operators.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch as channel,
    task::yield_now,
    time::{Instant, sleep, timeout},
};

use crate::{
    driver::Heard,
    message::Endpoint,
    pace::{LONGEST_STEP, STEP, step},
    tick::Tick,
};

/// A pause of which nobody notices a millisecond.
const LONG: Duration = Duration::from_millis(5);
/// After this long a start is no longer quick, and nobody notices [`LONGEST_STEP`].
const PATIENT_AFTER: Duration = Duration::from_secs(10);
/// Every how many looks at 127.0.0.1 one goes to `::1`, where `localhost` may have led the app.
const OTHER_FAMILY: u32 = 8;
/// After the kernel has told: how long looks follow each other without a pause, and how long in short
/// steps.
const EAGER: Duration = Duration::from_millis(1);
/// How many looks these are where many start at once.
const EAGER_LOOKS: u32 = 3;
/// How often at most, in one start.
const MOST_EAGER: u32 = 64;
const ATTENTIVE: Duration = Duration::from_millis(100);
/// Total, for one look.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Counts the starts under way, which share the machine's time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    starts: Arc<AtomicUsize>,
}

/// One start under way.
#[derive(Debug)]
pub(crate) struct Started {
    starts: Arc<AtomicUsize>,
    since: Instant,
}

impl Pace {
    pub(crate) fn start(&self) -> Started {
        self.starts.fetch_add(1, Ordering::Relaxed);
        Started { starts: self.starts.clone(), since: Instant::now() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.starts.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Started {
    /// Time until the next look: one millisecond, more when many start at once or it takes long.
    fn step(&self) -> Duration {
        if self.since.elapsed() >= PATIENT_AFTER {
            return LONGEST_STEP;
        }
        step(self.starts.load(Ordering::Relaxed))
    }
}

/// When to look: again and again, or, where the kernel tells that the app listens, then.
#[derive(Debug)]
pub(crate) struct Occasions<'s> {
    started: &'s Started,
    heard: Option<channel::Receiver<Heard>>,
    /// When something was heard last, and how often it was.
    since: Option<Instant>,
    times: u32,
    /// Looks without a pause since then.
    eager: u32,
    clock: Clock,
}

impl<'s> Occasions<'s> {
    pub(crate) fn new(started: &'s Started, heard: Option<channel::Receiver<Heard>>) -> Self {
        Self { started, heard, since: None, times: 0, eager: 0, clock: Clock::Unmade }
    }

    /// Waits for the next one. What is heard comes before the app listens, by the time of a system call:
    /// so looks follow each other without a pause then, a few if many start at once. Seldom ones remain for what
    /// cannot be heard.
    async fn next(&mut self) {
        let step = self.started.step();
        let Some(heard) = &mut self.heard else { return rest(&mut self.clock, step).await };
        let pause = match self.since.map(|since| since.elapsed()) {
            Some(ago)
                if ago < EAGER
                    && self.times < MOST_EAGER
                    && (step == STEP || self.eager < EAGER_LOOKS) =>
            {
                self.eager += 1;
                return yield_now().await;
            }
            Some(ago) if ago < ATTENTIVE => step,
            Some(_) | None => LONGEST_STEP,
        };
        tokio::select! {
            biased;
            told = heard.changed() => match told {
                Ok(()) => {
                    self.since = Some(Instant::now());
                    self.times += 1;
                    self.eager = 0;
                }
                // Nobody will tell any more.
                Err(_) => self.heard = None,
            },
            () = rest(&mut self.clock, pause) => {}
        }
    }
}

/// What times short pauses.
#[derive(Debug)]
enum Clock {
    Unmade,
    Fine(Tick),
    /// There is no descriptor for one: pauses take a millisecond longer.
    Coarse,
}

/// Pauses, to the point where it is short.
async fn rest(clock: &mut Clock, pause: Duration) {
    if pause < LONG
        && let Clock::Unmade = clock
    {
        *clock = Tick::new().map_or(Clock::Coarse, Clock::Fine);
    }
    match clock {
        Clock::Fine(tick) if pause < LONG => tick.pause(pause).await,
        Clock::Unmade | Clock::Fine(_) | Clock::Coarse => sleep(pause).await,
    }
}

/// How the last look ended, for operators.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLook(Arc<Mutex<Words>>);

#[derive(Debug, Default)]
struct Words {
    look: Option<String>,
    /// Where else the app listens.
    elsewhere: Option<String>,
}

impl LastLook {
    pub(crate) fn set(&self, words: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look = Some(words);
    }

    pub(crate) fn set_elsewhere(&self, words: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elsewhere = words;
    }

    pub(crate) fn words(&self) -> Option<String> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<_> = words.look.iter().chain(&words.elsewhere).map(String::as_str).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// Where an app is looked for that was told to listen on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// There.
    Own,
    /// There, and on `::1`, where `localhost` may have led it.
    Both,
}

/// Waits until the endpoint accepts a connection; returns where it did.
pub(crate) async fn until_connected(
    endpoint: &Endpoint,
    families: Families,
    occasions: &mut Occasions<'_>,
    last: &LastLook,
) -> Endpoint {
    let mut looks = 0_u32;
    loop {
        match connect(endpoint).await {
            Ok(_) => return endpoint.clone(),
            Err(error) => {
                // A look is worth more than a pause that is exact.
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    occasions.clock = Clock::Coarse;
                }
                last.set(format!("{} did not answer: {error}", name(endpoint)));
            }
        }
        if families == Families::Both
            && looks % OTHER_FAMILY == OTHER_FAMILY - 1
            && let Some(other) = other_family(endpoint)
            && connect(&other).await.is_ok()
        {
            return other;
        }
        looks += 1;
        occasions.next().await;
    }
}

/// Whether the endpoint accepts a connection now.
pub(crate) async fn accepts(endpoint: &Endpoint) -> bool {
    matches!(timeout(ATTEMPT, connect(endpoint)).await, Ok(Ok(_)))
}

/// Whether nobody listens at the endpoint. One that takes its time is no such case: an app that works
/// hard may let its line fill up.
pub(crate) async fn refuses(endpoint: &Endpoint) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    match timeout(ATTEMPT, connect(endpoint)).await {
        Ok(Err(error)) => matches!(error.kind(), ConnectionRefused | NotFound),
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// A connection to an app.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    match endpoint {
        Endpoint::Tcp(address) => Ok(Box::new(TcpStream::connect(address).await?)),
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Upstream => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn other_family(endpoint: &Endpoint) -> Option<Endpoint> {
    match endpoint {
        Endpoint::Tcp(SocketAddr::V4(address)) => {
            Some(Endpoint::Tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()))))
        }
        Endpoint::Tcp(SocketAddr::V6(_)) | Endpoint::Unix(_) | Endpoint::Upstream => None,
    }
}

fn name(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp(address) => format!("port {}", address.port()),
        Endpoint::Unix(path) => format!("socket {}", path.display()),
        Endpoint::Upstream => "upstream".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_grow_apart_when_many_start_or_one_takes_long() {
        let pace = Pace::default();
        let one = pace.start();
        assert_eq!(one.step(), Duration::from_millis(1));
        let many: Vec<_> = (0..50).map(|_| pace.start()).collect();
        assert_eq!(one.step(), Duration::from_millis(5));
        drop(many);
        assert_eq!(one.step(), Duration::from_millis(1));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(one.step(), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_looks_follow_at_once_what_is_heard_however_many_start() {
        let pace = Pace::default();
        let all: Vec<_> = (0..50).map(|_| pace.start()).collect();
        let (tell, heard) = channel::channel(Heard::default());
        let mut occasions = Occasions::new(&all[0], Some(heard));
        for _ in 0..2 {
            tell.send_modify(|_| {});
            let begun = Instant::now();
            for _ in 0..=EAGER_LOOKS {
                occasions.next().await;
            }
            assert_eq!(begun.elapsed(), Duration::ZERO);
            occasions.next().await;
            assert!(begun.elapsed() >= Duration::from_millis(4), "{:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn finds_an_app_that_took_localhost_for_ipv6() {
        let Ok(socket) = tokio::net::TcpListener::bind("[::1]:0").await else { return };
        let there = socket.local_addr().unwrap();
        let asked = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], there.port())));
        let started = Pace::default().start();
        let mut occasions = Occasions::new(&started, None);
        let last = LastLook::default();
        let found = until_connected(&asked, Families::Both, &mut occasions, &last).await;
        assert_eq!(found, Endpoint::Tcp(there));
    }
}
