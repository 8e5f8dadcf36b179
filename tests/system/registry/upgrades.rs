//! What is run before the first start of a version.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Postgres, Role, Setup, app_dir, eventually, eventually_within};

use super::on;
use crate::node;

/// An app that notes each run of its upgrade, which does something then.
fn app(version: &str, then: &str, more: &str) -> String {
    let upgrade = format!("[\"sh\", \"-c\", \"{}\", \"sh\", \"{{version}}\"]", script(then));
    with_upgrade(version, &upgrade, more)
}

fn with_upgrade(version: &str, upgrade: &str, more: &str) -> String {
    let server = app_dir().join("server.py");
    format!(
        "[app.blog]\nhosts = [\"blog.test\"]\nversion = \"{version}\"\nupgrade = {upgrade}\n\
         command = [\"python3\", \"{}\", \"plain\"]\n{more}\n",
        server.display(),
    )
}

fn script(then: &str) -> String {
    format!("echo $1 >> runs; {then}")
}

/// The versions that it was run for.
fn runs(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("runs")).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn runs_of(d: &Doorbell) -> String {
    runs(d.dir.path())
}

/// Lets upgrades go on that wait for it.
fn go(d: &Doorbell) -> PathBuf {
    let path = d.dir.path().join("go");
    fs::write(&path, "").expect("a file");
    path
}

const UNTIL_GO: &str = "while [ ! -e go ]; do sleep 0.05; done";

#[test]
fn it_is_run_once_for_each_version_before_its_first_start() {
    let more = "secret = \"auto\"\nenv = { KEY = \"{secret}\" }";
    let then = "echo its key has $(printf %s $KEY | wc -c) digits, for $DOORBELL_APP";
    let mut d = Doorbell::with(&app("1", then, more));
    assert_eq!(runs_of(&d), "");
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1");
    let log = d.ok(&["logs", "blog"]);
    for words in ["upgrade to version \"1\" started", "its key has 64 digits, for blog"] {
        assert!(log.contains(words), "{log}");
    }
    d.ok(&["restart", "blog"]);
    d.stop_and_start_again();
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1");
    let before = d.app_pid("blog");
    d.rewrite(&app("2", then, more));
    eventually("the new version serves", || {
        assert_eq!(d.get("blog.test", "/").status, 200);
        d.app_pid("blog").is_some_and(|pid| Some(pid) != before && d.state("blog") == "ready")
    });
    assert_eq!(runs_of(&d), "1 2");
}

#[test]
fn one_that_fails_fails_the_start_and_what_served_goes_on() {
    let d = Doorbell::with(&app("1", "true", ""));
    assert_eq!(d.get("blog.test", "/").status, 200);
    let before = d.app_pid("blog");
    d.rewrite(&app("2", "echo no such column; exit 3", ""));
    let told = || d.status("blog")["reason"].to_string();
    eventually("it is told", || told().contains("upgrade to version"));
    assert!(told().contains("failed: exited with status 3"), "{}", told());
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), before);
    assert!(d.status("blog")["last_output"].to_string().contains("no such column"));
    // Back to the last good version: there is nothing to do.
    d.rewrite(&app("1", "exit 4", ""));
    d.ok(&["reload"]);
    d.ok(&["restart", "blog"]);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert!(!told().contains("upgrade"), "{}", told());
    assert!(runs_of(&d).starts_with("1 2") && !runs_of(&d).ends_with('1'), "{}", runs_of(&d));
}

#[test]
fn a_visitor_is_told_that_a_start_failed_and_an_operator_why() {
    let d = Doorbell::with(&app("1", "echo out of luck >&2; exit 1", ""));
    let answer = d.get("blog.test", "/");
    assert_eq!(answer.status, 503);
    assert!(!answer.text().contains("luck"), "{}", answer.text());
    let status = d.status("blog");
    assert_eq!(
        (status["state"].as_str(), status["failed_step"].as_str()),
        (Some("failed"), Some("upgrade"))
    );
    assert!(status["last_output"].to_string().contains("out of luck"), "{status}");
    // Whoever mends it need not say more.
    d.rewrite(&app("1", "true", ""));
    d.ok(&["reload"]);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1 1");
}

