//! Several apps on one instance: told apart by `X-App`, woken together, idle together, and each ready for
//! itself.

use std::{fs, process::Command, time::Duration};

use doorbell_tests::{
    Connection, Doorbell, Role, Setup, WebSocket, eventually, get, kill, request, within,
};

mod selecting;

/// The host, with more lines of its own.
pub(crate) fn host(id: &str, more: &str) -> String {
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"node\", \"{{apps}}/shared.js\"]\n{more}\n"
    )
}

/// An app that shares its instance.
pub(crate) fn sharer(id: &str, with: &str, more: &str) -> String {
    format!("[app.{id}]\nhosts = [\"{id}.test\"]\nshared_with = \"{with}\"\n{more}\n")
}

/// Two that share.
fn family(main: &str, both: &str) -> String {
    host("main", main) + &sharer("shop", "main", both) + &sharer("blog", "main", both)
}

/// Asked for its readiness, with not much patience.
pub(crate) fn asked(deadline: &str) -> String {
    format!("ready = {{ http = \"/health\", status = 200, deadline = \"{deadline}\" }}")
}

pub(crate) fn pid(d: &Doorbell, app: &str) -> String {
    d.get(&format!("{app}.test"), "/pid").text()
}

fn curl(d: &Doorbell, version: &str, more: &[&str], app: &str, path: &str) -> String {
    let url = format!("http://127.0.0.1:{}{path}", d.port);
    let output = Command::new("curl")
        .args(["-s", version, "--max-time", "20", "-H", &format!("Host: {app}.test")])
        .args(more)
        .arg(&url)
        .output()
        .expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_ready(d: &Doorbell, app: &str) {
    fs::write(d.dir.path().join(format!("{app}.ready")), "").expect("a file");
}

/// How often, and how often at once, each app was asked for its readiness.
fn asks(d: &Doorbell, app: &str) -> (u64, u64) {
    let all = d.get("main.test", "/asked").json();
    let of = |name: &str| all[app][name].as_u64().unwrap_or_default();
    (of("count"), of("most"))
}

#[test]
fn one_process_answers_for_all_and_is_told_for_which() {
    let d = Doorbell::with(&family("", ""));
    assert_eq!(d.get("shop.test", "/").text(), "shop");
    assert_eq!(d.get("blog.test", "/").text(), "blog");
    assert_eq!(d.get("main.test", "/").text(), "none");
    let mut connection = d.connect();
    for app in ["shop", "blog", "none", "shop", "none"] {
        let host = if app == "none" { "main" } else { app };
        assert_eq!(connection.get(&format!("{host}.test"), "/").text(), app);
    }
    let path = request(d.port, "GET /apps/shop/ HTTP/1.1\r\nHost: nobody.test\r\n\r\n");
    assert_eq!(path.expect("an answer").text(), "shop");
    let old = request(d.port, "GET / HTTP/1.0\r\nHost: blog.test\r\n\r\n");
    assert_eq!(old.expect("an answer").text(), "blog");
    for app in ["shop", "blog"] {
        assert_eq!(curl(&d, "--http2-prior-knowledge", &[], app, "/"), app);
        assert_eq!(pid(&d, app), pid(&d, "main"));
    }
    assert_eq!((d.starts("main"), d.app_pids().len()), (1, 1));
}

#[test]
fn an_instance_that_speaks_http2_is_told_too() {
    let two = "http2 = true";
    let ready = format!("{two}\n{}", asked("20s"));
    let d = Doorbell::with(&family(&format!("{two}\nenv = {{ HTTP2 = \"1\" }}"), &ready));
    assert_eq!(d.get("shop.test", "/").text(), "shop");
    assert_eq!(curl(&d, "--http2-prior-knowledge", &["-H", "X-App: shop"], "blog", "/"), "blog");
    assert_eq!(d.get("main.test", "/").text(), "none");
    assert_eq!((asks(&d, "shop"), asks(&d, "blog")), ((1, 1), (1, 1)));
}

#[test]
fn a_websocket_to_one_keeps_all_awake_and_they_are_idle_together() {
    let d = Doorbell::with(&family("idle = { stop_after = \"300ms\" }", ""));
    let mut websocket = WebSocket::open(d.port, "shop.test", "/ws").expect("a websocket");
    assert_eq!(websocket.read().as_deref(), Some("shop"));
    let first = d.app_pid("main");
    within(Duration::from_millis(1500), "all are awake", || d.state("blog") == "ready");
    websocket.echo("still here");
    assert_eq!((d.app_pid("main"), d.app_pid("blog")), (first, first));
    drop(websocket);
    for app in ["main", "shop", "blog"] {
        d.wait_for_state(app, "stopped");
    }
    assert_eq!(d.get("blog.test", "/").text(), "blog");
    assert_eq!(d.starts("main"), 2);
}

#[test]
fn a_thaw_is_no_new_start_for_those_that_share() {
    let d = Doorbell::with(&family(
        "idle = { freeze_after = \"200ms\", stop_after = \"1h\" }",
        &asked("20s"),
    ));
    let first = pid(&d, "shop");
    for _ in 0..3 {
        d.wait_for_state("shop", "frozen");
        assert_eq!(pid(&d, "shop"), first);
    }
    assert_eq!(asks(&d, "shop"), (1, 1));
    d.ok(&["restart", "main"]);
    assert_ne!(pid(&d, "shop"), first);
    assert_eq!(asks(&d, "shop"), (1, 1), "the new run was asked once");
}

#[test]
fn each_is_ready_for_itself() {
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &asked("60s")));
    let mut slow = d.connect();
    slow.send_get("shop.test", "/");
    eventually("it is asked", || asks(&d, "shop").0 > 1);
    assert_eq!(d.get("main.test", "/").text(), "none");
    is_ready(&d, "blog");
    assert_eq!(d.get("blog.test", "/").text(), "blog");
    assert_eq!(
        (d.status("shop")["held"].as_u64(), d.status("main")["held"].as_u64()),
        (Some(1), Some(0))
    );
    assert!(slow.read_within(Duration::from_millis(300)).is_none(), "it waits");
    is_ready(&d, "shop");
    assert_eq!(slow.read().text(), "shop");
    let known = asks(&d, "shop").0;
    assert_eq!(d.get("shop.test", "/").text(), "shop");
    assert_eq!(asks(&d, "shop").0, known, "it is asked no more");
}

