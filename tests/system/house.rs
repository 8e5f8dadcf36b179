//! What a running doorbell takes from its surroundings: configuration files, sockets, limits.

use std::{fs, os::unix::fs::symlink, path::Path};

use doorbell_tests::{Doorbell, Setup, eventually};

use crate::node;

/// A doorbell whose apps stand in files of their own, as `pattern` says.
fn with_includes(pattern: &str, files: &[(&str, &str)]) -> Doorbell {
    let d = Doorbell::with("");
    for (name, app) in files {
        put(d.dir.path(), name, app);
    }
    let text = fs::read_to_string(d.config_path()).expect("the file");
    put(d.dir.path(), "doorbell.toml", &format!("include = [\"{pattern}\"]\n{text}"));
    d.ok(&["reload"]);
    d
}

/// Writes a file as editors do: renamed into place.
fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let apps = doorbell_tests::app_dir();
    let fresh = path.with_extension("new");
    fs::write(&fresh, text.replace("{apps}", &apps.to_string_lossy())).expect("to write");
    fs::rename(fresh, path).expect("to rename");
}

fn version(number: u32) -> String {
    node("app", &format!("env = {{ VERSION = \"{number}\" }}"))
}

#[track_caller]
fn serves(d: &Doorbell, number: u32) {
    eventually("the new version answers", || {
        d.get("app.test", "/version").text() == number.to_string()
    });
}

#[test]
fn included_files_come_change_and_go_by_themselves() {
    let d = with_includes("apps/*.toml", &[("apps/app.toml", &version(1))]);
    serves(&d, 1);
    put(d.dir.path(), "apps/app.toml", &version(2));
    serves(&d, 2);
    put(d.dir.path(), "apps/more.toml", &node("more", ""));
    eventually("it is there", || d.get("more.test", "/").status == 200);
    fs::remove_file(d.dir.path().join("apps/app.toml")).expect("to remove");
    eventually("it is gone", || d.get("app.test", "/").status == 404);
    assert_eq!(d.get("more.test", "/").status, 200);
}

#[test]
fn an_app_in_a_new_folder_is_found() {
    let d = with_includes("sites/*/app.toml", &[("sites/app/app.toml", &version(1))]);
    serves(&d, 1);
    let reloads = || d.log().matches("configuration loaded").count();
    let before = reloads();
    fs::create_dir(d.dir.path().join("sites/more")).expect("a folder");
    eventually("the folder is seen", || reloads() > before);
    put(d.dir.path(), "sites/more/app.toml", &node("more", ""));
    eventually("it is there", || d.get("more.test", "/").status == 200);
}

#[test]
fn a_mistake_in_a_new_file_is_seen_and_its_mending_too() {
    let d = with_includes("sites/*/app.toml", &[("sites/app/app.toml", &version(1))]);
    put(d.dir.path(), "sites/more/app.toml", "[app.more]\nhots = [\"more.test\"]\n");
    eventually("the mistake is told", || {
        d.metric("doorbell_config_last_reload_successful") == Some(0.0) && d.log().contains("hots")
    });
    assert_eq!(d.get("app.test", "/version").text(), "1");
    put(d.dir.path(), "sites/more/app.toml", &node("more", ""));
    eventually("it is there", || d.get("more.test", "/").status == 200);
    assert_eq!(d.metric("doorbell_config_last_reload_successful"), Some(1.0));
}

#[test]
fn what_a_linked_file_leads_to_is_watched() {
    let d = with_includes("apps/*.toml", &[("kept/app.toml", &version(1))]);
    fs::create_dir_all(d.dir.path().join("apps")).expect("a folder");
    symlink("../kept/app.toml", d.dir.path().join("apps/app.toml")).expect("a link");
    d.ok(&["reload"]);
    serves(&d, 1);
    put(d.dir.path(), "kept/app.toml", &version(2));
    serves(&d, 2);
}

/// Kubernetes replaces a volume's content by renaming one link over another.
#[test]
fn a_swapped_link_on_the_way_to_a_file_is_seen() {
    let files = [("v1/app.toml", &*version(1)), ("v2/app.toml", &*version(2))];
    let d = with_includes("apps/*.toml", &files);
    let path = |name: &str| d.dir.path().join(name);
    fs::create_dir_all(path("apps")).expect("a folder");
    symlink("v1", path("..data")).expect("a link");
    symlink("../..data/app.toml", path("apps/app.toml")).expect("a link");
    d.ok(&["reload"]);
    serves(&d, 1);
    symlink("v2", path("..tmp")).expect("a link");
    fs::rename(path("..tmp"), path("..data")).expect("to rename");
    serves(&d, 2);
}

