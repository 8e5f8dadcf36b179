//! Apps that need others: started behind them, stopped before them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use doorbell_tests::{Connection, Doorbell, Setup, WebSocket, eventually, kill, within};

use crate::{hours::seems, node};

/// An app that lists its start and its end in `{dir}/story`. `env` is more of its environment.
fn app(id: &str, needs: &[&str], env: &str, more: &str) -> String {
    let story = "STARTS_FILE = \"{dir}/story\", SIGNALS_FILE = \"{dir}/story\"";
    let env = format!("env = {{ NAME = \"{id}\", {story}, {env} }}").replace(", }", " }");
    node(id, &format!("needs = {needs:?}\n{env}\n{more}"))
}

/// One that listens once `{dir}/go-ID` is there.
fn gated(id: &str, needs: &[&str], more: &str) -> String {
    app(id, needs, &format!("START_WHEN = \"{{dir}}/go-{id}\""), more)
}

fn go(d: &Doorbell, id: &str) {
    fs::write(d.dir.path().join(format!("go-{id}")), "").expect("the file");
}

fn story(d: &Doorbell) -> Vec<String> {
    let told = fs::read_to_string(d.dir.path().join("story")).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

/// Where in the story this is told for the first time.
#[track_caller]
fn told(d: &Doorbell, what: &str) -> usize {
    let story = story(d);
    let at = story.iter().position(|line| line == what);
    at.unwrap_or_else(|| panic!("no {what:?} in {story:?}"))
}

fn count(d: &Doorbell, what: &str) -> usize {
    story(d).iter().filter(|line| *line == what).count()
}

fn host(id: &str) -> String {
    format!("{id}.test")
}

fn pid(d: &Doorbell, id: &str) -> String {
    d.get(&host(id), "/pid").text()
}

fn states(d: &Doorbell, ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| d.state(id)).collect()
}

fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
fn a_visit_starts_what_is_needed_first_and_what_can_at_once() {
    let d = Doorbell::with(
        &[
            app("web", &["api", "cache"], "", ""),
            app("api", &["db"], "", ""),
            gated("cache", &[], ""),
            gated("db", &[], ""),
        ]
        .concat(),
    );
    let mut client = d.connect();
    client.send_get("web.test", "/hello");
    eventually("both that need nothing start", || story(&d).len() == 2);
    assert!(told(&d, "db") < 2 && told(&d, "cache") < 2);
    assert_eq!(states(&d, &["web", "api"]), ["provisioning", "provisioning"]);
    let status = d.ok(&["status", "web"]);
    assert!(status.contains("awaits db, cache, api (1 held)"), "{status}");
    assert_eq!(d.status("api")["awaits"].to_string(), "[\"db\"]");
    go(&d, "cache");
    d.wait_for_state("cache", "ready");
    assert_eq!(d.status("web")["awaits"].to_string(), "[\"db\",\"api\"]");
    go(&d, "db");
    assert_eq!(client.read().text(), "node GET /hello\n");
    assert_eq!((story(&d).len(), told(&d, "api"), told(&d, "web")), (4, 2, 3));
    assert_eq!(states(&d, &["db", "cache", "api", "web"]), ["ready"; 4]);
    for (app, cold) in [("web", 1), ("db", 0)] {
        assert_eq!(d.status(app)["starts"]["cold_ready"], cold, "{app} was visited, or not");
    }
}

#[test]
fn one_start_at_a_time_is_enough_for_any_chain() {
    let chain = ["e", "d", "c", "b", "a"].windows(2);
    let mut apps: String = chain.map(|pair| app(pair[0], &[pair[1]], "", "")).collect();
    apps += &app("a", &[], "", "");
    apps += &app("other", &["a", "c"], "", "");
    let d = Setup::new(&apps).server("[server.limits]\nparallel_starts = 1").start();
    let mut clients: Vec<Connection> = (0..6).map(|_| d.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_get(if n % 2 == 0 { "e.test" } else { "other.test" }, "/");
    }
    for client in &mut clients {
        assert_eq!(client.read().status, 200);
    }
    assert_eq!(story(&d).len(), 6, "each was started once: {:?}", story(&d));
    assert!(["a", "b", "c", "d", "e"].map(|app| told(&d, app)).is_sorted());
    assert!(told(&d, "c") < told(&d, "other"));
}

