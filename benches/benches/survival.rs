//! What the death of a part costs, and an upgrade: how long until the next first answer, how long
//! until everything is adopted, and how many requests failed.
//!
//! A client asks the same running app again and again on new connections; what is told is the longest
//! pause between two answers around each blow. Requests that failed are those that a connection was made
//! for; how many found no listener depends on how soon the client tries again, which it does at once.
//!
//! Blows come seconds apart, as far as a part must have lived to be started again at once.
//!
//! Options: `--rounds N` of each blow (10), `--apps N` that run while the supervisor is killed (500).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use doorbell_benches::{
    client::Connection,
    doorbell::{self, Doorbell},
    figures::{median, millis, short, table},
    machine::{self, Core},
    options::option,
    wait,
};

const APP: &str = env!("CARGO_BIN_EXE_bench-app");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two blows: a part that lived shorter is started again after a pause.
const APART: Duration = Duration::from_secs(6);

/// What is done to it.
const BLOWS: [&str; 5] = [
    "kill -9 of the proxy",
    "kill -9 of control",
    "kill -9 of the supervisor",
    "kill -9 of all at once",
    "upgrade",
];

fn main() -> anyhow::Result<()> {
    let rounds = option("--rounds", 10)?;
    let apps = option("--apps", 500)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));
    print_blows(rounds)?;
    print_adoption(apps)
}

/// A client that asks without end.
struct Caller {
    stop: Arc<AtomicBool>,
    failures: Arc<Failures>,
    answers: Arc<Mutex<Vec<Instant>>>,
    thread: std::thread::JoinHandle<()>,
}

/// Requests that were not answered.
#[derive(Default)]
struct Failures {
    /// Nobody listened.
    refused: AtomicU64,
    /// Answered otherwise, or not to the end.
    failed: AtomicU64,
}

impl Caller {
    fn start(address: SocketAddr) -> Self {
        let (stop, failures, answers) = (Arc::default(), Arc::default(), Arc::default());
        let to: (Arc<AtomicBool>, Arc<Failures>, Arc<Mutex<Vec<Instant>>>) =
            (Arc::clone(&stop), Arc::clone(&failures), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            while !to.0.load(Ordering::Relaxed) {
                let Ok(mut open) = Connection::open(address) else {
                    to.1.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                match open.ask("GET", "app-0.test", "/") {
                    Ok(answer) if answer.is_good() => {
                        to.2.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    }
                    Ok(_) | Err(_) => _ = to.1.failed.fetch_add(1, Ordering::Relaxed),
                }
            }
        });
        Self { stop, failures, answers, thread }
    }

    /// The longest pause between two answers since a moment, once one came behind it.
    fn pause_since(&self, moment: Instant) -> anyhow::Result<Duration> {
        wait::until(PATIENCE, || {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let after = answers.iter().filter(|at| **at > moment).count();
            (after > 20).then_some(())
        })
        .context("no answer any more")?;
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let from = answers.iter().rposition(|at| *at <= moment).unwrap_or(0);
        let pauses = answers[from..].windows(2).map(|pair| pair[1] - pair[0]);
        pauses.max().context("no two answers")
    }

    /// Ends it; tells how many requests failed, and how many found nobody.
    fn end(self) -> [u64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        [&self.failures.failed, &self.failures.refused].map(|count| count.load(Ordering::Relaxed))
    }
}

fn print_blows(rounds: usize) -> anyhow::Result<()> {
    let mut doorbell = Doorbell::start(&apps(1), Core::Any)?;
    let woken = Connection::open(doorbell.address)?.ask("GET", "app-0.test", "/")?;
    anyhow::ensure!(woken.is_good(), "not answered: {}", woken.status);
    let mut rows = Vec::new();
    for blow in BLOWS {
        let mut pauses = Vec::new();
        let caller = Caller::start(doorbell.address);
        for _ in 0..rounds {
            wait::pass(APART);
            let since = Instant::now();
            strike(&mut doorbell, blow)?;
            pauses.push(millis(caller.pause_since(since)?));
        }
        let [failed, refused] = caller.end().map(|count| count.to_string());
        let worst = pauses.iter().copied().fold(0.0, f64::max);
        rows.push(vec![blow.to_owned(), short(median(&pauses)), short(worst), failed, refused]);
    }
    let title = [
        "blow",
        "longest pause, median ms",
        "worst ms",
        "requests that failed in all rounds",
        "that found no listener",
    ];
    println!("{}", table(&title, &rows));
    Ok(())
}

fn strike(doorbell: &mut Doorbell, blow: &str) -> anyhow::Result<()> {
    match blow {
        "upgrade" => {
            let answer = doorbell.ask("POST", "/v1/upgrade")?;
            anyhow::ensure!(answer.is_good(), "not upgraded: {}", answer.text());
            Ok(())
        }
        "kill -9 of the proxy" => doorbell.kill_role("proxy"),
        "kill -9 of control" => doorbell.kill_role("control"),
        "kill -9 of all at once" => doorbell.kill_all().map(drop),
        _ => doorbell.kill_supervisor().map(drop),
    }
}

/// How long a new supervisor takes until it has adopted everything.
fn print_adoption(apps: usize) -> anyhow::Result<()> {
    let mut doorbell = Doorbell::start(&self::apps(apps), Core::Any)?;
    for number in 0..apps {
        let host = format!("app-{number}.test");
        let woken = Connection::open(doorbell.address)?.ask("GET", &host, "/")?;
        anyhow::ensure!(woken.is_good(), "not answered: {}", woken.status);
    }
    let adopted_before = doorbell.log().matches("adopted").count();
    let times = doorbell.kill_supervisor()?;
    let adopted = doorbell.log().matches("adopted").count() - adopted_before;
    anyhow::ensure!(adopted == apps, "{adopted} of {apps} adopted:\n{}", doorbell.log());
    println!(
        "{apps} running apps: {} ms from the new supervisor's start until all are adopted and it is \
         ready",
        short(millis(times))
    );
    Ok(())
}

fn apps(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "[app.app-{number}]\nhosts = [\"app-{number}.test\"]\ncommand = [\"{APP}\", \"connect\", \"0\"]\n\
             directory = \"/\"\n"
        );
    }
    text
}
