//! Rolling restarts: the new instance is ready before the old one leaves, and where the new one fails
//! the old one stays.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, WebSocket, binary, eventually, free_port, kill};

use crate::{node, reloading::Load};

/// A program that listens once `{dir}/go` is there, ends at once while `{dir}/broken` is, and lists its
/// starts in `{dir}/starts`.
fn moody(more: &str) -> String {
    let script = "test -e {dir}/broken && echo no settings && exit 3; exec node {apps}/node.js";
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n{more}\n\
         [app.app.env]\nSTART_WHEN = \"{{dir}}/go\"\nSTARTS_FILE = \"{{dir}}/starts\"\n"
    )
}

fn put(d: &Doorbell, name: &str) {
    fs::write(d.dir.path().join(name), "").expect("the file");
}

fn take(d: &Doorbell, name: &str) {
    fs::remove_file(d.dir.path().join(name)).expect("the file was there");
}

fn programs_started(d: &Doorbell) -> usize {
    let starts = fs::read_to_string(d.dir.path().join("starts")).unwrap_or_default();
    starts.lines().count()
}

/// One that serves, its process.
fn serving(more: &str) -> (Doorbell, String) {
    let d = Doorbell::with(&moody(more));
    put(&d, "go");
    let pid = d.get("app.test", "/pid").text();
    assert_eq!(programs_started(&d), 1);
    (d, pid)
}

/// Operators who ask for a restart at once; all have been heard when this returns.
fn wishes(d: &Doorbell, count: usize) -> Vec<Child> {
    let heard = || d.log().matches("told by an operator").count();
    let before = heard();
    let ask = |_| {
        let mut command = Command::new(binary());
        command.args(["restart", "app", "--config"]).arg(d.config_path());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary")
    };
    let children = (0..count).map(ask).collect();
    eventually("all were heard", || heard() == before + count);
    children
}

fn all_succeed(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{output:?}");
    }
}

fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
fn several_wishes_make_one_start() {
    let (d, old) = serving("");
    take(&d, "go");
    let operators = wishes(&d, 6);
    eventually("one starts", || programs_started(&d) == 2);
    assert_eq!(d.get("app.test", "/pid").text(), old, "the old one serves meanwhile");
    put(&d, "go");
    all_succeed(operators);
    assert_eq!((d.starts("app"), programs_started(&d)), (2, 2));
    assert_ne!(d.get("app.test", "/pid").text(), old);
    eventually("the old one is gone", || !exists(&old));
}

#[test]
fn a_definition_that_changes_meanwhile_makes_one_start_more() {
    let (d, old) = serving("");
    take(&d, "go");
    let operators = wishes(&d, 3);
    eventually("one starts", || programs_started(&d) == 2);
    d.rewrite(&moody("").replace("[app.app.env]", "[app.app.env]\nVERSION = \"2\""));
    d.ok(&["reload"]);
    eventually("another starts in its place", || programs_started(&d) == 3);
    assert_eq!(d.get("app.test", "/pid").text(), old);
    put(&d, "go");
    all_succeed(operators);
    assert_eq!(d.get("app.test", "/version").text(), "2");
    assert_eq!((d.starts("app"), programs_started(&d)), (2, 3));
}

#[test]
fn one_that_ends_leaves_the_old_one_and_the_operator_is_told_why() {
    let (d, old) = serving("");
    put(&d, "broken");
    let told = d.cli(&["restart", "app"]);
    assert_ne!(told.status, 0);
    let reason = "app \"app\" did not start: exited with status 3";
    assert!(told.stderr.contains(reason), "{}", told.stderr);
    assert_eq!(d.get("app.test", "/pid").text(), old);
    let status = d.ok(&["status", "app"]);
    for words in ["ready", "exited with status 3", "no settings", "1 good, 1 failed"] {
        assert!(status.contains(words), "no {words:?} in {status}");
    }
    take(&d, "broken");
    d.ok(&["restart", "app"]);
    assert_ne!(d.get("app.test", "/pid").text(), old);
    assert!(!d.ok(&["status", "app"]).contains("reason"));
}

#[test]
fn one_that_is_too_late_leaves_the_old_one_and_the_operator_is_told_why() {
    let (d, old) = serving("ready = { deadline = \"2s\" }");
    take(&d, "go");
    let told = d.cli(&["restart", "app"]);
    assert_ne!(told.status, 0);
    assert!(told.stderr.contains("not ready within 2s"), "{}", told.stderr);
    assert_eq!(d.get("app.test", "/pid").text(), old);
    let status = d.ok(&["status", "app"]);
    assert!(status.contains("not ready within 2s"), "{status}");
    eventually("it is ended", || doorbell_tests::apps_of(&d.dir.path().join("state")).len() == 1);
}

