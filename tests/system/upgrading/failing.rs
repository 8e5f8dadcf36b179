//! A binary that cannot take over, or is kept from it, changes nothing.

use std::path::Path;

use doorbell_tests::{Doorbell, Role, WebSocket, eventually};

use super::{lasting, start};
use crate::reloading::Load;

/// A script that does as the real program does, but for what these lines do first.
fn doorbell_but(lines: &str) -> String {
    format!("#!/bin/sh\n{lines}\nexec {} \"$@\"", doorbell_tests::binary().display())
}

/// Lines that are for a rehearsal of the supervisor (`serve`) or the control process (`control`).
fn rehearsing(role: &str, lines: &str) -> String {
    doorbell_but(&format!("case \"$1 $*\" in {role}*--rehearse*) {lines};; esac"))
}

/// Makes a file, and waits until somebody has removed it.
fn until_gone(sign: &Path) -> String {
    format!("touch {0} && while [ -e {0} ]; do sleep 0.01; done", sign.display())
}

/// Processes that stay what they are where an upgrade fails.
fn all(d: &Doorbell) -> ((u32, Option<u32>), u32, u32) {
    (lasting(d), d.proxy_pid(), d.control_pid())
}

#[test]
fn a_binary_that_does_not_come_up_changes_nothing() {
    let d = start("");
    assert_eq!(d.get("app.test", "/").status, 200);
    let before = all(&d);
    let load = Load::on(d.port, "app.test", 2);
    let fails = "echo '{\"fails\": \"the moon is full\"}'; exit 0";
    let refuses = "echo '{\"serves\": {\"refuses\": {\"app x\": \"it is red\"}}}'; exit 0";
    for (script, why) in [
        ("no program at all".to_owned(), "Exec format error"),
        ("#!/nowhere/sh".to_owned(), "No such file"),
        ("#!/bin/sh\nexit 3".to_owned(), "exited with status 3"),
        ("#!/bin/sh\necho hello".to_owned(), "expected"),
        ("#!/bin/sh\necho \"[99]\"".to_owned(), "takes over from [99]"),
        (rehearsing("serve", "exit 4"), "its supervisor cannot be tried: exited with status 4"),
        (rehearsing("serve", fails), "its supervisor would end: the moon is full"),
        (rehearsing("serve", "set serve --nonsense"), "its supervisor cannot be tried: exited"),
        (
            rehearsing("control", "kill -SEGV $$"),
            "its control process cannot be tried: was killed by",
        ),
        (
            rehearsing("control", "echo yes; exit 0"),
            "its control process cannot be tried: expected",
        ),
        (rehearsing("control", fails), "its control process would end: the moon is full"),
        (rehearsing("control", refuses), "it refuses app x: it is red"),
        (doorbell_but("[ $1 = proxy ] && exit 1"), "ended before it served"),
    ] {
        d.replace_binary(Some(&script));
        let output = d.cli(&["upgrade"]);
        assert_eq!(output.status, 1, "{script}: {output:?}");
        assert!(output.stderr.contains(why), "{script}: {output:?}");
        assert_eq!(all(&d), before, "{script}");
        load.wait_for(5);
    }
    d.replace_binary(None);
    d.ok(&["upgrade"]);
    load.wait_for(5);
    load.end_without_failure();
}

#[test]
fn a_binary_that_does_not_understand_what_is_left_to_it_changes_nothing() {
    let d = start("");
    assert_eq!(d.get("app.test", "/").status, 200);
    let before = all(&d);
    let app = std::fs::read_dir(d.state_path().join("run/app")).expect("its folder");
    let record = app.map(|entry| entry.expect("an entry").path());
    let record = record.into_iter().find(|path| path.extension().is_some_and(|it| it == "json"));
    let run = |name: &str| d.state_path().join("run").join(name);
    let left = [run("roles.json"), run("listeners.json"), run("settings.json")];
    for path in left.into_iter().chain(record) {
        let text = std::fs::read(&path).expect("what is left");
        std::fs::write(&path, "[{\"new\": 1}]").expect("what is not understood");
        let output = d.cli(&["upgrade"]);
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(output.stderr.contains(&*name), "{output:?}");
        std::fs::write(&path, text).expect("what was left");
        assert_eq!(all(&d), before, "{name}");
    }
    d.ok(&["upgrade"]);
    assert_eq!(lasting(&d), before.0);
}

