//! What may go wrong around apps: floods of output, full disks, no descriptors, heaps of dead processes,
//! and machines that can do less than others. Nobody else may notice, and what is left goes on.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use doorbell_tests::{Connection, Doorbell, Setup, eventually, may_mount};
use rustix::process::{Pid, Resource, Rlimit};

use crate::{
    frost::{process_state, stands_still},
    node,
};

fn greedy(more: &str) -> String {
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"/usr/bin/python3\", \"{{apps}}/greedy.py\"]\n\
         directory = \"/\"\n{more}\n"
    )
}

fn app_log(d: &Doorbell) -> PathBuf {
    d.dir.path().join("logs/app")
}

/// All that is in the log of the app, of which it sees a folder as another process does.
fn logged(folder: &PathBuf) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // The current one is called `current.log`, behind all that begin with a year.
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// A figure in KiB of a process's memory, proc(5).
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("KiB")
}

#[test]
fn a_flood_of_output_is_bounded_and_harms_nobody_else() {
    let logs = "logs = { max_size = \"1MiB\", keep = 2 }";
    let d = Doorbell::with(&(greedy(logs) + &node("other", "")));
    assert_eq!(d.get("other.test", "/").status, 200);
    assert_eq!(d.get("app.test", "/").status, 200);
    let before = memory(d.pid(), "VmRSS:");
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let last = d.get("app.test", "/show/300").text();
            is_over.store(true, Ordering::Relaxed);
            last
        });
        while !is_over.load(Ordering::Relaxed) {
            assert_eq!(d.get("other.test", "/").status, 200);
        }
        flood.join().expect("the flood")
    });
    eventually("the last line is there", || logged(&app_log(&d)).contains(&format!(" {last}\n")));
    let text = logged(&app_log(&d));
    assert!(text.len() <= 3 << 20, "{} bytes are kept", text.len());
    let numbers = text.lines().filter_map(|line| line.strip_prefix("line ")?.trim().parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let lost = text.lines().any(|line| line.contains("lines lost"));
    let is_whole = numbers.is_sorted_by(|one, next| one + 1 == *next);
    assert!(is_whole || lost && numbers.is_sorted(), "lines are missing or out of order");
    let after = memory(d.pid(), "VmRSS:");
    assert!(after < before + (32 << 10), "the supervisor grew from {before} to {after} KiB");
}

/// A disk of its own for a folder, which is small and full; what is below is seen at the second path.
pub(crate) fn on_full_disk(app: &str, folder: &str) -> Doorbell {
    let script = format!(
        "mkdir -p {folder}\nmount -t tmpfs -o size=4m tmpfs {folder}\n\
         head -c 3500000 /dev/zero > {folder}/filler"
    );
    Setup::new(app).mounts(&script).start()
}

/// A path as that doorbell sees it.
fn inside(d: &Doorbell, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}/{path}", d.pid(), d.dir.path().display()))
}

pub(crate) fn fill(d: &Doorbell, folder: &str) {
    // To the last byte: how much that is, the file system knows.
    let rest = inside(d, folder).join("rest");
    let filled = fs::write(&rest, vec![b'x'; 8 << 20]);
    assert!(filled.is_err(), "the disk has no end");
}

pub(crate) fn make_room(d: &Doorbell, folder: &str) {
    for file in ["rest", "filler"] {
        fs::remove_file(inside(d, folder).join(file)).expect("the file");
    }
}

#[test]
fn a_full_disk_for_logs_stops_no_app_and_what_is_lost_is_told() {
    if !may_mount() {
        return;
    }
    let d = on_full_disk(&greedy("logs = { max_size = \"1MiB\", keep = 2 }"), "logs");
    assert_eq!(d.get("app.test", "/show/1").text(), "16383");
    fill(&d, "logs");
    assert_eq!(d.get("app.test", "/show/3").text(), "49151");
    assert_eq!(d.get("app.test", "/pid").status, 200);
    eventually("operators are told", || d.log().contains("No space left on device"));
    make_room(&d, "logs");
    let folder = inside(&d, "logs/app");
    eventually("it goes on", || logged(&folder).contains("lines lost: No space left on device"));
    assert_eq!(d.get("app.test", "/show/1").text(), "16383");
    eventually("to its end", || logged(&folder).ends_with(" 16383\n"));
}

