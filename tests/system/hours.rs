//! Hours in which apps are kept awake, and started. Tests take them from the time that it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorbell_tests::{Doorbell, Setup, eventually, eventually_within, kill, within};

use crate::node;

const SOON: &str = "idle = { freeze_after = \"100ms\", stop_after = \"300ms\" }";
const SOON_STOPPED: &str = "idle = { stop_after = \"300ms\" }";
const HOUR: i64 = 3600;

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_secs()).expect("a time")
}

/// Hours between two moments, in seconds since the Unix epoch: as if they began and ended with minutes.
fn hours(begin: i64, end: i64) -> String {
    let time = |at: i64| {
        let minute = (at / 60).rem_euclid(24 * 60);
        format!("{:02}:{:02}", minute / 60, minute % 60)
    };
    format!("daily {}-{} UTC", time(begin), time(end))
}

fn app(hours: &str, more: &str) -> String {
    node("app", &format!("keep_awake = \"{hours}\"\n{more}"))
}

fn warm(hours: &str, prewarm: &str, more: &str) -> String {
    app(hours, &format!("prewarm = \"{prewarm}\"\n{more}"))
}

/// Whether an app is in a state, as far as operators are told: right behind an upgrade a command may
/// meet the control process that leaves.
pub(crate) fn seems(d: &Doorbell, app: &str, state: &str) -> bool {
    let told = d.cli(&["status", app, "--json"]);
    let status: Result<serde_json::Value, _> = serde_json::from_str(&told.stdout);
    told.status != 0 || status.is_ok_and(|status| status["state"] == state)
}

/// Hours that it is now, and for long.
fn now() -> String {
    hours(unix_seconds() - 2 * HOUR, unix_seconds() + 2 * HOUR)
}

/// Hours that are far off.
fn later() -> String {
    hours(unix_seconds() + 3 * HOUR, unix_seconds() + 5 * HOUR)
}

#[test]
fn an_app_is_not_idle_within_its_hours_and_they_do_not_start_it() {
    let d = Doorbell::with(&app(&now(), SOON));
    within(Duration::from_millis(500), "it sleeps", || d.state("app") == "stopped");
    let pid = d.get("app.test", "/pid").text();
    within(Duration::from_millis(1500), "it is kept", || d.state("app") == "ready");
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    let status = d.ok(&["status", "app"]);
    assert!(status.contains("hours") && status.contains("awake until"), "{status}");
    assert_eq!(d.status("app")["hours"]["is"], "inside");
    d.rewrite(&app(&later(), SOON));
    d.ok(&["reload"]);
    d.wait_for_state("app", "stopped");
    let status = d.ok(&["status", "app"]);
    assert!(status.contains("awake from") && status.contains("UTC"), "{status}");
}

#[test]
fn a_frozen_app_stays_frozen_within_its_hours() {
    let idle = "idle = { freeze_after = \"100ms\", stop_after = \"8s\" }";
    let d = Doorbell::with(&app(&later(), idle));
    let pid = d.get("app.test", "/pid").text();
    d.wait_for_state("app", "frozen");
    d.rewrite(&app(&now(), idle));
    d.ok(&["reload"]);
    within(Duration::from_secs(10), "it is not stopped", || d.state("app") == "frozen");
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    within(Duration::from_secs(1), "nor frozen again", || d.state("app") == "ready");
}

#[test]
fn an_app_that_is_to_be_warm_runs_when_doorbell_starts_within_its_hours_and_when_it_ends() {
    let d = Doorbell::with(&warm(&now(), "0s", SOON));
    d.wait_for_state("app", "ready");
    let first = d.app_pid("app").expect("a process");
    kill(first);
    eventually("it is started again", || {
        let status = d.status("app");
        status["state"] == "ready" && status["pid"] != first
    });
    within(Duration::from_secs(1), "it is kept", || d.state("app") == "ready");
    d.rewrite(&warm(&later(), "0s", SOON));
    d.ok(&["reload"]);
    d.wait_for_state("app", "stopped");
    d.rewrite(&warm(&now(), "0s", SOON));
    d.ok(&["reload"]);
    d.wait_for_state("app", "ready");
}