#[test]
fn warnings_are_in_the_log_from_the_start() {
    let d = Doorbell::with(&node("app", "ready = { deadline = \"90s\" }"));
    let warning = "a start may take longer than requests wait for it";
    assert!(d.log().contains(warning), "{}", d.log());
    let told = || d.log().matches(warning).count();
    d.signal(rustix::process::Signal::HUP);
    eventually("it is told again", || told() == 2);
}

#[test]
fn output_is_found_after_log_dir_changed_and_every_reload_says_that_it_waits() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let before = d.ok(&["logs", "app"]);
    assert!(before.contains("started, pid"), "{before}");
    let text = fs::read_to_string(d.config_path()).expect("the file");
    put(d.dir.path(), "doorbell.toml", &text.replace("log_dir = \"logs\"", "log_dir = \"new\""));
    for _ in 0..2 {
        let told = d.ok(&["reload"]);
        assert!(told.contains("`log_dir` takes effect with the next restart"), "{told}");
    }
    assert_eq!(d.ok(&["logs", "app"]), before);
}

#[test]
fn a_second_doorbell_does_not_share_the_first_ones_port() {
    let d = Doorbell::with(&node("app", ""));
    let (folder, path) = Setup::new(&node("other", "")).write();
    let text = fs::read_to_string(&path).expect("the file");
    let own = text.lines().find(|line| line.starts_with("listen")).expect("an address");
    let taken = format!("listen = [\"127.0.0.1:{}\"]", d.port);
    put(folder.path(), "doorbell.toml", &text.replace(own, &taken));
    let output = doorbell_tests::tool(&["serve", "--config", &path.to_string_lossy()]);
    assert_ne!(output.status, 0);
    assert!(output.stderr.contains(&format!("cannot listen on 127.0.0.1:{}", d.port)));
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_wider_address_takes_over_from_a_narrow_one_on_the_same_port() {
    let d = Doorbell::with(&node("app", ""));
    let text = fs::read_to_string(d.config_path()).expect("the file");
    let narrow = format!("listen = [\"127.0.0.1:{}\"]", d.port);
    let wide = format!("listen = [\"0.0.0.0:{}\"]", d.port);
    put(d.dir.path(), "doorbell.toml", &text.replace(&narrow, &wide));
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/").status, 200);
    assert!(d.log().contains("no longer listening"), "{}", d.log());
}

#[test]
fn check_warns_of_what_this_machine_lacks() {
    let app = |directory: &str, command: &str| {
        format!("[app.app]\ncommand = [\"{command}\"]\ndirectory = \"{directory}\"\n")
    };
    for (app, told) in [
        (app("/no-such-folder", "node"), "folder /no-such-folder does not exist"),
        (app("/tmp", "./no-such-program"), "command ./no-such-program does not exist"),
    ] {
        let (_folder, path) = Setup::new(&app).write();
        let output = doorbell_tests::tool(&["check", "--config", &path.to_string_lossy()]);
        assert_eq!(output.status, 0, "{output:?}");
        assert!(output.stderr.contains(&format!("app \"app\": {told}")), "{}", output.stderr);
    }
}

#[test]
fn a_port_that_the_system_picks_is_one_and_is_told() {
    let d = Doorbell::with(&node("app", ""));
    let text = fs::read_to_string(d.config_path()).expect("the file");
    put(d.dir.path(), "doorbell.toml", &text.replace("listen = [", "listen = [\"127.0.0.1:0\", "));
    d.ok(&["reload"]);
    let status: serde_json::Value =
        serde_json::from_str(&d.ok(&["status", "--json"])).expect("JSON");
    let told = status["server"]["listening"].as_array().expect("a list");
    let ports = told.iter().filter_map(|told| told.as_str()?.rsplit_once(':')?.1.parse().ok());
    let port = ports.into_iter().find(|port: &u16| *port != d.port).expect("the new port");
    assert_ne!(port, 0, "{status:#}");
    assert!(d.log().contains(&format!("127.0.0.1:{port}")), "{}", d.log());
    for _ in 0..10 {
        assert_eq!(doorbell_tests::get(port, "app.test", "/").status, 200);
    }
    d.ok(&["reload"]);
    assert_eq!(doorbell_tests::get(port, "app.test", "/").status, 200, "it stays through a reload");
}

#[test]
fn a_file_in_the_admin_sockets_place_is_left_alone() {
    let (dir, path) = Setup::new(&node("app", "")).file("admin.sock", "precious").write();
    let output = doorbell_tests::tool(&["serve", "--config", &path.to_string_lossy()]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("no socket"), "{}", output.stderr);
    let kept = fs::read_to_string(dir.path().join("admin.sock")).expect("the file");
    assert_eq!(kept, "precious");
}
