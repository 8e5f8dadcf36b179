//! What an app notices of others: of two hundred that are woken at once, of one that takes all it can
//! get.
//!
//! A client asks a running app again and again, each time on a new connection and with a pause between,
//! as visitors do; what is told is how long its answers take, alone and beside the others.
//!
//! Options: `--apps N` woken at once (200), `--takes N` milliseconds each (50), `--rushes N` of that (5),
//! `--asks N` beside a noisy neighbour (2000).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use doorbell_benches::{
    client::Connection,
    cost,
    doorbell::{self, Doorbell},
    figures::{millis, quantile, short, table},
    machine::{self, Core},
    options::option,
    wait,
};

const APP: &str = env!("CARGO_BIN_EXE_bench-app");
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the rush is looked at, for how many start at once: as an operator might, since who looks takes
/// time from all.
const LOOK: Duration = Duration::from_millis(100);
/// Apps that may be starting at once.
const CAP: usize = 8;

/// What is beside the app that is asked.
const NOISES: [(&str, &str, &str); 5] = [
    ("nobody", "", ""),
    ("a noisy one: spins in 4 threads", "\"spin\", \"4\"", ""),
    ("the same with limits.cpu = 0.5", "\"spin\", \"4\"", "limits = { cpu = 0.5 }"),
    ("a noisy one: prints without end", "\"shout\", \"200\"", ""),
    ("the same with limits.cpu = 0.5", "\"shout\", \"200\"", "limits = { cpu = 0.5 }"),
];

fn main() -> anyhow::Result<()> {
    let apps = option("--apps", 200)?;
    let takes = option("--takes", 50)?;
    let asks = option("--asks", 2000)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));
    print_rushes(apps, takes, option("--rushes", 5)?)?;
    print_noises(asks)
}

fn app(id: &str, takes: u64, deed: &str, more: &str) -> String {
    let deed = if deed.is_empty() { String::new() } else { format!(", {deed}") };
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"{APP}\", \"connect\", \"{takes}\"{deed}]\n\
         directory = \"/\"\n{more}\n"
    )
}

/// How long answers of the quiet app take, in milliseconds, until told otherwise.
fn ask(address: SocketAddr, goes_on: impl Fn(usize) -> bool) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while goes_on(times.len()) {
        let since = Instant::now();
        let answer = Connection::open(address)?.ask("GET", "quiet.test", "/")?;
        anyhow::ensure!(answer.is_good(), "the quiet app: {}", answer.status);
        times.push(millis(since.elapsed()));
        wait::pass(PAUSE);
    }
    Ok(times)
}

fn row(name: &str, times: &[f64]) -> Vec<String> {
    let figures = [0.5, 0.99].map(|share| short(quantile(times, share)));
    [name.to_owned(), times.len().to_string()].into_iter().chain(figures).collect()
}

/// Many apps are woken in one moment, several times, each at a Doorbell of its own.
fn print_rushes(count: usize, takes: u64, rushes: usize) -> anyhow::Result<()> {
    let (mut before, mut meanwhile) = (Vec::new(), Vec::new());
    for _ in 0..rushes {
        let Rush { last, most, took } = rush_once(count, takes, &mut before, &mut meanwhile)?;
        println!(
            "{count} apps that take {takes} ms each, woken at once, at most {CAP} at a time: all answered \
             after {} ms; {most} were seen starting at once; the supervisor took {} ms of processor time",
            short(millis(last)),
            short(millis(took))
        );
    }
    let rows = [row("before", &before), row("meanwhile", &meanwhile)];
    println!("\n{}", table(&["a running app's answers", "asked", "p50 ms", "p99 ms"], &rows));
    Ok(())
}

/// What is told of one rush.
struct Rush {
    /// From the first question to the last answer.
    last: Duration,
    /// The most apps that were seen starting at once.
    most: usize,
    /// Processor time of the supervisor.
    took: Duration,
}

