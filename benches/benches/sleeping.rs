//! What 10,000 sleeping apps cost: memory, processor time over a minute, loading and reloading.
//!
//! How much memory each of its processes has is told without apps, and with all in one file.
//!
//! Once with all of them in one file, once with a file for each; both sleep through the same minute.
//! Each has forwarded a request before, to an upstream that somebody else runs, so that what the
//! first request leaves behind is seen too.
//!
//! Options: `--apps N` (10000), `--seconds N` of sleep (60), `--reloads N` of each kind (10).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use doorbell_benches::{
    client::Connection,
    cost::{self, Memory},
    doorbell::{self, Doorbell},
    figures::{median, millis, short, table},
    machine::{self, Core},
    options::option,
    proxies::{self, HOST},
    wait,
};

/// What follows a start or a reload by itself is over by then: threads for files live on for ten
/// seconds, and take their counters along when they end.
const SETTLING: Duration = Duration::from_secs(12);
/// The watcher looks at a change too, and finds that it is taken over already.
const WATCHER: Duration = Duration::from_secs(1);

/// How the apps are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    OneFile,
    FileEach,
}

/// What was measured of one layout.
struct Sleeper {
    layout: Layout,
    apps: usize,
    doorbell: Doorbell,
    memory: Memory,
    before: Usage,
}

/// Counters that only go up.
#[derive(Clone, Copy)]
struct Usage {
    ticks: u64,
    processor: Duration,
    wake_ups: u64,
}

impl Usage {
    fn of(pid: u32) -> anyhow::Result<Self> {
        Ok(Self {
            ticks: cost::ticks(pid)?,
            processor: cost::processor_time(pid)?,
            wake_ups: cost::wake_ups(pid)?,
        })
    }
}

fn main() -> anyhow::Result<()> {
    let apps = option("--apps", 10_000)?;
    let seconds = option("--seconds", 60)?;
    let reloads = option("--reloads", 10)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));

    let (_folder, folder) = proxies::folder()?;
    let (_upstream, upstream) = proxies::start_upstream(&folder)?;
    let empty = Doorbell::start("", Core::Any)?;
    wait::pass(SETTLING);
    println!("Without any app: {}\n", in_words(cost::memory(empty.pid())?));
    print_parts("without any app", &empty)?;
    drop(empty);
    let alone = Sleeper::start(Layout::OneFile, apps, upstream)?;
    wait::pass(SETTLING);
    println!("{}, alone: {}\n", alone.name(), in_words(cost::memory(alone.doorbell.pid())?));
    print_parts(&alone.name(), &alone.doorbell)?;
    drop(alone);

    let mut sleepers = [Layout::OneFile, Layout::FileEach]
        .into_iter()
        .map(|layout| Sleeper::start(layout, apps, upstream))
        .collect::<Result<Vec<_>, _>>()?;
    wait::pass(SETTLING);
    for sleeper in &mut sleepers {
        sleeper.memory = cost::memory(sleeper.doorbell.pid())?;
        sleeper.before = Usage::of(sleeper.doorbell.pid())?;
    }
    wait::pass(Duration::from_secs(seconds));
    print_sleep(&sleepers, seconds)?;
    print_loads(&sleepers, reloads)
}