#[test]
fn one_that_failed_is_not_run_again_before_an_operator_decides() {
    let more = "start = \"always\"\nback_off = { initial = \"10ms\", max = \"10ms\" }";
    let apps = app("1", "exit 1", more) + &node("other", "needs = [\"blog\"]");
    let mut d = Setup::new(&apps).own_binary().start();
    d.wait_for_state("blog", "failed");
    d.ok(&["stop", "blog"]);
    for host in ["blog.test", "other.test", "blog.test"] {
        let answer = d.get(host, "/");
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("60")), "{host}");
    }
    let reason = d.status("other")["reason"].to_string();
    assert!(reason.contains("blog") && reason.contains("its upgrade to version"), "{reason}");
    let metrics = d.metrics();
    assert!(metrics.contains("doorbell_app_state{app=\"blog\",state=\"failed\"} 1"), "{metrics}");
    // Nor by a Doorbell that comes after this one.
    d.ok(&["upgrade"]);
    assert_eq!(d.get("blog.test", "/").status, 503);
    assert_eq!((d.state("blog"), runs_of(&d)), ("failed".to_owned(), "1".to_owned()));
    let refused = d.cli(&["start", "blog"]);
    assert!(refused.status != 0 && refused.stderr.contains("exited with status 1"), "{refused:?}");
    assert_eq!(runs_of(&d), "1 1");
    d.stop_and_start_again();
    d.wait_for_state("blog", "failed");
    let reason = d.status("blog")["reason"].to_string();
    assert!(reason.contains("exited with status 1"), "{reason}");
    assert_eq!(runs_of(&d), "1 1");
    d.rewrite(&(app("2", "true", more) + &node("other", "needs = [\"blog\"]")));
    eventually("the next version serves", || d.state("blog") == "ready");
    assert_eq!(d.get("other.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1 1 2");
}

#[test]
fn what_served_before_is_no_reason_to_run_it_again() {
    let d = Doorbell::with(&app("1", "true", ""));
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.rewrite(&app("2", "exit 3", ""));
    eventually("it has failed", || runs_of(&d) == "1 2" && d.state("blog") == "ready");
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.ok(&["stop", "blog"]);
    for _ in 0..2 {
        assert_eq!(d.get("blog.test", "/").status, 503);
        assert_eq!((d.state("blog"), runs_of(&d)), ("failed".to_owned(), "1 2".to_owned()));
    }
    // Back to the last good version.
    d.rewrite(&app("1", "exit 4", ""));
    d.ok(&["reload"]);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1 2");
}

#[test]
fn one_that_fails_has_failed_for_all_replicas() {
    let more = "instances = 3\nstart = \"always\"";
    let limits = "[server.limits]\nparallel_starts = 1";
    let d = Setup::new(&app("1", "exit 7", more)).server(limits).start();
    for replica in ["blog", "blog:2", "blog:3"] {
        d.wait_for_state(replica, "failed");
    }
    assert_eq!(runs_of(&d), "1");
}

#[test]
fn one_that_fails_has_failed_for_all_who_wait_for_it() {
    let d = Doorbell::with(&app("1", &format!("{UNTIL_GO}; exit 7"), "instances = 3"));
    let mut first = d.connect();
    first.send_get("blog.test", "/");
    eventually("the others wait", || {
        ["blog:2", "blog:3"].iter().all(|replica| d.state(replica) == "starting")
    });
    go(&d);
    assert_eq!(first.read().status, 503);
    d.wait_for_state("blog", "failed");
    assert_eq!(d.get("blog.test", "/").status, 503);
    assert_eq!(runs_of(&d), "1");
    d.rewrite(&app("1", "true", "instances = 3"));
    d.ok(&["reload"]);
    assert_eq!(d.get("blog.test", "/").status, 200);
    eventually("all serve", || d.app_pids().len() == 3);
    assert_eq!(runs_of(&d), "1 1");
}

#[test]
fn it_has_a_deadline_of_its_own() {
    let slow = app("1", "sleep 6", "ready = { deadline = \"5s\" }");
    let d = Doorbell::with(&slow);
    assert_eq!(d.get("blog.test", "/").status, 200, "it takes longer than a start may");
    let command = "[\"sh\", \"-c\", \"exec sleep 1234\"]";
    let endless = format!("{{ command = {command}, deadline = \"1s\" }}");
    d.rewrite(&with_upgrade("2", &endless, ""));
    eventually("it is told", || {
        d.status("blog")["reason"].to_string().contains("it was ended at its deadline")
    });
    eventually("it is ended", || doorbell_tests::pids_matching("sleep 1234").is_empty());
    assert_eq!(d.get("blog.test", "/").status, 200);
}

