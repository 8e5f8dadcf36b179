//! What apps are given that nobody else may see.

use std::{fs, io::Write, process::Stdio};

use doorbell_tests::{Doorbell, Postgres, Role, Setup, app_dir, eventually};

use super::on;
use crate::{node, python};

/// Stores a secret by the command line, its value through a pipe.
#[track_caller]
pub(crate) fn store(d: &Doorbell, app: &str, name: &str, value: &str) {
    let mut command = std::process::Command::new(doorbell_tests::binary());
    command.args(["secret", "set", app, name, "--config"]).arg(d.config_path());
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the binary");
    child.stdin.take().expect("its input").write_all(value.as_bytes()).expect("to write");
    assert!(child.wait().expect("its end").success());
}

/// A variable of an app's environment.
pub(super) fn variable(d: &Doorbell, app: &str, name: &str) -> String {
    of(&d.get(&format!("{app}.test"), "/env"), name)
}

fn of(answer: &doorbell_tests::Response, name: &str) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().unwrap_or_default().to_owned()
}

/// Every file below a folder that has a text in it.
pub(crate) fn files_with(folder: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if path.is_file()
            && fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_secret_reaches_its_app_and_stands_nowhere() {
    let more = "secret = \"auto\"\nsecrets = [\"API_KEY\"]\nenv = { APP_KEY = \"{secret}\" }\n";
    let mut d = Doorbell::with(&(python("blog", "", more) + &node("main", "")));
    let refused = d.cli(&["start", "blog"]);
    assert!(refused.stderr.contains("doorbell secret set blog API_KEY"), "{refused:?}");
    assert!(d.status("blog").to_string().contains("secret API_KEY is not set"));
    store(&d, "blog", "API_KEY", "hunter2 and more\n");
    d.ok(&["start", "blog"]);
    assert_eq!(variable(&d, "blog", "API_KEY"), "hunter2 and more");
    let own = variable(&d, "blog", "APP_KEY");
    assert_eq!(own.len(), 64);
    d.ok(&["restart", "blog"]);
    assert_eq!(variable(&d, "blog", "APP_KEY"), own, "once and for all");

    let listed = d.ok(&["secret", "list", "blog"]);
    assert!(listed.contains("API_KEY") && !listed.contains("hunter2"), "{listed}");
    let folder = d.dir.path().to_owned();
    for text in ["hunter2", &own] {
        assert_eq!(files_with(&folder, text), [""; 0], "in the clear");
        for pid in [d.pid(), d.proxy_pid(), d.role_pid(Role::Control)] {
            for file in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&bytes).contains(text), "{file} of {pid}");
            }
        }
    }
    let rotated = d.ok(&["secret", "rotate"]);
    assert!(rotated.starts_with("2 secrets"), "{rotated}");
    d.stop_and_start_again();
    assert_eq!(variable(&d, "blog", "APP_KEY"), own);
    assert_eq!(variable(&d, "blog", "API_KEY"), "hunter2 and more");
    d.ok(&["secret", "remove", "blog", "API_KEY"]);
    assert_ne!(d.cli(&["secret", "remove", "blog", "API_KEY"]).status, 0);
    assert_ne!(d.cli(&["restart", "blog"]).status, 0);
    assert_eq!(variable(&d, "blog", "APP_KEY"), own, "the old instance serves on");
}

#[test]
fn an_app_of_the_registry_has_secrets_of_its_own_that_go_with_it() {
    let d = Doorbell::with(&node("main", ""));
    let server = format!("command=[\"python3\", \"{}/server.py\"]", app_dir().display());
    let directory = format!("directory={}", app_dir().display());
    let add = |id: &str| {
        let host = format!("hosts={id}.test");
        let line = ["app", "add", id, &host, &server, &directory, "secret=auto", "env.K={secret}"];
        d.ok(&line);
        variable(&d, id, "K")
    };
    let (a, b) = (add("a"), add("b"));
    assert!(a.len() == 64 && a != b);
    d.ok(&["app", "rename", "a", "c"]);
    assert_eq!(of(&d.get("a.test", "/env"), "K"), a, "it keeps its host, and its secret");
    d.ok(&["app", "delete", "c", "--yes"]);
    assert_ne!(add("c"), a, "another app of that id");
}

