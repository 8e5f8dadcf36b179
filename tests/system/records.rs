//! What is written down of requests and starts, and what is not.

use std::{fs, path::Path};

use doorbell_tests::{Doorbell, Setup, eventually};

use crate::node;

fn cold_starts(d: &Doorbell, app: &str) -> Option<f64> {
    d.metric(&format!("doorbell_app_cold_starts_total{{app=\"{app}\",result=\"ready\"}}"))
}

#[test]
fn a_replacement_is_no_cold_start() {
    let version = |number| node("app", &format!("env = {{ VERSION = \"{number}\" }}"));
    let d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    d.rewrite(&version(2));
    d.ok(&["reload"]);
    eventually("it is replaced", || d.get("app.test", "/version").text() == "2");
    d.ok(&["restart", "app"]);
    assert_eq!(d.get("app.test", "/version").status, 200);
    assert_eq!(d.starts("app"), 3);
    assert_eq!(cold_starts(&d, "app"), Some(1.0));
    for phase in ["queued", "ready", "first_byte"] {
        let count = "doorbell_app_cold_start_duration_seconds_count";
        let series = format!("{count}{{app=\"app\",phase=\"{phase}\"}}");
        assert_eq!(d.metric(&series), Some(1.0), "{phase}");
    }
}

#[test]
fn a_start_that_nobody_waited_for_is_no_cold_start() {
    let d = Doorbell::with(&node("app", "start = \"always\""));
    d.wait_for_state("app", "ready");
    assert_eq!(d.get("app.test", "/").status, 200);
    assert_eq!(cold_starts(&d, "app"), None);
}

fn logging_to(log: &Path, more: &str) -> Setup {
    Setup::new(&node("app", ""))
        .server(&format!("access_log = {{ path = {:?} }}\n{more}", log.display()))
}

fn has_line(log: &Path, texts: &[&str]) -> bool {
    let lines = fs::read_to_string(log).unwrap_or_default();
    lines.lines().any(|line| texts.iter().all(|text| line.contains(text)))
}

#[test]
fn a_refused_request_is_logged_and_counted_as_what_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let d = logging_to(&log, "").start();
    for (head, status) in [
        ("TRACE /x HTTP/1.1\r\nHost: a\r\nUser-Agent: probe\r\nReferer: there\r\n\r\n", 405),
        ("POST /y HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ] {
        let mut connection = d.connect();
        connection.send(head);
        assert_eq!(connection.read().status, status);
    }
    let trace = ["\"TRACE /x HTTP/1.1\" 405 ", " \"there\" \"probe\""];
    eventually("it is logged", || has_line(&log, &trace));
    eventually("it is logged too", || has_line(&log, &["\"POST /y HTTP/1.1\" 400 "]));
    let count = |method, code| {
        let app = "app=\"_other\"";
        d.metric(&format!(
            "doorbell_http_requests_total{{{app},method=\"{method}\",code=\"{code}\"}}"
        ))
    };
    assert_eq!(count("OTHER", 405), Some(1.0));
    assert_eq!(count("POST", 400), Some(1.0));
    assert_eq!(count("GET", 405), None);
}

#[test]
fn the_user_is_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let d = logging_to(&log, "").start();
    let mut connection = d.connect();
    connection
        .send("GET /x HTTP/1.1\r\nHost: app.test\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n");
    assert_eq!(connection.read().status, 200);
    eventually("it is logged", || has_line(&log, &["127.0.0.1 - alice [", "\"GET /x HTTP/1.1\""]));
}

#[test]
fn what_the_shutdown_cuts_off_is_logged_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let d = logging_to(&log, "timeouts = { shutdown = \"200ms\" }").start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=60000");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.stop();
    assert!(has_line(&log, &["GET /slow?ms=60000 "]), "{:?}", fs::read_to_string(&log));
}
