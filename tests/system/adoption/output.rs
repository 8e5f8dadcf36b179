//! What apps print is in their logs once, whatever is killed or replaced meanwhile.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Role, Setup, eventually, kill, within};

use crate::{crowd::Crowd, python};

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