#[test]
fn a_request_waits_for_needs_no_longer_than_its_deadline() {
    let web = app("web", &["db"], "", "timeouts = { hold = \"500ms\" }");
    let d = Doorbell::with(&(web + &gated("db", &[], "")));
    let answer = d.get("web.test", "/");
    assert_eq!(answer.status, 504);
    let retry: u64 = answer.field("retry-after").and_then(|after| after.parse().ok()).expect("one");
    assert!(retry >= 1);
    assert_eq!(states(&d, &["web", "db"]), ["provisioning", "starting"]);
    go(&d, "db");
    d.wait_for_state("web", "ready");
    assert_eq!(d.get("web.test", "/").status, 200);
}

#[test]
fn the_waiting_page_tells_that_it_waits_for_others() {
    let web = app("web", &["ledger"], "", "waiting_page = { after = \"50ms\" }");
    let d = Doorbell::with(&(web + &gated("ledger", &[], "")));
    let page = || {
        let mut browser = d.connect();
        browser.send("GET / HTTP/1.1\r\nHost: web.test\r\nAccept: text/html\r\n\r\n");
        let page = browser.read();
        assert_eq!(page.status, 503);
        page.text()
    };
    eventually("it tells", || page().contains("What it needs is started first."));
    assert!(!page().contains("ledger"), "what it needs is no visitor's business");
    go(&d, "ledger");
    d.wait_for_state("web", "ready");
}

#[test]
fn what_is_needed_is_not_idle_and_sleeps_behind_those_that_need_it() {
    let idle = |stop: &str| format!("idle = {{ stop_after = \"{stop}\" }}");
    let d = Doorbell::with(
        &[
            app("web", &["api"], "", &idle("1h")),
            app("api", &["db"], "", &idle("100ms")),
            app("db", &[], "", &idle("100ms")),
        ]
        .concat(),
    );
    let web = pid(&d, "web");
    let needed = [d.app_pid("api"), d.app_pid("db")];
    within(Duration::from_secs(1), "all stay", || {
        states(&d, &["web", "api", "db"]) == ["ready"; 3]
    });
    d.rewrite(
        &[
            app("web", &["api"], "", &idle("500ms")),
            app("api", &["db"], "", &idle("100ms")),
            app("db", &[], "", &idle("100ms")),
        ]
        .concat(),
    );
    d.ok(&["reload"]);
    assert_eq!([d.app_pid("api"), d.app_pid("db")], needed);
    d.wait_for_state("db", "stopped");
    assert!(!exists(&web));
    assert!(["web SIGTERM", "api SIGTERM", "db SIGTERM"].map(|line| told(&d, line)).is_sorted());
    assert_eq!(d.get("web.test", "/").status, 200, "and all wake again");
    assert_eq!(["web", "api", "db"].map(|app| count(&d, app)), [2; 3]);
}

#[test]
fn what_is_needed_is_frozen_behind_those_that_need_it_and_thawed_before_them() {
    let idle = "idle = { freeze_after = \"100ms\", stop_after = \"400ms\" }";
    let web = |idle: &str| app("web", &["db"], "", &format!("idle = {{ {idle} }}"));
    let db = app("db", &[], "", idle);
    let never = "freeze_after = \"never\", stop_after = \"never\"";
    let d = Doorbell::with(&(web(never) + &db));
    let (web_pid, db_pid) = (pid(&d, "web"), d.app_pid("db"));
    within(Duration::from_secs(1), "it is awake", || d.state("db") == "ready");
    d.rewrite(&(web("freeze_after = \"300ms\", stop_after = \"never\"") + &db));
    d.ok(&["reload"]);
    d.wait_for_state("db", "frozen");
    within(Duration::from_secs(1), "it is not stopped before web is", || {
        states(&d, &["web", "db"]) == ["frozen"; 2]
    });
    for wakes in ["a visit", "an operator"] {
        // So that it stays awake once it is.
        d.rewrite(&(web(never) + &db));
        d.ok(&["reload"]);
        assert_eq!(states(&d, &["web", "db"]), ["frozen"; 2]);
        if wakes == "a visit" {
            assert_eq!(pid(&d, "web"), web_pid);
        } else {
            d.ok(&["start", "web"]);
        }
        assert_eq!(states(&d, &["web", "db"]), ["ready"; 2], "{wakes} thaws both");
        assert_eq!(d.app_pid("db"), db_pid);
        d.rewrite(&(web("freeze_after = \"300ms\", stop_after = \"never\"") + &db));
        d.ok(&["reload"]);
        d.wait_for_state("db", "frozen");
        assert_eq!(d.state("web"), "frozen", "web went first");
    }
    assert_eq!(story(&d), ["db", "web"]);
}

