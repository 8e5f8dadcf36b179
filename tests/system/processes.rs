//! How processes live and die: readiness, stubborn and wandering programs, crashes, output.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, eventually, free_port, pids_matching};

use crate::{node, python};

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie is dead: its command line is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The Python test program, with the doorbell's own folder as an argument: a word that only one
/// test's processes carry.
pub(crate) fn marked(id: &str, mode: &str, more: &str) -> String {
    let (bare, with) = (format!("\"{mode}\"]"), format!("\"{mode}\", \"{{dir}}\"]"));
    python(id, mode, more).replace(&bare, &with)
}

/// Processes of [`marked`] apps.
pub(crate) fn marked_pids(dir: &Path) -> Vec<u32> {
    let programs = pids_matching("server.py");
    let marked = pids_matching(&dir.to_string_lossy());
    marked.into_iter().filter(|pid| programs.contains(pid)).collect()
}

#[test]
fn placeholders_directory_and_a_clean_environment() {
    let env = "env = { ID = \"app-{id}\", WHERE = \"http://127.0.0.1:{port}{base_path}\" }";
    let d = Setup::new(&python("app", "", env)).env("DOORBELL_SECRET", "not for apps").start();
    let seen = d.get("app.test", "/env").text();
    let value = |name: &str| {
        seen.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).map(str::to_owned)
    };
    let port = value("PORT").expect("PORT");
    assert_eq!(value("ID").as_deref(), Some("app-app"));
    assert_eq!(value("WHERE"), Some(format!("http://127.0.0.1:{port}/")));
    assert!(!seen.contains("not for apps"), "{seen}");
    assert_eq!(d.get("app.test", "/cwd").text(), doorbell_tests::app_dir().to_string_lossy());
}

#[test]
fn a_fixed_port_is_used() {
    let port = free_port();
    let d = Doorbell::with(&python("app", "", &format!("port = {port}")));
    assert_eq!(d.get("app.test", "/").status, 200);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_port_that_somebody_else_has_is_not_taken_for_the_app() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    let d = Doorbell::with(&python("app", "", &format!("port = {port}")));
    assert_eq!(d.get("app.test", "/").status, 503);
    let status = d.status("app");
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&port.to_string()), "{status:#}");
}

#[test]
fn apps_may_listen_on_a_unix_socket() {
    let d = Doorbell::with(&node("app", "env = { SOCKET = \"{socket}\" }"));
    assert_eq!(d.get("app.test", "/x").text(), "node GET /x\n");
    let mut socket = doorbell_tests::WebSocket::open(d.port, "app.test", "/").expect("a WebSocket");
    socket.echo("over a socket");
}

#[test]
fn socket_activation_hands_over_a_listening_socket() {
    let d = Doorbell::with(&node("app", "ready = \"socket_activation\""));
    assert_eq!(d.get("app.test", "/x").text(), "node GET /x\n");
}

#[test]
fn sd_notify_is_readiness() {
    let d = Doorbell::with(&python("app", "notify", "ready = \"notify\""));
    let since = Instant::now();
    assert_eq!(d.get("app.test", "/").status, 200);
    assert!(since.elapsed() >= Duration::from_millis(300));
}