/// Wakes all at once; adds what a running app's answers took before and meanwhile.
fn rush_once(
    count: usize,
    takes: u64,
    before: &mut Vec<f64>,
    meanwhile: &mut Vec<f64>,
) -> anyhow::Result<Rush> {
    let mut apps = app("quiet", 0, "", "");
    for number in 0..count {
        write!(apps, "{}", app(&format!("app-{number}"), takes, "", ""))?;
    }
    let server = format!("[server.limits]\nparallel_starts = {CAP}\n");
    let doorbell = Doorbell::start(&format!("{server}{apps}"), Core::Any)?;
    before.extend(ask(doorbell.address, |asked| asked < 300)?);
    let is_over = AtomicBool::new(false);
    let idle = cost::processor_time_alone(doorbell.pid())?;
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| ask(doorbell.address, |_| !is_over.load(Ordering::Relaxed)));
        let looker = scope.spawn(|| most_starting(&doorbell, &is_over));
        let rushed = rush(&doorbell, count);
        let took = cost::processor_time_alone(doorbell.pid());
        is_over.store(true, Ordering::Relaxed);
        let join = "a thread panicked";
        let asked = asker.join().map_err(|_| anyhow::anyhow!(join)).flatten();
        let most = looker.join().map_err(|_| anyhow::anyhow!(join)).flatten();
        meanwhile.extend(asked?);
        Ok(Rush { last: rushed?, most: most?, took: took? - idle })
    })
}

/// Asks every app at once; tells when the last one has answered.
fn rush(doorbell: &Doorbell, count: usize) -> anyhow::Result<Duration> {
    let open = |_| Connection::open(doorbell.address);
    let mut crowd = (0..count).map(open).collect::<Result<Vec<_>, _>>()?;
    let since = Instant::now();
    for (number, connection) in crowd.iter_mut().enumerate() {
        connection.send("GET", &format!("app-{number}.test"), "/")?;
    }
    for (number, connection) in crowd.iter_mut().enumerate() {
        let answer = connection.answer()?;
        anyhow::ensure!(answer.is_good(), "app-{number}: {}", answer.status);
    }
    Ok(since.elapsed())
}

/// The most apps that were starting at a moment.
fn most_starting(doorbell: &Doorbell, is_over: &AtomicBool) -> anyhow::Result<usize> {
    let mut most = 0;
    while !is_over.load(Ordering::Relaxed) {
        let apps = doorbell.ask("GET", "/v1/apps")?;
        most = most.max(apps.text().matches("\"state\":\"starting\"").count());
        wait::pass(LOOK);
    }
    Ok(most)
}

/// One app takes all that it can get.
fn print_noises(asks: usize) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (name, deed, limits) in NOISES {
        let mut apps = app("quiet", 0, "", "");
        if !deed.is_empty() {
            apps += &app("noisy", 0, deed, &format!("start = \"always\"\n{limits}"));
        }
        let doorbell = Doorbell::start(&apps, Core::Any)?;
        if !deed.is_empty() {
            doorbell.wait_for("noisy", "ready")?;
        }
        ask(doorbell.address, |asked| asked < 100).context("to warm up")?;
        let (before, since) = (printed(&doorbell), Instant::now());
        let mut row = row(name, &ask(doorbell.address, |asked| asked < asks)?);
        let rate = before
            .zip(printed(&doorbell))
            .map(|(before, after)| (after - before) as f64 / 1e6 / since.elapsed().as_secs_f64());
        row.push(rate.map(short).unwrap_or_default());
        rows.push(row);
    }
    println!("{}", table(&["beside", "asked", "p50 ms", "p99 ms", "it prints MB/s"], &rows));
    Ok(())
}

/// Bytes that the noisy one has written so far, proc(5).
fn printed(doorbell: &Doorbell) -> Option<u64> {
    let pid = doorbell.status("noisy").ok()?["pid"].as_u64()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
}
