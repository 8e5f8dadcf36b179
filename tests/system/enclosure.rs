//! Apps that have files of their own, and cannot change others.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use doorbell_tests::{Doorbell, Setup, binary, eventually};
use tempfile::TempDir;

use crate::roles::landlock;

/// A folder that `private_tmp` does not hide.
fn outside_tmp() -> TempDir {
    let binary = binary();
    tempfile::tempdir_in(binary.parent().expect("its folder")).expect("a folder")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn start(folder: &Path, more: &str) -> Doorbell {
    let app = format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"python3\", \"{{apps}}/greedy.py\"]\n\
         directory = \"/\"\n{more}\n"
    );
    Setup::new_in(folder, &app).start()
}

fn write(d: &Doorbell, path: &Path) -> String {
    d.get("app.test", &format!("/write/{}", path.to_string_lossy().replace('/', "+"))).text()
}

/// What instances have of their own.
fn own(d: &Doorbell) -> usize {
    fs::read_dir(d.state_path().join("own")).map_or(0, Iterator::count)
}

#[test]
fn an_app_has_a_tmp_of_its_own_that_goes_with_it() {
    let folder = outside_tmp();
    let name = format!("doorbell-test-{}", std::process::id());
    let mut d = start(folder.path(), "private_tmp = true");
    assert_eq!(d.get("app.test", "/tmp").text(), "");
    for place in ["/tmp", "/var/tmp"].iter().take(if is_root() { 2 } else { 0 }) {
        let path = Path::new(place).join(&name);
        assert_eq!(write(&d, &path), "written");
        assert!(!path.exists(), "it is everybody's");
    }
    assert_eq!(own(&d), 1);
    let mode = fs::metadata(d.state_path().join("own")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // It is as it was for whoever takes the app up.
    d.kill_supervisor();
    d.start_again();
    if is_root() {
        assert_eq!(d.get("app.test", "/tmp").text(), name);
    }
    d.ok(&["restart", "app"]);
    assert_eq!(d.get("app.test", "/tmp").text(), "");
    eventually("the old one's is gone", || own(&d) == 1);
    d.ok(&["stop", "app"]);
    eventually("nothing is left", || own(&d) == 0);
}

#[test]
fn an_app_that_lives_in_tmp_cannot_have_another() {
    let folder = outside_tmp();
    let inside = tempfile::tempdir_in("/tmp").expect("a folder");
    let more = format!(
        "private_tmp = true\n[app.odd]\nhosts = [\"odd.test\"]\ncommand = [\"python3\"]\n\
                        directory = {:?}\nprivate_tmp = true",
        inside.path()
    );
    let d = start(folder.path(), &more);
    if !is_root() {
        return;
    }
    assert_eq!(d.get("odd.test", "/").status, 503);
    let reason = d.status("odd")["reason"].to_string();
    assert!(reason.contains("is below /tmp, which `private_tmp` hides from the app"), "{reason}");
}

#[test]
fn an_app_changes_only_what_it_may() {
    let folder = outside_tmp();
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("old")).expect("folders");
    let more = format!(
        "read_only_paths = [\"/\", {:?}]\nread_write_paths = [{data:?}]\nprivate_tmp = true",
        data.join("old")
    );
    let d = start(folder.path(), &more);
    assert_eq!(write(&d, &data.join("file")), "written");
    if !is_root() {
        let warnings = d.status("app")["warnings"].to_string();
        assert!(warnings.contains("`read_only_paths` does not hold: mounts"), "{warnings}");
        return;
    }
    let refused = "Read-only file system";
    for path in [folder.path().join("file"), data.join("old/file"), "/etc/doorbell-test".into()] {
        assert_eq!(write(&d, &path), refused, "{}", path.display());
    }
    // Its own, whatever the machine's is.
    let own = Path::new("/tmp").join(folder.path().file_name().expect("a name"));
    assert_eq!((write(&d, &own).as_str(), own.exists()), ("written", false));
    assert_eq!(write(&d, Path::new("/dev/null")), "written");
    // Nothing of that is seen by anybody else.
    fs::write(folder.path().join("file"), "ours").expect("to write");
    assert_eq!(d.get("app.test", "/say/awake+1s").text(), "ok 1");
}

#[test]
fn a_path_that_is_not_there_is_told() {
    let folder = outside_tmp();
    let d = start(folder.path(), "read_only_paths = [\"/no/such/folder\"]");
    if !is_root() {
        return;
    }
    assert_eq!(d.get("app.test", "/").status, 503);
    let reason = d.status("app")["reason"].to_string();
    assert!(reason.contains("/no/such/folder` of `read_only_paths`"), "{reason}");
}

/// As somebody who is not root, in a folder of his own.
fn without_root(more: &str) -> Doorbell {
    let app = format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"/usr/bin/python3\", \"greedy.py\"]\n\
         read_only_paths = [\"/\"]\nread_write_paths = [\"{{dir}}/data\"]\nenv = {{ SOCKET = \"{{socket}}\" }}\n{more}\n"
    );
    let setup = Setup::new(&app).file("greedy.py", include_str!("../apps/greedy.py"));
    let d = if is_root() { setup.user(1000) } else { setup }.start();
    for name in ["kept", "data/old", "data/in/there"] {
        d.write_file(name, "kept");
    }
    if is_root() {
        for name in ["kept", "data/old", "data", "data/in"] {
            chown(d.dir.path().join(name), Some(1000), None).expect("to give it away");
        }
    }
    d
}

#[test]
fn without_root_an_app_that_gains_no_privileges_changes_only_what_it_may() {
    let d = without_root("no_new_privs = true");
    let (path, refused) = (|name: &str| d.dir.path().join(name), "Permission denied");
    for name in ["data/old", "data/new"] {
        assert_eq!(write(&d, &path(name)), "written");
    }
    assert_eq!(write(&d, Path::new("/dev/null")), "written");
    let warnings = d.status("app")["warnings"].to_string();
    if landlock().is_none() {
        assert!(warnings.contains("`read_only_paths` does not hold: mounts"), "{warnings}");
        return;
    }
    for name in ["kept", "new", "state/new"] {
        assert_eq!(write(&d, &path(name)), refused, "{name}");
    }
    assert_eq!(fs::read_to_string(path("kept")).expect("it"), "kept");
    assert!(warnings.contains("modes, owners, times and attributes"), "{warnings}");
    // What is its own is: its socket, and moving files about where it may write.
    assert_eq!(d.get("app.test", "/say/awake+1s").text(), "ok 1");
    for (from, to, how) in [("data/new", "data/in/new", "moved"), ("data/old", "old", refused)] {
        let both = format!("{}:{}", path(from).display(), path(to).display());
        let told = d.get("app.test", &format!("/move/{}", both.replace('/', "+"))).text();
        assert_eq!(told, how, "{both}");
    }
}

#[test]
fn without_root_an_app_that_may_gain_privileges_is_told_that_nothing_hinders_it() {
    let d = without_root("");
    assert_eq!(write(&d, &d.dir.path().join("kept")), "written");
    let warnings = d.status("app")["warnings"].to_string();
    assert!(warnings.contains("landlock takes `no_new_privs = true`"), "{warnings}");
}
