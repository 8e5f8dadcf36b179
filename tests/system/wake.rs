//! Who may wake an app, and who keeps it awake: monitors and bots do neither.

use std::{process::Command, time::Duration};

use doorbell_tests::{
    Connection, Doorbell, Response, Role, Setup, WebSocket, eventually, request, within,
};

use crate::{node, python};

/// Not to be woken by monitors, and asleep soon.
const NO_ROBOTS: &str = "wake = { deny_user_agents = [\"robot\"], deny_paths = [\"/ws\"] }\n\
                         idle = { stop_after = \"300ms\" }";

/// A while in which an idle app would have stopped several times.
const WHILE: Duration = Duration::from_millis(1500);

fn send(d: &Doorbell, line: &str, fields: &str) -> Response {
    let fields = fields.replace('\n', "\r\n");
    request(d.port, format!("{line}\r\nHost: app.test\r\n{fields}\r\n")).expect("an answer")
}

fn monitor(d: &Doorbell) -> Response {
    send(d, "GET / HTTP/1.1", "User-Agent: UptimeRobot/2.0\n")
}

#[test]
fn a_monitor_is_told_that_the_app_sleeps_and_wakes_nobody() {
    let d = Doorbell::with(&node("app", NO_ROBOTS));
    let robot = "User-Agent: Mozilla/5.0 (compatible; UptimeRobot/2.0)\n";
    let kinds = [
        ("Accept: */*\n", "text/plain; charset=utf-8", "503 Service Unavailable\nThis application"),
        ("Accept: text/html\n", "text/html; charset=utf-8", "<h1 id=\"title\">Asleep</h1>"),
        ("Accept: application/json\n", "application/problem+json", "\"code\":\"asleep\""),
    ];
    for (accept, kind, words) in kinds {
        let response = send(&d, "GET / HTTP/1.1", &format!("{robot}{accept}"));
        assert_eq!((response.status, response.field("content-type")), (503, Some(kind)));
        assert!(response.text().contains(words), "{}", response.text());
        assert_eq!(response.field("cache-control"), Some("no-store"));
        let again = response.field("retry-after").and_then(|after| after.parse::<u32>().ok());
        assert!(again.is_some_and(|seconds| seconds >= 1), "{again:?}");
    }
    assert_eq!(send(&d, "GET / HTTP/1.0", robot).status, 503);
    let post = format!("{robot}Content-Length: 3\n\nabc");
    assert_eq!(send(&d, "POST / HTTP/1.1", &post).status, 503);
    assert_eq!(http2(&d, "robot"), "503");
    assert_eq!((d.state("app").as_str(), d.starts("app")), ("stopped", 0));
    let counted = "doorbell_http_requests_total{app=\"app\",method=\"GET\",code=\"503\"}";
    assert_eq!(d.metric(counted), Some(5.0));

    assert_eq!(http2(&d, "Firefox"), "200");
    assert_eq!((monitor(&d).status, d.starts("app")), (200, 1), "it is served while the app runs");
    d.wait_for_state("app", "stopped");
    assert_eq!(monitor(&d).status, 503);
}