#[test]
fn a_changed_definition_that_fails_leaves_the_old_one_and_the_reason() {
    let (d, old) = serving("");
    put(&d, "broken");
    d.rewrite(&moody("").replace("[app.app.env]", "[app.app.env]\nVERSION = \"2\""));
    d.ok(&["reload"]);
    eventually("it fails", || d.status("app")["starts"]["failed"] == 1);
    let status = d.ok(&["status", "app"]);
    assert!(status.contains("ready") && status.contains("exited with status 3"), "{status}");
    assert_eq!(d.get("app.test", "/pid").text(), old);
    take(&d, "broken");
    d.ok(&["restart", "app"]);
    assert_eq!(d.get("app.test", "/version").text(), "2");
}

#[test]
fn no_request_fails_while_restart_follows_restart() {
    let (d, _) = serving("");
    let load = Load::on(d.port, "app.test", 6);
    load.wait_for(100);
    for _ in 0..4 {
        d.ok(&["restart", "app"]);
        load.wait_for(100);
    }
    put(&d, "broken");
    assert_ne!(d.cli(&["restart", "app"]).status, 0);
    load.wait_for(100);
    load.end_without_failure();
    assert_eq!(d.starts("app"), 5);
}

#[test]
fn a_websocket_on_the_old_one_lives_until_its_drain_ends() {
    let (d, old) = serving("stop = { drain = \"6s\" }");
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    let since = Instant::now();
    d.ok(&["restart", "app"]);
    // The restart did not wait for it.
    socket.echo("still open");
    assert_ne!(d.get("app.test", "/pid").text(), old);
    assert_eq!(socket.read(), None, "closed when the drain was over");
    assert!(since.elapsed() >= Duration::from_secs(6), "{:?}", since.elapsed());
}

#[test]
fn a_frozen_app_serves_until_the_new_one_is_ready_and_if_that_fails() {
    let (d, old) = serving("idle = { freeze_after = \"300ms\" }");
    d.wait_for_state("app", "frozen");
    put(&d, "broken");
    assert_ne!(d.cli(&["restart", "app"]).status, 0);
    assert_eq!(d.get("app.test", "/pid").text(), old, "the old one is still there");
    take(&d, "broken");
    d.wait_for_state("app", "frozen");
    take(&d, "go");
    let operators = wishes(&d, 2);
    eventually("one starts", || programs_started(&d) == 2);
    assert_eq!(d.get("app.test", "/pid").text(), old, "the old one serves meanwhile");
    put(&d, "go");
    all_succeed(operators);
    assert_ne!(d.get("app.test", "/pid").text(), old);
    eventually("the old one is gone", || !exists(&old));
}

#[test]
fn an_app_on_a_fixed_port_is_restarted_without_a_failed_request() {
    let port = free_port();
    let d = Doorbell::with(&node("app", &format!("port = {port}")));
    let old = d.get("app.test", "/pid").text();
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(100);
    for starts in 2..4 {
        d.ok(&["restart", "app"]);
        assert_eq!(d.starts("app"), starts);
        load.wait_for(100);
    }
    load.end_without_failure();
    assert_ne!(d.get("app.test", "/pid").text(), old);
}