#[test]
fn an_open_port_is_not_readiness_where_http_is_asked() {
    let more = "env = { WARM_AFTER = \"1\" }\nready = { http = \"/healthz\", status = 200, body = \"ok\" }";
    let d = Doorbell::with(&python("app", "", more));
    let since = Instant::now();
    assert_eq!(d.get("app.test", "/").status, 200);
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[test]
fn an_app_that_exits_at_once_fails_at_once() {
    let d = Doorbell::with(&python("app", "exit", "ready = { deadline = \"30s\" }"));
    let since = Instant::now();
    assert_eq!(d.get("app.test", "/").status, 503);
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_app_that_never_listens_fails_at_its_deadline() {
    let d = Doorbell::with(&marked("app", "deaf", "ready = { deadline = \"700ms\" }"));
    let mut connection = d.connect();
    let since = Instant::now();
    connection.send_get("app.test", "/");
    eventually("it runs", || marked_pids(d.dir.path()).len() == 1);
    let response = connection.read();
    assert_eq!(response.status, 504);
    assert!(response.field("retry-after").is_some());
    assert!(since.elapsed() < Duration::from_secs(5));
    eventually("its process is gone", || marked_pids(d.dir.path()).is_empty());
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let apps = "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"/nowhere/at-all\"]\n";
    let d = Doorbell::with(apps);
    assert_eq!(d.get("app.test", "/").status, 503);
    let status = d.status("app");
    assert!(status["reason"].to_string().contains("/nowhere/at-all"), "{status:#}");
}

#[test]
fn an_app_that_forks_away_is_served_and_stopped() {
    let d = Doorbell::with(&python("app", "fork", ""));
    assert_eq!(d.get("app.test", "/").text(), "python /\n");
    let port = port_of(&d);
    d.ok(&["stop", "app"]);
    eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_wrapper_that_leaves_its_server_behind_is_cleaned_up() {
    let d = Doorbell::with(&python("app", "wrapper", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let port = port_of(&d);
    d.ok(&["stop", "app"]);
    eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert_eq!(d.get("app.test", "/").status, 200, "and it starts again");
}

#[test]
fn an_app_that_ignores_sigterm_is_killed_after_its_grace() {
    let d = Doorbell::with(&python("app", "stubborn", "stop = { grace = \"500ms\" }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    let since = Instant::now();
    d.ok(&["stop", "app"]);
    assert!(!is_alive(pid));
    assert!(since.elapsed() >= Duration::from_millis(500));
}

#[test]
fn an_app_is_stopped_by_the_signal_it_asks_for() {
    for (stop, signal) in [("", "SIGTERM\n"), ("stop = { signal = \"SIGINT\" }", "SIGINT\n")] {
        let env = "env = { SIGNALS_FILE = \"{dir}/signals\" }";
        let d = Doorbell::with(&node("app", &format!("{env}\n{stop}")));
        assert_eq!(d.get("app.test", "/").status, 200);
        d.ok(&["stop", "app"]);
        let got = std::fs::read_to_string(d.dir.path().join("signals")).expect("the app's list");
        assert_eq!(got, signal);
    }
}

#[test]
fn a_shell_wrapper_as_npm_makes_them_is_stopped_as_a_whole() {
    let apps = "[app.app]\nhosts = [\"app.test\"]\ndirectory = \"{apps}\"\n\
                command = [\"sh\", \"-c\", \"node node.js & wait\"]\n";
    let d = Doorbell::with(apps);
    let pid: u32 = d.get("app.test", "/pid").text().parse().expect("a pid");
    assert_ne!(Some(pid), d.app_pid("app"), "the shell is the first process");
    d.ok(&["stop", "app"]);
    assert!(!is_alive(pid));
}

#[test]
fn an_app_that_fails_again_and_again_backs_off_and_recovers_alone() {
    let more = "back_off = { initial = \"300ms\", max = \"600ms\" }\nready = { deadline = \"5s\" }";
    let file = "command = [\"sh\", \"-c\", \"test -e {dir}/good && exec python3 {apps}/server.py; exit 4\"]";
    let apps =
        format!("[app.app]\nhosts = [\"app.test\"]\ndirectory = \"{{apps}}\"\n{file}\n{more}\n");
    let d = Doorbell::with(&apps);
    assert_eq!(d.get("app.test", "/").status, 503);
    let refused = d.get("app.test", "/");
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some_and(|after| after != "0"));
    std::fs::write(d.dir.path().join("good"), "").expect("to mend it");
    eventually("it recovers", || d.get("app.test", "/").status == 200);
    let status = d.status("app");
    assert!(status["starts"]["failed"].as_u64() >= Some(1), "{status:#}");
}

#[test]
fn a_request_that_comes_while_the_app_stops_is_held_for_its_return() {
    let more = "stop = { grace = \"1s\" }\nenv = { IGNORE_TERM = \"1\" }";
    let d = Doorbell::with(&node("app", more));
    let pid = d.get("app.test", "/pid").text();
    std::thread::scope(|scope| {
        scope.spawn(|| d.ok(&["stop", "app"]));
        eventually("it stops", || d.state("app") == "stopping");
        let again = d.get("app.test", "/pid");
        assert_eq!(again.status, 200);
        assert_ne!(again.text(), pid);
    });
}

#[test]
fn no_more_apps_start_at_once_than_may() {
    let slow = "env = { START_DELAY = \"300\" }";
    let apps: String = (0..6).map(|n| node(&format!("app{n}"), slow)).collect();
    let d = Setup::new(&apps).server("[server.limits]\nparallel_starts = 2").start();
    std::thread::scope(|scope| {
        let done: Vec<_> = (0..6)
            .map(|n| {
                let d = &d;
                scope.spawn(move || d.get(&format!("app{n}.test"), "/").status)
            })
            .collect();
        let status = || -> serde_json::Value {
            serde_json::from_str(&d.ok(&["status", "--json"])).expect("JSON")
        };
        let starting = |status: &serde_json::Value| {
            let apps = status["apps"].as_array().expect("apps").clone();
            apps.iter().filter(|app| app["state"] == "starting").count()
        };
        eventually("some start", || starting(&status()) > 0);
        while !done.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert!(starting(&status()) <= 2);
        }
        for one in done {
            assert_eq!(one.join().expect("a client"), 200);
        }
    });
}

#[test]
fn who_asked_first_starts_first() {
    let app = |n: u32| {
        let env = "STARTS_FILE = \"{dir}/order\", START_DELAY = \"200\"";
        node(&format!("app{n}"), &format!("env = {{ NAME = \"{n}\", {env} }}"))
    };
    // Asked for in an order that is neither that of the file nor of the names.
    let asked = [3, 0, 4, 1, 5, 2];
    let apps: String = (0..6).map(app).collect();
    let d = Setup::new(&apps).server("[server.limits]\nparallel_starts = 1").start();
    let mut waiting = asked.map(|n| {
        let mut connection = d.connect();
        connection.send_get(&format!("app{n}.test"), "/");
        eventually("it is heard", || d.state(&format!("app{n}")) != "stopped");
        connection
    });
    for connection in &mut waiting {
        assert_eq!(connection.read().status, 200);
    }
    let order = std::fs::read_to_string(d.dir.path().join("order")).expect("the apps' list");
    assert_eq!(order, "3\n0\n4\n1\n5\n2\n");
}

#[test]
fn output_is_kept_whole_rotated_and_bounded() {
    let more = "env = { LINES = \"20000\" }\nlogs = { max_size = \"64KiB\", keep = 3 }";
    let d = Doorbell::with(&python("app", "lines", more));
    assert_eq!(d.get("app.test", "/").status, 200);
    let last = || d.ok(&["logs", "app", "-n", "2000"]);
    eventually("the last line is there", || last().contains("line 019999"));
    let text = last();
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.get(..6)?.parse().ok())
        .collect();
    assert!(numbers.len() > 1900, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no gap");
    let folder = d.dir.path().join("logs/app");
    let sizes: Vec<u64> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
        .collect();
    assert!(sizes.len() <= 4 && sizes.iter().all(|size| *size <= 64 * 1024), "{sizes:?}");
}

#[test]
fn an_app_that_listens_beyond_loopback_is_flagged() {
    let d = Doorbell::with(&node("app", "env = { BIND = \"0.0.0.0\" }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    eventually("it is flagged", || d.status("app")["warnings"].to_string().contains("0.0.0.0"));
    assert!(d.ok(&["status"]).contains("warning: app:"));
}

#[test]
fn nothing_is_left_when_doorbell_ends() {
    let d = Doorbell::with(
        &[
            marked("a", "stubborn", "stop = { grace = \"300ms\" }"),
            marked("b", "wrapper", ""),
            marked("c", "fork", ""),
        ]
        .concat(),
    );
    let ports: Vec<u16> = ["a", "b", "c"]
        .iter()
        .map(|id| {
            assert_eq!(d.get(&format!("{id}.test"), "/").status, 200);
            endpoint_port(&d, id)
        })
        .collect();
    let dir = d.dir.path().to_owned();
    assert_eq!(marked_pids(&dir).len(), 4, "the wrapper is two");
    d.stop();
    assert_eq!(marked_pids(&dir), [0; 0]);
    for port in ports {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "port {port} is free");
    }
}

/// What the descriptors of a process lead to; one that has just ended has none.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn apps_get_no_descriptor_of_ours() {
    let d = Doorbell::with(&node("app", ""));
    let mut kept: Vec<_> = (0..20).map(|_| d.connect()).collect();
    assert!(kept.iter_mut().all(|client| client.get("nobody.test", "/").status == 404));
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    let ours: Vec<_> = d.pids().into_iter().flat_map(descriptors).collect();
    let sockets = ours.iter().filter(|target| target.starts_with("socket:"));
    assert!(sockets.count() > kept.len(), "{ours:?}");
    // /dev/null and epoll's kind have one name for all.
    let is_own = |target: &&String| ["socket:", "/"].iter().any(|kind| target.starts_with(kind));
    let shared = descriptors(pid)
        .into_iter()
        .filter(|target| target != "/dev/null" && ours.contains(target))
        .filter(|target| is_own(&target));
    // The output is a pipe between both: standard output and error of the app, and our reading end.
    let (output, others): (Vec<_>, Vec<_>) = shared.partition(|target| target.ends_with(".out"));
    assert_eq!(output.len(), 2, "{output:?}");
    assert!(others.is_empty(), "{others:?}");
}

fn port_of(d: &Doorbell) -> u16 {
    endpoint_port(d, "app")
}

fn endpoint_port(d: &Doorbell, id: &str) -> u16 {
    let status = d.status(id);
    let endpoint = status["endpoint"]["Tcp"].as_str().expect("a TCP endpoint").to_owned();
    endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// Notes each question, and has no good answer to any.
const NEVER_WELL: &str = r#"
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", flush=True)
        self.send_error(503)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#;

#[test]
fn an_app_that_takes_long_is_asked_less_and_less() {
    let app = "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"python3\", \"well.py\"]\n\
               ready = { http = \"/\", deadline = \"4s\" }\n";
    let d = Setup::new(app).file("well.py", NEVER_WELL).start();
    assert_eq!(d.get("app.test", "/").status, 504);
    let lines = d.ok(&["logs", "app", "--lines", "5000"]);
    let asked = lines.lines().filter(|line| line.contains("asked")).count();
    // Each question a twentieth of the time later than the one before: 20 ln(4 s / 20 ms), and some at first.
    assert!((20..200).contains(&asked), "{asked}");
}