#[test]
fn an_app_with_secrets_starts_again_while_the_registry_is_down_or_nobody_can_be_asked() {
    let postgres = Postgres::start();
    let d = on(&postgres.database());
    let server = format!("command=[\"python3\", \"{}/server.py\"]", app_dir().display());
    let directory = format!("directory={}", app_dir().display());
    d.ok(&[
        "app",
        "add",
        "a",
        "hosts=a.test",
        &server,
        &directory,
        "secret=auto",
        "env.K={secret}",
    ]);
    let own = variable(&d, "a", "K");
    postgres.stop();
    eventually("it is told", || d.ok(&["status"]).contains("cannot be reached"));
    d.ok(&["stop", "a"]);
    assert_eq!(variable(&d, "a", "K"), own);
    postgres.resume();
    d.ok(&["stop", "a"]);
    // Who starts while nobody can be asked waits for the next control process.
    doorbell_tests::kill(d.role_pid(Role::Control));
    assert_eq!(variable(&d, "a", "K"), own);
}

#[test]
fn an_app_that_starts_with_doorbell_has_its_secret_from_the_first_time_on() {
    let more = "start = \"always\"\nsecret = \"auto\"\nenv = { K = \"{secret}\" }\n";
    let mut d = Doorbell::with(&python("blog", "", more));
    let own = variable(&d, "blog", "K");
    assert_eq!(own.len(), 64, "{own:?}");
    d.rewrite(&python("blog", "", &more.replace("K =", "L = \"1\", K =")));
    eventually("the change is in force", || variable(&d, "blog", "L") == "1");
    assert_eq!(variable(&d, "blog", "K"), own);
    d.stop_and_start_again();
    assert_eq!(variable(&d, "blog", "K"), own);
}

#[test]
fn what_would_show_a_secret_is_refused() {
    for (more, words) in [
        ("secret = \"auto\"\ncommand = [\"x\", \"{secret}\"]\n", "can read a command line"),
        ("command = [\"x\"]\nenv = { A = \"{secret}\" }\n", "there is no secret to fill in"),
        ("command = [\"x\"]\nsecrets = [\"A\"]\nenv = { A = \"1\" }\n", "exclude each other"),
        ("command = [\"x\"]\nsecrets = [\"A\", \"A\"]\n", "stands here twice"),
    ] {
        let (_dir, path) = Setup::new(&format!("[app.a]\nhosts = [\"a.test\"]\n{more}")).write();
        let output = doorbell_tests::tool(&["check", "--config", &path.to_string_lossy()]);
        assert!(output.status == 1 && output.stderr.contains(words), "{more}: {}", output.stderr);
    }
}

#[test]
fn keys_may_be_a_credential_that_only_root_can_read() {
    let credentials = tempfile::tempdir().expect("a folder");
    let keys = credentials.path().join("doorbell.keys");
    let line = |number: u32, digit: &str| format!("{number} {}\n", digit.repeat(64));
    fs::write(&keys, line(1, "a")).expect("a file");
    let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    fs::set_permissions(&keys, only_root).expect("its mode");
    let more = "secret = \"auto\"\nenv = { APP_KEY = \"{secret}\" }\n";
    let folder = credentials.path().to_string_lossy().into_owned();
    let setup = Setup::new(&python("blog", "", more)).env("CREDENTIALS_DIRECTORY", &folder);
    let mut d = setup.server("user = \"nobody\"").open_to_all().start();
    let own = variable(&d, "blog", "APP_KEY");
    assert_eq!(own.len(), 64);
    assert!(!d.state_path().join("registry/secret.keys").exists(), "there are two kinds of keys");
    // Its owner adds a key; what was sealed with the old one is sealed anew.
    fs::write(&keys, line(1, "a") + &line(2, "b")).expect("a file");
    d.stop_and_start_again();
    assert!(d.ok(&["secret", "rotate"]).starts_with("1 secret"));
    fs::write(&keys, line(2, "b")).expect("a file");
    d.stop_and_start_again();
    assert_eq!(variable(&d, "blog", "APP_KEY"), own);
    // One that cannot be read is not passed over.
    fs::remove_file(&keys).expect("it is there");
    fs::create_dir(&keys).expect("a folder");
    d.stop_and_start_again();
    assert_eq!(d.get("blog.test", "/env").status, 503);
    assert!(!d.state_path().join("registry/secret.keys").exists(), "what was sealed would be lost");
}

