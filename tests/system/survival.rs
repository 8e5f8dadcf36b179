//! Kills of each part of Doorbell while it is used: who notices, and what is lost.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use doorbell_tests::{
    Connection, Doorbell, Role, Setup, WebSocket, eventually, free_port, kill, signal, within,
};
use rustix::process::Signal;

use crate::{counting, crowd::Crowd, node, python, reloading::Load};

/// Lines that an app has noted at its starts.
fn starts(d: &Doorbell) -> usize {
    fs::read_to_string(d.dir.path().join("starts")).map_or(0, |text| text.lines().count())
}

/// An app that notes each start.
fn counted(more: &str) -> String {
    node("app", &format!("env = {{ STARTS_FILE = \"{{dir}}/starts\" }}\n{more}"))
}

#[test]
fn a_killed_proxy_costs_only_the_connections_that_it_held() {
    let d = Doorbell::with(&counted(""));
    let pid = d.get("app.test", "/pid").text();
    let crowd = Crowd::on(d.port, "app.test", 8);
    let mut kills = Vec::new();
    for _ in 0..5 {
        crowd.wait_for(200);
        let proxy = d.proxy_pid();
        kill(proxy);
        kills.push(Instant::now());
        d.wait_for_successor(Role::Proxy, proxy);
    }
    crowd.wait_for(200);
    let figures = crowd.end(&kills);
    eprintln!("5 kills of the proxy: {figures}");
    figures.only_held();
    assert!(figures.held <= 8 * kills.len(), "{figures}");
    assert_eq!((d.get("app.test", "/pid").text(), starts(&d)), (pid, 1));
}

#[test]
fn an_app_that_starts_becomes_ready_though_the_proxy_that_asks_it_is_killed() {
    let port = free_port();
    let more = format!(
        "port = {port}\nenv = {{ WARM_AFTER = \"2\" }}\nready = {{ http = \"/healthz\", status = 200 }}"
    );
    let d = Doorbell::with(&python("app", "", &more));
    let proxy = d.proxy_pid();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| d.ok(&["start", "app"]));
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(d.state("app"), "starting");
        kill(proxy);
        start.join().expect("it starts");
    });
    assert_ne!(d.proxy_pid(), proxy);
    assert_eq!((d.get("app.test", "/").status, d.starts("app")), (200, 1));
}

#[test]
fn who_waits_in_the_backlog_of_a_killed_proxy_is_answered() {
    const CLIENTS: usize = 100;
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let proxy = d.proxy_pid();
    signal(proxy, Signal::STOP);
    eventually("it stands still", || {
        let tasks = fs::read_dir(format!("/proc/{proxy}/task")).expect("its threads");
        tasks.filter_map(Result::ok).all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        })
    });
    let mut waiting: Vec<_> = (0..CLIENTS).map(|_| d.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send_get("app.test", "/version"));
    let since = Instant::now();
    kill(proxy);
    for client in &mut waiting {
        assert_eq!(client.read().status, 200);
    }
    eprintln!("{CLIENTS} of the backlog answered {:?} after the kill", since.elapsed());
}

/// What goes on for long: none of it may notice.
struct Long {
    socket: WebSocket,
    download: Connection,
    upload: Connection,
}

const EVENTS: usize = 400;
const PIECE: [u8; 1024] = [b'x'; 1024];
const PIECES: usize = 64;

impl Long {
    fn on(d: &Doorbell) -> Self {
        let socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
        let mut download = d.connect();
        download.send_get("app.test", &format!("/stream?count={EVENTS}&ms=10"));
        assert_eq!(download.read_head().map(|head| head.status), Some(200));
        let mut upload = d.connect();
        let length = PIECE.len() * PIECES;
        upload.send(format!(
            "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n"
        ));
        upload.send(PIECE);
        Self { socket, download, upload }
    }

    fn goes_on(&mut self) {
        self.socket.echo("still open");
    }

