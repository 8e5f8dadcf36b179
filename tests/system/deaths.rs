//! What becomes of requests when their app dies, and of apps when doorbell does.

use doorbell_tests::{Doorbell, eventually};

use crate::node;

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("to kill");
}

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
