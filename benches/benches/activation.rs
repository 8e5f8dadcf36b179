//! What waking an app costs beyond the app's own time, for each way to learn that it is ready.
//!
//! The app tells when its first statement ran and when it listened, by the clock that all processes
//! share. *Overhead* is from there to the first byte at the client, *spawn* from the client's connect
//! to the app's first statement. The ways take turns, start by start. Each is measured with an app that
//! listens at once, and with one that takes its time, so that probes do not meet it in step.
//!
//! Options: `--starts N` of each kind (200), `--crowd N` simultaneous first requests (1000).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{collections::HashSet, fmt::Write as _, process::Command, time::Duration};

use anyhow::Context as _;
use doorbell_benches::{
    client::Connection,
    clock,
    doorbell::{self, Doorbell},
    figures::{millis, quantile, short, table},
    machine::{self, Core},
    options::option,
};

/// Ways to become ready: what the app is told, and what Doorbell is.
const WAYS: [(&str, &str); 6] = [
    ("connect", "{ listen = \"never\" }"),
    ("http", "{ http = \"/\", listen = \"never\" }"),
    ("listen", "\"connect\""),
    ("listen-http", "{ http = \"/\" }"),
    ("notify", "\"notify\""),
    ("activation", "\"socket_activation\""),
];
const APP: &str = env!("CARGO_BIN_EXE_bench-app");
/// What the slow app takes, in milliseconds.
const SLOW: u64 = 50;
/// What the app takes that a crowd waits for.
const CROWDED: u64 = 200;

/// One start.
struct Start {
    overhead: Duration,
    spawn: Duration,
    total: Duration,
}

fn main() -> anyhow::Result<()> {
    let starts = option("--starts", 200)?;
    let crowd = option("--crowd", 1000)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));

    print_floor(starts)?;
    let doorbell = Doorbell::start(&apps()?, Core::Any)?;
    for takes in [0, SLOW] {
        print_starts(&doorbell, takes, starts)?;
    }
    print_crowd(&doorbell, crowd)
}

/// What a start costs this machine without anybody's doing.
fn print_floor(starts: usize) -> anyhow::Result<()> {
    let mut values = Vec::new();
    for _ in 0..starts {
        let before = clock::now();
        let output = Command::new(APP).arg("alone").output()?;
        let began = String::from_utf8_lossy(&output.stdout).parse()?;
        values.push(millis(Duration::from_nanos(began).saturating_sub(before)));
    }
    let [p50, p99] = [0.5, 0.99].map(|share| short(quantile(&values, share)));
    println!(
        "posix_spawn to the app's first statement, by this bench: p50 {p50} ms, p99 {p99} ms\n"
    );
    Ok(())
}

fn apps() -> anyhow::Result<String> {
    let mut apps = String::new();
    for takes in [0, SLOW, CROWDED] {
        for (way, ready) in WAYS {
            writeln!(
                apps,
                "[app.{way}-{takes}]\nhosts = [\"{way}-{takes}.localhost\"]\nready = {ready}\n\
                 no_new_privs = true\n\
                 command = [\"{APP}\", \"{way}\", \"{takes}\"]\n"
            )?;
        }
    }
    Ok(apps)
}

fn print_starts(doorbell: &Doorbell, takes: u64, starts: usize) -> anyhow::Result<()> {
    let mut measured: Vec<Vec<Start>> = WAYS.map(|_| Vec::new()).into();
    for number in 0..=starts {
        for ((way, _), measured) in WAYS.iter().zip(&mut measured) {
            let app = format!("{way}-{takes}");
            let start = start(doorbell, &app).with_context(|| format!("start of {app}"))?;
            doorbell.stop_app(&app)?;
            // The first brings the program into memory.
            if number > 0 {
                measured.push(start);
            }
        }
    }
    let rows: Vec<_> = WAYS.iter().zip(&measured).map(|((way, _), all)| row(way, all)).collect();
    let app =
        if takes == 0 { "an app that listens at once".into() } else { format!("after {takes} ms") };
    let title = [
        &*app,
        "overhead p50 ms",
        "p99",
        "spawn p50 ms",
        "p99",
        "connect to first byte p50 ms",
        "p99",
    ];
    println!("{}", table(&title, &rows));
    Ok(())
}

fn row(way: &str, starts: &[Start]) -> Vec<String> {
    let mut row = vec![way.to_owned()];
    for figure in [|s: &Start| s.overhead, |s: &Start| s.spawn, |s: &Start| s.total] {
        let values: Vec<f64> = starts.iter().map(|start| millis(figure(start))).collect();
        row.extend([short(quantile(&values, 0.5)), short(quantile(&values, 0.99))]);
    }
    row
}

/// Asks a sleeping app.
fn start(doorbell: &Doorbell, app: &str) -> anyhow::Result<Start> {
    let connecting = clock::now();
    let mut connection = Connection::open(doorbell.address)?;
    connection.send("GET", &format!("{app}.localhost"), "/")?;
    connection.first_byte()?;
    let answered = clock::now();
    let answer = connection.answer()?;
    anyhow::ensure!(answer.is_good(), "{}: {}\n{}", answer.status, answer.text(), doorbell.log());
    let told = Told::read(&answer.text())?;
    Ok(Start {
        overhead: answered.saturating_sub(told.ready),
        spawn: told.began.saturating_sub(connecting),
        total: answered - connecting,
    })
}

/// What the app says of itself.
struct Told {
    began: Duration,
    ready: Duration,
    pid: u64,
}

impl Told {
    fn read(text: &str) -> anyhow::Result<Self> {
        let fields = text.split(' ').map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
        let [began, ready, pid] = fields[..] else { anyhow::bail!("not three numbers: {text}") };
        Ok(Self { began: Duration::from_nanos(began), ready: Duration::from_nanos(ready), pid })
    }
}

/// Many first requests at once.
fn print_crowd(doorbell: &Doorbell, size: usize) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (way, _) in WAYS {
        let app = format!("{way}-{CROWDED}");
        let open = |_| Connection::open(doorbell.address);
        let mut crowd = (0..size).map(open).collect::<Result<Vec<_>, _>>()?;
        let begun = clock::now();
        for connection in &mut crowd {
            connection.send("GET", &format!("{app}.localhost"), "/")?;
        }
        let (mut right, mut pids, mut ready) = (0, HashSet::new(), Duration::ZERO);
        for connection in &mut crowd {
            let answer = connection.answer()?;
            let Ok(told) = Told::read(&answer.text()) else { continue };
            right += usize::from(answer.is_good());
            pids.insert(told.pid);
            ready = told.ready;
        }
        let last = clock::now();
        let starts = &doorbell.status(&app)?["starts"]["ready"];
        doorbell.stop_app(&app)?;
        rows.push(vec![
            way.to_owned(),
            format!("{right} of {size}"),
            format!("{starts} ({} process)", pids.len()),
            short(millis(last.saturating_sub(ready))),
            short(millis(last - begun)),
        ]);
    }
    let app = format!("first requests at once, an app that takes {CROWDED} ms");
    let title =
        [&*app, "right answers", "starts", "last byte after ready, ms", "after first request, ms"];
    println!("{}", table(&title, &rows));
    Ok(())
}
