//! Light sleep: an idle app stands still, and the next visit finds the same process.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, WebSocket, eventually, kill};

use crate::node;

const SOON: &str = "idle = { freeze_after = \"200ms\", stop_after = \"1h\" }";

/// Whether a process stands still: its control group is frozen, or it is stopped itself.
pub(crate) fn stands_still(pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let is_frozen = groups.lines().any(|line| {
        let file = |folder: &str, name: &str| {
            let path = line.rsplit(':').next().unwrap_or_default();
            fs::read_to_string(format!("/sys/fs/cgroup/{folder}{path}/{name}")).unwrap_or_default()
        };
        let unified = ["", "unified"].map(|folder| file(folder, "cgroup.events"));
        unified.iter().any(|events| events.contains("frozen 1"))
            || (line.contains(":freezer:") && file("freezer", "freezer.state").trim() == "FROZEN")
    });
    is_frozen || process_state(pid) == "T"
}

/// The state of a process, proc(5).
pub(crate) fn process_state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    // One whose parent was killed is reaped by another, who may take its time.
    rest.chars().take(1).filter(|state| *state != 'Z').collect()
}

fn frozen(d: &Doorbell) -> u32 {
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    d.wait_for_state("app", "frozen");
    eventually("it stands still", || stands_still(pid));
    pid
}

#[test]
fn an_idle_app_stands_still_until_the_next_visit() {
    let d = Doorbell::with(&node("app", SOON));
    let pid = frozen(&d);
    assert_eq!(d.metric("doorbell_app_state{app=\"app\",state=\"frozen\"}"), Some(1.0));
    for _ in 0..3 {
        let response = d.get("app.test", "/pid");
        assert_eq!((response.status, response.text()), (200, pid.to_string()));
        d.wait_for_state("app", "frozen");
    }
    assert_eq!(d.starts("app"), 1);
    // Nobody waited for the next start.
    let cold = "doorbell_app_cold_starts_total{app=\"app\",result=\"ready\"}";
    assert_eq!(d.metric(cold), Some(1.0));
    d.ok(&["restart", "app"]);
    eventually("it is counted", || d.starts("app") == 2);
    assert_eq!(d.metric(cold), Some(1.0));
}

#[test]
fn a_websocket_keeps_an_app_awake() {
    let d = Doorbell::with(&node("app", SOON));
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    let since = Instant::now();
    eventually("it could have been frozen", || since.elapsed() > Duration::from_secs(1));
    assert_eq!(d.state("app"), "ready");
    websocket.echo("awake");
    drop(websocket);
    d.wait_for_state("app", "frozen");
}

#[test]
fn a_post_after_a_light_sleep_finds_a_connection_that_is_open() {
    let d = Doorbell::with(&node("app", SOON));
    let mut client = d.connect();
    assert_eq!(client.get("app.test", "/").status, 200);
    frozen(&d);
    // Node closes connections that were idle for five seconds, the moment it goes on.
    let since = Instant::now();
    eventually("its connections have been idle for long", || {
        since.elapsed() > Duration::from_secs(6)
    });
    let response = doorbell_tests::post(d.port, "app.test", "/upload", b"hello");
    assert_eq!(response.status, 200);
}

