//! A supervisor in a folder of its own, and small programs to run.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    spec::{
        AppSpec, Backend, EndpointSpec, Probe, ProcessSpec, RouteSpec, Template, UpstreamServer,
        UpstreamSpec,
    },
};
use doorbell_supervisor::{
    Supervisor, SupervisorOptions,
    message::{GateOrder, Instruction, Snapshot, StateName, Verb},
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::gate::Gate;

/// Longer than anything takes, even on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Soft limit on open files of apps.
pub(crate) const OPEN_FILES: u64 = 345;

/// A supervisor, its folders and its gate.
pub(crate) struct House {
    pub(crate) supervisor: Supervisor,
    pub(crate) gate: Gate,
    pub(crate) folder: Arc<TempDir>,
    barriers: AtomicUsize,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with_parallel_starts(8)
    }

    pub(crate) fn with_parallel_starts(parallel_starts: usize) -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap()), parallel_starts)
    }

    pub(crate) fn in_folder(folder: Arc<TempDir>, parallel_starts: usize) -> Self {
        let (supervisor, orders) = Supervisor::start(SupervisorOptions {
            state_dir: folder.path().join("state"),
            log_dir: folder.path().join("log"),
            parallel_starts,
            memory: None,
            open_files: Some(OPEN_FILES),
            group: None,
            has_custodian: false,
            lock: None,
        })
        .unwrap();
        let gate = Gate::new(supervisor.clone());
        gate.start(orders);
        Self { supervisor, gate, folder, barriers: AtomicUsize::new(0) }
    }

    /// Defines an app; its orders have reached the gate when this returns.
    pub(crate) async fn define(&self, spec: AppSpec) -> AppId {
        let id = spec.id.clone();
        self.supervisor.instruct(Instruction::Define(Arc::new(spec))).await.unwrap();
        self.catch_up().await;
        id
    }

    /// Waits until the gate has obeyed every order given so far: orders keep their order, so one
    /// that is given now comes last.
    pub(crate) async fn catch_up(&self) {
        let number = self.barriers.fetch_add(1, Ordering::Relaxed);
        let barrier = upstream(&format!("barrier-{number}"), 1);
        let app = barrier.id.clone();
        self.supervisor.instruct(Instruction::Define(Arc::new(barrier))).await.unwrap();
        self.gate.until_ordered(&app, |order| matches!(order, GateOrder::Open { .. })).await;
    }

    pub(crate) fn snapshot(&self, app: &AppId) -> Arc<Snapshot> {
        self.supervisor.snapshot(app).expect("the app is defined")
    }

    /// Waits until the app's snapshot is as wanted.
    pub(crate) async fn until(
        &self,
        app: &AppId,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let mut changes = self.supervisor.changes();
        let seen = timeout(LONG, async {
            loop {
                let snapshot = self.snapshot(app);
                if wanted(&snapshot) {
                    return snapshot;
                }
                // Lagging behind is fine: only the newest counts.
                let _ = changes.recv().await;
            }
        });
        match seen.await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("never came true: {:#?}", self.snapshot(app)),
        }
    }

    pub(crate) async fn until_state(&self, app: &AppId, state: StateName) -> Arc<Snapshot> {
        self.until(app, |snapshot| snapshot.state == state).await
    }

    pub(crate) async fn operate(&self, app: &AppId, verb: Verb) -> Option<Arc<Snapshot>> {
        let done = self.supervisor.operate_and_wait(app.clone(), verb);
        let seen = timeout(LONG, done).await.expect("operated in time").unwrap();
        self.catch_up().await;
        seen
    }

    pub(crate) async fn log(&self, app: &AppId) -> Vec<String> {
        let folder = self.folder.path().join("log");
        doorbell_supervisor::logs::tail(&folder, app, usize::MAX).await.unwrap()
    }

    pub(crate) async fn shutdown(&self) -> doorbell_supervisor::ShutdownReport {
        self.supervisor.shutdown(Duration::from_secs(30)).await
    }
}

/// An app that somebody else runs.
pub(crate) fn upstream(name: &str, port: u16) -> AppSpec {
    let servers = vec![UpstreamServer::Http { host: "127.0.0.1".into(), port }];
    let routes = RouteSpec::new(Vec::new(), Vec::new());
    AppSpec::new(id(name), routes, Backend::Upstream(UpstreamSpec::new(servers).into()))
}

pub(crate) fn id(text: &str) -> AppId {
    AppId::parse(text).unwrap()
}

/// An app that runs this command; `{port}` and the like are filled in.
pub(crate) fn app(name: &str, command: &[&str]) -> AppSpec {
    let command = command.iter().map(|part| Template::parse(part).unwrap()).collect();
    let mut process = ProcessSpec::new(command, std::env::temp_dir());
    process.ready.deadline = LONG;
    process.stop.grace = Duration::from_secs(10);
    process.stop.drain = Duration::from_secs(10);
    process.idle_stop_after = None;
    let routes = RouteSpec::new(Vec::new(), Vec::new());
    AppSpec::new(id(name), routes, Backend::Process(process.into()))
}

/// An app that runs this shell script.
pub(crate) fn sh(name: &str, script: &str) -> AppSpec {
    let script = script.replace('{', "{{").replace('}', "}}").replace("@port@", "{port}");
    app(name, &["sh", "-c", &script])
}

/// The interpreter itself: what `PATH` leads to may be a slow wrapper.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let asked = ["-c", "import sys; print(sys.executable, end='')"];
    let found = std::process::Command::new("python3").args(asked).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
});

/// An app that runs this Python script.
pub(crate) fn python(name: &str, script: &str) -> AppSpec {
    let script = script.replace('{', "{{").replace('}', "}}");
    app(name, &[&PYTHON, "-c", &script])
}

/// A web server of the shortest kind: answers with its pid and its arguments.
pub(crate) const SERVER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])))
s.listen(128)
while True:
    c, _ = s.accept()
    head = c.recv(4096)
    if head:
        body = "pid %d %s" % (os.getpid(), os.environ.get("WORD", ""))
        c.sendall(("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).encode())
    c.close()
"#;

/// An app that is such a server.
pub(crate) fn server(name: &str) -> AppSpec {
    python(name, SERVER)
}

/// Changes the program of a definition.
pub(crate) fn with(mut spec: AppSpec, change: impl FnOnce(&mut ProcessSpec)) -> AppSpec {
    match &mut spec.backend {
        Backend::Process(process) => change(process),
        Backend::Upstream(_) | Backend::Shared(_) => panic!("it has no program"),
    }
    spec
}

pub(crate) fn on_socket(spec: AppSpec) -> AppSpec {
    with(spec, |process| {
        process.endpoint = EndpointSpec::Socket;
        process.env.clear();
    })
}

pub(crate) fn probed(spec: AppSpec, probe: Probe) -> AppSpec {
    with(spec, |process| process.ready.probe = probe)
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether a process exists, a zombie included.
pub(crate) fn exists(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Every process that was started for one of the house's apps and still lives.
pub(crate) fn survivors(house: &House) -> Vec<String> {
    processes_of(&house.folder.path().join("state"))
}

/// Every process that was started by a supervisor with this state folder.
pub(crate) fn processes_of(state_dir: &Path) -> Vec<String> {
    let mark = format!("DOORBELL_STATE_DIR={}", state_dir.canonicalize().unwrap().display());
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
    .collect()
}

/// Waits for a condition that nobody tells of.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came true: {what}");
}

/// Sends a signal as an operator would.
pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
