//! Readiness that the kernel tells of: apps of any kind, unmodified, and whoever dies while one is about
//! to listen.
//!
//! All apps here can gain no privileges, so that it goes as well where the tests are not root; but for
//! those that are about that.

use std::{
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use doorbell_tests::{
    Doorbell, Role, Setup, app_dir, eventually, eventually_within, free_port, kill, within,
};

use crate::{node, python};

const SERVER: &str = "[server.log]\nlevel = \"info,doorbell_supervisor=debug\"";
const HEARD: &str = "the kernel told that it listens";
const BOUND: &str = "no_new_privs = true\n";

/// `tests/apps/listener.c`, linked statically.
pub(crate) fn listener() -> String {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("listener-{}", std::process::id()));
        let source = app_dir().join("listener.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-O1", "-pthread", "-o"]).arg(&path).arg(source);
        assert!(gcc.status().expect("gcc").success());
        path
    });
    path.display().to_string()
}

/// The C program as an app, in a mode, with an argument.
fn c(id: &str, mode: &str, argument: &str, more: &str) -> String {
    let program = listener();
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"{program}\", \"{mode}\", \"{argument}\"]\n\
         directory = \"/\"\n{more}\n"
    )
}

fn start(apps: &str) -> Doorbell {
    Setup::new(apps).server(SERVER).start()
}

/// How often the kernel told of an app.
fn heard(d: &Doorbell, app: &str) -> usize {
    let of = [format!("app={app}"), format!("app=\"{app}\"")];
    d.log().lines().filter(|l| l.contains(HEARD) && of.iter().any(|of| l.contains(of))).count()
}

#[track_caller]
fn answers(d: &Doorbell, app: &str) -> String {
    let answer = d.get(&format!("{app}.test"), "/");
    assert_eq!(answer.status, 200, "{app}: {}\n{}", answer.text(), d.log());
    answer.text()
}

#[test]
fn apps_of_every_kind_are_heard_when_they_listen() {
    let classes = tempfile::tempdir().expect("a folder");
    let mut javac = Command::new("javac");
    javac.arg("-d").arg(classes.path()).arg(app_dir().join("Server.java"));
    assert!(javac.status().expect("javac").success());
    let java = format!(
        "[app.java]\nhosts = [\"java.test\"]\ncommand = [\"java\", \"-cp\", \".\", \"Server\"]\n\
         directory = \"{}\"\n{BOUND}",
        classes.path().display()
    );
    let apps = [
        node("node", BOUND),
        node("socket", &format!("env = {{ SOCKET = \"{{socket}}\" }}\n{BOUND}")),
        python("python", "", BOUND),
        python("asked", "", &format!("ready = {{ http = \"/healthz\" }}\n{BOUND}")),
        python("daemon", "fork", BOUND),
        python("wrapped", "wrapper", BOUND),
        c("static", "serve", "", BOUND),
        c("thread", "thread", "", BOUND),
        c("children", "children", "", BOUND),
        c("workers", "workers", "", BOUND),
        c("fixed", "serve", "", &format!("port = {}\n{BOUND}", free_port())),
        java,
    ];
    let d = start(&apps.concat());
    for app in ["node", "python", "asked", "daemon", "wrapped", "static", "thread", "children"]
        .into_iter()
        .chain(["workers", "fixed", "java"])
    {
        answers(&d, app);
        assert_eq!(heard(&d, app), 1, "{app}\n{}", d.log());
        assert_eq!(d.status(app)["warnings"].as_array().map_or(0, Vec::len), 0, "{app}");
    }
    // There is no address of which one could see more than that it listens.
    answers(&d, "socket");
    d.stop();
}

#[test]
fn an_app_that_does_not_want_to_be_heard_is_looked_for() {
    let d = start(&c("app", "serve", "", &format!("ready = {{ listen = \"never\" }}\n{BOUND}")));
    answers(&d, "app");
    assert_eq!(heard(&d, "app"), 0);
}

#[test]
fn in_one_process_nobody_could_hear_after_us_and_apps_are_looked_for() {
    let d = Setup::new(&c("app", "serve", "", BOUND)).server(SERVER).one_process().start();
    answers(&d, "app");
    assert_eq!(heard(&d, "app"), 0);
}