#[test]
fn a_frozen_app_whose_need_cannot_run_stays_frozen_and_says_so() {
    let web = app("web", &["db"], "", "idle = { freeze_after = \"100ms\" }");
    let d = Doorbell::with(&(web + &app("db", &[], "", "")));
    let web_pid = pid(&d, "web");
    d.wait_for_state("web", "frozen");
    // As by somebody who does not ask Doorbell.
    kill(d.app_pid("db").expect("a process"));
    d.wait_for_state("db", "stopped");
    assert_eq!(pid(&d, "web"), web_pid, "it is started for one that is thawed");
    assert_eq!(count(&d, "db"), 2);
    d.wait_for_state("web", "frozen");
    d.ok(&["disable", "db"]);
    assert_eq!(d.state("web"), "stopped", "what needs it is stopped with it");
    let told = d.cli(&["start", "web"]);
    assert!(told.stderr.contains("needs \"db\", which is disabled"), "{}", told.stderr);
}

#[test]
fn a_stop_drains_and_ends_first_what_needs_the_app() {
    let d = Doorbell::with(
        &[
            app("web", &["api"], "STOP_DELAY = \"300\"", ""),
            app("api", &["db"], "STOP_DELAY = \"300\"", ""),
            app("db", &[], "STOP_DELAY = \"10\"", ""),
            app("cron", &["db"], "STOP_DELAY = \"300\"", "start = \"always\""),
        ]
        .concat(),
    );
    d.wait_for_state("cron", "ready");
    assert_eq!(d.get("web.test", "/").status, 200);
    let mut slow = d.connect();
    slow.send_get("web.test", "/slow?ms=1500");
    eventually("it runs", || d.status("web")["in_flight"] == 1);
    d.ok(&["stop", "db"]);
    assert_eq!(slow.read().text(), "slow", "who was there is served to the end");
    assert_eq!(states(&d, &["web", "api", "db", "cron"]), ["stopped"; 4]);
    let order = ["web SIGTERM", "web ends", "api SIGTERM", "api ends", "db SIGTERM"];
    assert!(order.map(|line| told(&d, line)).is_sorted(), "{:?}", story(&d));
    assert!(told(&d, "cron ends") < told(&d, "db SIGTERM"), "{:?}", story(&d));
    assert_eq!(d.get("web.test", "/").status, 200, "a visit starts them again");
    assert_eq!(states(&d, &["web", "api", "db", "cron"]), ["ready", "ready", "ready", "stopped"]);
}

#[test]
fn who_visits_while_a_need_is_stopped_waits_for_its_next_run() {
    let d = Doorbell::with(
        &[app("web", &["db"], "STOP_DELAY = \"500\"", ""), app("db", &[], "", "")].concat(),
    );
    let (web, db) = (pid(&d, "web"), d.app_pid("db"));
    let stopping = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| d.ok(&["stop", "db"]));
        eventually("web goes down", || count(&d, "web SIGTERM") == 1);
        let new = pid(&d, "web");
        assert_ne!(new, web);
        stopping.join().expect("it ends")
    });
    assert!(stopping.contains("db: "), "{stopping}");
    assert_ne!(d.app_pid("db"), db);
    assert_eq!(story(&d), ["db", "web", "web SIGTERM", "web ends", "db SIGTERM", "db", "web"]);
}

#[test]
fn a_disabled_need_fails_the_start_at_once_and_visitors_are_told_nothing_of_it() {
    let web = app("web", &["api"], "", "");
    let d = Doorbell::with(&[web, app("api", &["db"], "", ""), app("db", &[], "", "")].concat());
    assert_eq!(d.get("web.test", "/").status, 200);
    d.ok(&["disable", "db"]);
    assert_eq!(states(&d, &["web", "api", "db"]), ["stopped"; 3]);
    let since = Instant::now();
    let answer = d.get("web.test", "/");
    assert!(since.elapsed() < Duration::from_secs(5), "it waited for the deadline");
    assert_eq!(answer.status, 503);
    assert!(answer.field("retry-after").is_some());
    assert!(!answer.text().contains("db") && !answer.text().contains("needs"), "{}", answer.text());
    let reason = "needs \"api\", which needs \"db\", which is disabled";
    assert_eq!(d.status("web")["reason"], reason);
    let told = d.cli(&["start", "web"]);
    assert_ne!(told.status, 0);
    let words = format!("app \"web\" did not start: {reason}");
    assert!(told.stderr.contains(&words), "{}", told.stderr);
    d.ok(&["enable", "db"]);
    assert_eq!(d.get("web.test", "/").status, 200, "nobody has to wait for a back-off");
    assert_eq!(d.status("web")["reason"], serde_json::Value::Null);
}

