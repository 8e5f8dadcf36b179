//! Changing the configuration of a running doorbell.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_tests::{Connection, Doorbell, Setup, WebSocket, eventually, free_port, within};

use crate::node;

fn version(number: u32) -> String {
    node("app", &format!("env = {{ VERSION = \"{number}\", START_DELAY = \"200\" }}"))
}

/// Clients that ask again and again, until stopped; counts answers that are not 200.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn on(port: u16, host: &'static str, clients: usize) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..clients)
            .map(|client| {
                let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
                std::thread::spawn(move || client_loop(port, host, client % 2 == 0, &stop, &asked))
            })
            .collect();
        Self { stop, asked, threads }
    }

    pub(crate) fn wait_for(&self, more: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + more;
        eventually("requests go on", || self.asked.load(Ordering::Relaxed) >= goal);
    }

    /// Ends the clients; gives what failed.
    pub(crate) fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    }

    #[track_caller]
    pub(crate) fn end_without_failure(self) {
        let asked = Arc::clone(&self.asked);
        let failures = self.end();
        let asked = asked.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {asked} failed: {:?}", failures.len(), &failures[..1]);
    }
}

fn client_loop(
    port: u16,
    host: &str,
    keep_alive: bool,
    stop: &AtomicBool,
    asked: &AtomicUsize,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = Connection::open(port);
    while !stop.load(Ordering::Relaxed) {
        if !keep_alive {
            connection = Connection::open(port);
        }
        connection.send_get(host, "/version");
        match connection.try_read() {
            Some(response) if response.status == 200 => {
                if response.field("connection") == Some("close") {
                    connection = Connection::open(port);
                }
            }
            other => {
                failures.push(format!("{other:?}"));
                connection = Connection::open(port);
            }
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    failures
}

#[test]
fn a_changed_app_is_replaced_without_a_failed_request() {
    let d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    let load = Load::on(d.port, "app.test", 8);
    load.wait_for(200);
    for number in 2..5 {
        d.rewrite(&version(number));
        d.ok(&["reload"]);
        eventually("the new version answers", || {
            d.get("app.test", "/version").text() == number.to_string()
        });
        load.wait_for(200);
    }
    load.end_without_failure();
}

#[test]
fn websockets_and_streams_outlive_a_reload_and_unchanged_apps_keep_their_process() {
    let apps = |extra: &str| [node("app", ""), node("other", extra)].concat();
    let d = Doorbell::with(&apps(""));
    let pid = d.get("app.test", "/pid").text();
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    let mut stream = d.connect();
    stream.send_get("app.test", "/stream?count=60&ms=50");
    assert_eq!(stream.read_head().map(|head| head.status), Some(200));
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(100);
    for n in 0..5 {
        d.rewrite(&apps(&format!("env = {{ N = \"{n}\" }}")));
        d.ok(&["reload"]);
        socket.echo("still open");
        load.wait_for(50);
    }
    load.end_without_failure();
    // The app may put two events into one chunk.
    let mut chunks = 0;
    while let Some(Some(chunk)) = stream.read_chunk() {
        chunks += String::from_utf8_lossy(&chunk).matches("data: ").count();
    }
    assert_eq!(chunks, 60);
    assert_eq!(d.get("app.test", "/pid").text(), pid);
}

#[test]
fn an_open_websocket_to_a_replaced_app_goes_on_until_the_drain_ends() {
    let app = |n: u32| {
        node("app", &format!("env = {{ VERSION = \"{n}\" }}\nstop = {{ drain = \"2s\" }}"))
    };
    let d = Doorbell::with(&app(1));
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    d.rewrite(&app(2));
    d.ok(&["reload"]);
    eventually("the new version answers", || d.get("app.test", "/version").text() == "2");
    socket.echo("still open");
    assert_eq!(socket.read(), None, "closed when the drain was over");
}

#[test]
fn only_routes_and_limits_change_without_a_restart() {
    let d = Doorbell::with(&node("app", ""));
    let pid = d.get("app.test", "/pid").text();
    d.rewrite(&node("app", "limits = { body = \"1KiB\" }").replace("app.test", "new.test"));
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/pid").status, 404);
    assert_eq!(d.get("new.test", "/pid").text(), pid);
}

#[test]
fn a_removed_app_drains_stops_and_leaves_no_series() {
    let d = Doorbell::with(&[node("app", ""), node("stays", "")].concat());
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=700");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.rewrite(&node("stays", ""));
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/").status, 404);
    assert_eq!(slow.read().text(), "slow", "who was there is served to the end");
    eventually("the process ends", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!d.metrics().contains("app=\"app\""));
}

#[test]
fn sighup_reloads() {
    let d = Doorbell::with(&node("app", ""));
    let reloaded = || d.log().matches("configuration loaded").count();
    let before = reloaded();
    d.signal(rustix::process::Signal::HUP);
    eventually("it reloads", || reloaded() > before);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let good = d.metric("doorbell_config_last_reload_success_timestamp_seconds");
    d.rewrite(&node("app", "hots = [\"typo.test\"]"));
    let output = d.cli(&["reload"]);
    assert_ne!(output.status, 0);
    assert!(output.stderr.contains("hots") && output.stderr.contains("hosts"), "{}", output.stderr);
    assert!(d.log().contains("hots"));
    assert_eq!(d.metric("doorbell_config_last_reload_successful"), Some(0.0));
    assert_eq!(d.metric("doorbell_config_last_reload_success_timestamp_seconds"), good);
    assert_eq!(d.get("app.test", "/").status, 200);
    d.rewrite(&node("app", ""));
    d.ok(&["reload"]);
    assert_eq!(d.metric("doorbell_config_last_reload_successful"), Some(1.0));
}

#[test]
fn listeners_come_and_go_without_a_restart() {
    let d = Doorbell::with(&node("app", ""));
    let pid = d.get("app.test", "/pid").text();
    let mut kept = d.connect();
    assert_eq!(kept.get("app.test", "/pid").text(), pid);
    let (port, socket) = (free_port(), d.dir.path().join("http.sock"));
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    let listen = format!("listen = [\"127.0.0.1:{}\"]", d.port);
    let more = format!("listen = [\"127.0.0.1:{port}\", \"unix:http.sock\"]");
    std::fs::write(d.config_path(), text.replace(&listen, &more)).expect("to write");
    d.ok(&["reload"]);
    assert_eq!(doorbell_tests::get(port, "app.test", "/pid").text(), pid);
    assert!(Connection::try_open(d.port).is_err(), "nobody listens there any more");
    assert_eq!(kept.get("app.test", "/pid").text(), pid, "who was connected stays");
    let output = std::process::Command::new("curl")
        .args(["-s", "--unix-socket", &socket.to_string_lossy(), "http://app.test/pid"])
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), pid);
    std::fs::write(d.config_path(), text).expect("to write");
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    assert!(!socket.exists());
}