#[test]
fn an_app_may_listen_again_and_again() {
    let d = start(&c("app", "serve", "", BOUND));
    answers(&d, "app");
    for times in 2..30 {
        assert_eq!(d.get("app.test", "/again").status, 200);
        eventually("it serves again", || d.get("app.test", "/").status == 200);
        assert!(answers(&d, "app").contains(&format!("times={times} failures=0")));
    }
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn an_app_that_ignores_its_port_is_found_and_told_of() {
    let port = free_port();
    let d = start(&c("app", "elsewhere", &port.to_string(), BOUND));
    assert!(answers(&d, "app").contains("elsewhere"));
    let words = format!("listens on 127.0.0.1:{port}, not on PORT");
    eventually("a warning", || d.status("app")["warnings"].to_string().contains(&words));
    d.ok(&["restart", "app"]);
    assert!(answers(&d, "app").contains("elsewhere"));
}

#[test]
fn where_an_app_was_found_it_is_found_after_a_kill_of_the_supervisor() {
    let port = free_port();
    let mut d = start(&c("app", "elsewhere", &port.to_string(), BOUND));
    let told = answers(&d, "app");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(answers(&d, "app"), told);
    d.ok(&["stop", "app"]);
    assert_eq!(d.app_pids(), [0; 0]);
}

#[test]
fn a_port_for_debuggers_is_not_taken_for_the_app() {
    let port = free_port();
    let d = start(&c("app", "debugger", &port.to_string(), BOUND));
    assert!(answers(&d, "app").contains("debugger times=2"));
    assert_eq!(heard(&d, "app"), 1, "{}", d.log());
    assert!(!d.status("app")["warnings"].to_string().contains("not on PORT"));
}

#[test]
fn a_start_that_fails_elsewhere_says_where_it_listens() {
    let port = free_port();
    let more =
        format!("ready = {{ http = \"/healthz\", status = 204, deadline = \"3s\" }}\n{BOUND}");
    let d = start(&c("app", "elsewhere", &port.to_string(), &more));
    let output = d.cli(&["start", "app"]);
    assert_ne!(output.status, 0);
    let told = format!("{}{}", output.stderr, d.status("app"));
    assert!(told.contains(&format!("it listens on 127.0.0.1:{port}, not on PORT")), "{told}");
}

#[test]
fn listening_beyond_loopback_is_told_of_when_it_happens() {
    let port = free_port();
    let apps =
        [c("everywhere", "everywhere", "", BOUND), c("later", "serve", &port.to_string(), BOUND)];
    let d = start(&apps.concat());
    for app in ["everywhere", "later"] {
        answers(&d, app);
    }
    let warned = |app: &str| d.status(app)["warnings"].to_string().contains("beyond loopback");
    eventually_within(Duration::from_secs(5), "a warning", || warned("everywhere"));
    // Long after the first looks.
    within(Duration::from_secs(3), "no warning", || !warned("later"));
    assert_eq!(d.get("later.test", "/open").status, 200);
    eventually_within(Duration::from_secs(5), "a warning", || warned("later"));
    assert!(d.status("later")["warnings"].to_string().contains(&port.to_string()));
}

/// An app that is about to listen until it gets a word, and what came of it.
struct Waiting {
    folder: tempfile::TempDir,
}

impl Waiting {
    fn new() -> (Self, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let app = c("app", "wait", &folder.path().to_string_lossy(), BOUND);
        (Self { folder }, app)
    }

    fn has(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    /// Waits until it is about to listen, and just written down: from there on it is to be taken up.
    fn is_about_to(&self, d: &Doorbell) {
        let records = || {
            let files = std::fs::read_dir(d.state_path().join("run/app")).into_iter().flatten();
            let paths = files.flatten().map(|file| file.path());
            paths.filter(|path| path.extension().is_some_and(|end| end == "json")).count()
        };
        eventually("it is about to", || self.has("about") && records() == 1);
    }

    fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").expect("a file");
    }

    #[track_caller]
    fn listens(&self, patience: Duration) {
        eventually_within(patience, "it listens", || {
            let failed = std::fs::read_dir(self.folder.path()).expect("the folder").flatten();
            let mut failed = failed.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let failed = failed.find(|name| name.starts_with("listens-") && name != "listens-0");
            assert_eq!(failed, None, "listen failed");
            self.has("listens-0")
        });
    }
}

#[test]
fn an_app_listens_though_its_supervisor_is_dead_and_is_served_by_the_next() {
    let (app, text) = Waiting::new();
    let mut d = start(&text);
    let mut client = d.connect();
    client.send_get("app.test", "/");
    app.is_about_to(&d);
    d.kill_supervisor();
    app.go();
    app.listens(Duration::from_secs(5));
    d.start_again();
    assert!(client.read().text().contains("wait times=1 failures=0"));
    assert_eq!((d.starts("app"), d.app_pids().len()), (1, 1));
}

#[test]
fn an_app_that_is_taken_up_is_heard() {
    let (app, text) = Waiting::new();
    let mut d = start(&text);
    let mut client = d.connect();
    client.send_get("app.test", "/");
    app.is_about_to(&d);
    d.kill_supervisor();
    d.start_again();
    assert_eq!(heard(&d, "app"), 0);
    app.go();
    assert_eq!(client.read().status, 200);
    assert_eq!(heard(&d, "app"), 1, "{}", d.log());
}

#[test]
fn an_app_listens_whatever_was_killed_in_turn() {
    let (app, text) = Waiting::new();
    let mut d = start(&text);
    let mut client = d.connect();
    client.send_get("app.test", "/");
    app.is_about_to(&d);
    for _ in 0..2 {
        d.kill_role(Role::Control);
        d.kill_supervisor();
        d.start_again();
        d.kill_role(Role::Proxy);
    }
    d.kill_role(Role::Control);
    d.kill_supervisor();
    app.go();
    app.listens(Duration::from_secs(5));
    d.start_again();
    eventually("it is served", || d.get("app.test", "/").status == 200);
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn an_app_that_starts_listens_through_an_upgrade() {
    let (app, text) = Waiting::new();
    let d = Setup::new(&text).server(SERVER).own_binary().start();
    let mut client = d.connect();
    client.send_get("app.test", "/");
    app.is_about_to(&d);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| d.ok(&["upgrade"]));
        app.go();
        app.listens(Duration::from_secs(20));
        upgrade.join().expect("an upgrade");
    });
    assert_eq!(client.read().status, 200);
    let pid = d.app_pid("app");
    d.replace_binary(None);
    d.ok(&["upgrade"]);
    answers(&d, "app");
    assert_eq!((d.app_pid("app"), d.app_pids().len()), (pid, 1));
}