impl Sleeper {
    fn start(layout: Layout, apps: usize, upstream: SocketAddr) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("doorbell-bench-").tempdir()?;
        let text = match layout {
            Layout::OneFile => (0..apps).map(|number| app(number, 0)).collect(),
            Layout::FileEach => {
                fs::create_dir(folder.path().join("apps"))?;
                for number in 0..apps {
                    fs::write(file_of(folder.path(), number), app(number, 0))?;
                }
                "include = [\"apps/*.toml\"]\n".to_owned()
            }
        };
        let text = format!(
            "{text}[app.upstream]\nhosts = [\"{HOST}\"]\nupstream = \"http://{upstream}\"\n"
        );
        let doorbell = Doorbell::start_in(folder, &text, Core::Any)?;
        let answer = Connection::open(doorbell.address)?.ask("GET", HOST, "/small")?;
        anyhow::ensure!(answer.is_good(), "not forwarded: {}", answer.status);
        let before = Usage::of(doorbell.pid())?;
        Ok(Self { layout, apps, doorbell, memory: Memory::default(), before })
    }

    fn name(&self) -> String {
        match self.layout {
            Layout::OneFile => format!("{} apps in one file", self.apps),
            Layout::FileEach => format!("{} apps in a file each", self.apps),
        }
    }

    /// Writes one app anew.
    fn change(&self, version: usize) -> anyhow::Result<()> {
        let number = version * 7919 % self.apps;
        let folder = self.doorbell.folder();
        let file = match self.layout {
            Layout::OneFile => folder.join("doorbell.toml"),
            Layout::FileEach => file_of(folder, number),
        };
        let text = match self.layout {
            Layout::FileEach => app(number, version),
            Layout::OneFile => {
                let old = fs::read_to_string(&file)?;
                let name = format!("app-{number}.example.com");
                old.replacen(&name, &format!("v{version}-{name}"), 1)
            }
        };
        // Renamed into place, as editors do.
        let fresh = folder.join("fresh");
        fs::write(&fresh, text)?;
        Ok(fs::rename(fresh, file)?)
    }

    fn reload(&self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        let answer = self.doorbell.ask("POST", "/v1/reload")?;
        anyhow::ensure!(answer.is_good(), "not reloaded: {}", answer.text());
        Ok(since.elapsed())
    }
}

fn file_of(folder: &Path, number: usize) -> std::path::PathBuf {
    folder.join(format!("apps/app-{number}.toml"))
}

fn app(number: usize, version: usize) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "[app.app-{number}]\nhosts = [\"app-{number}.example.com\"]\n\
         command = [\"node\", \"server.js\"]\nenv = {{ VERSION = \"{version}\" }}\n\
         ready = {{ http = \"/healthz\" }}\n"
    );
    text
}

fn in_words(memory: Memory) -> String {
    let mib = |kib: u64| short(kib as f64 / 1024.0);
    format!("RSS {} MiB, PSS {} MiB", mib(memory.rss_kib), mib(memory.pss_kib))
}

fn print_parts(of: &str, doorbell: &Doorbell) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (part, pid) in doorbell.parts() {
        let memory = cost::memory_alone(pid)?;
        let mib = |kib: u64| short(kib as f64 / 1024.0);
        rows.push(vec![part.to_owned(), mib(memory.rss_kib), mib(memory.pss_kib)]);
    }
    println!("{}", table(&[of, "RSS MiB", "PSS MiB"], &rows));
    Ok(())
}

fn print_sleep(sleepers: &[Sleeper], seconds: u64) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for sleeper in sleepers {
        let after = Usage::of(sleeper.doorbell.pid())?;
        let used = after.processor - sleeper.before.processor;
        rows.push(vec![
            sleeper.name(),
            short(sleeper.memory.rss_kib as f64 / 1024.0),
            short(sleeper.memory.pss_kib as f64 / 1024.0),
            (after.ticks - sleeper.before.ticks).to_string(),
            short(millis(used)),
            (after.wake_ups - sleeper.before.wake_ups).to_string(),
        ]);
    }
    let over = format!("asleep for {seconds} s");
    let title = [&*over, "RSS MiB", "PSS MiB", "CPU ticks", "CPU ms", "wake-ups"];
    println!("{}", table(&title, &rows));
    Ok(())
}

fn print_loads(sleepers: &[Sleeper], reloads: usize) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for sleeper in sleepers {
        let (mut same, mut changed) = (Vec::new(), Vec::new());
        for _ in 0..reloads {
            same.push(millis(sleeper.reload()?));
        }
        for version in 1..=reloads {
            sleeper.change(version)?;
            changed.push(millis(sleeper.reload()?));
            wait::pass(WATCHER);
        }
        wait::pass(SETTLING);
        let memory = cost::memory(sleeper.doorbell.pid())?;
        rows.push(vec![
            sleeper.name(),
            short(millis(sleeper.doorbell.loading)),
            short(median(&same)),
            short(median(&changed)),
            short(memory.rss_kib as f64 / 1024.0),
        ]);
    }
    let title = [
        "",
        "start to ready ms",
        "reload, nothing changed ms",
        "one app changed ms",
        "RSS after, MiB",
    ];
    println!("{}", table(&title, &rows));
    Ok(())
}