#[test]
fn one_that_is_not_ready_in_time_is_told_alone_and_recovers() {
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &asked("700ms")));
    is_ready(&d, "blog");
    let late = d.get("shop.test", "/");
    assert_eq!((late.status, late.field("retry-after")), (504, Some("1")));
    let again = d.get("shop.test", "/");
    assert_eq!(again.status, 503, "it is left alone for a moment");
    let asked_before = asks(&d, "shop").0;
    assert_eq!(
        (d.get("blog.test", "/").text(), d.get("main.test", "/").text()),
        ("blog".into(), "none".into())
    );
    let reason = || d.status("shop")["reason"].as_str().unwrap_or_default().to_owned();
    eventually("operators are told", || reason().contains("GET /health: status 503"));
    assert!(d.ok(&["status", "shop"]).contains("not ready within 700ms"));
    assert_eq!(d.status("blog")["reason"].as_str(), None);
    within(Duration::from_millis(500), "nobody asks for nobody", || {
        asks(&d, "shop").0 == asked_before
    });
    is_ready(&d, "shop");
    eventually("it recovers", || d.get("shop.test", "/").status == 200);
    eventually("operators are told of that too", || reason().is_empty());
    assert_eq!(d.starts("main"), 1);
}

#[test]
fn those_who_wait_go_on_to_the_next_run() {
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &asked("60s")));
    let mut clients: Vec<Connection> = (0..3).map(|_| d.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_get("shop.test", "/pid"));
    eventually("they wait at the first run", || asks(&d, "shop").0 > 1);
    let first = d.app_pid("main");
    d.ok(&["restart", "main"]);
    eventually("the first run has ended", || d.app_pids().len() == 1 && d.app_pid("main") != first);
    is_ready(&d, "shop");
    let second = pid(&d, "main");
    clients.iter_mut().for_each(|client| assert_eq!(client.read().text(), second));
    assert_eq!(asks(&d, "shop").1, 1);
}

