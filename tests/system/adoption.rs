//! What a supervisor finds of the one before it: apps of every kind, and what is not theirs.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use doorbell_tests::{Doorbell, Role, Setup, began, eventually, kill};
use serde_json::{Value, json};

use crate::{node, processes::is_alive, python, roles::is_root};

pub(crate) mod output;

/// An app for each way to be ready and to run.
const KINDS: [&str; 7] =
    ["connect", "http", "notify", "activated", "socket", "wrapped", "wanderer"];

fn apps_of_every_kind() -> String {
    [
        node("connect", ""),
        python("http", "", "ready = { http = \"/healthz\", status = 200, body = \"ok\" }"),
        python("notify", "notify", "ready = \"notify\""),
        node("activated", "ready = \"socket_activation\""),
        node("socket", "env = { SOCKET = \"{socket}\" }"),
        python("wrapped", "wrapper", ""),
        python("wanderer", "fork", ""),
    ]
    .concat()
}

fn visit_all(d: &Doorbell) {
    for id in KINDS {
        let answer = d.get(&format!("{id}.test"), "/x");
        assert_eq!(answer.status, 200, "{id}: {}\n{}", answer.text(), d.log());
    }
}

#[test]
fn apps_of_every_kind_are_taken_up_as_they_are() {
    let mut d = Doorbell::with(&apps_of_every_kind());
    visit_all(&d);
    let before = d.app_pids();
    assert_eq!(before.len(), KINDS.len() + 1, "the wrapper is two");
    d.kill_supervisor();
    d.start_again();
    visit_all(&d);
    assert_eq!(d.app_pids(), before, "{}", d.log());
    d.kill_all();
    d.start_again();
    visit_all(&d);
    assert_eq!(d.app_pids(), before, "{}", d.log());
    for id in KINDS {
        assert_eq!(d.state(id), "ready", "{id}");
        d.ok(&["start", id]);
    }
    assert_eq!(d.app_pids(), before, "who runs is not started");
    for id in KINDS {
        d.ok(&["stop", id]);
    }
    assert_eq!(d.app_pids(), [0; 0], "whole trees end");
    visit_all(&d);
    d.stop();
}

#[test]
fn apps_that_were_taken_up_are_restarted_as_a_whole() {
    let mut d = Doorbell::with(&apps_of_every_kind());
    visit_all(&d);
    let before = d.app_pids();
    d.kill_all();
    d.start_again();
    for id in KINDS {
        d.ok(&["restart", id]);
    }
    visit_all(&d);
    eventually("the old ones are gone", || before.iter().all(|pid| !is_alive(*pid)));
    eventually("each runs once", || d.app_pids().len() == before.len());
}

#[test]
fn apps_that_were_taken_up_stop_when_nobody_needs_them() {
    let idle = "idle = { stop_after = \"1s\" }";
    let apps = [node("app", idle), python("wrapped", "wrapper", idle)].concat();
    let mut d = Doorbell::with(&apps);
    for id in ["app", "wrapped"] {
        assert_eq!(d.get(&format!("{id}.test"), "/").status, 200);
    }
    d.kill_supervisor();
    d.start_again();
    eventually("they stop", || d.app_pids().is_empty());
    for id in ["app", "wrapped"] {
        d.wait_for_state(id, "stopped");
        assert_eq!(d.get(&format!("{id}.test"), "/").status, 200);
    }
}

#[test]
fn an_app_that_died_while_doorbell_was_dead_is_started_by_its_next_visit() {
    let mut d = Doorbell::with(&node("app", ""));
    let pid = d.get("app.test", "/pid").text();
    d.kill_all();
    kill(pid.parse().expect("a pid"));
    d.start_again();
    assert_ne!(d.get("app.test", "/pid").text(), pid);
    assert_eq!(d.app_pids().len(), 1);
}

/// A process that has nothing to do with any doorbell.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("sleep"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn lives(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The records of an app's instances.
fn records(d: &Doorbell, app: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(d.state_path().join("run").join(app)).expect("its folder");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

fn edit(path: &Path, changes: &[(&str, u64)]) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).expect("it")).expect("JSON");
    for (name, value) in changes {
        record[*name] = json!(value);
    }
    fs::write(path, record.to_string()).expect("to write");
}

