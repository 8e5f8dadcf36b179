//! Inside of a container that was entered from outside, as `docker exec` does: the leaders of our
//! own process group and session are not visible there, and proc(5) gives both as 0.

use std::{io::Write, process::Command};

/// A command that runs another in process ids of its own.
fn container() -> Command {
    let mut container = Command::new("unshare");
    container.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        container.args(["--user", "--map-root-user"]);
    }
    container
}

#[test]
fn apps_end_whole_where_our_own_group_and_session_are_not_visible() {
    let allowed = container().arg("true").output().unwrap();
    if !allowed.status.success() {
        // Docker forbids it by default. Written past the test runner, which shows no output of a test
        // that passes.
        let why = String::from_utf8_lossy(&allowed.stderr);
        writeln!(std::io::stderr(), "SKIPPED: {why}(a test of namespaces needs `unshare`)")
            .unwrap();
        return;
    }
    let me = std::env::current_exe().unwrap();
    let output = container().arg(me).arg("endings::").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let blame = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{blame}");
    assert!(told.contains(" 0 failed"), "{told}");
}