#[test]
fn every_form_of_address_is_listened_on() {
    let d = Doorbell::with(&node("app", ""));
    let pid = d.get("app.test", "/pid").text();
    let ask = |address: &str, port: u16| {
        let url = format!("http://{address}:{port}/pid");
        let output = std::process::Command::new("curl")
            .args(["-s", "-H", "Host: app.test", &url])
            .output()
            .expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (six, every) = (free_port(), free_port());
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    let more = format!("listen = [\"[::1]:{six}\", \":{every}\", ");
    std::fs::write(d.config_path(), text.replace("listen = [", &more)).expect("to write");
    d.ok(&["reload"]);
    assert_eq!([ask("[::1]", six), ask("127.0.0.1", six)], [pid.as_str(), ""]);
    assert_eq!([ask("[::1]", every), ask("127.0.0.1", every)], [pid.as_str(), pid.as_str()]);
}

#[test]
fn an_address_in_use_keeps_the_old_configuration() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("an address");
    let d = Doorbell::with(&node("app", ""));
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    let wrong = text.replace("listen = [", &format!("listen = [\"{taken}\", "));
    std::fs::write(d.config_path(), wrong).expect("to write");
    let output = d.cli(&["reload"]);
    assert_ne!(output.status, 0);
    assert!(output.stderr.contains(&taken.to_string()), "{}", output.stderr);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn sigterm_lets_running_requests_finish() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=800");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    let port = d.port;
    d.signal(rustix::process::Signal::TERM);
    eventually("nobody listens", || Connection::try_open(port).is_err());
    assert_eq!(slow.read().text(), "slow");
    d.stop();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the app is gone too");
}

