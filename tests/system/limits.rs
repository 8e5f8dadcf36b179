//! What apps may take, and who they are.
//!
//! What a machine cannot hold, these tests see told, and not held.

use std::{fs, time::Instant};

use doorbell_tests::{Doorbell, Setup, eventually};

fn greedy(id: &str, more: &str) -> String {
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"python3\", \"{{apps}}/greedy.py\"]\n\
         directory = \"/\"\n{more}\n"
    )
}

/// The same in a place that other users get to.
fn for_others(more: &str) -> Setup {
    let app =
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"/usr/bin/python3\", \"greedy.py\"]\n";
    let text = include_str!("../apps/greedy.py");
    Setup::new(&format!("{app}{more}\n")).file("greedy.py", text).open_to_all()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this limit holds for the app, by what its operator is told. It has to where root may make
/// control groups with this controller of version 1.
fn holds(d: &Doorbell, limit: &str, controller: &str) -> bool {
    assert_eq!(d.get("app.test", "/").status, 200);
    let holds = !d.status("app")["warnings"].to_string().contains(limit);
    let hierarchy = format!("/sys/fs/cgroup/{controller}");
    let may = rustix::fs::access(&*hierarchy, rustix::fs::Access::WRITE_OK).is_ok();
    assert!(holds || !may || !is_root(), "{:#}", d.status("app"));
    holds
}

fn number(d: &Doorbell, path: &str) -> f64 {
    let answer = d.get("app.test", path);
    answer.text().parse().unwrap_or_else(|_| panic!("{path}: {}", answer.text()))
}

#[test]
fn an_app_that_needs_too_much_memory_is_ended_alone_and_says_why() {
    let apps = [greedy("app", "limits = { memory = \"64MiB\" }"), greedy("other", "")];
    let d = Doorbell::with(&apps.concat());
    if !holds(&d, "limits.memory", "memory") {
        return;
    }
    assert_eq!(d.get("other.test", "/").status, 200);
    let other = d.app_pid("other");
    assert_eq!(d.get("app.test", "/eat/16").text(), "ate 16");
    // It is asked once more where that does no harm, and fails once more.
    assert!(matches!(d.get("app.test", "/eat/200").status, 502 | 503));
    eventually("it is told", || {
        d.status("app")["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("more memory than its limit of 64MiB"))
    });
    assert_eq!((d.app_pid("other"), d.get("other.test", "/").status), (other, 200));
    d.ok(&["start", "app"]);
    assert_eq!(d.get("app.test", "/eat/16").text(), "ate 16");
}

/// Waits until this is told of the app.
fn is_told(d: &Doorbell, key: &str) {
    eventually("it is told", || {
        d.status("app")[key].to_string().contains("more memory than its limit of 64MiB")
    });
}

#[test]
fn a_daemon_that_needs_too_much_memory_says_why_it_ended() {
    let app = "[app.app]\nhosts = [\"app.test\"]\ndirectory = \"/\"\n\
               command = [\"sh\", \"-c\", \"python3 {apps}/greedy.py & exit 0\"]\n\
               limits = { memory = \"64MiB\" }\n";
    let d = Doorbell::with(app);
    if !holds(&d, "limits.memory", "memory") {
        return;
    }
    assert!(matches!(d.get("app.test", "/eat/200").status, 502 | 503));
    is_told(&d, "reason");
}

#[test]
fn an_app_that_loses_a_process_for_want_of_memory_is_told() {
    let d = Doorbell::with(&greedy("app", "limits = { memory = \"64MiB\" }"));
    if !holds(&d, "limits.memory", "memory") {
        return;
    }
    let pid = d.app_pid("app");
    for _ in 0..2 {
        if d.get("app.test", "/lose/200").status != 200 {
            // All or nobody.
            return is_told(&d, "reason");
        }
        is_told(&d, "warnings");
        assert_eq!((d.app_pid("app"), d.status("app")["reason"].is_null()), (pid, true));
    }
    // Once, however often.
    assert_eq!(d.status("app")["warnings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_app_has_no_more_processes_than_it_may() {
    let d = Doorbell::with(&greedy("app", "limits = { processes = 20 }"));
    if !holds(&d, "limits.processes", "pids") {
        return;
    }
    let children = number(&d, "/fork/200");
    // Its own threads count too.
    assert!((10.0..20.0).contains(&children), "{children}");
    assert_eq!(number(&d, "/fork/5"), 5.0);
}

#[test]
fn an_app_that_forks_without_end_can_be_stopped() {
    let d =
        Doorbell::with(&greedy("app", "limits = { processes = 40 }\nstop = { grace = \"300ms\" }"));
    if !holds(&d, "limits.processes", "pids") {
        return;
    }
    assert_eq!(d.get("app.test", "/bomb").text(), "ticking");
    eventually("it goes off", || d.app_pids().len() >= 30);
    d.ok(&["stop", "app"]);
    assert_eq!(d.app_pids(), [0; 0]);
    assert_eq!(d.get("app.test", "/fork/5").text(), "5");
}

#[test]
fn an_app_has_no_more_processor_time_than_it_may() {
    let d = Doorbell::with(&greedy("app", "limits = { cpu = 0.2 }"));
    if !holds(&d, "limits.cpu", "cpu") {
        return;
    }
    let since = Instant::now();
    let taken = number(&d, "/spin/1.5");
    let share = taken / since.elapsed().as_secs_f64();
    assert!((0.02..0.35).contains(&share), "{share}");
}

/// A file of the control group of version 2 that a process is in, or of the one around it.
fn in_group(pid: u32, above: &str, file: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("version 2");
    let read = fs::read_to_string(format!("/sys/fs/cgroup{path}{above}/{file}"));
    read.expect("the file").trim().to_owned()
}

/// Fields of `/proc/[pid]/stat` behind the name, proc(5).
fn niceness(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its figures");
    let fields = stat.rsplit_once(')').expect("a name").1;
    fields.split_ascii_whitespace().nth(16).expect("19").parse().expect("a number")
}

#[test]
fn apps_come_behind_doorbell_where_the_processor_is_short() {
    let d = Doorbell::with(&greedy("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let (pid, told) = (d.app_pid("app").expect("a process"), d.ok(&["doctor"]));
    let how = told.lines().find(|line| line.starts_with("a noisy neighbour")).expect("a line");
    if how.contains("control groups") {
        assert_eq!(in_group(pid, "", "cpu.weight"), "100");
        let own = fs::read_to_string(format!("/proc/{}/cgroup", d.pid())).expect("its groups");
        if own.contains("/roles") {
            assert_eq!(in_group(d.pid(), "", "cpu.weight"), "1000");
        } else {
            assert_eq!(in_group(pid, "/..", "cpu.weight"), "20");
        }
    } else if how.contains("autogroup") {
        let session = fs::read_to_string(format!("/proc/{pid}/autogroup")).expect("its session");
        // From others the kernel takes ten a second, whoever they are.
        assert!(session.trim().ends_with("nice 10") || !is_root(), "{session}");
        assert_eq!(niceness(pid), niceness(d.pid()));
    } else {
        assert_eq!(niceness(pid), (niceness(d.pid()) + 10).min(19), "{how}");
    }
}

#[test]
fn an_app_has_no_more_files_open_than_it_may() {
    let d = Doorbell::with(&greedy("app", "limits = { files = 64 }"));
    let open = number(&d, "/open/1000");
    assert!((30.0..64.0).contains(&open), "{open}");
    let d = Doorbell::with(&greedy("app", ""));
    assert_eq!(number(&d, "/open/200"), 200.0);
}

#[test]
fn a_process_that_hides_ends_with_its_app() {
    let d = Doorbell::with(&greedy("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let groups = format!("/proc/{}/cgroup", d.app_pid("app").expect("a process"));
    let group = fs::read_to_string(groups).expect("its groups");
    if !group.contains("/app.") {
        return;
    }
    assert_eq!(d.get("app.test", "/hide").text(), "hidden");
    let hidden = || {
        let all = fs::read_dir("/proc").expect("processes").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of_group = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|own| own == group)
        };
        pids.filter(of_group).count()
    };
    eventually("it is there", || hidden() == 2);
    d.ok(&["stop", "app"]);
    assert_eq!(hidden(), 0);
}

#[test]
fn control_groups_go_with_their_doorbell() {
    let d = Doorbell::with(&greedy("app", "limits = { memory = \"100MiB\", cpu = 1 }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    let name = d.state_path().display().to_string().replace('/', "-");
    let left = || {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("them").flatten();
        let inside = hierarchies.filter_map(|entry| fs::read_dir(entry.path()).ok());
        let names = inside.flatten().flatten().map(|entry| entry.file_name());
        names.filter(|one| one.to_string_lossy().ends_with(&name)).count()
    };
    d.stop();
    assert_eq!(left(), 0);
}

#[test]
fn an_app_runs_as_its_user() {
    let d = for_others("user = \"daemon\"").start();
    if !is_root() {
        eventually("it is told", || {
            d.get("app.test", "/").status == 503
                && d.status("app")["reason"].to_string().contains("only root")
        });
        return;
    }
    assert_eq!(d.get("app.test", "/whoami").text(), "1 1 [1] /usr/sbin daemon daemon");
    assert_eq!(d.get("app.test", "/reopen").text(), "ok");
    d.ok(&["restart", "app"]);
    assert_eq!(d.get("app.test", "/whoami").text(), "1 1 [1] /usr/sbin daemon daemon");
}

#[test]
fn an_app_with_a_user_has_sockets_of_its_own() {
    if !is_root() {
        return;
    }
    let more =
        "user = \"daemon\"\ngroup = \"adm\"\nenv = { SOCKET = \"{socket}\" }\nready = \"notify\"";
    let mut d = for_others(more).start();
    assert_eq!(d.get("app.test", "/whoami").text(), "1 4 [4] /usr/sbin daemon daemon");
    let pid = d.get("app.test", "/pid").text();
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    d.ok(&["restart", "app"]);
    assert_ne!(d.get("app.test", "/pid").text(), pid);
}

#[test]
fn a_user_that_is_not_there_is_told() {
    let d = Doorbell::with(&greedy("app", "user = \"nobody-of-that-name\""));
    assert_eq!(d.get("app.test", "/").status, 503);
    let reason = d.status("app")["reason"].to_string();
    assert!(reason.contains("there is no user"), "{reason}");
}