/// Adds an app of the registry with a secret of its own, as `K`.
fn add_with_own(d: &Doorbell, id: &str, host: &str) {
    let server = format!("command=[\"python3\", \"{}/server.py\"]", app_dir().display());
    let directory = format!("directory={}", app_dir().display());
    let host = format!("hosts={host}");
    d.ok(&["app", "add", id, &host, &server, &directory, "secret=auto", "env.K={secret}"]);
}

#[test]
fn what_a_files_app_was_given_stays_whatever_becomes_of_one_of_its_id_in_the_registry() {
    let postgres = Postgres::start();
    let address = postgres.database();
    let blog = "secret = \"auto\"\nsecrets = [\"KEY\"]\nenv = { K = \"{secret}\" }\n";
    let registry = format!("registry = \"{address}\"");
    let ours = Setup::new(&python("blog", "", blog)).server(&registry).start();
    let other = on(&address);
    store(&ours, "blog", "KEY", "hunter2");
    let given = || {
        ours.ok(&["restart", "blog"]);
        [variable(&ours, "blog", "K"), variable(&ours, "blog", "KEY")]
    };
    let first = given();
    assert_eq!((first[0].len(), &*first[1]), (64, "hunter2"));
    add_with_own(&other, "blog", "other.test");
    let others = of(&other.get("other.test", "/env"), "K");
    assert!(others.len() == 64 && others != first[0], "the registry's has its own");
    let api = ours.api("admin");
    let is_known = || api.get("/v1/apps/blog/definition").status == 200;
    eventually("it is known here", is_known);
    assert_eq!(given(), first);
    other.ok(&["app", "rename", "blog", "news"]);
    assert_eq!(of(&other.get("other.test", "/env"), "K"), others, "it takes its own along");
    assert_eq!(given(), first);
    other.ok(&["app", "rename", "news", "blog"]);
    eventually("it is known here", is_known);
    // The one that is left out here, and not ours.
    ours.ok(&["app", "delete", "blog", "--yes"]);
    assert_eq!(given(), first);
    let rotated = ours.ok(&["secret", "rotate"]);
    assert!(rotated.starts_with("2 secrets"), "{rotated}");
    assert_eq!(given(), first);
}

#[test]
fn a_new_app_of_an_id_gets_nothing_of_the_earlier_one_though_the_registry_is_down() {
    let postgres = Postgres::start();
    let d = on(&postgres.database());
    add_with_own(&d, "blog", "blog.test");
    let old = variable(&d, "blog", "K");
    d.ok(&["app", "delete", "blog", "--yes"]);
    add_with_own(&d, "blog", "blog.test");
    postgres.stop();
    eventually("it is told", || d.ok(&["status"]).contains("cannot be reached"));
    let refused = d.cli(&["start", "blog"]);
    assert!(refused.status == 1 && refused.stderr.contains("secrets"), "{refused:?}");
    postgres.resume();
    eventually("it starts", || d.cli(&["start", "blog"]).status == 0);
    assert_ne!(variable(&d, "blog", "K"), old);
}
