//! A running doorbell.

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Connection, Response, Setup, get,
    setup::{Manner, copy_binary, head, own_binary, write_file},
    wait::poll,
};

/// How long a doorbell may take to start or to end; with very many apps it is some seconds, and far more
/// on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes at the end of an app's log that a failed test shows.
const MOST_SHOWN: usize = 4 << 10;

/// A running doorbell; ended with its apps when dropped, whatever was killed of it.
pub struct Doorbell {
    /// Its folder: configuration, state, logs.
    pub dir: TempDir,
    /// Where clients connect.
    pub port: u16,
    /// Where Prometheus connects.
    pub metrics_port: u16,
    pub(crate) child: Child,
    pub(crate) manner: Manner,
    pub(crate) include: String,
    pub(crate) server: String,
}

/// A verb that goes on; ended when dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Reads until a line contains a text.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str) {
        let found = self.lines.by_ref().any(|line| line.is_ok_and(|line| line.contains(text)));
        assert!(found, "ended without {text:?}");
    }

    /// The next line; `None` at its end.
    #[track_caller]
    pub fn next_line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.expect("a line"))
    }

    /// Waits for its end; gives its exit status.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let ended = poll(PATIENCE, || self.child.try_wait().ok().flatten());
        ended.expect("its end").code().expect("an exit status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a command of the binary gave.
#[derive(Debug)]
pub struct Output {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Doorbell {
    /// Starts a doorbell with these apps.
    #[must_use]
    pub fn with(apps: &str) -> Self {
        Setup::new(apps).start()
    }

    /// Starts the supervisor again, which was killed: the same folder, configuration and ports. Who
    /// outlived it is with it again when this returns.
    pub fn start_again(&mut self) {
        self.begin_again();
        self.wait_until_ready();
    }

    /// Starts the supervisor again and does not wait for anything.
    pub fn begin_again(&mut self) {
        assert!(self.has_ended(), "the supervisor runs");
        self.child = self.manner.spawn(self.dir.path());
    }

    /// Puts another binary in the place of its own: this script, or the same anew.
    pub fn replace_binary(&self, script: Option<&str>) {
        let (path, fresh) = (own_binary(self.dir.path()), self.dir.path().join("doorbell.new"));
        match script {
            Some(script) => {
                fs::write(own_binary(self.dir.path()).with_extension("sh"), script)
                    .expect("a script");
                let from = own_binary(self.dir.path()).with_extension("sh");
                let status = Command::new("cp").arg(from).arg(&fresh).status().expect("cp");
                assert!(status.success(), "{status}");
            }
            None => copy_binary(&fresh),
        }
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&fresh, executable).expect("its mode");
        fs::rename(fresh, path).expect("to replace it");
    }

    /// Whether the supervisor has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits until this supervisor says that all is in place, and operators are told so.
    pub fn wait_until_ready(&mut self) {
        // For people, and for machines.
        let says = [format!("pid={}", self.pid()), format!("\"pid\":{}}}", self.pid())];
        let ready = poll(PATIENCE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("doorbell ended with {status}:\n{}", self.log());
            }
            let log = self.log();
            log.lines()
                .any(|line| {
                    line.contains("version")
                        && line.contains("ready")
                        && says.iter().any(|says| line.contains(says))
                })
                .then_some(())?;
            let answer =
                Connection::try_open(self.metrics_port).ok()?.try_get("localhost", "/readyz")?;
            (answer.status == 200).then_some(())
        });
        assert!(ready.is_some(), "doorbell is not ready:\n{}", self.log());
    }

    /// The process id of its supervisor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A figure in KiB of the memory of the process that clients talk to, as `VmRSS` or `VmHWM`,
    /// which is the peak (proc(5)).
    #[must_use]
    pub fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.proxy_pid());
        let status = fs::read_to_string(path).expect("status");
        let mut words = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the line")
            .split_whitespace();
        words.nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
    }

    /// Its own log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("doorbell.log")).unwrap_or_default()
    }

    /// Asks for a path of a host.
    #[must_use]
    pub fn get(&self, host: &str, path: &str) -> Response {
        get(self.port, host, path)
    }

    /// Opens a connection to it.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(self.port)
    }

    /// Runs a verb of the command line against it.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Output {
        run(Command::new(binary()).args(args).arg("--config").arg(self.config_path()))
    }

    /// Runs a verb, which must succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert_eq!(output.status, 0, "{args:?}: {output:?}\n{}", self.log());
        output.stdout
    }

    /// Starts a verb that goes on, and reads what it prints.
    #[must_use]
    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = Command::new(binary());
        command.args(args).arg("--config").arg(self.config_path());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Running { child, lines }
    }

    /// The status of one app.
    #[must_use]
    pub fn status(&self, app: &str) -> Value {
        serde_json::from_str(&self.ok(&["status", app, "--json"])).expect("JSON")
    }

    /// The state of one app.
    #[must_use]
    pub fn state(&self, app: &str) -> String {
        self.status(app)["state"].as_str().unwrap_or_default().to_owned()
    }

    /// The first process of an app that runs.
    #[must_use]
    pub fn app_pid(&self, app: &str) -> Option<u32> {
        self.status(app)["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Starts of an app that became ready.
    #[must_use]
    pub fn starts(&self, app: &str) -> u64 {
        self.status(app)["starts"]["ready"].as_u64().unwrap_or_default()
    }

    /// Waits until an app is in a state.
    pub fn wait_for_state(&self, app: &str, state: &str) {
        let reached = poll(PATIENCE, || (self.state(app) == state).then_some(()));
        let now = self.status(app);
        assert!(reached.is_some(), "{app} is not {state}: {now:#}\n{}", self.log());
    }

    /// The metrics page.
    #[must_use]
    pub fn metrics(&self) -> String {
        get(self.metrics_port, "localhost", "/metrics").text()
    }

    /// The value of one series, named as on the page; `None` if it is not there.
    #[must_use]
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = self.metrics();
        let mut values =
            page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.next().and_then(|value| value.parse().ok())
    }

    /// Replaces the apps in the configuration file; doorbell sees it by itself.
    pub fn rewrite(&self, apps: &str) {
        let head = head(&self.include, self.port, self.metrics_port, &self.server);
        self.write_file("doorbell.toml", &(head + apps));
    }

    /// Writes a file into its folder, as editors do, with the same placeholders as the apps.
    pub fn write_file(&self, name: &str, text: &str) {
        write_file(self.dir.path(), name, text);
    }

    /// Replaces the whole `[server]` beyond addresses and the apps.
    pub fn rewrite_all(&mut self, server: &str, apps: &str) {
        server.clone_into(&mut self.server);
        self.rewrite(apps);
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("doorbell.toml")
    }

    /// Sends doorbell a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("a signal");
    }

    /// Ends doorbell by SIGTERM and starts it again, in the same folder and with the same ports.
    pub fn stop_and_start_again(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let ended = poll(Duration::from_secs(60), || self.child.try_wait().ok().flatten());
        assert!(ended.is_some(), "did not end:\n{}", self.log());
        self.start_again();
    }

    /// Ends doorbell by SIGTERM and tells how long that took; fails if it did not end well.
    pub fn stop(mut self) -> Duration {
        let since = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let ended = poll(Duration::from_secs(60), || self.child.try_wait().ok().flatten());
        let status = ended.unwrap_or_else(|| panic!("did not end:\n{}", self.log()));
        assert!(status.success(), "{status}:\n{}", self.log());
        since.elapsed()
    }
}