#[test]
fn a_full_disk_for_state_costs_no_visit() {
    if !may_mount() {
        return;
    }
    let d = on_full_disk(&(greedy("") + &node("other", "")), "state");
    assert_eq!(d.get("other.test", "/").status, 200);
    fill(&d, "state");
    // It works, though the next supervisor will not know of it.
    assert_eq!(d.get("app.test", "/").status, 200);
    eventually("it is told", || d.log().contains("will not outlive doorbell"));
    let told = d.cli(&["disable", "other"]);
    assert!(told.status != 0 && told.stderr.contains("No space left"), "{told:?}");
    assert_eq!(d.get("other.test", "/").status, 503, "it holds as long as it is known");
    make_room(&d, "state");
    d.ok(&["enable", "other"]);
    assert_eq!(d.get("other.test", "/").status, 200);
}

/// Leaves a process no descriptor beyond those that it has; gives what it was allowed before.
fn take_descriptors(pid: u32) -> Rlimit {
    let process = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let before = rustix::process::getrlimit(Resource::Nofile);
    let none = Rlimit { current: Some(1), ..before };
    rustix::process::prlimit(process, Resource::Nofile, none).expect("its limit")
}

fn give_descriptors(pid: u32, limit: Rlimit) {
    let process = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    rustix::process::prlimit(process, Resource::Nofile, limit).expect("its limit");
}

#[test]
fn without_descriptors_clients_wait_and_none_is_lost() {
    let d = Doorbell::with(&node("app", ""));
    let mut known = d.connect();
    assert_eq!(known.get("app.test", "/").status, 200);
    let proxy = d.proxy_pid();
    let limit = take_descriptors(proxy);
    let mut waiting: Vec<Connection> = (0..40).map(|_| d.connect()).collect();
    for client in &mut waiting {
        client.send_get("app.test", "/hello");
    }
    eventually("it is told", || d.log().contains("Too many open files"));
    assert_eq!(known.get("app.test", "/").status, 200, "who is inside is served");
    give_descriptors(proxy, limit);
    for mut client in waiting {
        assert_eq!(client.read().status, 200);
    }
}

#[test]
fn without_descriptors_a_start_fails_aloud_and_the_next_one_does_not() {
    let back_off = "back_off = { initial = \"10ms\", max = \"10ms\" }";
    let d = Doorbell::with(&(greedy(back_off) + &node("other", "")));
    assert_eq!(d.get("other.test", "/").status, 200);
    let limit = take_descriptors(d.pid());
    let answer = d.get("app.test", "/");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(d.get("other.test", "/").status, 200);
    give_descriptors(d.pid(), limit);
    let reason = d.status("app")["reason"].to_string();
    assert!(reason.contains("Too many open files"), "{reason}");
    eventually("it starts", || d.get("app.test", "/").status == 200);
}

#[test]
fn a_start_that_runs_out_of_descriptors_on_its_way_leaves_no_program_behind() {
    let apps =
        node("app", "back_off = { initial = \"10ms\", max = \"10ms\" }") + &node("other", "");
    let d = Doorbell::with(&apps);
    assert_eq!(d.get("other.test", "/").status, 200);
    let process = Pid::from_raw(i32::try_from(d.pid()).expect("a pid"));
    let all = rustix::process::getrlimit(Resource::Nofile);
    let entries = fs::read_dir(format!("/proc/{}/fd", d.pid())).expect("its descriptors");
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok();
    let taken: Vec<u64> = entries.flatten().filter_map(number).collect();
    let first_free = (0..).find(|number| !taken.contains(number)).expect("one");
    let others = d.app_pids();
    // One more for each try: it fails at each step that needs one, and in the end at none.
    let started = (0..60).find(|more| {
        let few = Rlimit { current: Some(first_free + more), ..all };
        rustix::process::prlimit(process, Resource::Nofile, few).expect("its limit");
        let status = d.get("app.test", "/").status;
        if status != 200 {
            rustix::process::prlimit(process, Resource::Nofile, all).expect("its limit");
            assert_eq!(status, 503);
            eventually("nothing is left of it", || d.app_pids() == others && zombies(d.pid()) == 0);
        }
        status == 200
    });
    rustix::process::prlimit(process, Resource::Nofile, all).expect("its limit");
    let started = started.expect("it starts in the end");
    assert!(started > 3, "it failed in several places: {started}");
    assert_eq!(d.app_pids().len(), others.len() + 1);
}

/// Dead processes that a process has not waited for.
fn zombies(parent: u32) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        rest.starts_with(&format!("Z {parent} "))
    };
    stats.filter(is_one).count()
}

