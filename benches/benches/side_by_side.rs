//! Nginx, HAProxy, a bare Pingora and Doorbell in one run: rate, times, processor time, memory.
//!
//! Proxies take turns, round by round, each alone on the first core while clients and upstream share
//! the second. The processor time of a request is the steadiest figure: it does not depend on whether
//! proxy or clients are the bottleneck. A row with a single failed request is void.
//!
//! Options: `--rounds N` (12), `--seconds N` of each measurement (1), `--other PATH` of another build
//! of Doorbell, to compare with that alone, `--starts N` of all of them (1), with so many rounds each:
//! where things lie in memory makes a difference of some hundredths, which lasts as long as a process.
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::path::{Path, PathBuf};

use doorbell_benches::{
    client::Connection,
    cost::{self, Memory},
    doorbell,
    figures::{median, short, table},
    load::{Clients, Load, Seen},
    machine,
    options::option,
    proxies::{self, Binaries, HOST, Kind, Proxy},
};

const CONNECTIONS: usize = 64;
const IDLE_CONNECTIONS: usize = 1000;

/// One measurement of one proxy.
#[derive(Clone, Copy)]
struct Measured {
    kind: Kind,
    load: Load,
    seen: Seen,
    /// Processor time of an answer.
    micros: f64,
}

fn main() -> anyhow::Result<()> {
    let rounds = option("--rounds", 12)?;
    let seconds = option("--seconds", 1)?;
    let starts = option("--starts", 1)?;
    machine::raise_descriptor_limit();
    println!("{}", machine::describe());
    println!("{}\n", proxies::versions(&doorbell::binary()?).join("; "));

    let (_folder, folder) = proxies::folder()?;
    let (_upstream, upstream) = proxies::start_upstream(&folder)?;
    let bare = Path::new(env!("CARGO_BIN_EXE_bare-pingora"));
    let other: PathBuf = option("--other", PathBuf::new())?;
    let binaries = Binaries { bare_pingora: bare, other: &other };
    let (kinds, bases): (&[Kind], &[Kind]) = if other.as_os_str().is_empty() {
        (&Kind::PEERS, &[Kind::Nginx, Kind::BarePingora])
    } else {
        (&[Kind::Doorbell, Kind::OtherDoorbell], &[Kind::OtherDoorbell])
    };
    let clients = Clients::new(&folder, HOST, CONNECTIONS)?;
    let mut measured = Vec::new();
    for start in 0..starts {
        let proxies = kinds
            .iter()
            .map(|kind| Proxy::start(*kind, &folder, &binaries, upstream))
            .collect::<Result<Vec<_>, _>>()?;
        if start == 0 {
            print_memory(&proxies)?;
        }
        measured.extend(measure(&proxies, &clients, rounds, seconds)?);
    }
    for load in Load::ALL {
        print_load(load, kinds, bases, &measured);
    }
    Ok(())
}

fn measure(
    proxies: &[Proxy],
    clients: &Clients,
    rounds: usize,
    seconds: u64,
) -> anyhow::Result<Vec<Measured>> {
    for (proxy, load) in proxies.iter().flat_map(|proxy| Load::ALL.map(|load| (proxy, load))) {
        let answer = Connection::open(proxy.address)?.ask("GET", HOST, load.path())?;
        let is_right = answer.is_good() && answer.body.len() == load.content_bytes();
        anyhow::ensure!(is_right, "{} answers wrongly: {}", proxy.kind.name(), answer.status);
        clients.run(load, proxy.address, 1)?;
    }
    let mut measured = Vec::new();
    for round in 0..rounds {
        for load in Load::ALL {
            // Nobody is always first, or always behind the same neighbour.
            for turn in 0..proxies.len() {
                let proxy = &proxies[(turn + round) % proxies.len()];
                let before = cost::processor_time(proxy.pid())?;
                let seen = clients.run(load, proxy.address, seconds)?;
                let used = cost::processor_time(proxy.pid())? - before;
                let micros = used.as_secs_f64() * 1e6 / seen.answers;
                measured.push(Measured { kind: proxy.kind, load, seen, micros });
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    Ok(measured)
}

fn print_load(load: Load, kinds: &[Kind], bases: &[Kind], measured: &[Measured]) {
    let all = |kind: Kind, figure: fn(&Measured) -> f64| -> Vec<f64> {
        let rows = measured.iter().filter(|row| row.kind == kind && row.load == load);
        rows.map(figure).collect()
    };
    // Within a round first, so that a noisy round does not tip the scale.
    let ratio = |kind: Kind, base: Kind| {
        let (ours, theirs) = (all(kind, |row| row.micros), all(base, |row| row.micros));
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        format!("{:.3}", median(&ratios))
    };
    let row = |kind: &Kind| {
        let kind = *kind;
        let errors: f64 = all(kind, |row| row.seen.errors as f64).iter().sum();
        if errors > 0.0 {
            let mut void = vec!["void".to_owned(); 5 + bases.len()];
            void.insert(0, format!("{} ({errors} failed)", kind.name()));
            return void;
        }
        let mut row = vec![
            kind.name().to_owned(),
            short(median(&all(kind, |row| row.seen.rate))),
            short(median(&all(kind, |row| row.seen.p50_micros / 1e3))),
            short(median(&all(kind, |row| row.seen.p99_micros / 1e3))),
            short(median(&all(kind, |row| row.micros))),
            // What the machine's other work disturbed least.
            short(all(kind, |row| row.micros).into_iter().fold(f64::INFINITY, f64::min)),
        ];
        row.extend(bases.iter().map(|base| ratio(kind, *base)));
        row
    };
    let over: Vec<_> = bases.iter().map(|base| format!("× {}", base.name())).collect();
    let mut title = vec![load.name(), "requests/s", "p50 ms", "p99 ms", "CPU µs", "least"];
    title.extend(over.iter().map(String::as_str));
    println!("{}", table(&title, &kinds.iter().map(row).collect::<Vec<_>>()));
}

fn print_memory(proxies: &[Proxy]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for proxy in proxies {
        let idle = cost::memory(proxy.pid())?;
        let mut connections = Vec::new();
        for _ in 0..IDLE_CONNECTIONS {
            let mut connection = Connection::open(proxy.address)?;
            let answer = connection.ask("GET", HOST, Load::KeepAlive.path())?;
            anyhow::ensure!(answer.is_good(), "{}: {}", proxy.kind.name(), answer.status);
            connections.push(connection);
        }
        let busy = cost::memory(proxy.pid())?;
        rows.push(memory_row(proxy.kind, idle, busy));
    }
    let title =
        ["memory, MiB", "idle RSS", "PSS", "1,000 idle connections: RSS", "PSS", "KiB each"];
    println!("{}", table(&title, &rows));
    Ok(())
}

fn memory_row(kind: Kind, idle: Memory, busy: Memory) -> Vec<String> {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let each = (busy.pss_kib as f64 - idle.pss_kib as f64) / IDLE_CONNECTIONS as f64;
    vec![
        kind.name().to_owned(),
        mib(idle.rss_kib),
        mib(idle.pss_kib),
        mib(busy.rss_kib),
        mib(busy.pss_kib),
        format!("{each:.1}"),
    ]
}