#[test]
fn nobody_asks_for_a_client_that_has_left() {
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &asked("60s")));
    let mut clients: Vec<Connection> = (0..3).map(|_| d.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_get("shop.test", "/"));
    eventually("all wait", || d.status("shop")["held"] == 3);
    clients.pop();
    eventually("one has left", || d.status("shop")["held"] == 2);
    let before = asks(&d, "shop").0;
    eventually("the others ask on", || asks(&d, "shop").0 > before);
    drop(clients);
    eventually("all have left", || d.status("shop")["held"] == 0);
    let mut last = asks(&d, "shop").0;
    eventually("it is asked no more", || {
        let (before, now) = (last, asks(&d, "shop").0);
        last = now;
        before == now
    });
    within(Duration::from_millis(500), "it is left alone", || asks(&d, "shop").0 == last);
}

#[test]
fn the_held_are_bounded_by_their_own_app() {
    let bounded = format!("{}\nlimits = {{ held_requests = 2 }}", asked("60s"));
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &bounded));
    let mut clients: Vec<Connection> = (0..2).map(|_| d.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_get("shop.test", "/"));
    eventually("both wait", || d.status("shop")["held"] == 2);
    assert_eq!(d.get("shop.test", "/").status, 503);
    is_ready(&d, "blog");
    assert_eq!(d.get("blog.test", "/").status, 200);
    is_ready(&d, "shop");
    clients.iter_mut().for_each(|client| assert_eq!(client.read().text(), "shop"));
}

#[test]
fn five_hundred_first_requests_make_one_start_and_one_who_asks() {
    let env = "env = { START_DELAY = \"500\", HEALTH_DELAY = \"200\", READY_DIR = \"{dir}\" }";
    let d = Doorbell::with(&family(env, &asked("60s")));
    let mut clients: Vec<Connection> = (0..500).map(|_| d.connect()).collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        client.send_get(if nth % 2 == 0 { "shop.test" } else { "blog.test" }, "/");
    }
    eventually("all wait", || d.status("shop")["held"] == 250 && d.status("blog")["held"] == 250);
    is_ready(&d, "shop");
    is_ready(&d, "blog");
    for (nth, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read().text(), if nth % 2 == 0 { "shop" } else { "blog" });
    }
    assert_eq!((asks(&d, "shop").1, asks(&d, "blog").1), (1, 1), "one at a time");
    assert_eq!(d.starts("main"), 1);
    let cold = "doorbell_app_cold_starts_total{app=\"main\",result=\"ready\"}";
    assert_eq!(d.metric(cold), Some(1.0));
    assert!(!d.metrics().contains("doorbell_app_cold_starts_total{app=\"shop\""));
    let counted = "doorbell_http_requests_total{app=\"shop\",method=\"GET\",code=\"200\"}";
    assert_eq!(d.metric(counted), Some(250.0));
}

#[test]
fn operators_switch_one_alone_and_are_told_whose_instance_it_is() {
    let d = Doorbell::with(&family("", ""));
    assert_eq!(d.get("shop.test", "/").status, 200);
    let status = d.status("shop");
    assert_eq!(
        (status["shared_with"].as_str(), status["state"].as_str()),
        (Some("main"), Some("ready"))
    );
    assert_eq!(status["pid"], d.status("main")["pid"]);
    assert!(d.ok(&["status"]).contains("ready, shared with main"));
    for verb in ["start", "stop", "restart"] {
        let refused = d.cli(&[verb, "shop"]);
        assert_ne!(refused.status, 0);
        assert!(refused.stderr.contains("shares the instance of \"main\""), "{refused:?}");
    }
    assert!(d.cli(&["logs", "shop"]).stderr.contains("doorbell logs main"));
    d.ok(&["disable", "shop"]);
    assert_eq!((d.get("shop.test", "/").status, d.get("blog.test", "/").status), (503, 200));
    assert_eq!(d.ok(&["status", "shop"]).matches("disabled").count(), 1);
    d.ok(&["enable", "shop"]);
    assert_eq!(d.get("shop.test", "/").text(), "shop");
    d.ok(&["disable", "main"]);
    for app in ["main", "shop", "blog"] {
        assert_eq!(d.get(&format!("{app}.test"), "/").status, 503);
        assert!(d.ok(&["status", app]).contains("disabled"));
    }
    d.ok(&["enable", "main"]);
    assert_eq!(d.get("shop.test", "/").text(), "shop");
}