    fn ends_well(mut self) {
        self.goes_on();
        for _ in 1..PIECES {
            self.upload.send(PIECE);
        }
        assert_eq!(self.upload.read().json()["length"], PIECE.len() * PIECES);
        let mut events = 0;
        while let Some(Some(chunk)) = self.download.read_chunk() {
            events += String::from_utf8_lossy(&chunk).matches("data: ").count();
        }
        assert_eq!(events, EVENTS);
    }
}

#[test]
fn a_killed_control_process_costs_clients_nothing() {
    let d = Doorbell::with(&counted(""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let load = Load::on(d.port, "app.test", 6);
    let mut long = Long::on(&d);
    for _ in 0..5 {
        load.wait_for(100);
        d.kill_role(Role::Control);
        long.goes_on();
        assert_eq!(d.state("app"), "ready");
    }
    load.wait_for(100);
    load.end_without_failure();
    long.ends_well();
    assert_eq!(starts(&d), 1);
}

#[test]
fn a_killed_supervisor_costs_clients_nothing() {
    let mut d = Doorbell::with(&counted(""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let roles = (d.proxy_pid(), d.control_pid());
    let load = Load::on(d.port, "app.test", 6);
    let mut long = Long::on(&d);
    for _ in 0..5 {
        load.wait_for(100);
        d.kill_supervisor();
        load.wait_for(100);
        long.goes_on();
        let since = Instant::now();
        d.start_again();
        eprintln!("all in place {:?} after the start", since.elapsed());
        long.goes_on();
    }
    load.wait_for(100);
    load.end_without_failure();
    long.ends_well();
    assert_eq!((d.proxy_pid(), d.control_pid()), roles);
    assert_eq!(starts(&d), 1);
    assert_eq!(d.app_pids(), [d.app_pid("app").expect("a process")]);
}

#[test]
fn after_a_kill_of_everything_the_same_apps_are_served() {
    let mut d = Doorbell::with(&counted(""));
    let pid = d.get("app.test", "/pid").text();
    let crowd = Crowd::on(d.port, "app.test", 6);
    let mut kills = Vec::new();
    for _ in 0..3 {
        crowd.wait_for(100);
        d.kill_all();
        kills.push(Instant::now());
        d.start_again();
        eprintln!("all in place {:?} after the kill", kills[kills.len() - 1].elapsed());
    }
    crowd.wait_for(100);
    let figures = crowd.end(&kills);
    eprintln!("3 kills of everything: {figures}");
    figures.only_held_or_refused();
    assert_eq!((d.get("app.test", "/pid").text(), starts(&d)), (pid, 1));
}

#[test]
fn a_visit_without_a_supervisor_is_answered_by_the_next_with_one_start() {
    let mut d = Doorbell::with(&counted(""));
    d.kill_supervisor();
    let mut waiting: Vec<_> = (0..20).map(|_| d.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send_get("app.test", "/version"));
    within(Duration::from_millis(300), "nobody starts it", || starts(&d) == 0);
    d.start_again();
    for client in &mut waiting {
        assert_eq!(client.read().status, 200);
    }
    assert_eq!(starts(&d), 1);
}

#[test]
fn a_start_that_its_supervisor_did_not_see_to_the_end_is_one_start() {
    let env = "env = { STARTS_FILE = \"{dir}/starts\", START_DELAY = \"1500\" }";
    let mut d = Doorbell::with(&node("app", env));
    let mut waiting: Vec<_> = (0..20).map(|_| d.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send_get("app.test", "/pid"));
    eventually("it starts", || starts(&d) == 1);
    d.kill_supervisor();
    d.start_again();
    let pids: Vec<_> = waiting.iter_mut().map(|client| client.read().text()).collect();
    assert_eq!(starts(&d), 1);
    assert!(pids.iter().all(|pid| Some(pid) == pids.first()), "{pids:?}");
    assert_eq!(d.app_pid("app").map(|pid| pid.to_string()).as_ref(), pids.first());
}

const ANSWERED: &str = "doorbell_http_requests_total{app=\"app\",method=\"GET\",code=\"200\"}";

fn counters(d: &Doorbell) -> BTreeMap<String, f64> {
    counting::counters(&d.metrics(), &[])
}

#[track_caller]
fn has_not_fallen(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) {
    for (name, value) in before {
        assert!(now.get(name).is_some_and(|now| now >= value), "{name}: {value}, {now:?}");
    }
}

#[test]
fn counters_never_fall_whatever_is_killed() {
    let mut d = Doorbell::with(&node("app", ""));
    let mut before = BTreeMap::new();
    for round in 0..5 {
        for _ in 0..20 {
            assert_eq!(d.get("app.test", "/version").status, 200);
        }
        // A request is counted a moment after its answer is sent.
        eventually("all are counted", || d.metric(ANSWERED) == Some(f64::from(20 * (round + 1))));
        let now = counters(&d);
        has_not_fallen(&before, &now);
        before = now;
        d.kill_role(Role::Proxy);
        has_not_fallen(&before, &counters(&d));
        if round == 2 {
            d.kill_role(Role::Control);
            eventually("its successor knows all", || counters(&d).len() >= before.len());
            has_not_fallen(&before, &counters(&d));
        }
        if round == 3 {
            d.kill_supervisor();
            has_not_fallen(&before, &counters(&d));
            d.start_again();
            has_not_fallen(&before, &counters(&d));
        }
    }
}

#[test]
fn forty_listeners_outlive_every_part() {
    let mut d = Doorbell::with(&node("app", ""));
    let ports: Vec<u16> = (0..19).map(|_| free_port()).collect();
    let sockets: Vec<_> = (0..20).map(|n| d.dir.path().join(format!("{n}.sock"))).collect();
    let text = fs::read_to_string(d.config_path()).expect("the file");
    let more: String = ports
        .iter()
        .map(|port| format!("\"127.0.0.1:{port}\", "))
        .chain((0..20).map(|n| format!("\"unix:{n}.sock\", ")))
        .collect();
    d.write_file("doorbell.toml", &text.replace("listen = [", &format!("listen = [{more}")));
    d.ok(&["reload"]);
    let all_answer = |d: &Doorbell| {
        for port in ports.iter().chain([&d.port]) {
            assert_eq!(doorbell_tests::get(*port, "app.test", "/version").status, 200);
        }
        for socket in &sockets {
            let output = std::process::Command::new("curl")
                .args(["-s", "--unix-socket", &socket.to_string_lossy()])
                .arg("http://app.test/version")
                .output()
                .expect("curl");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "1", "{}", d.log());
        }
    };
    all_answer(&d);
    d.kill_role(Role::Proxy);
    all_answer(&d);
    d.kill_supervisor();
    all_answer(&d);
    d.start_again();
    all_answer(&d);
    // What came back with the proxy is what the next one gets.
    d.kill_role(Role::Proxy);
    all_answer(&d);
    d.kill_all();
    d.start_again();
    all_answer(&d);
    d.stop();
}

#[test]
fn all_in_one_process_serves_as_ever() {
    let mut d = Setup::new(&counted("")).one_process().start();
    assert!(d.role_pids().is_empty());
    let pid = d.get("app.test", "/pid").text();
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(50);
    let mut long = Long::on(&d);
    d.rewrite(&counted("limits = { body = \"1MiB\" }"));
    d.ok(&["reload"]);
    long.goes_on();
    load.wait_for(50);
    load.end_without_failure();
    long.ends_well();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.ok(&["restart", "app"]);
    assert_eq!(starts(&d), 2);
    let page = d.metrics();
    assert!(page.contains("doorbell_http_requests_total{app=\"app\""), "{page}");
    let pid = d.get("app.test", "/pid").text();
    d.kill_all();
    d.start_again();
    assert_eq!((d.get("app.test", "/pid").text(), starts(&d)), (pid, 2));
    d.stop();
}
