//! What becomes of requests when their app dies, and of apps when doorbell does.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, eventually, free_port, kill};

use crate::{
    node,
    processes::{is_alive, marked, marked_pids},
    python,
    reloading::Load,
};

#[test]
fn requests_held_during_a_killed_start_are_answered() {
    let more = "env = { START_DELAY = \"3000\" }\nback_off = { initial = \"50ms\" }";
    let d = Doorbell::with(&node("app", more));
    let mut connection = d.connect();
    connection.send_get("app.test", "/");
    eventually("it starts", || d.app_pid("app").is_some());
    kill(d.app_pid("app").expect("a process"));
    assert_eq!(connection.read().status, 503);
}

#[test]
fn a_request_whose_app_is_killed_is_answered_by_the_next_instance() {
    let d = Doorbell::with(&node("app", "back_off = { initial = \"10ms\" }"));
    let pid = d.get("app.test", "/pid").text();
    let mut connection = d.connect();
    connection.send_get("app.test", "/slow?ms=1000");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    kill(pid.parse().expect("a pid"));
    let response = connection.read();
    assert_eq!((response.status, response.text().as_str()), (200, "slow"));
    assert_ne!(d.get("app.test", "/pid").text(), pid);
}

#[test]
fn a_post_whose_app_is_killed_is_not_repeated() {
    let more = "back_off = { initial = \"10ms\" }\nenv = { SEEN_FILE = \"{dir}/seen\" }";
    let d = Doorbell::with(&node("app", more));
    let pid = d.get("app.test", "/pid").text();
    let mut connection = d.connect();
    connection.send("POST /slow?ms=1000 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    eventually("the app has it", || {
        std::fs::read_to_string(d.dir.path().join("seen")).is_ok_and(|seen| seen.contains("POST"))
    });
    kill(pid.parse().expect("a pid"));
    assert_eq!(connection.read().status, 502);
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen.matches("POST").count(), 1);
}

#[test]
fn a_crash_is_told_and_the_next_visit_starts_anew() {
    let d = Doorbell::with(&node("app", "back_off = { initial = \"50ms\" }"));
    let pid = d.get("app.test", "/pid").text();
    let crash = doorbell_tests::post(d.port, "app.test", "/crash", b"x");
    assert_eq!(crash.status, 502);
    eventually("it is served again", || {
        let response = d.get("app.test", "/pid");
        response.status == 200 && response.text() != pid
    });
}

#[test]
fn an_answer_cut_off_by_a_crash_is_seen_as_cut_off() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = d.connect();
    connection.send_get("app.test", "/half");
    let head = connection.read_head().expect("the beginning");
    assert_eq!(head.field("content-length"), Some("100"));
    assert!(connection.read_bytes(100).is_none(), "the rest is not made up");
}

#[test]
fn an_always_app_comes_back_after_a_kill() {
    let d = Doorbell::with(&node("app", "start = \"always\"\nback_off = { initial = \"50ms\" }"));
    d.wait_for_state("app", "ready");
    let pid = d.app_pid("app").expect("a process");
    kill(pid);
    eventually("a new process", || d.app_pid("app").is_some_and(|now| now != pid));
    assert_eq!(d.get("app.test", "/").status, 200);
}

/// Processes that an app has started, the last one last; it has to note them in `{dir}/starts`.
fn started(d: &Doorbell) -> Vec<u32> {
    let starts = std::fs::read_to_string(d.dir.path().join("starts")).unwrap_or_default();
    starts.lines().map(|pid| pid.parse().expect("a pid")).collect()
}

