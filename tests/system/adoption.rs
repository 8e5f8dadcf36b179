//! What a supervisor finds of the one before it: apps of every kind, what they print, and what is not
//! theirs.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Role, Setup, began, eventually, kill, within};
use serde_json::{Value, json};

use crate::{crowd::Crowd, node, processes::is_alive, python, roles::is_root};

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

/// All that stands in the log of an app, oldest first.
fn log_of(d: &Doorbell, app: &str) -> String {
    let folder = d.dir.path().join("logs").join(app);
    let mut text = None;
    eventually("it is not rotated while it is read", || {
        let files = log_files(&folder);
        let read: Option<Vec<_>> = files.iter().map(|(path, _)| fs::read(path).ok()).collect();
        let read = read.filter(|_| log_files(&folder) == files);
        text = read.map(|all| all.iter().map(|one| String::from_utf8_lossy(one)).collect());
        text.is_some()
    });
    text.unwrap_or_default()
}

/// The files of a log, oldest first, each with its inode: a name may be another file later.
fn log_files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("its folder")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let inode = fs::metadata(&path).ok()?.ino();
            path.extension().is_some_and(|extension| extension == "log").then_some((path, inode))
        })
        .collect();
    // Rotated ones have a time for a name, and the current one comes last.
    files.sort_by_key(|(path, _)| (path.ends_with("current.log"), path.clone()));
    files
}

/// The numbers in a log: each once, in order, none missing.
#[track_caller]
fn all_numbers(log: &str) -> usize {
    let mut next = 0;
    for line in log.lines().filter(|line| line.starts_with("number ")) {
        let number = line.split(' ').nth(1).and_then(|number| number.parse().ok());
        assert_eq!(number, Some(next), "{line:?}");
        next += 1;
    }
    assert!(log.contains(&format!("numbers end {next}\n")), "{next} numbers, and no end");
    next
}

/// An app that prints numbers until it has enough.
pub(crate) fn counting() -> String {
    let more =
        "env = { ENOUGH_FILE = \"{dir}/enough\" }\nlogs = { max_size = \"256KiB\", keep = 10000 }";
    python("app", "count", more)
}

/// Waits until more stands in the log of the one that counts.
pub(crate) fn grows(d: &Doorbell) {
    let before = log_of(d, "app").len();
    eventually("it is written on", || log_of(d, "app").len() > before);
}

/// Has it print its last number; tells how many there are, of which none is missing.
#[track_caller]
pub(crate) fn numbers_of(d: &Doorbell) -> usize {
    fs::write(d.dir.path().join("enough"), "").expect("a file");
    eventually("the last line is there", || log_of(d, "app").contains("numbers end"));
    all_numbers(&log_of(d, "app"))
}

#[test]
fn no_line_is_lost_or_written_twice_over_upgrades_and_kills_of_the_proxy_under_load() {
    let d = Setup::new(&counting()).own_binary().start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app");
    let crowd = Crowd::on(d.port, "app.test", 4);
    let mut kills = Vec::new();
    for round in 0..10 {
        grows(&d);
        crowd.wait_for(20);
        if round % 2 == 0 {
            d.replace_binary(None);
            d.ok(&["upgrade"]);
        } else {
            let proxy = d.proxy_pid();
            kill(proxy);
            kills.push(Instant::now());
            d.wait_for_successor(Role::Proxy, proxy);
        }
    }
    grows(&d);
    crowd.wait_for(20);
    let (figures, numbers) = (crowd.end(&kills), numbers_of(&d));
    eprintln!("{numbers} lines through 5 upgrades and 5 kills of the proxy: {figures}");
    figures.only_held();
    assert_eq!(d.app_pid("app"), pid);
}

#[test]
fn no_line_is_lost_or_written_twice_whatever_is_killed() {
    let mut d = Doorbell::with(&counting());
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app");
    for kills in 0..13 {
        grows(&d);
        match kills {
            0..10 => d.kill_supervisor(),
            _ => d.kill_all(),
        }
        d.start_again();
        if kills % 4 == 0 {
            d.kill_role(Role::Control);
        }
    }
    grows(&d);
    let numbers = numbers_of(&d);
    eprintln!("{numbers} lines through 10 kills of the supervisor and 3 of everything");
    assert_eq!(d.app_pid("app"), pid);
}

#[test]
fn what_an_app_said_last_without_a_supervisor_is_in_its_log() {
    let more = "env = { ENOUGH_FILE = \"{dir}/enough\" }";
    let mut d = Doorbell::with(&python("app", "count", more));
    assert_eq!(d.get("app.test", "/").status, 200);
    d.kill_supervisor();
    fs::write(d.dir.path().join("enough"), "").expect("a file");
    let pid = d.app_pids()[0];
    eventually("it has said all", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
        tasks.count() == 1
    });
    kill(pid);
    d.start_again();
    eventually("the last line is there", || log_of(&d, "app").contains("numbers end"));
    all_numbers(&log_of(&d, "app"));
}

/// Bytes that wait in the pipe that is a process's standard output, and how many have room in it.
fn in_the_pipe(pid: u32) -> (u64, u64) {
    let pipe = fs::File::open(format!("/proc/{pid}/fd/1")).expect("its output");
    let waiting = rustix::io::ioctl_fionread(&pipe).expect("how many wait");
    let room = rustix::pipe::fcntl_getpipe_size(&pipe).expect("its size");
    (waiting, room.try_into().expect("a size"))
}

#[test]
fn an_app_that_prints_more_than_its_pipe_holds_waits_for_the_next_supervisor() {
    const PAGE: u64 = 4096;
    let more = "env = { BURST_FILE = \"{dir}/burst\" }";
    let mut d = Doorbell::with(&python("app", "burst", more));
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app").expect("a process");
    d.kill_supervisor();
    fs::write(d.dir.path().join("burst"), "").expect("a file");
    eventually("its pipe is full", || {
        let (waiting, room) = in_the_pipe(pid);
        waiting + PAGE > room
    });
    let done = d.dir.path().join("burst.done");
    // Longer than a pipe may be full while there is a supervisor before lines are dropped.
    within(Duration::from_secs(3), "it waits, and answers", || {
        !done.exists() && d.get("app.test", "/").status == 200
    });
    d.begin_again();
    eventually("it goes on", || done.exists());
    d.wait_until_ready();
    eventually("the last line is there", || log_of(&d, "app").contains("numbers end"));
    let log = log_of(&d, "app");
    assert!(log.len() > 1 << 20, "{} bytes are no more than a pipe may hold", log.len());
    all_numbers(&log);
    assert_eq!(d.app_pid("app"), Some(pid));
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
