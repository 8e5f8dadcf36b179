//! A registry that is lost, for a while or at the start: apps go on, and writers are told.

use doorbell_tests::{Postgres, Role, Setup, eventually};

use super::{add, on, starts_on_a_broken_file};
use crate::node;

#[test]
fn while_the_registry_is_down_apps_go_on_and_writers_are_told() {
    let postgres = Postgres::start();
    let d = on(&postgres.database());
    add(&d, "blog", "blog.test");
    add(&d, "asleep", "asleep.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    let pid = d.app_pid("blog");
    postgres.stop();
    eventually("it is told", || d.ok(&["status"]).contains("cannot be reached"));
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), pid);
    assert_eq!(d.get("asleep.test", "/").status, 200);
    let refused = d.cli(&["app", "set", "blog", "name=x"]);
    assert!(refused.stderr.contains("registry cannot be reached"), "{refused:?}");
    // Neither a reload nor another control process loses what was there.
    d.ok(&["reload"]);
    d.kill_role(Role::Control);
    eventually("another control process", || d.cli(&["status", "blog"]).status == 0);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), pid);
    assert!(d.ok(&["app", "show", "blog"]).contains("[app.blog]"));
    postgres.resume();
    eventually("it is written again", || d.cli(&["app", "set", "blog", "name=x"]).status == 0);
    eventually("all is well", || !d.ok(&["status"]).contains("cannot be reached"));
    assert_eq!(d.get("blog.test", "/").status, 200);
}

#[test]
fn a_doorbell_that_is_started_without_its_registry_serves_what_it_knew() {
    let postgres = Postgres::start();
    let mut d = on(&postgres.database());
    add(&d, "blog", "blog.test");
    let copy = d.state_path().join("registry/copy/blog.json");
    eventually("it is copied", || {
        std::fs::read_to_string(&copy).is_ok_and(|text| text.contains("blog.test"))
    });
    postgres.stop();
    d.stop_and_start_again();
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.get("main.test", "/").status, 200);
    postgres.resume();
    eventually("it is written again", || d.cli(&["app", "set", "blog", "name=x"]).status == 0);
}

#[test]
fn a_registry_file_that_is_gone_is_not_taken_for_an_empty_one() {
    let mut d = Setup::new(&node("main", "")).start();
    add(&d, "blog", "blog.test");
    let folder = d.state_path().join("registry");
    eventually("it is copied", || folder.join("copy/blog.json").exists());
    d.signal(rustix::process::Signal::TERM);
    eventually("it ends", || d.has_ended());
    for file in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        drop(std::fs::remove_file(folder.join(file)));
    }
    d.start_again();
    assert_eq!(d.get("blog.test", "/").status, 200);
    let refused = d.cli(&["app", "set", "blog", "name=x"]);
    assert!(refused.stderr.contains("is gone: restore it"), "{refused:?}");
    assert!(folder.join("copy/blog.json").exists());
    std::fs::remove_dir_all(folder.join("copy")).expect("to begin anew");
    eventually("it begins anew", || {
        d.cli(&["app", "add", "new", "hosts=n.test", "command=true"]).status == 0
    });
}

#[test]
fn a_registry_file_that_is_none_is_told_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("registry")).expect("a folder");
    let file = folder.path().join("registry/registry.db");
    std::fs::write(&file, "no database at all, but somebody's notes".repeat(100)).expect("a file");
    let d = Setup::new(&node("main", "")).state_dir(folder.path()).start();
    assert_eq!(d.get("main.test", "/").status, 200);
    let refused = d.cli(&["app", "add", "blog", "hosts=a.test", "command=true"]);
    assert!(refused.stderr.contains("registry is damaged"), "{refused:?}");
    assert!(std::fs::read_to_string(&file).is_ok_and(|text| text.starts_with("no database")));
}

#[test]
fn a_broken_file_leads_to_no_other_registry() {
    let postgres = Postgres::start();
    let d = on(&postgres.database());
    add(&d, "blog", "blog.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    let good = node("main", "");
    starts_on_a_broken_file(&d, &good);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.starts("blog"), 1, "it runs on");
    assert!(!d.state_path().join("registry/registry.db").exists());
    d.rewrite(&good);
    eventually("it is mended", || d.cli(&["app", "set", "blog", "name=x"]).status == 0);
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.kill_role(Role::Control);
    assert!(d.ok(&["app", "show", "blog"]).contains("name = \"x\""));
}
