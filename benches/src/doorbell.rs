//! A running doorbell: the real binary, in release.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{Answer, Connection},
    machine::Core,
    server::{Server, free_address},
    wait,
};

/// What it says when it is ready.
const READY: &str = "INFO ready version";

/// How long it may take to load a configuration.
const PATIENCE: Duration = Duration::from_secs(60);

/// A doorbell with its folder; both are gone when dropped.
pub struct Doorbell {
    /// Where clients connect.
    pub address: SocketAddr,
    /// From its start until it was ready.
    pub loading: Duration,
    binary: PathBuf,
    server: Server,
    folder: TempDir,
}

impl Doorbell {
    /// Starts it with these apps and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(apps: &str, core: Core) -> anyhow::Result<Self> {
        Self::start_in(folder()?, apps, core)
    }

    /// The same with another binary.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_other(binary: &Path, apps: &str, core: Core) -> anyhow::Result<Self> {
        Self::start_all(binary.to_owned(), folder()?, apps, core)
    }

    /// The same, in a folder that may hold further files.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_in(folder: TempDir, apps: &str, core: Core) -> anyhow::Result<Self> {
        Self::start_all(binary()?, folder, apps, core)
    }

    fn start_all(binary: PathBuf, folder: TempDir, apps: &str, core: Core) -> anyhow::Result<Self> {
        let address = free_address()?;
        let config = folder.path().join("doorbell.toml");
        let server = format!(
            "[server]\nlisten = [\"{address}\"]\nadmin = [\"unix:admin.sock\"]\n\
             state_dir = \"state\"\nlog_dir = \"logs\"\n\n{apps}"
        );
        fs::write(&config, place_includes_first(&server))?;
        let since = Instant::now();
        let server = serve(&binary, &folder, core)?;
        let mut doorbell = Self { address, loading: Duration::ZERO, binary, server, folder };
        wait::until(PATIENCE, || doorbell.ask("GET", "/readyz").ok().filter(Answer::is_good))
            .with_context(|| format!("doorbell is not ready:\n{}", doorbell.log()))?;
        doorbell.loading = since.elapsed();
        Ok(doorbell)
    }

    /// Kills one of its processes and waits until another has taken its place.
    ///
    /// # Errors
    /// If there is none, or none comes.
    pub fn kill_role(&self, role: &str) -> anyhow::Result<()> {
        let pid = self.role(role).with_context(|| format!("no {role} runs"))?;
        kill(pid)?;
        wait::until(PATIENCE, || self.role(role).filter(|other| *other != pid))
            .with_context(|| format!("no {role} came again"))?;
        Ok(())
    }

    /// Kills its supervisor and starts another; tells how long that one took to be ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn kill_supervisor(&mut self) -> anyhow::Result<Duration> {
        self.server.kill()?;
        self.start_again()
    }

    /// Kills all of its processes and starts another supervisor; tells how long that one took to be ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn kill_all(&mut self) -> anyhow::Result<Duration> {
        let parts = self.parts();
        self.server.kill()?;
        for (_, pid) in &parts[1..] {
            kill(*pid)?;
        }
        self.start_again()
    }

    fn start_again(&mut self) -> anyhow::Result<Duration> {
        let ready = |log: &str| log.matches(READY).count();
        let before = ready(&self.log());
        let since = Instant::now();
        self.server = serve(&self.binary, &self.folder, Core::Any)?;
        wait::until(PATIENCE, || (ready(&self.log()) > before).then_some(()))
            .with_context(|| format!("doorbell is not ready:\n{}", self.log()))?;
        Ok(since.elapsed())
    }

    fn role(&self, role: &str) -> Option<u32> {
        let list = fs::read(self.folder.path().join("state/run/roles.json")).ok()?;
        let list: Vec<Value> = serde_json::from_slice(&list).ok()?;
        let mut pids = list.iter().filter(|one| one["role"] == role).map(|one| &one["pid"]);
        pids.next_back().and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok())
    }

    /// Its processes and what they are, the supervisor first; that alone if all is in one.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, u32)> {
        let others = ["control", "proxy"].map(|role| Some((role, self.role(role)?)));
        [("supervisor", self.pid())].into_iter().chain(others.into_iter().flatten()).collect()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its own log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("doorbell.log")).unwrap_or_default()
    }

    /// Asks its admin socket.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, method: &str, path: &str) -> anyhow::Result<Answer> {
        let socket = self.folder.path().join("admin.sock");
        Connection::open_unix(&socket)?.ask(method, "localhost", path)
    }

    /// Asks its admin socket, with a body of JSON.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask_with(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        let socket = self.folder.path().join("admin.sock");
        Connection::open_unix(&socket)?.ask_with(method, "localhost", path, body)
    }

    /// Stops an app and waits until it is stopped.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop_app(&self, app: &str) -> anyhow::Result<()> {
        let answer = self.ask("POST", &format!("/v1/apps/{app}/stop"))?;
        anyhow::ensure!(answer.is_good(), "cannot stop {app}: {}", answer.text());
        self.wait_for(app, "stopped")
    }

    /// Waits until an app is in a state.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn wait_for(&self, app: &str, state: &str) -> anyhow::Result<()> {
        let there = || self.status(app).ok().filter(|status| status["state"] == state);
        wait::until(PATIENCE, there).with_context(|| format!("{app} is not {state}"))?;
        Ok(())
    }

    /// The status of an app.
    ///
    /// # Errors
    /// If there is none.
    pub fn status(&self, app: &str) -> anyhow::Result<Value> {
        let answer = self.ask("GET", &format!("/v1/apps/{app}"))?;
        serde_json::from_slice(&answer.body).context("not a status")
    }
}

fn folder() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("doorbell-bench-").tempdir()?)
}

/// Starts it in its folder.
fn serve(binary: &Path, folder: &TempDir, core: Core) -> anyhow::Result<Server> {
    let mut command = Command::new(binary);
    command.args(["serve", "--config"]).arg(folder.path().join("doorbell.toml"));
    Server::spawn(command, core, &folder.path().join("doorbell.log"))
}

fn kill(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

impl Answer {
    /// Whether it says that all went well.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.status == 200
    }
}

/// `include` is a key of the top level, so it must come before any table.
fn place_includes_first(config: &str) -> String {
    let (includes, rest): (Vec<&str>, Vec<&str>) =
        config.lines().partition(|line| line.starts_with("include = "));
    [includes, rest].concat().join("\n")
}

/// The folder of the workspace.
#[must_use]
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The binary in question: `DOORBELL_BIN`, or what Cargo builds in release beside this bench.
///
/// # Errors
/// If it cannot be built.
pub fn binary() -> anyhow::Result<PathBuf> {
    use std::sync::OnceLock;
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BINARY.get() {
        return Ok(path.clone());
    }
    let path = match std::env::var_os("DOORBELL_BIN") {
        Some(path) => PathBuf::from(path),
        None => build()?,
    };
    Ok(BINARY.get_or_init(|| path).clone())
}

fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--package", "doorbell-proxy"]);
    let status = command.current_dir(repository()).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "cannot build doorbell");
    let bench = std::env::current_exe()?;
    let folder = bench.parent().and_then(Path::parent).context("target/release/deps")?;
    Ok(folder.join("doorbell"))
}