#[test]
fn replicas_wait_for_one() {
    let d = Doorbell::with(&app("1", UNTIL_GO, "instances = 3"));
    let mut first = d.connect();
    first.send_get("blog.test", "/");
    eventually("it is begun", || runs_of(&d) == "1");
    assert!(!d.log().contains("started app=blog"), "{}", d.log());
    go(&d);
    assert_eq!(first.read().status, 200);
    eventually("all serve", || d.app_pids().len() == 3);
    assert_eq!(runs_of(&d), "1");
}

#[test]
fn who_waits_for_it_waits_longer_than_a_start_may() {
    let more = "instances = 3\nready = { deadline = \"4s\" }";
    let limits = "[server.limits]\nparallel_starts = 2";
    let apps = app("1", UNTIL_GO, more) + &node("other", "");
    let d = Setup::new(&apps).server(limits).start();
    let mut first = d.connect();
    first.send_get("blog.test", "/");
    eventually("it is begun", || runs_of(&d) == "1");
    // Who only waits takes nobody's place.
    assert_eq!(d.get("other.test", "/").status, 200);
    let since = Instant::now();
    eventually("a start would have failed", || since.elapsed() > Duration::from_secs(6));
    go(&d);
    assert_eq!(first.read().status, 200);
    eventually("all serve", || d.log().matches("ready app=blog").count() == 3);
    assert!(!d.log().contains("start failed"), "{}", d.log());
    assert_eq!(runs_of(&d), "1");
}

#[test]
fn one_whose_definition_is_gone_meanwhile_is_ended() {
    let mut d = Doorbell::with(&app("1", "exec sleep 4321", ""));
    let mut client = d.connect();
    client.send_get("blog.test", "/");
    eventually("it runs", || !doorbell_tests::pids_matching("sleep 4321").is_empty());
    d.kill_supervisor();
    d.rewrite(&app("1", "", "").replace("upgrade = ", "# "));
    d.start_again();
    eventually("it is ended", || doorbell_tests::pids_matching("sleep 4321").is_empty());
    assert_eq!(d.get("blog.test", "/").status, 200);
}

#[test]
fn a_definition_that_changes_meanwhile_runs_its_own() {
    let d = Doorbell::with(&app("1", UNTIL_GO, ""));
    let mut client = d.connect();
    client.send_get("blog.test", "/");
    eventually("it runs", || runs_of(&d) == "1");
    d.rewrite(&app("2", "true", ""));
    d.ok(&["reload"]);
    assert_eq!(client.read().status, 200);
    assert_eq!(runs_of(&d), "1 2");
    d.ok(&["restart", "blog"]);
    assert_eq!(runs_of(&d), "1 2", "once");
}

#[test]
fn one_that_cannot_be_noted_is_not_run_again() {
    let postgres = Postgres::start();
    let server = format!("registry = \"{}\"", postgres.database());
    let apps = app("1", UNTIL_GO, "") + &node("main", "");
    let d = Setup::new(&apps).server(&server).start();
    let mut client = d.connect();
    client.send_get("blog.test", "/");
    eventually("it runs", || runs_of(&d) == "1");
    postgres.stop();
    go(&d);
    assert_eq!(client.read().status, 200);
    postgres.resume();
    eventually("the registry answers", || !d.ok(&["status"]).contains("registry"));
    d.ok(&["restart", "blog"]);
    assert_eq!(runs_of(&d), "1");
    assert!(d.ok(&["audit"]).contains("upgrade app"));
}