#[test]
fn a_websocket_at_the_shutdown_goes_on_until_its_deadline() {
    let d = Setup::new(&node("app", "")).server("[server.timeouts]\nshutdown = \"2s\"").start();
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    let since = Instant::now();
    d.signal(rustix::process::Signal::TERM);
    eventually("nobody listens", || Connection::try_open(d.port).is_err());
    socket.echo("still open");
    assert_eq!(socket.read(), None);
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    d.stop();
}

#[test]
fn limits_and_deadlines_of_the_server_change_without_a_restart() {
    let mut d = Doorbell::with(&node("app", ""));
    let pid = d.get("app.test", "/pid").text();
    let mut old = d.connect();
    let long = format!("/{}", "a".repeat(2000));
    assert_eq!(old.get("app.test", &long).status, 200);
    d.rewrite_all(
        "[server.limits]\nuri = \"1KiB\"\nconnections = 2\n[server.timeouts]\nheader = \"300ms\"",
        &node("app", ""),
    );
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", &long).status, 414);
    assert_eq!(old.get("app.test", &long).status, 414, "on a connection from before too");
    eventually("there is room, and a late head is refused", || {
        let mut new = d.connect();
        new.send("GET / HTTP/1.1\r\n");
        new.read().status == 408
    });
    // A refused target ends its connection, as a late head does: there is room for two.
    let mut kept = [(); 2].map(|()| {
        let mut client = None;
        eventually("there is room", || {
            drop(client.take());
            let client = client.insert(d.connect());
            client.get("app.test", "/pid").text() == pid
        });
        client.expect("a connection")
    });
    assert_eq!(d.get("app.test", "/pid").status, 503, "the cap holds");
    assert!(kept.iter_mut().all(|client| client.get("app.test", "/pid").text() == pid));
}

#[test]
fn a_route_change_does_not_wake_sleeping_apps() {
    let d = Doorbell::with(&node("app", ""));
    d.rewrite(&node("app", "env = { X = \"1\" }"));
    d.ok(&["reload"]);
    within(Duration::from_millis(300), "it sleeps", || d.state("app") == "stopped");
}

#[test]
fn an_app_that_is_put_back_while_its_last_request_runs_is_served() {
    let d = Doorbell::with(&[node("app", ""), node("stays", "")].concat());
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=1500");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.rewrite(&node("stays", ""));
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/").status, 404);
    assert_eq!(slow.read().text(), "slow");
    d.rewrite(&[node("app", ""), node("stays", "")].concat());
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_request_held_while_its_app_turns_into_an_upstream_is_answered() {
    let server = Doorbell::with(&node("inner", ""));
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"3000\" }"));
    let mut held = d.connect();
    held.send_get("app.test", "/x");
    eventually("it waits", || d.status("app")["held"] == 1);
    d.rewrite(&format!(
        "[app.app]\nhosts = [\"app.test\"]\nupstream = \"http://127.0.0.1:{}\"\n",
        server.port
    ));
    d.ok(&["reload"]);
    // The other doorbell knows no such host, and says so: that is an answer of the upstream.
    assert_eq!(held.read().status, 404);
}

#[test]
fn nothing_is_taken_over_during_the_shutdown() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=1500");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.signal(rustix::process::Signal::TERM);
    eventually("nobody listens", || Connection::try_open(d.port).is_err());
    assert_ne!(d.cli(&["reload"]).status, 0);
    assert!(Connection::try_open(d.port).is_err());
    assert_eq!(slow.read().text(), "slow");
}