#[test]
fn one_that_was_disabled_while_its_requests_wait_gets_none_of_them() {
    let d = Doorbell::with(&family("env = { START_DELAY = \"1500\" }", ""));
    let (mut shop, mut blog) = (d.connect(), d.connect());
    shop.send_get("shop.test", "/");
    blog.send_get("blog.test", "/");
    eventually("both wait", || d.status("shop")["held"] == 1 && d.status("blog")["held"] == 1);
    d.ok(&["disable", "shop"]);
    assert_eq!((shop.read().status, blog.read().text()), (503, "blog".into()));
}

#[test]
fn who_waits_is_told_at_once_that_his_app_was_disabled() {
    let d = Doorbell::with(&family("env = { READY_DIR = \"{dir}\" }", &asked("60s")));
    let mut client = d.connect();
    client.send_get("shop.test", "/");
    eventually("it is asked", || asks(&d, "shop").0 > 1);
    d.ok(&["disable", "shop"]);
    assert_eq!(client.read().status, 503);
    let last = asks(&d, "shop").0;
    within(Duration::from_millis(500), "it is asked no more", || asks(&d, "shop").0 == last);
    d.ok(&["enable", "shop"]);
    d.ok(&["restart", "main"]);
    // While its host starts, too.
    let slow = "env = { START_DELAY = \"60000\" }\nready = { deadline = \"90s\" }";
    d.rewrite(&(host("slow", slow) + &sharer("shop", "slow", "timeouts = { hold = \"90s\" }")));
    d.ok(&["reload"]);
    let mut client = d.connect();
    client.send_get("shop.test", "/");
    eventually("it waits", || d.status("shop")["held"] == 1);
    d.ok(&["disable", "shop"]);
    assert_eq!(client.read().status, 503);
}

#[test]
fn what_an_app_lacked_is_forgotten_with_what_it_lacked_it_in() {
    let reason = |d: &Doorbell| d.status("shop")["reason"].as_str().map(str::to_owned);
    let with = |ready: &str| family("env = { READY_DIR = \"{dir}\" }", ready);
    let d = Doorbell::with(&with(&asked("300ms")));
    let fail = || {
        eventually("it is not ready", || d.get("shop.test", "/").status == 504);
        eventually("operators are told", || reason(&d).is_some());
    };
    fail();
    d.ok(&["disable", "shop"]);
    assert_eq!(reason(&d), None);
    d.ok(&["enable", "shop"]);
    fail();
    // By another definition of the same share, too: it is asked under another name.
    d.rewrite(&with(&asked("300ms")).replace("\"shop.test\"", "\"mall.test\""));
    d.ok(&["reload"]);
    is_ready(&d, "shop");
    eventually("it is served", || d.get("mall.test", "/").status == 200);
    eventually("operators are told that it is well", || reason(&d).is_none());
}

#[test]
fn rules_for_waking_and_deadlines_are_the_apps_own() {
    let rules = "wake = { deny_user_agents = [\"robot\"] }\ntimeouts = { hold = \"300ms\" }";
    let d = Doorbell::with(
        &(host("main", "env = { START_DELAY = \"1500\" }") + &sharer("shop", "main", rules)),
    );
    let robot =
        || request(d.port, "GET / HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: robot\r\n\r\n");
    assert_eq!(robot().expect("an answer").status, 503);
    assert_eq!(d.state("main"), "stopped");
    assert_eq!(d.get("shop.test", "/").status, 504, "it waits no longer than its own deadline");
    assert_eq!(d.get("main.test", "/").text(), "none");
    assert_eq!(robot().expect("an answer").text(), "shop");
    assert_eq!(d.starts("main"), 1);
}