#[test]
fn a_need_that_the_file_disables_stops_behind_those_that_need_it() {
    let web = app("web", &["db"], "STOP_DELAY = \"300\"", "");
    let d = Doorbell::with(&(web.clone() + &app("db", &[], "STOP_DELAY = \"10\"", "")));
    assert_eq!(d.get("web.test", "/").status, 200);
    let mut slow = d.connect();
    slow.send_get("web.test", "/slow?ms=1500");
    eventually("it runs", || d.status("web")["in_flight"] == 1);
    d.rewrite(&(web + &app("db", &[], "STOP_DELAY = \"10\"", "start = \"disabled\"")));
    d.ok(&["reload"]);
    assert_eq!(slow.read().text(), "slow", "who was there is served to the end");
    d.wait_for_state("web", "stopped");
    d.wait_for_state("db", "stopped");
    eventually("it ended", || story(&d).iter().any(|line| line == "db ends"));
    let order = ["web SIGTERM", "web ends", "db SIGTERM"];
    assert!(order.map(|line| told(&d, line)).is_sorted(), "{:?}", story(&d));
}

#[test]
fn an_app_that_always_runs_comes_when_its_need_may_run() {
    let cron = app("cron", &["db"], "", "start = \"always\"");
    let d = Doorbell::with(&(cron + &app("db", &[], "", "start = \"disabled\"")));
    d.wait_for_state("cron", "backing_off");
    assert_eq!(d.status("cron")["reason"], "needs \"db\", which is disabled");
    d.ok(&["enable", "db"]);
    d.wait_for_state("cron", "ready");
    assert_eq!(story(&d), ["db", "cron"]);
}

/// A need that ends at once while `{dir}/broken` is there.
fn brittle(more: &str) -> String {
    let script = "echo db >> {dir}/story; test -e {dir}/broken && exit 3; exec node {apps}/node.js";
    format!("[app.db]\nhosts = [\"db.test\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n{more}\n")
}

#[test]
fn a_need_that_fails_fails_those_that_wait_and_is_tried_as_its_own_back_off_allows() {
    let back_off = "back_off = { initial = \"1h\", max = \"1h\" }";
    let d = Doorbell::with(&(app("web", &["db"], "", "") + &brittle(back_off)));
    fs::write(d.dir.path().join("broken"), "").expect("the file");
    let since = Instant::now();
    let answer = d.get("web.test", "/");
    assert!(since.elapsed() < Duration::from_secs(10), "it waited for the deadline");
    assert_eq!(answer.status, 503);
    let retry: u64 = answer.field("retry-after").and_then(|after| after.parse().ok()).expect("one");
    assert!(retry > 60, "comes back when the need is tried again: {retry}");
    let status = d.ok(&["status", "web"]);
    let reason = "needs \"db\", which does not run: exited with status 3";
    assert!(status.contains("backing off") && status.contains(reason), "{status}");
    for _ in 0..3 {
        assert_eq!(d.get("web.test", "/").status, 503);
    }
    assert_eq!(story(&d), ["db"], "nobody made it start again");
    let told = d.cli(&["start", "web"]);
    assert!(told.stderr.contains(reason), "{}", told.stderr);
    assert_eq!(story(&d), ["db", "db"], "an operator may");
    fs::remove_file(d.dir.path().join("broken")).expect("the file");
    d.ok(&["start", "db"]);
    assert_eq!(d.get("web.test", "/").status, 200, "web does not wait any longer than db");
}

