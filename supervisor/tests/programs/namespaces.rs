//! Inside of a container that was entered from outside, as `docker exec` does: the leaders of our
//! own process group and session are not visible there, and proc(5) gives both as 0.

use std::process::Command;

#[test]
fn apps_end_whole_where_our_own_group_and_session_are_not_visible() {
    let me = std::env::current_exe().unwrap();
    let container = || {
        let mut container = Command::new("unshare");
        container.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        if !rustix::process::geteuid().is_root() {
            container.args(["--user", "--map-root-user"]);
        }
        container
    };
    if !container().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no container can be made here (unshare(1) is forbidden, as in Docker)");
        return;
    }
    let output = container().arg(me).arg("endings::").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let blame = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{blame}");
    assert!(told.contains(" 0 failed"), "{told}");
}