#[test]
fn a_frozen_app_can_be_started_stopped_restarted_and_killed() {
    let d = Doorbell::with(&node("app", SOON));
    let pid = frozen(&d);
    d.ok(&["start", "app"]);
    assert_eq!(d.app_pid("app"), Some(pid));
    frozen(&d);
    d.ok(&["restart", "app"]);
    let second = d.app_pid("app").expect("another process");
    assert_ne!(second, pid);
    assert_eq!(frozen(&d), second);
    kill(second);
    d.wait_for_state("app", "stopped");
    let third = frozen(&d);
    assert_ne!(third, second);
    d.ok(&["stop", "app"]);
    assert_eq!((d.state("app"), process_state(third)), ("stopped".to_owned(), String::new()));
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn an_app_that_is_frozen_for_long_is_stopped() {
    // Long enough to be seen, on slow machines too.
    let more = "idle = { freeze_after = \"100ms\", stop_after = \"5s\" }";
    let d = Doorbell::with(&node("app", more));
    let pid = frozen(&d);
    d.wait_for_state("app", "stopped");
    eventually("it has ended", || process_state(pid).is_empty());
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_frozen_app_outlives_its_supervisor_and_an_upgrade() {
    let mut d = Setup::new(&node("app", SOON)).own_binary().start();
    let pid = frozen(&d);
    d.kill_supervisor();
    d.start_again();
    assert_eq!((d.state("app"), stands_still(pid)), ("frozen".to_owned(), true));
    assert_eq!(d.get("app.test", "/pid").text(), pid.to_string());
    assert_eq!(frozen(&d), pid);
    d.ok(&["upgrade"]);
    assert_eq!((d.state("app"), stands_still(pid)), ("frozen".to_owned(), true));
    assert_eq!(d.get("app.test", "/pid").text(), pid.to_string());
}

/// Where the only instance of an app is written down.
fn record(d: &Doorbell) -> PathBuf {
    let folder = d.state_path().join("run/app");
    let mut files = fs::read_dir(folder).expect("its folder").flatten().map(|file| file.path());
    let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    files.find(is_record).expect("a record")
}

#[test]
fn an_app_that_goes_on_while_its_record_has_it_frozen_keeps_what_it_has() {
    let mut d = Doorbell::with(&node("app", SOON));
    let pid = frozen(&d);
    let noted = fs::read_to_string(record(&d)).expect("its record");
    assert!(noted.contains("\"phase\":\"frozen\""), "{noted}");
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    d.kill_supervisor();
    // As it was until a moment ago.
    fs::write(record(&d), noted).expect("its record");
    d.start_again();
    assert_eq!(d.state("app"), "ready");
    websocket.echo("still open");
    // It is drained like any other.
    let mut restart = d.spawn(&["restart", "app"]);
    eventually("another one serves", || d.get("app.test", "/pid").text() != pid.to_string());
    websocket.echo("to its end");
    drop(websocket);
    assert_eq!(restart.wait(), 0);
    let second = frozen(&d);
    assert_ne!(second, pid);
}

#[test]
fn an_app_that_was_about_to_be_frozen_goes_on_and_is_frozen_later() {
    let mut d = Doorbell::with(&node("app", SOON));
    let pid = frozen(&d);
    let noted = fs::read_to_string(record(&d)).expect("its record");
    let websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    d.kill_supervisor();
    // It is noted before it is done.
    fs::write(record(&d), noted).expect("its record");
    drop(websocket);
    d.start_again();
    d.wait_for_state("app", "frozen");
    eventually("it stands still", || stands_still(pid));
    assert_eq!(d.get("app.test", "/pid").text(), pid.to_string());
}

#[test]
fn nothing_is_left_of_frozen_apps_at_the_end() {
    let d = Doorbell::with(&node("app", SOON));
    let pid = frozen(&d);
    assert!(d.stop() < Duration::from_secs(10));
    assert!(process_state(pid).is_empty());
}

/// Memory of a process that is in no swap, in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

#[test]
fn the_memory_of_a_frozen_app_goes_where_there_is_swap() {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let greedy = "[app.app]\nhosts = [\"app.test\"]\ndirectory = \"/\"\n\
                  command = [\"/usr/bin/python3\", \"{apps}/greedy.py\"]\nlimits = { memory = \"200MiB\" }\n\
                  idle = { freeze_after = \"1s\", stop_after = \"1h\" }\n";
    let d = Doorbell::with(greedy);
    assert_eq!(d.get("app.test", "/keep/100").text(), "kept 100");
    let pid = d.app_pid("app").expect("a process");
    d.wait_for_state("app", "frozen");
    if swaps.lines().count() > 1 {
        eventually("its memory is given back", || resident(pid) < 10);
    } else {
        assert!(resident(pid) > 100);
    }
    // It is the same, with all that it had.
    assert_eq!(d.get("app.test", "/keep/1").text(), "kept 101");
    assert_eq!(d.app_pid("app"), Some(pid));
}
