//! A registry that is newer, locked or full while Doorbell runs: apps go on, who changes one is told, and all is
//! well again by itself.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use doorbell_tests::{Doorbell, Role, eventually, may_mount};

use super::{add, sqlite};
use crate::{
    hardship::{fill, make_room, on_full_disk},
    node,
};

/// With an app that runs and one that sleeps.
fn with_two_apps(d: &Doorbell) {
    add(d, "blog", "blog.test");
    add(d, "asleep", "asleep.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
}

fn file(d: &Doorbell) -> PathBuf {
    d.state_path().join("registry/registry.db")
}

/// Who changes an app is told why it cannot be, and all apps go on as they were.
#[track_caller]
fn goes_on_and_says(d: &Doorbell, why: &str) {
    let pid = d.app_pid("blog").expect("it runs");
    let refused = d.cli(&["app", "set", "blog", "name=x"]);
    assert!(refused.status == 1 && refused.stderr.contains(why), "{refused:?}");
    let refused = d.cli(&["app", "add", "new", "hosts=new.test", "command=true"]);
    assert!(refused.status == 1 && refused.stderr.contains(why), "{refused:?}");
    let answer = d.api_of_stranger().get("/healthz");
    assert_eq!(answer.status, 200);
    for host in ["blog.test", "asleep.test", "main.test"] {
        assert_eq!(d.get(host, "/").status, 200, "{host}");
    }
    assert_eq!(d.app_pid("blog"), Some(pid));
    d.ok(&["stop", "asleep"]);
    d.ok(&["reload"]);
    assert_eq!(d.get("asleep.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), Some(pid));
}

/// Changes are made again, and nothing is told any more.
#[track_caller]
fn is_well_again(d: &Doorbell) {
    eventually("it is written again", || d.cli(&["app", "set", "blog", "name=y"]).status == 0);
    eventually("nothing is told", || !d.ok(&["status"]).contains("warning"));
    assert_eq!(d.status("blog")["name"], "y");
    for host in ["blog.test", "asleep.test", "main.test"] {
        assert_eq!(d.get(host, "/").status, 200, "{host}");
    }
}

#[test]
fn a_registry_that_becomes_newer_costs_no_visit() {
    let d = Doorbell::with(&node("main", ""));
    with_two_apps(&d);
    sqlite(&file(&d), "UPDATE registry SET version = version + 1");
    let why = "changed by a newer doorbell, upgrade this one";
    goes_on_and_says(&d, why);
    eventually("status tells it", || d.ok(&["status"]).contains(why));
    // Nor for a control process that finds it so.
    d.kill_role(Role::Control);
    eventually("another control process", || d.cli(&["status", "blog"]).status == 0);
    goes_on_and_says(&d, why);
    sqlite(&file(&d), "UPDATE registry SET version = version - 1");
    is_well_again(&d);
}

/// Somebody who has the registry locked until this is ended.
struct Lock(Child);

impl Lock {
    fn take(file: &Path) -> Self {
        let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], 60, isolation_level=None)\n\
            c.execute('BEGIN IMMEDIATE')\nprint('taken', flush=True)\nsys.stdin.read()";
        let mut python = Command::new("python3");
        let python = python.args(["-c", script]).arg(file);
        let python = python.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3");
        let mut said = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut said).expect("a line");
        assert_eq!(said, "taken\n");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

#[test]
fn a_registry_that_somebody_locks_costs_no_visit() {
    let d = Doorbell::with(&node("main", ""));
    with_two_apps(&d);
    let lock = Lock::take(&file(&d));
    goes_on_and_says(&d, "busy or locked by another program");
    drop(lock);
    is_well_again(&d);
}

#[test]
fn a_full_disk_for_the_registry_costs_no_visit() {
    if !may_mount() {
        return;
    }
    let d = on_full_disk(&node("main", ""), "state");
    with_two_apps(&d);
    fill(&d, "state");
    // What its log has room for is written yet.
    let big = format!("name={}", "x".repeat(200));
    eventually("there is no room", || {
        let set = d.cli(&["app", "set", "blog", &big]);
        set.status != 0 && set.stderr.contains("no room left on its disk")
    });
    goes_on_and_says(&d, "no room left on its disk");
    make_room(&d, "state");
    is_well_again(&d);
}