#[test]
fn those_that_wait_for_a_need_fail_as_soon_as_it_does() {
    let d = Doorbell::with(&(app("web", &["db"], "", "") + &brittle("")));
    fs::write(d.dir.path().join("broken"), "").expect("the file");
    let mut clients: Vec<Connection> = (0..20).map(|_| d.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_get("web.test", "/"));
    for client in &mut clients {
        assert_eq!(client.read().status, 503);
    }
    fs::remove_file(d.dir.path().join("broken")).expect("the file");
    eventually("its back-off ends", || d.get("web.test", "/").status == 200);
}

#[test]
fn a_need_that_crashes_is_started_again_and_those_that_need_it_run_on() {
    let d = Doorbell::with(&(app("web", &["db"], "", "") + &brittle("")));
    let web = pid(&d, "web");
    for crashes in 1..3 {
        let db = d.app_pid("db").expect("a process");
        kill(db);
        eventually("it is back", || d.app_pid("db").is_some_and(|pid| pid != db));
        d.wait_for_state("db", "ready");
        assert_eq!(count(&d, "db"), crashes + 1);
    }
    assert_eq!(pid(&d, "web"), web);
    fs::write(d.dir.path().join("broken"), "").expect("the file");
    kill(d.app_pid("db").expect("a process"));
    eventually("it tries again and again", || count(&d, "db") >= 5);
    assert_eq!(pid(&d, "web"), web);
    fs::remove_file(d.dir.path().join("broken")).expect("the file");
    d.wait_for_state("db", "ready");
    assert_eq!(pid(&d, "web"), web);
}

#[test]
fn a_need_is_restarted_and_redefined_like_any_app_and_nobody_else_is() {
    let db = |version: &str| app("db", &[], &format!("VERSION = \"{version}\""), "");
    let web = app("web", &["db"], "", "");
    let d = Doorbell::with(&(web.clone() + &db("1")));
    let (web_pid, first) = (pid(&d, "web"), d.app_pid("db"));
    d.ok(&["restart", "db"]);
    let second = d.app_pid("db");
    assert_ne!(second, first);
    d.rewrite(&(web + &db("2")));
    d.ok(&["reload"]);
    eventually("the new one serves", || d.get("db.test", "/version").text() == "2");
    d.ok(&["restart", "web"]);
    assert_ne!(pid(&d, "web"), web_pid);
    assert_eq!((count(&d, "db"), count(&d, "web")), (3, 2));
}

#[test]
fn a_new_instance_waits_for_needs_and_the_old_one_serves() {
    let d = Doorbell::with(&(app("web", &["db"], "", "") + &brittle("")));
    let web = pid(&d, "web");
    fs::write(d.dir.path().join("broken"), "").expect("the file");
    kill(d.app_pid("db").expect("a process"));
    d.wait_for_state("db", "backing_off");
    let told = d.cli(&["restart", "web"]);
    assert_ne!(told.status, 0);
    assert!(told.stderr.contains("needs \"db\", which does not run"), "{}", told.stderr);
    assert_eq!(pid(&d, "web"), web, "the old one serves on");
    fs::remove_file(d.dir.path().join("broken")).expect("the file");
    d.ok(&["restart", "web"]);
    assert_ne!(pid(&d, "web"), web);
}

#[test]
fn a_reload_adds_changes_and_removes_needs() {
    let idle = "idle = { stop_after = \"300ms\" }";
    let web = |needs: &[&str]| app("web", needs, "", "");
    let others = [app("db", &[], "", idle), app("cache", &[], "", idle)].concat();
    let d = Doorbell::with(&(web(&[]) + &others));
    let web_pid = pid(&d, "web");
    assert_eq!(states(&d, &["db", "cache"]), ["stopped"; 2]);
    d.rewrite(&(web(&["db"]) + &others));
    d.ok(&["reload"]);
    d.wait_for_state("db", "ready");
    d.rewrite(&(web(&["cache"]) + &others));
    d.ok(&["reload"]);
    d.wait_for_state("cache", "ready");
    d.wait_for_state("db", "stopped");
    d.rewrite(&web(&["cache"]));
    let refused = d.cli(&["reload"]);
    assert_ne!(refused.status, 0);
    assert!(refused.stderr.contains("there is no app of this id"), "{}", refused.stderr);
    assert_ne!(d.cli(&["check"]).status, 0);
    assert_eq!(d.state("cache"), "ready");
    d.rewrite(&web(&[]));
    d.ok(&["reload"]);
    eventually("it is gone", || count(&d, "cache SIGTERM") == 1);
    assert_eq!(pid(&d, "web"), web_pid, "web ran on through all of it");
}

