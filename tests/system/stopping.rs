//! `doorbell stop --now`: nobody is waited for, whatever an app is at.

use std::{fs, path::Path};

use doorbell_tests::{Doorbell, eventually};
use serde_json::Value;

use crate::{node, sharing};

/// One that does not end when it is asked, and writes down that it was; it has an hour for that, and for requests.
fn deaf(id: &str, more: &str) -> String {
    let env = "env = { SIGNALS_FILE = \"{dir}/signals\", STOP_DELAY = \"3600000\" }";
    node(id, &format!("stop = {{ grace = \"1h\", drain = \"1h\" }}\n{env}\n{more}"))
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// An app that runs, with its process.
#[track_caller]
fn running(d: &Doorbell, app: &str) -> u32 {
    assert_eq!(d.get(&format!("{app}.test"), "/hello").status, 200);
    d.app_pid(app).expect("a process")
}

fn was_asked(d: &Doorbell) -> bool {
    d.dir.path().join("signals").exists()
}

#[test]
fn neither_a_request_nor_a_grace_is_waited_for() {
    let d = Doorbell::with(&deaf("blog", ""));
    let pid = running(&d, "blog");
    let mut client = d.connect();
    // One that may have had an effect is not sent again.
    let head = "POST /slow?ms=3600000 HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 0\r\n\r\n";
    client.send(head);
    eventually("it is asked", || d.status("blog")["in_flight"] == 1);
    let told = d.ok(&["stop", "blog", "--now"]);
    assert!(told.starts_with("blog: stopped"), "{told}");
    assert!(!is_alive(pid) && !was_asked(&d), "it was asked to end before");
    assert_eq!(client.read().status, 502, "its request ends with it");
    let next = running(&d, "blog");
    assert_ne!(next, pid, "a visit starts it, and none is turned away: it has not failed");
    let audit = d.ok(&["audit", "--json"]);
    assert!(audit.contains("\"stop now\""), "{audit}");
}

#[test]
fn who_goes_down_already_is_hurried() {
    let d = Doorbell::with(&deaf("blog", ""));
    let pid = running(&d, "blog");
    let mut asked = d.spawn(&["stop", "blog"]);
    eventually("it is asked to end", || was_asked(&d));
    assert!(is_alive(pid), "it need not listen");
    d.ok(&["stop", "blog", "--now"]);
    assert!(!is_alive(pid));
    assert_eq!(asked.wait(), 0, "who asked first is answered too");
    // So it is with one that is disabled, and stays so.
    fs::remove_file(d.dir.path().join("signals")).expect("it was there");
    let pid = running(&d, "blog");
    let mut asked = d.spawn(&["disable", "blog"]);
    eventually("it is asked to end", || was_asked(&d));
    d.ok(&["stop", "blog", "--now"]);
    assert!(!is_alive(pid) && asked.wait() == 0);
    assert_eq!(d.get("blog.test", "/hello").status, 503);
    d.ok(&["enable", "blog"]);
    running(&d, "blog");
}

#[test]
fn replicas_and_who_needs_them_go_at_once_and_come_back() {
    let apps = [deaf("db", "instances = 2"), deaf("shop", "needs = [\"db\"]")].concat();
    let d = Doorbell::with(&apps);
    running(&d, "shop");
    d.wait_for_state("db:2", "ready");
    let pids = ["db", "db:2", "shop"].map(|app| d.app_pid(app).expect("a process"));
    d.ok(&["stop", "--now", "db"]);
    assert!(!pids.into_iter().any(is_alive) && !was_asked(&d), "{pids:?}");
    assert_eq!(["db", "db:2", "shop"].map(|app| d.state(app)), ["stopped"; 3]);
    running(&d, "shop");
    assert_eq!(d.state("db"), "ready");
}

#[test]
fn a_start_is_called_off_and_whoever_waits_is_told() {
    let d = Doorbell::with(&node("blog", "env = { START_WHEN = \"{dir}/never\" }"));
    let mut client = d.connect();
    client.send_get("blog.test", "/hello");
    d.wait_for_state("blog", "starting");
    eventually("it has a process", || d.app_pid("blog").is_some());
    let pid = d.app_pid("blog").expect("a process");
    d.ok(&["stop", "blog", "--now"]);
    assert_eq!(client.read().status, 503);
    assert!(!is_alive(pid));
    d.ok(&["stop", "blog", "--now"]);
    assert_eq!(d.state("blog"), "stopped", "there was nothing to stop");
}

#[test]
fn what_cannot_be_stopped_so_is_told() {
    let apps = [
        sharing::host("main", ""),
        sharing::sharer("shop", "main", ""),
        "[app.static]\nhosts = [\"static.test\"]\nupstream = \"http://127.0.0.1:1\"\n".into(),
        node("pair", "instances = 2"),
    ];
    let d = Doorbell::with(&apps.concat());
    for (app, words) in [
        ("shop", "main"),
        ("static", "upstream servers"),
        ("pair:2", "pair"),
        ("none", "not configured"),
    ] {
        let refused = d.cli(&["stop", "--now", app]);
        assert!(refused.status == 1 && refused.stderr.contains(words), "{app}: {refused:?}");
    }
    let api = d.api("operate");
    let ask = |path: &str| api.ask("POST", path, &[], &Value::Null).status;
    assert_eq!(ask("/v1/apps/main/start?now=true"), 422);
    assert_eq!(ask("/v1/apps/main/stop?now=perhaps"), 400);
    assert_eq!(ask("/v1/apps/main/stop?now=false"), 200);
    assert_eq!(ask("/v1/apps/main/stop?now=true"), 200);
}