#[test]
fn an_app_killed_between_listening_and_ready_fails_at_once() {
    let port = free_port();
    let more = format!(
        "port = {port}\nenv = {{ WARM_AFTER = \"100\" }}\n\
         ready = {{ http = \"/healthz\", status = 200, deadline = \"30s\" }}"
    );
    let d = Doorbell::with(&python("app", "", &more));
    let mut connection = d.connect();
    connection.send_get("app.test", "/");
    eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(d.state("app"), "starting");
    let since = Instant::now();
    kill(d.app_pid("app").expect("a process"));
    assert_eq!(connection.read().status, 503);
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_app_killed_while_it_is_idle_fails_nobody() {
    let d = Doorbell::with(&node("app", "back_off = { initial = \"10ms\" }"));
    let mut clients: Vec<_> = (0..8).map(|_| d.connect()).collect();
    let pid = d.get("app.test", "/pid").text();
    // Both ends of many kept connections.
    assert!(clients.iter_mut().all(|client| client.get("app.test", "/pid").text() == pid));
    kill(pid.parse().expect("a pid"));
    for client in &mut clients {
        let response = client.get("app.test", "/pid");
        assert_eq!(response.status, 200);
        assert_ne!(response.text(), pid);
    }
}

#[test]
fn an_app_killed_while_it_stops_has_stopped() {
    let more = "stop = { grace = \"1m\" }\nenv = { IGNORE_TERM = \"1\" }";
    let d = Doorbell::with(&node("app", more));
    let pid = d.get("app.test", "/pid").text();
    let since = Instant::now();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| d.ok(&["stop", "app"]));
        eventually("it stops", || d.state("app") == "stopping");
        kill(pid.parse().expect("a pid"));
        stop.join().expect("it stops");
    });
    assert!(since.elapsed() < Duration::from_secs(30), "its grace was not waited for");
    assert_eq!(d.state("app"), "stopped");
    assert_eq!(d.get("app.test", "/version").status, 200);
}

#[test]
fn an_old_instance_killed_while_it_drains_takes_nobody_else_along() {
    let app = |version: u32| {
        let env = format!("VERSION = \"{version}\", STARTS_FILE = \"{{dir}}/starts\"");
        node("app", &format!("env = {{ {env} }}\nstop = {{ drain = \"1m\" }}"))
    };
    let d = Doorbell::with(&app(1));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    let mut slow = d.connect();
    slow.send("POST /slow?ms=60000 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.rewrite(&app(2));
    d.ok(&["reload"]);
    eventually("the new version answers", || d.get("app.test", "/version").text() == "2");
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(50);
    let [old, new] = started(&d)[..] else { panic!("two starts: {:?}", started(&d)) };
    kill(old);
    assert_eq!(slow.read().status, 502);
    load.wait_for(50);
    load.end_without_failure();
    assert_eq!(d.app_pid("app"), Some(new));
    assert_eq!(started(&d), [old, new]);
}

#[test]
fn a_successor_killed_before_it_is_ready_leaves_its_place_to_the_old_instance() {
    let app = |version: u32, delay: u32| {
        let env = format!("VERSION = \"{version}\", START_DELAY = \"{delay}\"");
        let env = format!("env = {{ {env}, STARTS_FILE = \"{{dir}}/starts\" }}");
        node("app", &format!("{env}\nback_off = {{ initial = \"10ms\" }}"))
    };
    let d = Doorbell::with(&app(1, 0));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(50);
    d.rewrite(&app(2, 2000));
    d.ok(&["reload"]);
    eventually("the successor starts", || started(&d).len() == 2);
    kill(started(&d)[1]);
    eventually("its end is noticed", || d.log().contains("was killed by SIGKILL"));
    load.wait_for(50);
    assert_eq!(d.get("app.test", "/version").text(), "1");
    d.ok(&["restart", "app"]);
    eventually("the new version answers", || d.get("app.test", "/version").text() == "2");
    load.wait_for(50);
    load.end_without_failure();
}

/// Processes that listen on a port, as proc(5) tells it: the owners of its socket.
fn holders(port: u16) -> Vec<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let address = format!("0100007F:{port:04X}");
    let sockets: Vec<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&address.as_str()) && words.get(3) == Some(&"0A"))
        .map(|words| format!("socket:[{}]", words[9]))
        .collect();
    doorbell_tests::pids_matching("server.py")
        .into_iter()
        .filter(|pid| crate::processes::descriptors(*pid).iter().any(|to| sockets.contains(to)))
        .collect()
}

