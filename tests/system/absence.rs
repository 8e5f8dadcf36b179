//! The time in which there is no supervisor, and its return: what operators can do, and what must not
//! go wrong.

use std::{
    fs,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Role, eventually, signal, within};
use rustix::process::Signal;

use crate::{node, reloading::Load};

fn version(number: u32) -> String {
    node("app", &format!("env = {{ VERSION = \"{number}\" }}"))
}

const AWAY: &str = "supervisor is being restarted";

#[test]
fn verbs_without_a_supervisor_say_so_at_once() {
    let mut d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").status, 200);
    d.kill_supervisor();
    for verb in ["start", "stop", "restart", "disable", "enable"] {
        let since = Instant::now();
        let output = d.cli(&[verb, "app"]);
        assert!(output.status != 0 && output.stderr.contains(AWAY), "{verb}: {output:?}");
        assert!(since.elapsed() < Duration::from_secs(5), "{verb}");
    }
    let output = d.cli(&["reload"]);
    assert!(output.status != 0 && output.stderr.contains(AWAY), "{output:?}");
    // What needs no supervisor works.
    assert_eq!(d.state("app"), "ready");
    assert!(d.ok(&["logs", "app"]).contains("listening"));
    assert!(d.metrics().contains("doorbell_http_requests_total"));
    d.start_again();
    d.ok(&["reload"]);
    d.ok(&["restart", "app"]);
    d.ok(&["stop", "app"]);
    assert_eq!(d.app_pids(), [0; 0]);
    assert_eq!(d.get("app.test", "/version").status, 200);
}

#[test]
fn a_verb_whose_supervisor_is_killed_over_it_ends() {
    let mut d = Doorbell::with(&node("app", "env = { START_DELAY = \"20000\" }"));
    let mut verb = std::process::Command::new(doorbell_tests::binary());
    verb.args(["start", "app"]).arg("--config").arg(d.config_path());
    let mut verb = verb.spawn().expect("the binary");
    // Whose process is noted is adopted; before that it would be ended.
    eventually("its process is noted", || d.log().contains(" started app=app"));
    d.kill_supervisor();
    eventually("the verb ends", || {
        verb.try_wait().expect("its status").is_some_and(|status| !status.success())
    });
    d.start_again();
    assert_eq!(d.state("app"), "starting", "what was begun goes on");
    d.ok(&["stop", "app"]);
    assert_eq!(d.app_pids(), [0; 0]);
}

#[test]
fn a_change_that_nobody_could_take_over_is_taken_over_by_the_next_supervisor() {
    let mut d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    d.kill_supervisor();
    d.rewrite(&version(2));
    eventually("the change is seen", || d.log().contains(AWAY));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    d.start_again();
    eventually("it holds", || d.get("app.test", "/version").text() == "2");
    d.rewrite(&version(3));
    d.ok(&["reload"]);
    eventually("the next one too", || d.get("app.test", "/version").text() == "3");
    assert_eq!(d.metric("doorbell_config_last_reload_successful"), Some(1.0));
}

#[test]
fn what_operators_switched_outlives_every_kill() {
    let mut d = Doorbell::with(&[node("off", ""), node("app", "")].concat());
    assert_eq!(d.get("off.test", "/").status, 200);
    d.ok(&["disable", "off"]);
    let is_off = |d: &Doorbell| d.get("off.test", "/").status == 503 && d.app_pids().is_empty();
    assert!(is_off(&d));
    d.kill_supervisor();
    assert!(is_off(&d), "its gate goes on refusing");
    d.start_again();
    eventually("it is off", || is_off(&d));
    d.kill_role(Role::Proxy);
    eventually("it is off", || is_off(&d));
    d.kill_all();
    d.start_again();
    eventually("it is off", || is_off(&d));
    d.ok(&["enable", "off"]);
    assert_eq!(d.get("off.test", "/").status, 200);
}

#[test]
fn a_broken_file_takes_nothing_down_whatever_is_restarted() {
    let mut d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").text(), "1");
    let (pid, roles) = (d.app_pid("app"), (d.proxy_pid(), d.control_pid()));
    let load = Load::on(d.port, "app.test", 3);
    d.rewrite("[app.app]\nhots = [\"typo.test\"]\n");
    eventually("it is refused", || d.log().contains("configuration not loaded"));
    d.kill_supervisor();
    d.begin_again();
    // It may refuse to begin, or go on with what held.
    eventually("it ends, or all is in place", || {
        d.has_ended() || d.log().matches(" is back ").count() == 2
    });
    load.wait_for(50);
    assert_eq!((d.proxy_pid(), d.control_pid()), roles);
    d.rewrite(&version(1));
    if d.has_ended() {
        d.start_again();
    }
    d.rewrite("[app.app]\nhots = [\"typo.test\"]\n");
    eventually("it is refused", || d.metric("doorbell_config_last_reload_successful") == Some(0.0));
    d.kill_role(Role::Control);
    assert_eq!(d.state("app"), "ready");
    assert_eq!(d.app_pid("app"), pid);
    load.wait_for(50);
    load.end_without_failure();
    d.rewrite(&version(2));
    eventually("it is mended", || d.get("app.test", "/version").text() == "2");
}

#[test]
fn a_shutdown_while_roles_are_on_their_way_back_ends_all() {
    let mut d = Doorbell::with(&version(1));
    assert_eq!(d.get("app.test", "/version").status, 200);
    let (roles, apps) = (d.role_pids(), d.app_pids());
    d.kill_supervisor();
    roles.iter().for_each(|pid| signal(*pid, Signal::STOP));
    d.begin_again();
    eventually("it waits for them", || d.log().matches("expected back").count() == 2);
    d.signal(Signal::TERM);
    let since = Instant::now();
    eventually("it ends", || d.has_ended());
    eprintln!("a shutdown during the return took {:?}", since.elapsed());
    assert!(roles.iter().chain(&apps).all(|pid| doorbell_tests::began(*pid).is_none()));
    assert!(!d.list_of_roles().exists());
}

#[test]
fn a_role_that_does_not_come_back_is_replaced() {
    let mut d = Doorbell::with(&version(1));
    let pid = d.get("app.test", "/pid").text();
    let control = d.control_pid();
    d.kill_supervisor();
    signal(control, Signal::STOP);
    d.start_again();
    assert_ne!(d.control_pid(), control);
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    assert_eq!(d.state("app"), "ready");
    d.stop();
}

#[test]
fn a_second_doorbell_on_the_same_folder_disturbs_nobody() {
    let mut d = Doorbell::with(&version(1));
    let pid = d.get("app.test", "/pid").text();
    let (roles, apps) = (d.role_pids(), d.app_pids());
    let config = d.config_path();
    let second = doorbell_tests::tool(&["serve", "--config", &config.to_string_lossy()]);
    assert!(second.status != 0 && second.stderr.contains("in use"), "{second:?}");
    assert_eq!((d.role_pids(), d.app_pids()), (roles, apps));
    within(Duration::from_millis(300), "it is served", || d.get("app.test", "/pid").text() == pid);
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    assert!(fs::exists(d.list_of_roles()).expect("the folder"));
}