#[test]
fn apps_that_are_removed_together_go_in_order() {
    let apps = [
        app("web", &["db"], "STOP_DELAY = \"500\"", ""),
        app("db", &[], "", ""),
        app("stays", &[], "", ""),
    ];
    let d = Doorbell::with(&apps.concat());
    assert_eq!(d.get("web.test", "/").status, 200);
    d.rewrite(&apps[2]);
    d.ok(&["reload"]);
    eventually("both are gone", || count(&d, "db SIGTERM") == 1);
    assert!(told(&d, "web ends") < told(&d, "db SIGTERM"), "{:?}", story(&d));
    eventually("nothing is left of them", || !d.metrics().contains("app=\"db\""));
    d.rewrite(&apps.concat());
    d.ok(&["reload"]);
    assert_eq!(d.get("web.test", "/").status, 200);
}

#[test]
fn at_the_shutdown_those_that_need_others_go_first() {
    let d = Doorbell::with(
        &[
            app("web", &["api"], "STOP_DELAY = \"300\"", ""),
            app("api", &["db"], "STOP_DELAY = \"300\"", ""),
            app("db", &[], "", ""),
        ]
        .concat(),
    );
    assert_eq!(d.get("web.test", "/").status, 200);
    // Its folder goes with it; an open file does not.
    let mut told = fs::File::open(d.dir.path().join("story")).expect("the story");
    d.stop();
    let mut story = String::new();
    std::io::Read::read_to_string(&mut told, &mut story).expect("the story");
    let down: Vec<_> = story.lines().skip(3).collect();
    assert_eq!(down, ["web SIGTERM", "web ends", "api SIGTERM", "api ends", "db SIGTERM"]);
}

#[test]
fn who_needs_whom_outlives_the_supervisor() {
    let idle = "idle = { stop_after = \"300ms\" }";
    let frozen = "idle = { freeze_after = \"200ms\" }";
    let apps = [
        app("web", &["db"], "", ""),
        app("light", &["cache"], "", frozen),
        app("db", &[], "", idle),
        app("cache", &[], "", idle),
    ];
    let mut d = Setup::new(&apps.concat()).own_binary().start();
    let before = [pid(&d, "web"), pid(&d, "light")];
    d.wait_for_state("light", "frozen");
    let needed = [d.app_pid("db"), d.app_pid("cache")];
    for round in 0..2 {
        if round == 0 {
            d.kill_supervisor();
            d.start_again();
        } else {
            d.ok(&["upgrade"]);
        }
        within(Duration::from_secs(1), "they are needed", || {
            seems(&d, "db", "ready") && seems(&d, "cache", "ready")
        });
        assert_eq!([d.app_pid("db"), d.app_pid("cache")], needed);
        assert_eq!([pid(&d, "web"), pid(&d, "light")], before);
    }
    assert_eq!(story(&d).len(), 4, "each was started once: {:?}", story(&d));
    kill(d.app_pid("db").expect("a process"));
    eventually("it is back", || count(&d, "db") == 2);
    d.ok(&["stop", "web"]);
    d.wait_for_state("db", "stopped");
}

#[test]
fn a_supervisor_that_is_killed_amid_starts_starts_nothing_twice() {
    let apps = [app("web", &["db"], "", ""), gated("db", &[], "")];
    let mut d = Doorbell::with(&apps.concat());
    let mut client = d.connect();
    client.send_get("web.test", "/pid");
    eventually("the need starts", || count(&d, "db") == 1);
    d.kill_supervisor();
    d.start_again();
    go(&d, "db");
    assert_eq!(client.read().status, 200, "who waited is served");
    assert_eq!(story(&d), ["db", "web"]);
}

#[test]
fn a_websocket_keeps_what_its_app_needs() {
    let idle = "idle = { freeze_after = \"100ms\", stop_after = \"300ms\" }";
    let d = Doorbell::with(&(app("web", &["db"], "", idle) + &app("db", &[], "", idle)));
    let mut socket = WebSocket::open(d.port, "web.test", "/ws").expect("a WebSocket");
    within(Duration::from_secs(1), "both stay", || states(&d, &["web", "db"]) == ["ready"; 2]);
    socket.echo("still here");
    drop(socket);
    d.wait_for_state("db", "stopped");
    assert!(told(&d, "web SIGTERM") < told(&d, "db SIGTERM"));
}