/// Three apps that are hard to keep hold of, and what they run.
struct Unruly {
    d: Doorbell,
    port: u16,
    before: Vec<u32>,
}

impl Unruly {
    fn apps(port: u16, env: &str) -> String {
        let fixed = format!("port = {port}\n{env}");
        [
            marked("fixed", "", &fixed),
            marked("wrapped", "wrapper", env),
            marked("wanderer", "fork", &format!("start = \"always\"\n{env}")),
        ]
        .concat()
    }

    fn start() -> Self {
        let port = free_port();
        let d = Doorbell::with(&Self::apps(port, ""));
        let mut unruly = Self { d, port, before: Vec::new() };
        unruly.visit();
        unruly.before = unruly.pids();
        assert_eq!(unruly.before.len(), 4, "the wrapper is two");
        unruly
    }

    fn pids(&self) -> Vec<u32> {
        marked_pids(self.d.dir.path())
    }

    fn visit(&self) {
        for id in ["fixed", "wrapped", "wanderer"] {
            let answer = self.d.get(&format!("{id}.test"), "/");
            assert_eq!(answer.status, 200, "{id}\n{}", self.d.log());
        }
    }

    /// Nothing was started, nothing ended, and a shutdown ends all.
    fn are_as_before(self) {
        self.visit();
        assert_eq!(self.pids(), self.before);
        assert_eq!(holders(self.port), [self.d.app_pid("fixed").expect("a process")]);
        let dir = self.d.dir.path().to_owned();
        let state = self.d.state_path();
        self.d.stop();
        assert_eq!((marked_pids(&dir), doorbell_tests::apps_of(&state)), (vec![], vec![]));
    }

    /// Each runs once, and none of those that ran before.
    fn are_replaced(self) {
        self.visit();
        eventually("the old ones are gone", || self.before.iter().all(|pid| !is_alive(*pid)));
        assert_eq!(self.pids().len(), 4, "{:?}, then {:?}", self.before, self.pids());
        assert_eq!(holders(self.port), [self.d.app_pid("fixed").expect("a process")]);
    }
}

#[test]
fn apps_of_a_killed_doorbell_are_taken_up_and_not_started_twice() {
    let mut unruly = Unruly::start();
    unruly.d.kill_all();
    assert_eq!(unruly.pids(), unruly.before);
    unruly.d.start_again();
    unruly.are_as_before();
}

#[test]
fn apps_of_a_killed_supervisor_are_taken_up_and_not_started_twice() {
    let mut unruly = Unruly::start();
    unruly.d.kill_supervisor();
    unruly.visit();
    unruly.d.start_again();
    unruly.are_as_before();
}

#[test]
fn apps_that_changed_while_doorbell_was_dead_are_replaced_and_never_run_twice() {
    let mut unruly = Unruly::start();
    unruly.d.kill_all();
    unruly.d.rewrite(&Unruly::apps(unruly.port, "env = { NEW = \"1\" }"));
    unruly.d.start_again();
    unruly.are_replaced();
}

#[test]
fn apps_that_nothing_is_written_of_are_ended_before_others_start() {
    let mut unruly = Unruly::start();
    unruly.d.kill_all();
    for id in ["fixed", "wrapped", "wanderer"] {
        let folder = unruly.d.state_path().join("run").join(id);
        std::fs::remove_dir_all(folder).expect("to remove");
    }
    unruly.d.start_again();
    unruly.are_replaced();
}

#[test]
fn apps_that_are_no_more_configured_end_with_the_next_doorbell() {
    let mut unruly = Unruly::start();
    unruly.d.kill_all();
    unruly.d.rewrite(&node("other", ""));
    unruly.d.start_again();
    eventually("they end", || unruly.pids().is_empty());
    assert_eq!(unruly.d.get("other.test", "/version").status, 200);
}
