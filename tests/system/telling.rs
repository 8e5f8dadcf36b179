//! Output and events as they come: over the API, and on the command line over the end of who tells them.

use std::sync::atomic::{AtomicBool, Ordering};

use doorbell_tests::{Api, Connection, Doorbell, Role, Running, eventually, kill};
use serde_json::Value;

use crate::python;

const EVENTS: &str = "Accept: text/event-stream";

/// A stream of server-sent events.
struct Stream {
    connection: Connection,
    text: String,
}

impl Stream {
    fn begin(api: &Api, path: &str, fields: &[&str]) -> Self {
        let fields: Vec<_> = fields.iter().copied().chain([EVENTS]).collect();
        let mut connection = api.begin(path, &fields);
        let head = connection.read_head().expect("a head");
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
        Self { connection, text: String::new() }
    }

    /// Id, name and data of the next event.
    fn next(&mut self) -> (String, String, Value) {
        let end = loop {
            if let Some(end) = self.text.find("\n\n") {
                break end;
            }
            let chunk = self.connection.read_chunk().expect("a chunk").expect("more");
            self.text += &String::from_utf8(chunk).expect("text");
        };
        let event: String = self.text.drain(..end + 2).collect();
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data = field("data: ").map(|data| serde_json::from_str(data).expect("JSON"));
        let [id, name] = ["id: ", "event: "].map(|name| field(name).unwrap_or_default().to_owned());
        (id, name, data.unwrap_or_default())
    }

    /// The next event, of a line of `app`; its id.
    #[track_caller]
    fn is_line(&mut self, text: &str) -> String {
        let (id, name, data) = self.next();
        assert_eq!((name.as_str(), &data["app"]), ("", &"app".into()), "{data}");
        assert!(data["line"].as_str().is_some_and(|line| line.contains(text)), "{data}: {text}");
        id
    }
}

fn visit(d: &Doorbell, path: &str) {
    assert_eq!(d.get("app.test", path).status, 200);
    eventually("it is written", || d.ok(&["logs", "app"]).contains(&format!("GET {path} ")));
}

#[test]
fn lines_come_as_server_sent_events_and_go_on_where_they_stopped() {
    let d = Doorbell::with(&python("app", "", ""));
    let api = d.api("read");
    let path = "/v1/apps/app/logs?lines=2";
    // Cut off before there was any line.
    let (before_all, name, data) = Stream::begin(&api, path, &[]).next();
    assert_eq!((name.as_str(), &data["replicas"]), ("begins", &serde_json::json!(["app"])));
    for path in ["/1", "/2", "/3"] {
        visit(&d, path);
    }
    let mut lines = Stream::begin(&api, path, &[]);
    assert_eq!(lines.next().1, "begins");
    lines.is_line("GET /2 ");
    let third = lines.is_line("GET /3 ");
    visit(&d, "/4");
    lines.is_line("GET /4 ");
    let mut lines = Stream::begin(&api, path, &[&format!("Last-Event-ID: {third}")]);
    assert_eq!(lines.next().1, "begins");
    lines.is_line("GET /4 ");
    let mut lines = Stream::begin(&api, path, &[&format!("Last-Event-ID: {before_all}")]);
    assert_eq!(lines.next().1, "begins");
    let mut told = Vec::new();
    while !told.iter().any(|line: &String| line.contains("GET /4 ")) {
        told.push(lines.next().2["line"].as_str().expect("a line").to_owned());
    }
    let visits: Vec<_> = told.iter().filter(|line| line.contains("GET /")).collect();
    assert_eq!(visits.len(), 4, "{told:?}");
    // What is no place is no reason to tell nothing.
    let mut lines = Stream::begin(&api, path, &["Last-Event-ID: nowhere"]);
    assert_eq!(lines.next().1, "begins");
    lines.is_line("GET /3 ");
}

#[test]
fn lines_come_as_text_too() {
    let d = Doorbell::with(&python("app", "", ""));
    visit(&d, "/1");
    for (json, kind, line) in [
        ("false", "text/plain; charset=utf-8", "request \"GET /2 "),
        ("true", "application/jsonl", r#"{"app":"app","line":"request \"GET /2 "#),
    ] {
        let path = format!("/v1/apps/app/logs?follow=true&lines=0&json={json}");
        let mut lines = d.api("read").begin(&path, &["Accept: */*"]);
        let head = lines.read_head().expect("a head");
        assert_eq!((head.status, head.field("content-type")), (200, Some(kind)));
        visit(&d, "/2");
        let chunk = lines.read_chunk().flatten().expect("a line");
        assert!(String::from_utf8_lossy(&chunk).starts_with(line), "{chunk:?}");
    }
}

#[test]
fn who_follows_an_apps_output_reads_each_line_once_whoever_tells_it() {
    let d = Doorbell::with(&python("app", "", "instances = 2"));
    visit(&d, "/first");
    let mut follow = d.spawn(&["logs", "app", "-f"]);
    follow.wait_for_line("GET /first ");
    let mut expected = Vec::new();
    for round in 0..3 {
        let tells = d.role_pid(Role::Control);
        kill(tells);
        // Nobody tells this line yet, and everybody the next.
        for when in ["meanwhile", "then"] {
            let path = format!("/{when}/{round}");
            assert_eq!(d.get("app.test", &path).status, 200);
            expected.push(format!("GET {path} "));
            d.wait_for_successor(Role::Control, tells);
        }
    }
    let lines = std::iter::from_fn(|| follow.next_line()).filter(|line| line.contains("GET /"));
    let told: Vec<_> = lines.take(expected.len()).collect();
    assert!(told.iter().all(|line| line.starts_with("app") && line.contains(" | ")), "{told:?}");
    for line in expected {
        let times = told.iter().filter(|told| told.contains(&line)).count();
        assert_eq!(times, 1, "{line}: {told:?}");
    }
    d.stop();
    while let Some(line) = follow.next_line() {
        assert!(!line.contains("GET /"), "{line}");
    }
    assert_ne!(follow.wait(), 0);
}

/// `doorbell events`, once it has heard something.
fn listen(d: &Doorbell, args: &[&str]) -> Running {
    let heard = AtomicBool::new(false);
    let mut events = d.spawn(args);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !heard.load(Ordering::Relaxed) {
                d.ok(&["restart", "app"]);
            }
        });
        events.wait_for_line("ready");
        heard.store(true, Ordering::Relaxed);
    });
    events
}

#[test]
fn who_follows_events_hears_them_from_the_next_who_tells_them() {
    let d = Doorbell::with(&python("app", "", ""));
    for args in [&["events"][..], &["events", "--json"]] {
        let mut events = listen(&d, args);
        d.kill_role(Role::Control);
        events.wait_for_line("lost");
        d.ok(&["stop", "app"]);
        events.wait_for_line("stopped");
        d.ok(&["start", "app"]);
        events.wait_for_line("ready");
    }
    let mut events = listen(&d, &["events"]);
    d.stop();
    while events.next_line().is_some() {}
    assert_ne!(events.wait(), 0);
}