#[test]
fn a_browser_sees_its_own_app_start() {
    let waits = "name = \"The Shop\"\nwaiting_page = { after = \"100ms\" }";
    let d = Doorbell::with(
        &(host("main", "env = { START_DELAY = \"1500\" }") + &sharer("shop", "main", waits)),
    );
    let page = request(d.port, browse("shop")).expect("a page");
    assert_eq!(page.status, 503);
    assert!(page.text().contains("The Shop"), "{}", page.text());
    let at = page.text().find("/.well-known/doorbell/").expect("its bulletin");
    let text = page.text()[at..].to_owned();
    let address = text.split(['"', '\'', '<', '&']).next().expect("an address").to_owned();
    let told = d.get("shop.test", &address).text();
    assert!(told.contains("event: phase") && told.contains("event: ready"), "{told}");
}

/// What a browser sends that goes to a page.
fn browse(app: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {app}.test\r\nAccept: text/html\r\nSec-Fetch-Mode: navigate\r\n\
         Sec-Fetch-Dest: document\r\n\r\n"
    )
}

#[test]
fn a_browser_gets_into_an_app_that_answers_later_than_a_page_is_shown() {
    let slow = format!("waiting_page = {{ after = \"100ms\" }}\n{}", asked("20s"));
    let d = Doorbell::with(&family("env = { HEALTH_DELAY = \"1500\" }", &slow));
    assert_eq!(d.get("main.test", "/").text(), "none");
    let page = request(d.port, browse("shop")).expect("an answer");
    assert_eq!((page.status, page.text()), (200, "shop".into()));
    assert_eq!(asks(&d, "shop"), (1, 1), "no look was cut short");
    let timing = page.field("server-timing").expect("it waited").to_owned();
    assert!(timing.contains("hold") && !timing.contains("start"), "it was no start: {timing}");
}

#[test]
fn a_killed_host_is_started_for_those_that_share() {
    let back_off = "back_off = { initial = \"200ms\", max = \"200ms\" }";
    let d = Doorbell::with(&family(back_off, &asked("20s")));
    let mut websocket = WebSocket::open(d.port, "blog.test", "/ws").expect("a websocket");
    assert_eq!(websocket.read().as_deref(), Some("blog"));
    for nth in 1..=3 {
        assert_eq!(pid(&d, "shop"), pid(&d, "blog"));
        let before = d.app_pid("main").expect("a process");
        let mut running = d.connect();
        running.send_get("shop.test", "/slow?ms=60000");
        eventually("it runs", || d.status("shop")["in_flight"] == 1);
        kill(before);
        eventually("another process answers", || {
            let answer = d.get("shop.test", "/pid");
            // As of any app that has just crashed.
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            answer.status == 200 && answer.text() != before.to_string()
        });
        assert_eq!(d.starts("main"), nth + 1);
        drop(running);
        eventually("it has left", || d.status("shop")["in_flight"] == 0);
    }
    assert_eq!(websocket.read(), None);
    assert_eq!(asks(&d, "shop"), (1, 1), "the last run was asked once");
}

#[test]
fn a_killed_proxy_costs_those_that_share_nothing() {
    let mut d = Setup::new(&family("env = { READY_DIR = \"{dir}\" }", &asked("700ms"))).start();
    is_ready(&d, "blog");
    assert_eq!(d.get("blog.test", "/").text(), "blog");
    assert_eq!(d.get("shop.test", "/").status, 504);
    let reason = |d: &Doorbell| d.status("shop")["reason"].as_str().map(str::to_owned);
    eventually("operators are told", || reason(&d).is_some());
    let (process, proxy) = (d.app_pid("main"), d.proxy_pid());
    let mut waiting = d.connect();
    waiting.send_get("shop.test", "/");
    kill(proxy);
    d.wait_for_successor(Role::Proxy, proxy);
    eventually("what the killed one saw is not known any more", || reason(&d).is_none());
    eventually("it serves", || {
        Connection::try_open(d.port)
            .ok()
            .and_then(|mut connection| connection.try_get("blog.test", "/"))
            .is_some_and(|response| response.text() == "blog")
    });
    is_ready(&d, "shop");
    eventually("the other too", || get(d.port, "shop.test", "/").text() == "shop");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("shop.test", "/").text(), "shop");
    assert_eq!((d.app_pid("main"), d.app_pids().len()), (process, 1));
}
