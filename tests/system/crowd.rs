//! Clients that go on whatever happens, and tell how each failed request failed.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use doorbell_tests::{Connection, eventually};

/// Many clients: every other one keeps its connection.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<JoinHandle<()>>,
}

struct Failure {
    kind: Kind,
    /// When its connection was made, or was tried to.
    opened: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nobody listened.
    Refused,
    /// The connection ended before the answer did.
    Cut,
    /// Another status than 200.
    Status(u16),
}

/// What became of all requests.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Requests.
    pub(crate) asked: usize,
    /// Those that failed on a connection from before a kill.
    pub(crate) held: usize,
    /// Those that failed otherwise, by kind.
    new: BTreeMap<Kind, usize>,
}

impl Figures {
    /// Nothing failed but what a killed process held.
    #[track_caller]
    pub(crate) fn only_held(&self) {
        assert!(self.new.is_empty(), "{self}");
    }

    /// Nothing failed but for want of a listener, on connections that a killed process held aside.
    #[track_caller]
    pub(crate) fn only_held_or_refused(&self) {
        assert!(self.new.keys().all(|kind| *kind == Kind::Refused), "{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, held, new } = self;
        write!(f, "{asked} requests, failed: {held} on held connections, others {new:?}")
    }
}

impl Crowd {
    /// Clients of an app.
    pub(crate) fn on(port: u16, host: &'static str, clients: usize) -> Self {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<Failure>>>::default();
        let threads = (0..clients)
            .map(|client| {
                let (stop, asked, failures) =
                    (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failures));
                std::thread::spawn(move || {
                    let mut kept = None;
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(failure) = ask(port, host, &mut kept) {
                            kept = None;
                            failures.lock().expect("no panic").push(failure);
                        }
                        if client % 2 == 1 {
                            kept = None;
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, asked, failures, threads }
    }

    /// Waits until so many more requests were answered, or not.
    pub(crate) fn wait_for(&self, more: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + more;
        eventually("requests go on", || self.asked.load(Ordering::Relaxed) >= goal);
    }

    /// Ends the clients. `kills` are moments at which a killed process had ended.
    pub(crate) fn end(self, kills: &[Instant]) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        let asked = self.asked.load(Ordering::Relaxed);
        let mut figures = Figures { asked, held: 0, new: BTreeMap::new() };
        // Nothing is recorded twice, and each kill cuts what was opened before it.
        for Failure { kind, opened } in self.failures.lock().expect("no panic").drain(..) {
            if kind == Kind::Cut && kills.iter().any(|kill| opened < *kill) {
                figures.held += 1;
            } else {
                *figures.new.entry(kind).or_default() += 1;
            }
        }
        figures
    }
}

fn ask(port: u16, host: &str, kept: &mut Option<(Connection, Instant)>) -> Result<(), Failure> {
    let (connection, opened) = match kept {
        Some((connection, opened)) => (connection, *opened),
        None => {
            let opened = Instant::now();
            let made = Connection::try_open(port);
            let connection = made.map_err(|_| Failure { kind: Kind::Refused, opened })?;
            let (connection, opened) = kept.insert((connection, opened));
            (connection, *opened)
        }
    };
    match connection.try_get(host, "/version") {
        Some(answer) if answer.status == 200 => Ok(()),
        Some(answer) => Err(Failure { kind: Kind::Status(answer.status), opened }),
        None => Err(Failure { kind: Kind::Cut, opened }),
    }
}