impl Doorbell {
    /// What apps printed, for somebody who looks into a failed test.
    fn print_app_logs(&self) {
        let entries = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let folders = entries(&self.dir.path().join("logs"));
        for path in folders.iter().flat_map(|folder| entries(folder)) {
            let text = fs::read(&path).unwrap_or_default();
            let end = text.get(text.len().saturating_sub(MOST_SHOWN)..).unwrap_or_default();
            eprintln!("{}:\n{}", path.display(), String::from_utf8_lossy(end));
        }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(rustix::process::Signal::TERM);
            if poll(PATIENCE, || self.child.try_wait().ok().flatten()).is_none() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
        self.end_remains();
        if std::thread::panicking() {
            eprintln!("doorbell's log:\n{}", self.log());
            self.print_app_logs();
        }
    }
}

/// Runs a command to its end.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Output {
        status: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Runs the binary without a doorbell.
#[must_use]
pub fn tool(args: &[&str]) -> Output {
    run(Command::new(binary()).args(args))
}

/// The binary under test: `DOORBELL_BIN`, or the one built beside the tests.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DOORBELL_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>");
    let binary = folder.join("doorbell");
    assert!(binary.exists(), "{} is not built: run ./test", binary.display());
    binary
}

/// The folder of test programs.
#[must_use]
pub fn app_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("apps")
}

/// A port that nobody listens on, outside of the range that the system picks from for outgoing
/// connections, so that no other test's connection takes it meanwhile, and from that which Doorbell
/// picks from for apps.
#[must_use]
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    const FIRST: u16 = 10_000;
    const RANGE: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % u32::from(RANGE)).unwrap_or(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step) % RANGE;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