#[test]
fn an_app_on_a_fixed_port_whose_new_instance_fails_says_so() {
    let (d, old) = serving(&format!("port = {}", free_port()));
    put(&d, "broken");
    let told = d.cli(&["restart", "app"]);
    assert_ne!(told.status, 0);
    assert!(told.stderr.contains("exited with status 3"), "{}", told.stderr);
    assert!(!exists(&old), "two cannot have the port, so there is none to go back to");
    let answer = d.get("app.test", "/");
    assert!(answer.status == 503 && answer.field("retry-after").is_some(), "{answer:?}");
    take(&d, "broken");
    d.ok(&["restart", "app"]);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn an_app_that_backs_off_is_started_at_once() {
    let d = Doorbell::with(&moody("back_off = { initial = \"1h\", max = \"1h\" }"));
    put(&d, "go");
    put(&d, "broken");
    assert_eq!(d.get("app.test", "/").status, 503);
    d.wait_for_state("app", "backing_off");
    let told = d.cli(&["restart", "app"]);
    assert_ne!(told.status, 0);
    assert!(told.stderr.contains("exited with status 3"), "{}", told.stderr);
    take(&d, "broken");
    d.ok(&["restart", "app"]);
    assert_eq!((d.state("app"), d.get("app.test", "/").status), ("ready".to_owned(), 200));
}

/// Three that list their starts by version, and note it if two are replaced at once. One ends at once while
/// `{dir}/broken` has its number, all wait while `{dir}/hold` is there.
fn taking_turns(version: u32) -> String {
    let script = "echo $VERSION:$DOORBELL_REPLICA >>{dir}/starts; \
                  grep -qsx $DOORBELL_REPLICA {dir}/broken && exit 3; \
                  if [ -e {dir}/rolls ]; then mkdir {dir}/turn || echo $DOORBELL_REPLICA >>{dir}/clashes; \
                  sleep .2; rmdir {dir}/turn; fi; \
                  while [ -e {dir}/hold ]; do sleep .02; done; exec node {apps}/node.js";
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ninstances = 3\n\
         ready = {{ deadline = \"20s\" }}\nenv = {{ VERSION = \"{version}\" }}\n"
    )
}

fn three() -> Doorbell {
    let d = Setup::new(&taking_turns(1)).own_binary().start();
    d.ok(&["start", "app"]);
    REPLICAS.iter().for_each(|id| d.wait_for_state(id, "ready"));
    d
}

/// The starts of a version so far.
fn starts_of(d: &Doorbell, version: u32) -> usize {
    let starts = fs::read_to_string(d.dir.path().join("starts")).unwrap_or_default();
    starts.lines().filter(|line| line.starts_with(&format!("{version}:"))).count()
}

const REPLICAS: [&str; 3] = ["app", "app:2", "app:3"];

fn pids(d: &Doorbell) -> [Option<u32>; 3] {
    REPLICAS.map(|id| d.app_pid(id))
}

fn are_all_new(d: &Doorbell, before: [Option<u32>; 3]) -> bool {
    before.iter().zip(pids(d)).all(|(before, now)| now.is_some() && *before != now)
}

#[test]
fn replicas_are_replaced_one_after_another() {
    let d = three();
    put(&d, "rolls");
    let before = pids(&d);
    let load = Load::on(d.port, "app.test", 4);
    d.ok(&["restart", "app"]);
    assert!(are_all_new(&d, before), "an operator's wish");
    let before = pids(&d);
    d.rewrite(&taking_turns(2));
    d.ok(&["reload"]);
    eventually("all are replaced", || are_all_new(&d, before));
    load.end_without_failure();
    assert!(!d.dir.path().join("clashes").exists(), "two were starting at once");
}

#[test]
fn a_replica_whose_new_one_fails_serves_on_and_the_next_is_replaced() {
    let d = three();
    put(&d, "rolls");
    let before = pids(&d);
    d.write_file("broken", "2\n");
    let told = d.cli(&["restart", "app"]);
    assert!(told.status != 0 && told.stderr.contains("exited with status 3"), "{told:?}");
    let after = pids(&d);
    assert_eq!(after[1], before[1]);
    assert!(after[0] != before[0] && after[2] != before[2], "{before:?} {after:?}");
    assert!(!d.dir.path().join("clashes").exists(), "two were starting at once");
}

#[test]
fn replicas_whose_turn_has_not_come_are_started_as_they_are_defined_last() {
    let d = three();
    let before = pids(&d);
    put(&d, "hold");
    for version in [2, 3] {
        d.rewrite(&taking_turns(version));
        d.ok(&["reload"]);
        eventually("one is to be replaced", || starts_of(&d, version) == 1);
    }
    take(&d, "hold");
    eventually("all are replaced", || are_all_new(&d, before));
    eventually("by the last version", || starts_of(&d, 3) == 3);
    assert_eq!(starts_of(&d, 2), 1, "of what was to be replaced again");
}

#[test]
fn a_replica_that_ends_while_it_waits_for_its_turn_starts_at_once() {
    let d = three();
    let before = pids(&d);
    put(&d, "hold");
    let mut restart = d.spawn(&["restart", "app"]);
    eventually("the first one is being replaced", || starts_of(&d, 1) == 4);
    assert_eq!(REPLICAS.map(|id| d.state(id)), ["ready"; 3]);
    before.iter().flatten().for_each(|pid| kill(*pid));
    eventually("all start", || starts_of(&d, 1) == 6);
    take(&d, "hold");
    assert_eq!(restart.wait(), 0);
    assert!(are_all_new(&d, before));
}

#[test]
fn a_wish_for_one_in_the_midst_of_a_restart_of_all_makes_no_start_more() {
    let d = three();
    let before = pids(&d);
    put(&d, "hold");
    let mut all = d.spawn(&["restart", "app"]);
    eventually("the first one is being replaced", || starts_of(&d, 1) == 4);
    let heard = || d.log().matches("told by an operator").count();
    let heard_before = heard();
    let mut one = d.spawn(&["restart", "app:3"]);
    eventually("it is heard", || heard() > heard_before);
    take(&d, "hold");
    assert_eq!((all.wait(), one.wait(), starts_of(&d, 1)), (0, 0, 6));
    assert!(are_all_new(&d, before));
}

#[test]
fn an_upgrade_in_the_midst_of_a_restart_goes_on_with_it() {
    let d = three();
    let before = pids(&d);
    put(&d, "hold");
    let _restart = d.spawn(&["restart", "app"]);
    eventually("the first one is being replaced", || starts_of(&d, 1) == 4);
    d.ok(&["upgrade"]);
    take(&d, "hold");
    eventually("all are replaced", || are_all_new(&d, before));
    assert_eq!(starts_of(&d, 1), 6);
}