#[test]
fn of_two_doorbells_one_runs_it() {
    let place = Postgres::shared().database();
    let (a, b) = (on(&place), on(&place));
    let folder = tempfile::tempdir().expect("a folder");
    let then = script(UNTIL_GO);
    let upgrade = format!("upgrade=[\"sh\", \"-c\", \"{then}\", \"sh\", \"{{version}}\"]");
    let directory = format!("directory={}", folder.path().display());
    let server = app_dir().join("server.py");
    let command = format!("command=[\"python3\", \"{}\", \"plain\"]", server.display());
    a.ok(&["app", "add", "blog", "hosts=blog.test", "version=1", &command, &upgrade, &directory]);
    eventually("the other sees it", || b.cli(&["status", "blog"]).status == 0);
    let (mut at_a, mut at_b) = (a.connect(), b.connect());
    at_a.send_get("blog.test", "/");
    eventually("it is begun", || runs(folder.path()) == "1");
    at_b.send_get("blog.test", "/");
    eventually("the other one waits", || b.state("blog") == "starting");
    fs::write(folder.path().join("go"), "").expect("a file");
    assert_eq!((at_a.read().status, at_b.read().status), (200, 200));
    assert_eq!(runs(folder.path()), "1");
    assert!(a.ok(&["audit"]).contains("upgrade app"));
    // One that fails has failed for both.
    fs::remove_file(folder.path().join("go")).expect("a file");
    let fails = format!("{}; exit 5", script(UNTIL_GO));
    let fails = format!("upgrade=[\"sh\", \"-c\", \"{fails}\", \"sh\", \"{{version}}\"]");
    a.ok(&["app", "set", "blog", "version=2", "start=always", &fails]);
    eventually("it is begun", || runs(folder.path()) == "1 2");
    fs::write(folder.path().join("go"), "").expect("a file");
    for d in [&a, &b] {
        eventually("it is told", || {
            d.status("blog")["reason"].to_string().contains("exited with status 5")
        });
        assert_eq!(d.get("blog.test", "/").status, 200, "as it was");
    }
    assert_eq!(runs(folder.path()), "1 2");
    // Back to the last good one: it holds for both, and nothing is run for it.
    a.ok(&["app", "set", "blog", "version=1"]);
    for d in [&a, &b] {
        eventually("it is well again", || {
            let status = d.status("blog");
            status["state"] == "ready" && status["reason"].is_null()
        });
        assert_eq!(d.get("blog.test", "/").status, 200);
        assert!(d.ok(&["app", "show", "blog"]).contains("version = \"1\""));
    }
    assert_eq!(runs(folder.path()), "1 2");
    // Another app of that id begins anew.
    a.ok(&["app", "delete", "blog", "--yes"]);
    a.ok(&["app", "add", "blog", "hosts=blog.test", "version=1", &command, &upgrade, &directory]);
    assert_eq!(a.get("blog.test", "/").status, 200);
    assert_eq!(runs(folder.path()), "1 2 1");
}

#[test]
fn it_outlives_the_parts_of_doorbell() {
    let mut d = Doorbell::with(&app("1", UNTIL_GO, ""));
    let begun = |d: &Doorbell| {
        let mut client = d.connect();
        client.send_get("blog.test", "/");
        client
    };
    let client = begun(&d);
    eventually("it runs", || runs_of(&d) == "1");
    let running = d.app_pid("blog");
    d.kill_role(Role::Control);
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.app_pid("blog"), running, "it was taken up");
    drop(client);
    let mut client = begun(&d);
    go(&d);
    assert_eq!(client.read().status, 200);
    // Nobody could tell how it had ended.
    assert_eq!(runs_of(&d), "1 1");
}

#[test]
fn a_new_doorbell_goes_on_with_it() {
    let d = Setup::new(&app("1", UNTIL_GO, "")).own_binary().start();
    let mut client = d.connect();
    client.send_get("blog.test", "/");
    eventually("it runs", || runs_of(&d) == "1");
    d.ok(&["upgrade"]);
    go(&d);
    assert_eq!(client.read().status, 200);
    assert_eq!(runs_of(&d), "1");
}

#[test]
fn an_operator_can_end_it() {
    let d = Doorbell::with(&app("1", UNTIL_GO, ""));
    let mut client = d.connect();
    client.send_get("blog.test", "/");
    eventually("it runs", || runs_of(&d) == "1");
    let since = Instant::now();
    d.ok(&["stop", "blog"]);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    eventually_within(Duration::from_secs(5), "it is gone", || d.app_pids().is_empty());
    go(&d);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(runs_of(&d), "1 1");
    drop(client);
}

#[test]
fn an_app_that_is_up_to_date_starts_while_the_registry_is_down() {
    let postgres = Postgres::start();
    let place = postgres.database();
    let server = format!("registry = \"{place}\"");
    let d = Setup::new(&(app("1", "true", "") + &node("main", ""))).server(&server).start();
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.ok(&["stop", "blog"]);
    postgres.stop();
    eventually("it is noticed", || d.cli(&["status"]).stdout.contains("registry"));
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.rewrite(&(app("2", "true", "") + &node("main", "")));
    eventually("it is told", || {
        d.status("blog")["reason"].to_string().contains("whether it is to be upgraded")
    });
    assert_eq!(d.get("blog.test", "/").status, 200, "as it was");
    postgres.resume();
    eventually("it is upgraded", || {
        d.cli(&["restart", "blog"]).status == 0 && runs_of(&d) == "1 2"
    });
}
