//! What the processes of Doorbell may, and as whom they run.

use std::{fs, process::Command};

use doorbell_tests::{Doorbell, Setup, eventually};

use crate::node;

/// Everybody's user and group on Debian: nobody, nogroup.
const NOBODY: u32 = 65534;

/// A line of `/proc/[pid]/status`, proc(5).
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn is_root() -> bool {
    status(std::process::id(), "Uid").starts_with('0')
}

fn is_confined(d: &Doorbell) {
    for pid in [d.proxy_pid(), d.control_pid()] {
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(pid, capabilities), "0".repeat(16), "{capabilities}");
        }
        assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".into(), "2".into()));
        assert_eq!(status(pid, "SigBlk"), "0".repeat(16), "it hears who wants it to end");
        assert_eq!(status(pid, "Name"), "doorbell");
        let says = confinement(d, pid);
        match landlock() {
            Some(kernels) => {
                let version =
                    says.split("; landlock ").nth(1).and_then(|rest| rest.split(';').next());
                let version: u32 = version.and_then(|text| text.parse().ok()).expect(&says);
                assert!((1..=kernels).contains(&version), "{says}, and the kernel has {kernels}");
            }
            None => assert!(says.contains("; no landlock: "), "{says}"),
        }
        assert!(
            says.contains("; seccomp allows ") || says.contains("; seccomp refuses "),
            "{says}"
        );
    }
}

/// What a process of its own said that it gave up.
fn confinement(d: &Doorbell, pid: u32) -> String {
    let log = d.log();
    let of_it = |line: &&str| {
        line.contains(&format!("pid={pid} ")) || line.ends_with(&format!("pid={pid}"))
    };
    let said = log.lines().filter(of_it).find_map(|line| line.split_once("confined: "));
    said.unwrap_or_else(|| panic!("{pid} does not say that it is confined:\n{log}")).1.to_owned()
}

/// The version of landlock(7) that the kernel has; `None` if it has none, or it is switched off.
pub(crate) fn landlock() -> Option<u32> {
    const ASK: &str = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))";
    let output = Command::new("python3").args(["-c", ASK]).output().expect("python3");
    String::from_utf8_lossy(&output.stdout).trim().parse().ok().filter(|version| *version > 0)
}

#[test]
fn roles_run_as_the_user_that_is_named_and_reach_what_they_need() {
    if !is_root() {
        // Nobody else may become another user; that is said, and tested below.
        return;
    }
    let socket = "env = { SOCKET = \"{socket}\" }";
    let mut d = Setup::new(&(node("app", "") + &node("socket", socket)))
        .open_to_all()
        .server("user = \"nobody\"\naccess_log = { path = \"access.log\" }")
        .start();
    let works = |d: &Doorbell| {
        for host in ["app.test", "socket.test"] {
            assert_eq!(d.get(host, "/").status, 200, "{host}\n{}", d.log());
        }
        for pid in [d.proxy_pid(), d.control_pid()] {
            assert!(status(pid, "Uid").split(' ').all(|uid| uid == NOBODY.to_string()));
            assert!(status(pid, "Gid").split(' ').all(|gid| gid == NOBODY.to_string()));
            assert_eq!(status(pid, "Groups"), "");
        }
        is_confined(d);
        assert!(d.ok(&["logs", "socket"]).contains("listening"));
    };
    works(&d);
    d.kill_supervisor();
    d.start_again();
    works(&d);
    let access = d.dir.path().join("access.log");
    // Two requests each time, the last ones behind the death of the supervisor.
    let lines = || fs::read_to_string(&access).map_or(0, |log| log.lines().count());
    eventually("all is logged", || lines() == 4);
}

#[test]
fn without_a_user_of_their_own_roles_have_no_rights_either() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    is_confined(&d);
    assert!(status(d.pid(), "Seccomp") == "0");
}

#[test]
fn a_user_that_is_not_there_is_told() {
    let (folder, path) = Setup::new(&node("app", "")).server("user = \"no-such-user\"").write();
    let path = path.to_string_lossy().into_owned();
    let output = doorbell_tests::tool(&["serve", "--config", &path]);
    assert!(output.status != 0 && output.stderr.contains("there is no user"), "{output:?}");
    drop(folder);
}

#[test]
fn a_proxy_learns_nothing_of_how_apps_are_run() {
    let secret = "env = { DATABASE_PASSWORD = \"unlikely-4711\" }";
    let d = Setup::new(&node("app", secret)).env("ALSO_SECRET", "unlikely-4712").start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let read = |name: &str| fs::read(format!("/proc/{}/{name}", d.proxy_pid())).unwrap_or_default();
    let environment = String::from_utf8_lossy(&read("environ")).into_owned();
    assert!(!environment.contains("unlikely"), "{environment}");
    assert!(!String::from_utf8_lossy(&read("cmdline")).contains("unlikely"));
}
