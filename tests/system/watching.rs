//! Changes of the configuration that doorbell sees by itself.

use std::{fs, io::Write, time::Duration};

use doorbell_tests::{Doorbell, Setup, eventually, within};

use crate::node;

const GOOD: &str = "doorbell_config_last_reload_successful";

fn version(id: &str, number: u32) -> String {
    node(id, &format!("env = {{ VERSION = \"{number}\" }}"))
}

fn answers(d: &Doorbell, id: &str, number: u32) -> bool {
    d.get(&format!("{id}.test"), "/version").text() == number.to_string()
}

/// Starts a doorbell and waits until it watches: inotify(7) tells so in proc(5).
fn start(setup: Setup) -> Doorbell {
    let d = setup.start();
    let watches = |info: fs::DirEntry| {
        fs::read_to_string(info.path()).is_ok_and(|text| text.contains("inotify wd:"))
    };
    eventually("it watches", || {
        let mut infos =
            fs::read_dir(format!("/proc/{}/fdinfo", d.control_pid())).expect("descriptors");
        infos.any(|info| info.is_ok_and(watches))
    });
    d
}

/// Times that a configuration was taken over.
fn loaded(d: &Doorbell) -> usize {
    d.log().matches("configuration loaded").count()
}

/// Times that a configuration was refused.
fn refused(d: &Doorbell) -> usize {
    d.log().matches("configuration not loaded").count()
}

#[test]
fn a_file_that_is_replaced_or_written_in_place_is_seen() {
    let d = start(Setup::new(&version("app", 1)));
    assert!(answers(&d, "app", 1));
    d.rewrite(&version("app", 2));
    eventually("the change is seen", || answers(&d, "app", 2));
    // An editor that writes in place, in two steps.
    let text = fs::read_to_string(d.config_path()).expect("the file").replace("\"2\"", "\"3\"");
    fs::write(d.config_path(), "").expect("to truncate");
    fs::write(d.config_path(), text).expect("to write");
    eventually("the change is seen", || answers(&d, "app", 3));
}

#[test]
fn included_files_that_come_change_and_go_are_seen() {
    let setup = Setup::new(&node("main", ""))
        .include(&["apps/*.toml"])
        .file("apps/one.toml", &version("one", 1));
    let d = start(setup);
    assert!(answers(&d, "one", 1));
    assert_eq!(d.get("two.test", "/version").status, 404);
    d.write_file("apps/two.toml", &version("two", 1));
    eventually("the new file is seen", || answers(&d, "two", 1));
    d.write_file("apps/one.toml", &version("one", 2));
    eventually("the change is seen", || answers(&d, "one", 2));
    let pid = d.app_pid("two").expect("a process");
    fs::remove_file(d.dir.path().join("apps/two.toml")).expect("to remove");
    eventually("the removal is seen", || d.get("two.test", "/version").status == 404);
    eventually("its process ends", || !crate::processes::is_alive(pid));
    assert!(answers(&d, "one", 2));
    assert_eq!(refused(&d), 0);
}

#[test]
fn a_file_that_is_written_slowly_is_read_when_it_is_whole() {
    let d = start(Setup::new(&version("app", 1)));
    assert!(answers(&d, "app", 1));
    let text = fs::read_to_string(d.config_path()).expect("the file").replace("\"1\"", "\"2\"");
    let (before, at) = (loaded(&d), text.find("[app.").expect("an app"));
    // Up to here it would be a good configuration without apps.
    let mut file = fs::File::create(d.config_path()).expect("to truncate");
    file.write_all(&text.as_bytes()[..at]).expect("to write");
    within(Duration::from_millis(1500), "half a file is left alone", || loaded(&d) == before);
    file.write_all(&text.as_bytes()[at..]).expect("to write");
    drop(file);
    eventually("the change is seen", || answers(&d, "app", 2));
    assert_eq!(loaded(&d), before + 1);
}

#[test]
fn a_folder_that_is_made_anew_is_watched_again() {
    let setup = Setup::new(&node("main", ""))
        .include(&["apps/*.toml"])
        .file("apps/one.toml", &version("one", 1));
    let d = start(setup);
    assert!(answers(&d, "one", 1));
    let apps = d.dir.path().join("apps");
    fs::remove_dir_all(&apps).expect("to remove");
    fs::create_dir(&apps).expect("to make");
    d.write_file("apps/one.toml", &version("one", 2));
    eventually("the new folder is seen", || answers(&d, "one", 2));
    for number in 3..6 {
        d.write_file("apps/one.toml", &version("one", number));
        eventually("a change in it is seen", || answers(&d, "one", number));
    }
}

#[test]
fn a_bad_file_changes_nothing_until_it_is_mended() {
    let setup = Setup::new(&version("app", 1))
        .include(&["apps/*.toml"])
        .file("apps/one.toml", &version("one", 1));
    let d = start(setup);
    let refused_for = |what: &str| {
        eventually("it is refused", || d.metric(GOOD) == Some(0.0));
        assert!(d.log().contains(what), "{}", d.log());
        assert!(answers(&d, "app", 1) && answers(&d, "one", 1));
    };
    let bad = version("app", 2) + "hots = []\n";
    d.rewrite(&bad);
    refused_for("hots");
    d.rewrite(&version("app", 1));
    eventually("it is mended", || d.metric(GOOD) == Some(1.0));
    d.write_file("apps/one.toml", &(version("one", 2) + "pats = []\n"));
    refused_for("pats");
    d.write_file("apps/one.toml", &version("one", 2));
    eventually("it is mended", || d.metric(GOOD) == Some(1.0));
    eventually("the change is taken over", || answers(&d, "one", 2));
    assert!(answers(&d, "app", 1));
}

#[test]
fn a_bad_file_is_told_at_each_sighup() {
    let d = start(Setup::new(&version("app", 1)));
    d.rewrite(&(version("app", 2) + "hots = []\n"));
    eventually("it is refused", || refused(&d) == 1);
    d.signal(rustix::process::Signal::HUP);
    eventually("it is refused again", || refused(&d) == 2);
    assert!(answers(&d, "app", 1));
    assert_eq!(d.metric(GOOD), Some(0.0));
}

#[test]
fn an_editors_haste_is_not_many_reloads() {
    let d = start(Setup::new(&version("app", 1)));
    let before = loaded(&d);
    for number in 2..=20 {
        d.rewrite(&version("app", number));
    }
    eventually("the last one answers", || answers(&d, "app", 20));
    assert!(loaded(&d) - before < 10, "{} reloads", loaded(&d) - before);
}

#[test]
fn files_that_are_no_configuration_are_no_reason_to_reload() {
    let d = start(Setup::new(&version("app", 1)));
    let before = loaded(&d);
    d.write_file("other.toml", "no configuration");
    within(Duration::from_secs(1), "nothing is loaded", || loaded(&d) + refused(&d) == before);
}