#[test]
fn an_upgrade_that_fails_at_its_last_step_changes_nothing() {
    let d = start("");
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    let before = all(&d);
    let load = Load::on(d.port, "app.test", 2);
    // When the new proxy comes up, what is known of apps cannot be written down any more.
    let in_the_way = d.state_path().join("run/carried.json");
    let obstructs = format!("[ $1 = proxy ] && mkdir {}", in_the_way.display());
    d.replace_binary(Some(&doorbell_but(&obstructs)));
    let output = d.cli(&["upgrade"]);
    assert!(output.stderr.contains("cannot become the new binary"), "{output:?}");
    eventually("the new proxy has left", || all(&d) == before);
    load.wait_for(5);
    websocket.echo("still here");
    std::fs::remove_dir(&in_the_way).expect("the folder");
    d.replace_binary(None);
    d.ok(&["upgrade"]);
    load.wait_for(5);
    load.end_without_failure();
}

#[test]
fn an_upgrade_whose_binary_goes_at_its_last_step_fails_nobody() {
    let d = start("");
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    let (before, control) = (lasting(&d), d.control_pid());
    let load = Load::on(d.port, "app.test", 2);
    let shell = d.dir.path().join("sh");
    std::os::unix::fs::symlink("/bin/sh", &shell).expect("a link");
    let script = doorbell_but(&format!("[ $1 = proxy ] && rm {}", shell.display()));
    d.replace_binary(Some(&script.replacen("/bin/sh", &shell.to_string_lossy(), 1)));
    let output = d.cli(&["upgrade"]);
    assert!(output.stderr.contains("cannot become the new binary: No such file"), "{output:?}");
    assert_eq!((lasting(&d), d.control_pid()), (before, control));
    load.wait_for(5);
    websocket.echo("still here");
    d.replace_binary(None);
    d.ok(&["upgrade"]);
    assert_eq!(lasting(&d), before);
    load.wait_for(5);
    load.end_without_failure();
}

#[test]
fn parts_that_are_killed_while_an_upgrade_is_under_way_fail_nobody() {
    for role in [Some(Role::Proxy), Some(Role::Control), None] {
        let mut d = start("");
        let load = Load::on(d.port, "app.test", 2);
        load.wait_for(5);
        let app = d.app_pid("app");
        let began = d.dir.path().join("began");
        let waits = format!("[ $1 = proxy ] && {}", until_gone(&began));
        d.replace_binary(Some(&doorbell_but(&waits)));
        let asked = std::process::Command::new(doorbell_tests::binary())
            .args(["upgrade", "--config"])
            .arg(d.config_path())
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn();
        let mut asked = asked.expect("a question");
        eventually("the new proxy is about to come up", || began.exists());
        match role {
            Some(role) => doorbell_tests::kill(d.role_pid(role)),
            None => d.kill_supervisor(),
        }
        std::fs::remove_file(&began).expect("its sign");
        asked.wait().expect("an end");
        if role.is_none() {
            d.start_again();
        }
        eventually("operators are answered", || d.cli(&["status"]).status == 0);
        load.wait_for(20);
        d.replace_binary(None);
        eventually("it can be upgraded", || d.cli(&["upgrade"]).status == 0);
        load.wait_for(20);
        assert_eq!((d.app_pid("app"), d.starts("app")), (app, 1), "{role:?}: {}", d.log());
        eventually("one of each is left", || d.role_pids().len() == 2);
        let failed = load.end();
        // A proxy that is killed takes with it what it holds.
        let may_fail = if role == Some(Role::Proxy) { 2 } else { 0 };
        assert!(failed.len() <= may_fail, "{role:?}: {failed:?}\n{}", d.log());
    }
}

#[test]
fn a_binary_that_waits_for_its_upgrade_starts_nothing() {
    let d = start("");
    d.replace_binary(Some("#!/bin/sh\nexit 1"));
    for role in [Role::Proxy, Role::Control] {
        let before = d.role_pid(role);
        d.kill_role(role);
        d.wait_for_successor(role, before);
        assert_eq!(d.get("app.test", "/").status, 200);
    }
    eventually("operators are answered", || d.cli(&["status"]).status == 0);
}

#[test]
fn an_upgrade_that_fails_behind_the_death_of_the_old_proxy_leaves_a_proxy() {
    let d = start("");
    let begun = d.dir.path().join("begun");
    let fails = format!("[ $1 = proxy ] && {} && exit 1", until_gone(&begun));
    d.replace_binary(Some(&doorbell_but(&fails)));
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| d.cli(&["upgrade"]));
        eventually("the new proxy is started", || begun.exists());
        doorbell_tests::kill(d.proxy_pid());
        std::fs::remove_file(&begun).expect("its sign");
        assert_eq!(upgrade.join().expect("an answer").status, 1);
    });
    assert_eq!(d.get("app.test", "/").status, 200);
}