#[test]
fn kills_at_any_moment_of_many_listens_leave_nobody_waiting() {
    let mut d = start(&c("app", "serve", "", BOUND));
    answers(&d, "app");
    let (mut times, since) = (1, Instant::now());
    let again = |d: &Doorbell, times: &mut u32| {
        // The answer comes after it listens.
        let answer = d.get("app.test", "/again");
        assert_eq!(answer.status, 200, "{}", d.log());
        *times += 1;
        assert!(answer.text().contains(&format!("times={times} failures=0")), "{}", answer.text());
    };
    for _ in 0..5 {
        for _ in 0..10 {
            again(&d, &mut times);
        }
        d.kill_supervisor();
        for _ in 0..10 {
            again(&d, &mut times);
        }
        d.begin_again();
        for _ in 0..10 {
            again(&d, &mut times);
        }
        d.wait_until_ready();
    }
    eprintln!("{times} times in {:?}", since.elapsed());
}

#[test]
fn when_all_are_killed_together_apps_serve_on_and_an_operator_is_told() {
    let mut d = start(&c("app", "serve", "", BOUND));
    let told = answers(&d, "app");
    d.kill_all();
    d.start_again();
    assert_eq!(answers(&d, "app"), told);
    let warned = || d.status("app")["warnings"].to_string().contains("cannot listen anew");
    eventually("a warning", warned);
    d.ok(&["restart", "app"]);
    answers(&d, "app");
    assert!(!warned());
}

#[test]
fn a_flood_of_listens_harms_nobody_else() {
    let apps = [c("flood", "flood", "", BOUND), c("calm", "serve", "", BOUND)];
    let d = start(&apps.concat());
    answers(&d, "flood");
    for _ in 0..5 {
        let since = Instant::now();
        answers(&d, "calm");
        d.ok(&["stop", "calm"]);
        eprintln!("a start and a stop beside a flood: {:?}", since.elapsed());
    }
    assert_eq!(heard(&d, "calm"), 5, "{}", d.log());
    d.ok(&["stop", "flood"]);
    assert_eq!(d.app_pids(), [0; 0]);
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An app of another user, that runs a program which sets its user to root.
fn setuid_app(folder: &std::path::Path, more: &str) -> String {
    let program = folder.join("euid");
    let copied = Command::new("cp").arg(listener()).arg(&program).status().expect("cp");
    assert!(copied.success());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).expect("its mode");
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"setpriv\", \"--reuid=65534\", \
         \"--clear-groups\", \"{}\", \"serve\", \"{}\"]\ndirectory = \"/\"\n{more}",
        listener(),
        program.display()
    )
}

fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("its mode");
    folder
}

#[test]
fn under_root_an_app_is_heard_and_its_setuid_programs_work() {
    if !is_root() {
        return eprintln!("not root: nothing to see");
    }
    let folder = open_folder();
    let d = start(&setuid_app(folder.path(), ""));
    answers(&d, "app");
    assert_eq!(heard(&d, "app"), 1, "{}", d.log());
    assert!(d.get("app.test", "/euid").text().contains("euid=0"));
    d.rewrite(&setuid_app(folder.path(), BOUND));
    d.ok(&["reload"]);
    eventually("it cannot", || d.get("app.test", "/euid").text().contains("euid=65534"));
}

#[test]
fn without_root_an_app_is_heard_if_it_can_gain_no_privileges() {
    if !is_root() {
        return eprintln!("not root: another user cannot be taken on");
    }
    let apps = [c("bound", "serve", "", BOUND), c("free", "serve", "", "")];
    let d = Setup::new(&apps.concat()).server(SERVER).user(65534).open_to_all().start();
    for app in ["bound", "free"] {
        answers(&d, app);
    }
    assert_eq!((heard(&d, "bound"), heard(&d, "free")), (1, 0), "{}", d.log());
    assert!(d.log().contains("the kernel does not tell when this app listens"), "{}", d.log());
    let (app, pid) = ("bound", d.app_pid("bound").expect("a process"));
    kill(pid);
    eventually("it is started anew", || d.get(&format!("{app}.test"), "/").status == 200);
}