#[test]
fn a_pid_that_is_another_process_now_is_never_taken_up_nor_ended() {
    let apps = ["dead", "later", "lives"].map(|id| node(id, "")).concat();
    let mut d = Doorbell::with(&apps);
    let pids: BTreeMap<_, u32> = ["dead", "later", "lives"]
        .into_iter()
        .map(|id| (id, d.get(&format!("{id}.test"), "/pid").text().parse().expect("a pid")))
        .collect();
    let mut other = Bystander::new();
    let (pid, born) = (other.pid(), began(other.pid()).expect("it runs"));
    d.kill_all();
    kill(pids["dead"]);
    kill(pids["later"]);
    let is_bystander = [("pid", u64::from(pid)), ("began", born)];
    // Even one that began in the same tick; then one that began later; then a record that lies.
    edit(&records(&d, "dead")[0], &is_bystander);
    edit(&records(&d, "later")[0], &[("pid", u64::from(pid)), ("began", born - 1)]);
    edit(&records(&d, "lives")[0], &is_bystander);
    d.start_again();
    for id in pids.keys() {
        let now: u32 = d.get(&format!("{id}.test"), "/pid").text().parse().expect("a pid");
        assert_eq!(now == pids[id], *id == "lives", "{id}: {now}, {pids:?}");
        d.ok(&["stop", id]);
    }
    assert_eq!(d.app_pids(), [0; 0]);
    assert!(other.lives());
    d.stop();
    assert!(other.lives());
}

#[test]
fn garbage_in_the_state_folder_is_passed_over() {
    let mut d = Doorbell::with(&[node("app", ""), node("other", "")].concat());
    let pid = d.get("app.test", "/pid").text();
    assert_eq!(d.get("other.test", "/").status, 200);
    d.kill_all();
    let run = d.state_path().join("run");
    fs::write(d.list_of_roles(), "[{\"role\":").expect("to write");
    fs::write(&records(&d, "app")[0], b"\xff\0{").expect("to write");
    fs::write(run.join("other/zzz.json"), "[]").expect("to write");
    fs::write(run.join("other/half.new"), "{").expect("to write");
    fs::create_dir_all(run.join("nobody/x.json")).expect("to make");
    fs::write(run.join("roles.new"), "?").expect("to write");
    d.start_again();
    assert_eq!(d.get("other.test", "/").status, 200);
    assert_ne!(d.get("app.test", "/pid").text(), pid, "nothing is known of the old one");
    assert_eq!(d.app_pids().len(), 2, "which is gone");
    d.stop();
}

#[test]
fn a_stranger_who_calls_as_a_role_is_nobody() {
    let mut d = Doorbell::with(&node("app", ""));
    let roles = (d.proxy_pid(), d.control_pid());
    let call = |d: &Doorbell| {
        let door = d.state_path().join("run/roles.sock");
        let mut stranger = UnixStream::connect(door).expect("the door");
        // It may be shut by then.
        drop(stranger.write_all(b"\x05\0\0\0\0hello"));
        let mut heard = Vec::new();
        // Reset, if it was shut before it was read.
        drop(stranger.read_to_end(&mut heard));
        assert_eq!(heard, b"");
    };
    call(&d);
    d.kill_supervisor();
    d.begin_again();
    eventually("the door is open", || {
        UnixStream::connect(d.state_path().join("run/roles.sock")).is_ok()
    });
    call(&d);
    d.wait_until_ready();
    call(&d);
    assert_eq!((d.proxy_pid(), d.control_pid()), roles);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn with_one_user_that_is_not_root_parts_outlive_each_other_too() {
    const NOBODY: u32 = 65534;
    if !is_root() {
        // All tests show it then.
        return;
    }
    let apps = node("app", "env = { STARTS_FILE = \"{dir}/starts\" }");
    let mut d = Setup::new(&apps).user(NOBODY).start();
    let pid = d.get("app.test", "/pid").text();
    for own in d.pids() {
        let status = fs::read_to_string(format!("/proc/{own}/status")).expect("status");
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}")), "{status}");
    }
    d.kill_role(Role::Proxy);
    d.kill_role(Role::Control);
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.kill_supervisor();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.start_again();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.kill_all();
    d.start_again();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.ok(&["restart", "app"]);
    eventually("the old one is gone", || d.app_pids().len() == 1);
    d.stop();
}
