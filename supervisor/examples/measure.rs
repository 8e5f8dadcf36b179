//! Measures the supervisor: `cargo run --release -p doorbell-supervisor --example measure`.
//!
//! Starts this same program as an app, which tells when its first statement ran and when it
//! listened. Prints what a start costs beyond that, what sleeping apps cost, and what definitions
//! cost.
#![allow(clippy::print_stdout, reason = "a report for people")]

use std::{
    error::Error,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, Probe, ProcessSpec, RouteSpec, Template},
};
use doorbell_supervisor::{
    Supervisor, SupervisorOptions,
    message::{Endpoint, GateOrder, GateReport, Instruction, Verb},
};
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STARTS: usize = 200;
const APPS: usize = 10_000;
const MANY: usize = 100_000;

fn main() -> Result<()> {
    let first_statement = now();
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve(first_statement);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure())
}

/// The app: answers with its two moments.
fn serve(first_statement: Duration) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", std::env::var("PORT")?.parse()?))?;
    let listens = now();
    for client in listener.incoming() {
        let mut client = client?;
        let mut head = [0; 256];
        if client.read(&mut head)? > 0 {
            write!(client, "{} {}", first_statement.as_nanos(), listens.as_nanos())?;
        }
    }
    Ok(())
}

struct Bench {
    supervisor: Supervisor,
    opened: mpsc::Receiver<Endpoint>,
    _folder: tempfile::TempDir,
}

async fn measure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (supervisor, mut orders) = Supervisor::start(SupervisorOptions {
        state_dir: folder.path().join("state"),
        log_dir: folder.path().join("log"),
        parallel_starts: 4,
        open_files: None,
    })?;
    let (open, opened) = mpsc::channel(8);
    let gate = supervisor.clone();
    tokio::spawn(async move {
        while let Some(order) = orders.recv().await {
            match order {
                GateOrder::Open { endpoint, .. } => open.send(endpoint).await?,
                GateOrder::Shut { app, generation } => {
                    gate.report(GateReport::Drained { app, generation });
                }
                GateOrder::Refuse { .. } | GateOrder::AskRetire { .. } | GateOrder::Hold { .. } => {
                }
            }
        }
        Ok::<(), mpsc::error::SendError<Endpoint>>(())
    });
    let mut bench = Bench { supervisor, opened, _folder: folder };
    bench.starts().await?;
    bench.sleepers().await?;
    bench.definitions().await?;
    bench.supervisor.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

impl Bench {
    async fn starts(&mut self) -> Result<()> {
        let program = std::env::current_exe()?;
        let program = program.to_str().ok_or("the program's path is no text")?;
        let mut spec = app("self", &[program, "serve"])?;
        spec.idle(None);
        let id = spec.0.id.clone();
        self.supervisor.instruct(Instruction::Define(Arc::new(spec.0))).await?;
        let (mut spawn, mut detect, mut total) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let wished = now();
            self.supervisor.report(GateReport::Wanted { app: id.clone() });
            let endpoint = self.opened.recv().await.ok_or("the supervisor is gone")?;
            let open = now();
            let (first_statement, listens) = ask(&endpoint)?;
            spawn.push(first_statement.saturating_sub(wished));
            detect.push(open.saturating_sub(listens));
            total.push((open - wished).saturating_sub(listens - first_statement));
            self.supervisor.operate_and_wait(id.clone(), Verb::Stop).await?;
        }
        print("wish to first statement", &mut spawn);
        print("listening to gate open", &mut detect);
        print("overhead in all", &mut total);
        Ok(())
    }

    async fn sleepers(&self) -> Result<()> {
        let (rss, _) = own_use()?;
        let specs = sleepers(APPS)?;
        let with_specs = own_use()?.0;
        self.supervisor.instruct(Instruction::DefineAll(specs.clone())).await?;
        let (rss_after, ticks) = own_use()?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (_, ticks_after) = own_use()?;
        let per_app = (rss_after - with_specs) / u64::try_from(APPS)?;
        println!(
            "{APPS} sleeping apps: {per_app} bytes each here, {} bytes each of definition, {} CPU \
             ticks in 10 s",
            (with_specs - rss) / u64::try_from(APPS)?,
            ticks_after - ticks
        );
        Ok(())
    }

    async fn definitions(&self) -> Result<()> {
        let mut specs = sleepers(MANY)?;
        let all = timed(self.supervisor.instruct(Instruction::DefineAll(specs.clone()))).await?;
        let mut changed = app("app7", &["true"])?;
        changed.idle(Some(Duration::from_secs(9)));
        let slot = specs.get_mut(7).ok_or("there is an eighth")?;
        *slot = Arc::new(changed.0);
        let one = timed(self.supervisor.instruct(Instruction::Define(slot.clone()))).await?;
        let again = timed(self.supervisor.instruct(Instruction::DefineAll(specs))).await?;
        println!("{MANY} apps: defined in {all:?}, one changed in {one:?}, again in {again:?}");
        Ok(())
    }
}

struct Spec(AppSpec);

impl Spec {
    fn idle(&mut self, after: Option<Duration>) {
        if let Backend::Process(process) = &mut self.0.backend {
            process.idle_stop_after = after;
        }
    }
}

fn app(name: &str, command: &[&str]) -> Result<Spec> {
    let command = command.iter().map(|part| Template::text(part)).collect();
    let mut process = ProcessSpec::new(command, "/".into());
    process.ready.probe = Probe::Connect;
    let routes = RouteSpec::new(Vec::new(), Vec::new());
    Ok(Spec(AppSpec::new(AppId::parse(name)?, routes, Backend::Process(Box::new(process)))))
}

fn sleepers(count: usize) -> Result<Vec<Arc<AppSpec>>> {
    (0..count).map(|n| Ok(Arc::new(app(&format!("app{n}"), &["true"])?.0))).collect()
}

fn ask(endpoint: &Endpoint) -> Result<(Duration, Duration)> {
    let Endpoint::Tcp(address) = endpoint else { return Err("no TCP endpoint".into()) };
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (first, second) = answer.split_once(' ').ok_or("no answer")?;
    Ok((Duration::from_nanos(first.parse()?), Duration::from_nanos(second.parse()?)))
}

async fn timed<T, E>(work: impl Future<Output = std::result::Result<T, E>>) -> Result<Duration>
where
    E: Error + 'static,
{
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

/// Resident bytes, and CPU time in clock ticks.
fn own_use() -> Result<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = rss.split_whitespace().next().ok_or("no number")?.parse()?;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok((kib * 1024, ticks.iter().sum()))
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    println!("{what}: p50 {:?}, p99 {:?} over {}", at(50), at(99), times.len());
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