#[test]
fn an_operator_is_stronger_than_hours() {
    let mut d = Setup::new(&warm(&now(), "10m", SOON)).own_binary().start();
    d.wait_for_state("app", "ready");
    d.ok(&["stop", "app"]);
    within(Duration::from_secs(1), "it is stopped", || d.state("app") == "stopped");
    d.ok(&["upgrade"]);
    within(Duration::from_secs(1), "it still is", || seems(&d, "app", "stopped"));
    assert_eq!(d.get("app.test", "/").status, 200, "a visit ends that");
    within(Duration::from_secs(1), "it is kept", || d.state("app") == "ready");
    d.ok(&["disable", "app"]);
    d.kill_supervisor();
    d.start_again();
    within(Duration::from_millis(500), "it is stopped", || d.state("app") == "stopped");
    assert_eq!(d.get("app.test", "/").status, 503);
    d.ok(&["enable", "app"]);
    d.wait_for_state("app", "ready");
}

#[test]
fn an_app_is_started_a_while_before_its_hours() {
    // They begin in one to two minutes; it is started some seconds from now.
    let begin = (unix_seconds() / 60 + 2) * 60;
    let start = unix_seconds() + 6;
    let hours = hours(begin, begin + HOUR);
    let d = Doorbell::with(&warm(&hours, &format!("{}s", begin - start), SOON));
    d.wait_for_state("app", "ready");
    assert!(unix_seconds() >= start, "it was too early");
    let status = d.status("app");
    assert_eq!((&status["hours"]["is"], &status["goal"]), (&"outside".into(), &"up".into()));
    assert_eq!(status["hours"]["until_unix_seconds"], begin);
    within(Duration::from_secs(1), "it is kept until they begin", || d.state("app") == "ready");
}

#[test]
fn after_its_hours_an_app_is_idle_as_ever() {
    // They end with this minute, or the next if that is too soon.
    let end = ((unix_seconds() + 10) / 60 + 1) * 60;
    let d = Doorbell::with(&warm(&hours(end - HOUR, end), "1m", SOON_STOPPED));
    d.wait_for_state("app", "ready");
    let ended = || d.status("app")["hours"]["is"] == "outside";
    within(Duration::from_secs(1), "it is kept", || d.state("app") == "ready" || ended());
    eventually_within(Duration::from_secs(130), "they end", ended);
    assert!(unix_seconds() >= end, "they ended too early");
    d.wait_for_state("app", "stopped");
    assert_eq!(d.status("app")["goal"], "down");
    assert_eq!(d.get("app.test", "/").status, 200, "a visit wakes it");
    d.wait_for_state("app", "stopped");
}

#[test]
fn hours_outlive_the_supervisor_and_an_upgrade() {
    let mut d = Setup::new(&app(&now(), SOON)).own_binary().start();
    let pid = d.get("app.test", "/pid").text();
    d.kill_supervisor();
    d.start_again();
    within(Duration::from_secs(1), "it is kept", || d.state("app") == "ready");
    d.ok(&["upgrade"]);
    within(Duration::from_secs(1), "it is kept", || seems(&d, "app", "ready"));
    assert_eq!(d.get("app.test", "/pid").text(), pid);
}

#[test]
fn what_a_warm_app_needs_is_warm_too() {
    let web =
        node("web", &format!("keep_awake = \"{}\"\nprewarm = \"0s\"\nneeds = [\"db\"]", now()));
    let d = Doorbell::with(&(web + &node("db", SOON)));
    d.wait_for_state("web", "ready");
    within(Duration::from_secs(1), "both are kept", || {
        d.state("web") == "ready" && d.state("db") == "ready"
    });
    assert_eq!(d.starts("db"), 1);
}

fn set_clock(unix_seconds: i64) {
    let at = format!("@{unix_seconds}");
    let status = std::process::Command::new("date").args(["-u", "-s", &at]).status().expect("date");
    assert!(status.success(), "{status}");
}

#[test]
#[ignore = "sets the machine's clock: see .ci/second-kernel"]
fn a_clock_that_is_set_is_noticed_at_once() {
    let begin = unix_seconds() + 5 * HOUR;
    let d = Doorbell::with(&warm(&hours(begin, begin + HOUR), "10m", SOON_STOPPED));
    assert_eq!(d.state("app"), "stopped");
    set_clock(begin - 5 * 60);
    d.wait_for_state("app", "ready");
    assert_eq!(d.status("app")["hours"]["is"], "outside");
    set_clock(begin + HOUR / 2);
    eventually("they have begun", || d.status("app")["hours"]["is"] == "inside");
    set_clock(begin - 4 * HOUR);
    d.wait_for_state("app", "stopped");
    assert_eq!(d.status("app")["goal"], "down");
}