#[test]
fn ten_thousand_dead_processes_are_cleared_away() {
    let d = Doorbell::with(&greedy("timeouts = { response_idle = \"5m\" }"));
    assert_eq!(d.get("app.test", "/orphans/100").text(), "ended");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", d.pid())).expect("/proc").count();
    let (before, open) = (memory(d.pid(), "VmRSS:"), descriptors());
    for _ in 0..10 {
        assert_eq!(d.get("app.test", "/orphans/1000").text(), "ended");
    }
    eventually("none is left", || zombies(d.pid()) == 0);
    let (after, now) = (memory(d.pid(), "VmRSS:"), descriptors());
    assert!(after < before + (8 << 10), "the supervisor grew from {before} to {after} KiB");
    assert!(now <= open + 8, "{open} descriptors became {now}");
    assert_eq!(d.starts("app"), 1);
}

/// Makes a machine of this one that can do less.
pub(crate) struct Platform {
    pub(crate) name: &'static str,
    /// For `Setup::mounts`.
    pub(crate) script: &'static str,
    /// What holds there for what is never better.
    never: &'static [(&'static str, &'static str)],
}

pub(crate) const PLATFORMS: [Platform; 3] = [
    Platform {
        name: "control groups cannot be written",
        script: "for at in $(awk '$2 ~ \"^/sys/fs/cgroup\" { print $2 }' /proc/self/mounts)\n\
                 do mount -o remount,bind,ro $at; done",
        never: &[("limits.memory", "good"), ("limits.cpu", "good"), ("idle.freeze_after", "good")],
    },
    Platform {
        name: "control groups of version 1 alone",
        script: "for at in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/self/mounts)\n\
                 do umount -l $at; done",
        never: &[("ending an app", "good")],
    },
    Platform {
        name: "control groups of version 2 without controllers",
        script: "for at in $(awk '$3 == \"cgroup\" { print $2 }' /proc/self/mounts)\n\
                 do umount -l $at; done",
        never: &[],
    },
];

/// What `doorbell doctor` says of something.
fn level(d: &Doorbell, what: &str) -> String {
    let told: serde_json::Value = serde_json::from_str(&d.ok(&["doctor", "--json"])).expect("JSON");
    let found = told.as_array().expect("a list").iter().find(|one| one["what"] == what);
    found.expect("it is told")["level"].as_str().expect("a level").to_owned()
}

fn lives_with_what_is_there(platform: &Platform) {
    let more = "limits = { memory = \"64MiB\", cpu = 0.9 }\n\
                idle = { freeze_after = \"300ms\", stop_after = \"1h\" }";
    let mut d = Setup::new(&greedy(more)).mounts(platform.script).start();
    let name = platform.name;
    assert_eq!(d.get("app.test", "/").status, 200, "{name}");
    for (what, level_there) in platform.never {
        assert_ne!(level(&d, what), *level_there, "{name}: {what}");
    }
    for what in ["limits.memory", "limits.cpu"] {
        let is_told = d.status("app")["warnings"].to_string().contains(what);
        assert_eq!(is_told, level(&d, what) != "good", "{name}: {what}");
    }
    // The whole app where that can be, else each process: none has more than it may.
    assert!(matches!(d.get("app.test", "/eat/200").status, 502 | 503), "{name}");
    eventually("it is back", || d.get("app.test", "/eat/8").text() == "ate 8");
    let pid = d.app_pid("app").expect("a process");
    d.wait_for_state("app", "frozen");
    eventually("it stands still", || stands_still(pid));
    assert_eq!(d.get("app.test", "/pid").text(), pid.to_string(), "{name}");
    d.wait_for_state("app", "frozen");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.state("app"), "frozen", "{name}");
    assert_eq!(d.get("app.test", "/pid").text(), pid.to_string(), "{name}");
    d.ok(&["stop", "app"]);
    assert_eq!(process_state(pid), "", "{name}");
}

#[test]
fn machines_that_can_do_less_do_what_they_can_and_say_so() {
    if !may_mount() {
        return;
    }
    std::thread::scope(|scope| {
        for platform in &PLATFORMS {
            scope.spawn(|| lives_with_what_is_there(platform));
        }
    });
}

#[test]
fn without_root_an_app_is_frozen_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let app = "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"/usr/bin/python3\", \"greedy.py\"]\n\
               idle = { freeze_after = \"300ms\", stop_after = \"1h\" }\n";
    let setup = Setup::new(app).file("greedy.py", include_str!("../apps/greedy.py"));
    let d = setup.user(1000).start();
    let pid = d.get("app.test", "/pid").text();
    d.wait_for_state("app", "frozen");
    eventually("it stands still", || stands_still(pid.parse().expect("a pid")));
    assert_ne!(level(&d, "idle.freeze_after"), "good");
    assert_eq!(d.get("app.test", "/pid").text(), pid);
}