fn http2(d: &Doorbell, agent: &str) -> String {
    let url = format!("http://127.0.0.1:{}/", d.port);
    let output = Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "--max-time", "20", "-o", "/dev/null"])
        .args(["-w", "%{http_code}", "-H", "Host: app.test", "-A", agent, &url])
        .output()
        .expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_monitor_that_comes_while_the_app_starts_gets_its_answer() {
    let d =
        Doorbell::with(&node("app", &format!("{NO_ROBOTS}\nenv = {{ START_DELAY = \"700\" }}")));
    let mut visitor = d.connect();
    visitor.send_get("app.test", "/");
    eventually("it waits", || d.status("app")["held"] == 1);
    let mut robot = d.connect();
    robot.send("GET /r HTTP/1.1\r\nHost: app.test\r\nUser-Agent: robot\r\n\r\n");
    eventually("both wait", || d.status("app")["held"] == 2);
    // Who has woken it may leave.
    drop(visitor);
    assert_eq!(robot.read().text(), "node GET /r\n");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn a_monitor_does_not_keep_an_app_awake() {
    let d = Doorbell::with(&node("app", NO_ROBOTS));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut robot = Robot::new(&d);
    eventually("it stops all the same", || robot.asks() == 503);
    d.wait_for_state("app", "stopped");
    within(WHILE, "it is left asleep", || robot.asks() == 503);
    assert_eq!(d.starts("app"), 1);
}

/// A monitor that keeps its connection.
struct Robot(Connection);

impl Robot {
    fn new(d: &Doorbell) -> Self {
        Self(d.connect())
    }

    fn asks(&mut self) -> u16 {
        self.0.send("GET / HTTP/1.1\r\nHost: app.test\r\nUser-Agent: robot\r\n\r\n");
        self.0.read().status
    }
}

#[test]
fn where_all_keep_it_awake_a_monitor_does_once_somebody_has_woken_it() {
    let rules = NO_ROBOTS.replace("[\"/ws\"]", "[\"/ws\"], keeps_awake = \"all\"");
    let d = Doorbell::with(&node("app", &rules));
    let mut robot = Robot::new(&d);
    assert_eq!(robot.asks(), 503);
    assert_eq!(d.get("app.test", "/").status, 200);
    within(WHILE, "it stays up", || robot.asks() == 200);
    assert_eq!(d.starts("app"), 1);
    d.wait_for_state("app", "stopped");
    assert_eq!(robot.asks(), 503);
}

#[test]
fn a_long_request_that_does_not_keep_awake_is_not_cut_and_holds_nobody_up_behind_it() {
    let d = Doorbell::with(&node("app", NO_ROBOTS));
    let refused = WebSocket::open(d.port, "app.test", "/ws").map(drop).expect_err("asleep");
    assert_eq!(refused.status, 503);
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    within(WHILE, "it runs on", || d.state("app") == "ready");
    websocket.echo("still here");
    drop(websocket);
    d.wait_for_state("app", "stopped");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn a_frozen_app_sleeps_for_monitors() {
    let rules = NO_ROBOTS.replace("stop_after", "freeze_after");
    let d = Doorbell::with(&node("app", &rules));
    let pid = d.get("app.test", "/pid").text();
    let mut robot = Robot::new(&d);
    eventually("it freezes all the same", || robot.asks() == 503);
    d.wait_for_state("app", "frozen");
    within(WHILE, "it stays frozen", || robot.asks() == 503 && d.state("app") == "frozen");
    assert_eq!(d.get("app.test", "/pid").text(), pid);
}

#[test]
fn monitors_may_be_told_that_all_is_well() {
    let rules = "wake = { deny_paths = [\"/up\"], asleep = { status = 200, body = \"zzz\" } }";
    let silent = "wake = { deny_paths = [\"/up\"], asleep = { status = 204 } }\n\
                  [app.silent.pages]\nasleep = \"asleep.html\"";
    let own = "wake = { deny_paths = [\"/up\"] }\n[app.own.pages]\nasleep = \"asleep.html\"";
    let apps = [node("app", rules), node("silent", silent), node("own", own)].concat();
    let page = "<p>{app} sleeps: {status}</p>";
    let d = Setup::new(&apps).file("asleep.html", page).start();
    let response = d.get("app.test", "/up");
    assert_eq!((response.status, response.text().as_str()), (200, "zzz\n"));
    assert_eq!(response.field("retry-after"), None);
    assert_eq!(response.field("cache-control"), Some("no-store"));
    let response = d.get("silent.test", "/up");
    assert_eq!((response.status, response.text().as_str()), (204, ""));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    let mut browser = d.connect();
    browser.send("GET /up HTTP/1.1\r\nHost: own.test\r\nAccept: text/html\r\n\r\n");
    let response = browser.read();
    assert_eq!((response.status, response.text().as_str()), (503, "<p>own sleeps: 503</p>"));
    for app in ["app", "silent", "own"] {
        assert_eq!(d.state(app), "stopped");
    }
}

#[test]
fn paths_are_those_that_the_app_sees_however_it_is_reached() {
    let rules = "wake = { paths = [\"/in\"], methods = [\"GET\", \"POST\"] }\n\
                 idle = { stop_after = \"300ms\" }";
    let d = Setup::new(&python("app", "", rules)).server("default_app = \"app\"").start();
    let status = |line: &str, host: &str| {
        request(d.port, format!("{line}\r\nHost: {host}\r\n\r\n")).expect("an answer").status
    };
    for (line, host) in [
        ("GET /other HTTP/1.1", "app.test"),
        ("GET /inner HTTP/1.1", "app.test"),
        ("DELETE /in HTTP/1.1", "app.test"),
        ("GET /apps/app/other HTTP/1.1", "any.test"),
        ("GET /_app/app/ HTTP/1.1", "any.test"),
        ("GET /in/../other HTTP/1.1", "app.test"),
        ("GET /other HTTP/1.1", "any.test"),
    ] {
        assert_eq!(status(line, host), 503, "{line} {host}");
    }
    assert_eq!(d.starts("app"), 0);
    let ways = ["/in", "/apps/app/in", "/_app/app/in/x", "/%69n"];
    for (starts, path) in (1..).zip(ways) {
        let host = if path.contains("app") { "any.test" } else { "app.test" };
        assert_eq!(status(&format!("GET {path} HTTP/1.1"), host), 200, "{path}");
        assert_eq!(d.starts("app"), starts);
        d.wait_for_state("app", "stopped");
    }
    // What no route is for goes to the default app.
    assert_eq!(status("GET /in HTTP/1.1", "any.test"), 200);
}

#[test]
fn the_rules_outlive_each_part_and_an_upgrade() {
    let mut d = Setup::new(&node("app", NO_ROBOTS)).own_binary().start();
    for part in [Some(Role::Proxy), Some(Role::Control), None] {
        match part {
            Some(role) => d.kill_role(role),
            None => {
                d.kill_supervisor();
                d.start_again();
            }
        }
        assert_eq!(monitor(&d).status, 503, "{part:?}");
        assert_eq!(d.state("app"), "stopped");
    }
    d.ok(&["upgrade"]);
    assert_eq!((monitor(&d).status, d.starts("app")), (503, 0));

    // A request of the old proxy's, which does not keep the app awake.
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    d.ok(&["upgrade"]);
    let mut robot = Robot::new(&d);
    within(WHILE, "the app runs on", || robot.asks() == 200 && d.state("app") == "ready");
    websocket.echo("after the upgrade");
    d.kill_supervisor();
    d.start_again();
    within(WHILE, "the app runs on", || robot.asks() == 200 && d.state("app") == "ready");
    drop(websocket);
    eventually("then it sleeps", || robot.asks() == 503);
    d.wait_for_state("app", "stopped");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn rules_that_change_hold_at_once_and_restart_nobody() {
    let d = Doorbell::with(&node("app", "idle = { stop_after = \"300ms\" }"));
    let pid = monitor(&d).status;
    assert_eq!(pid, 200);
    let mut websocket = WebSocket::open(d.port, "app.test", "/chat").expect("a websocket");
    d.rewrite(&node("app", NO_ROBOTS));
    d.ok(&["reload"]);
    websocket.echo("the same");
    drop(websocket);
    let mut robot = Robot::new(&d);
    eventually("it sleeps", || robot.asks() == 503);
    d.rewrite(&node("app", "idle = { stop_after = \"300ms\" }"));
    d.ok(&["reload"]);
    assert_eq!(robot.asks(), 200);
    assert_eq!(d.starts("app"), 2);
}
