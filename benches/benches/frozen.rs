//! What light sleep costs, and what it gives: a thaw, many apps that stand still, memory that is given
//! back.
//!
//! *Thaw* is what a request to a frozen app takes over the same request to an app that is awake; both
//! take turns, and each is a connection of its own. Many frozen apps are watched over a time: what they
//! and Doorbell use of the processor. Memory goes where there is swap, and nowhere else.
//!
//! Options: `--thaws N` (500), `--apps N` that stand still (1000), `--seconds N` of that (60), `--keep N`
//! MiB that an app has (100).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

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
/// For what follows a freeze: memory is given back by one app after another.
const SETTLING: Duration = Duration::from_secs(12);

fn main() -> anyhow::Result<()> {
    let thaws = option("--thaws", 500)?;
    let apps = option("--apps", 1000)?;
    let seconds = option("--seconds", 60)?;
    let keep = option("--keep", 100)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));
    print_thaws(thaws)?;
    print_memory(keep)?;
    print_rest(apps, seconds)
}

fn app(id: &str, deed: &str, idle: &str) -> String {
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"{APP}\", \"connect\", \"0\"{deed}]\n\
         directory = \"/\"\nidle = {{ {idle} }}\n"
    )
}

/// From the connect to the answer's first byte.
fn visit(doorbell: &Doorbell, app: &str) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let mut connection = Connection::open(doorbell.address)?;
    connection.send("GET", &format!("{app}.test"), "/")?;
    connection.first_byte()?;
    let took = since.elapsed();
    let answer = connection.answer()?;
    anyhow::ensure!(answer.is_good(), "{}: {}\n{}", answer.status, answer.text(), doorbell.log());
    Ok(took)
}

fn print_thaws(thaws: usize) -> anyhow::Result<()> {
    let apps = [
        app("frozen", "", "freeze_after = \"1ms\", stop_after = \"1h\""),
        app("awake", "", "stop_after = \"1h\""),
    ];
    let doorbell = Doorbell::start(&apps.concat(), Core::Any)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=thaws {
        for (app, times) in ["frozen", "awake"].iter().zip(&mut times) {
            if *app == "frozen" && round > 0 {
                doorbell.wait_for(app, "frozen")?;
            }
            let took = visit(&doorbell, app)?;
            // The first one starts them.
            if round > 0 {
                times.push(millis(took));
            }
        }
    }
    let [frozen, awake] = times;
    let figures = |values: &[f64]| [0.5, 0.99].map(|share| quantile(values, share));
    let (frozen, awake) = (figures(&frozen), figures(&awake));
    let over = [frozen[0] - awake[0], frozen[1] - awake[1]];
    let row = |name: &str, figures: [f64; 2]| {
        [name.to_owned()].into_iter().chain(figures.map(short)).collect::<Vec<_>>()
    };
    let rows = [row("frozen", frozen), row("awake", awake), row("thaw", over)];
    println!("{}", table(&["connect to first byte, ms", "p50", "p99"], &rows));
    Ok(())
}

/// What one frozen app gives back.
fn print_memory(keep: u64) -> anyhow::Result<()> {
    let deed = format!(", \"keep\", \"{keep}\"");
    let apps = app("app", &deed, "freeze_after = \"2s\", stop_after = \"1h\"");
    let doorbell = Doorbell::start(&apps, Core::Any)?;
    visit(&doorbell, "app")?;
    let pid = doorbell.status("app")?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| anyhow::anyhow!("it has no process"))?;
    let awake = cost::memory(pid)?;
    doorbell.wait_for("app", "frozen")?;
    wait::pass(SETTLING);
    let frozen = cost::memory(pid)?;
    let thaw = visit(&doorbell, "app")?;
    let mib = |kib: u64| short(kib as f64 / 1024.0);
    let swap = match fs::read_to_string("/proc/swaps")?.lines().count() {
        0 | 1 => "there is no swap",
        _ => "there is swap",
    };
    println!(
        "An app that keeps {keep} MiB, RSS: {} MiB awake, {} MiB frozen; the next visit took {} ms \
         ({swap})\n",
        mib(awake.rss_kib),
        mib(frozen.rss_kib),
        short(millis(thaw)),
    );
    Ok(())
}

/// What many frozen apps use of the processor.
fn print_rest(count: usize, seconds: u64) -> anyhow::Result<()> {
    let mut apps = String::new();
    for number in 0..count {
        let idle = "freeze_after = \"1s\", stop_after = \"1h\"";
        write!(apps, "{}", app(&format!("app-{number}"), "", idle))?;
    }
    let doorbell = Doorbell::start(&apps, Core::Any)?;
    for number in 0..count {
        visit(&doorbell, &format!("app-{number}"))?;
    }
    for number in 0..count {
        doorbell.wait_for(&format!("app-{number}"), "frozen")?;
    }
    wait::pass(SETTLING);
    let (time, wakes) = (cost::processor_time(doorbell.pid())?, cost::wake_ups(doorbell.pid())?);
    wait::pass(Duration::from_secs(seconds));
    let time = cost::processor_time(doorbell.pid())?.saturating_sub(time);
    let wakes = cost::wake_ups(doorbell.pid())?.saturating_sub(wakes);
    let since = Instant::now();
    for number in 0..count {
        visit(&doorbell, &format!("app-{number}"))?;
    }
    let thaws = since.elapsed();
    println!(
        "{count} frozen apps and Doorbell over {seconds} s: {} ms of processor time, {wakes} wake-ups; \
         then a visit to each, one after another: {} ms",
        short(millis(time)),
        short(millis(thaws)),
    );
    Ok(())
}
