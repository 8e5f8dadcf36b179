//! Apps that are kept awake by their own work.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, binary, eventually, get};

use crate::processes::is_alive;

/// Far more than it is idle for before it sleeps.
const LONG: Duration = Duration::from_secs(1);

fn app(more: &str) -> String {
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"python3\", \"{{apps}}/greedy.py\"]\n\
         directory = \"/\"\nenv = {{ DOORBELL = {:?} }}\n{more}\n",
        binary()
    )
}

const SOON: &str = "idle = { stop_after = \"300ms\" }";

fn say(d: &Doorbell, line: &str) -> String {
    d.get("app.test", &format!("/say/{}", line.replace(' ', "+"))).text()
}

#[track_caller]
fn stays(d: &Doorbell, state: &str) {
    let since = Instant::now();
    eventually("it could have gone to sleep", || since.elapsed() > LONG);
    assert_eq!(d.state("app"), state);
}

#[test]
fn an_app_that_works_is_not_put_to_sleep() {
    let d = Doorbell::with(&app(SOON));
    assert_eq!(say(&d, "awake 1h import"), "ok 3600");
    stays(&d, "ready");
    let vigils = &d.status("app")["vigils"];
    assert_eq!((&vigils[0]["name"], &vigils[1]), (&"import".into(), &serde_json::Value::Null));
    assert!(
        d.ok(&["status", "app"]).contains("kept awake  by import, "),
        "{}",
        d.ok(&["status", "app"])
    );
    assert_eq!(say(&d, "awake 1h mail"), "ok 3600");
    assert_eq!(say(&d, "done import"), "ok");
    stays(&d, "ready");
    assert_eq!(say(&d, "done mail"), "ok");
    d.wait_for_state("app", "stopped");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn a_wish_ends_by_itself_and_is_no_longer_than_it_may_be() {
    let d = Doorbell::with(&app("idle = { stop_after = \"300ms\", awake_at_most = \"2s\" }"));
    assert_eq!(say(&d, "awake 1h"), "ok 2");
    let since = Instant::now();
    d.wait_for_state("app", "stopped");
    assert!(since.elapsed() > Duration::from_millis(1800), "{:?}", since.elapsed());
    for (line, words) in [("stay", "write `awake"), ("awake soon", "not a duration")] {
        let answer = say(&d, line);
        assert!(answer.starts_with("error ") && answer.contains(words), "{answer}");
    }
}

#[test]
fn an_app_is_awake_as_long_as_its_job_runs() {
    let d = Doorbell::with(&app(SOON));
    let job: u32 = d.get("app.test", "/job/2").text().parse().expect("a pid");
    stays(&d, "ready");
    assert!(is_alive(job));
    d.wait_for_state("app", "stopped");
    assert!(!d.log().contains("killed"), "{}", d.log());
}

#[test]
fn nobody_else_keeps_an_app_awake() {
    let d = Doorbell::with(&app(SOON));
    let door = d.get("app.test", "/door").text();
    let mut stranger = UnixStream::connect(door).expect("a connection");
    // It may be turned away before it has asked.
    drop(stranger.write_all(b"awake 1h\n"));
    let mut answer = String::new();
    BufReader::new(stranger).read_line(&mut answer).expect("an answer");
    assert_eq!(answer, "error you are no process of this app\n");
    d.wait_for_state("app", "stopped");
}

#[test]
fn an_app_that_works_is_not_frozen_either() {
    let d = Doorbell::with(&app("idle = { freeze_after = \"200ms\", stop_after = \"1h\" }"));
    assert_eq!(say(&d, "awake 1h"), "ok 3600");
    stays(&d, "ready");
    assert_eq!(say(&d, "done"), "ok");
    d.wait_for_state("app", "frozen");
    // It is none of those that are asked for anew by the visit.
    assert_eq!(say(&d, "awake 1h"), "ok 3600");
    stays(&d, "ready");
}

#[test]
fn work_goes_on_over_deaths_and_upgrades() {
    let mut d = Setup::new(&app(SOON)).own_binary().start();
    assert_eq!(say(&d, "awake 1h"), "ok 3600");
    let pid = d.app_pid("app").expect("a process");
    d.kill_supervisor();
    // It waits for the next supervisor.
    let port = d.port;
    let asking = std::thread::spawn(move || get(port, "app.test", "/say/awake+2h+other").text());
    d.start_again();
    assert_eq!(asking.join().expect("an answer"), "ok 7200");
    assert_eq!(say(&d, "done other"), "ok");
    stays(&d, "ready");
    d.ok(&["upgrade"]);
    stays(&d, "ready");
    assert_eq!(d.app_pid("app"), Some(pid));
    assert_eq!(say(&d, "done"), "ok");
    d.wait_for_state("app", "stopped");
}

#[test]
fn a_replaced_instance_ends_when_its_work_does() {
    let d = Doorbell::with(&app("stop = { drain = \"1m\" }"));
    let job: u32 = d.get("app.test", "/job/3").text().parse().expect("a pid");
    let old = d.app_pid("app").expect("a process");
    d.ok(&["restart", "app"]);
    assert_ne!(d.app_pid("app"), Some(old));
    assert!(is_alive(old) && is_alive(job));
    eventually("the job has ended, and its app with it", || !is_alive(job) && !is_alive(old));
    // One that works for longer than it may drain is ended then.
    d.rewrite(&app("stop = { drain = \"500ms\" }"));
    d.ok(&["reload"]);
    let job: u32 = d.get("app.test", "/job/1000").text().parse().expect("a pid");
    d.ok(&["restart", "app"]);
    eventually("it is ended", || !is_alive(job));
}
