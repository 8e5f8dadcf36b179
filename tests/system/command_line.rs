//! The command line.

use doorbell_tests::{Doorbell, Setup, eventually, tool};

use crate::{node, python};

#[test]
fn check_tells_every_problem_at_once_with_place_and_help() {
    let apps = "[app.one]\nhosts = [\"a.test\"]\ncomand = [\"x\"]\n\n[app.two]\nhosts = [\"a.test\"]\n\
                command = \"node server.js\"\n\n[app.three]\ncommand = [\"x\"]\nready = { deadline = \"soon\" }\n";
    let (_dir, path) = Setup::new(apps).write();
    let output = tool(&["check", "--config", &path.to_string_lossy()]);
    assert_eq!(output.status, 1);
    for part in ["comand", "command", "soon", "doorbell.toml:", "^"] {
        assert!(output.stderr.contains(part), "{part:?} is missing:\n{}", output.stderr);
    }
    assert!(!output.stderr.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn check_is_content_with_a_good_file() {
    let (_dir, path) = Setup::new(&node("app", "")).write();
    let output = tool(&["check", "--config", &path.to_string_lossy()]);
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
}

#[test]
fn later_keys_are_refused_like_any_unknown_key() {
    for key in ["cache = \"1h\"", "redirect = \"x\""] {
        let (_dir, path) = Setup::new(&node("app", key)).write();
        let output = tool(&["check", "--config", &path.to_string_lossy()]);
        assert_eq!(output.status, 1, "{key}");
        assert!(output.stderr.contains("unknown"), "{key}: {}", output.stderr);
    }
}

#[test]
fn machines_are_told_in_json() {
    let d = Doorbell::with(&node("app", "secret = \"auto\"\nenv = { KEY = \"{secret}\" }"));
    let told = |args: &[&str]| -> serde_json::Value {
        let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
        let output = d.ok(&args);
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{args:?} {error}: {output}"))
    };
    assert_eq!(told(&["start", "app"])["state"], "ready");
    assert_eq!(told(&["restart", "app"])["state"], "ready");
    assert_eq!(told(&["top"])[0]["app"], "app");
    let shown = d.ok(&["logs", "app"]);
    let lines = d.ok(&["logs", "app", "--json"]);
    let lines = lines.lines().map(serde_json::from_str::<serde_json::Value>);
    let lines: Vec<_> = lines.map(|line| line.expect("JSON")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["app"] == "app"), "{lines:?}");
    let texts = lines.iter().map(|line| line["line"].as_str().expect("a text").to_owned() + "\n");
    assert_eq!(texts.collect::<String>(), shown);
    assert_eq!(told(&["stop", "app"])["id"], "app");
    eventually("it is kept", || {
        let changes = told(&["history", "app"]);
        let changes = changes.as_array().expect("a list");
        assert!(changes.iter().all(|change| change["app"] == "app"), "{changes:?}");
        changes.last().is_some_and(|last| last["state"] == "stopped")
    });
    assert_eq!(told(&["reload"])["apps"], 1);
    assert_eq!(told(&["secret", "rotate"])["secrets"], 1);
    assert!(told(&["pass", "app"])["url"].as_str().is_some_and(|url| url.starts_with("http://")));
    assert!(told(&["app", "open", "app"])["url"].to_string().contains("app.test"));
    told(&["token", "add", "ci", "--scope", "read"]);
    assert_eq!(told(&["token", "remove", "ci"])["removed"], "ci");
    let path = d.config_path();
    let path = path.to_string_lossy();
    let checked = tool(&["check", "--json", "--config", &path]);
    let good: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!((checked.status, &good["good"], &good["apps"]), (0, &true.into(), &1.into()));
    let (_dir, path) = Setup::new("[app.a]\ncomand = 1\n").write();
    let checked = tool(&["check", "--json", "--config", &path.to_string_lossy()]);
    let bad: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!((checked.status, &bad["good"]), (1, &false.into()));
    assert!(bad["problems"].to_string().contains("did you mean `command`"), "{bad}");
    assert_eq!(checked.stderr, "");
}

#[test]
fn the_doctor_tells_what_holds_with_and_without_a_server() {
    let d = Doorbell::with(&node("app", ""));
    let told = d.ok(&["doctor"]);
    for what in [
        "limits.memory",
        "a noisy neighbour",
        "idle.freeze_after",
        "memory of frozen apps",
        "readiness",
        "user",
    ] {
        assert!(told.contains(what), "{told}");
    }
    let abilities = d.ok(&["doctor", "--json"]);
    let abilities: serde_json::Value = serde_json::from_str(&abilities).expect("JSON");
    let files =
        abilities.as_array().expect("a list").iter().find(|one| one["what"] == "limits.files");
    assert_eq!(files.expect("it is told")["level"], "good");
    let (_dir, path) = Setup::new(&node("app", "")).write();
    let output = tool(&["doctor", "--config", &path.to_string_lossy()]);
    assert_eq!((output.status, output.stdout.lines().count() >= 8), (0, true), "{}", output.stdout);
    assert!(output.stderr.contains("no doorbell runs here"), "{}", output.stderr);
}

#[test]
fn without_a_server_the_verbs_say_so_plainly() {
    let (_dir, path) = Setup::new(&node("app", "")).write();
    for args in
        [&["status"][..], &["reload"], &["stop", "app"], &["logs", "app"], &["history", "app"]]
    {
        let mut args = args.to_vec();
        let path = path.to_string_lossy();
        args.extend(["--config", &path]);
        let output = tool(&args);
        assert_eq!(output.status, 1, "{args:?}");
        assert!(output.stderr.contains("no doorbell runs here"), "{}", output.stderr);
    }
}

#[test]
fn status_is_a_table_for_people_and_json_for_machines() {
    let d = Doorbell::with(&[node("app", ""), node("other", "")].concat());
    assert_eq!(d.get("app.test", "/").status, 200);
    let table = d.ok(&["status"]);
    let header = table.lines().next().expect("a header");
    for column in ["APP", "STATE", "SINCE", "PID", "MEMORY", "CPU", "REQUESTS", "COLD START"] {
        assert!(header.contains(column), "{table}");
    }
    let row = table.lines().find(|line| line.contains("app ")).expect("a row");
    assert!(row.contains("ready") && row.contains("MiB"), "{table}");
    assert!(!table.contains('\x1b'), "no colour into a pipe");
    let status = d.status("app");
    assert_eq!(status["requests"], 1);
    assert!(status["usage"]["memory_bytes"].as_u64() > Some(1024 * 1024), "{status:#}");
    assert!(status["last_cold_start_seconds"].as_f64() > Some(0.0));
}

#[test]
fn who_is_pinned_stands_before_the_others() {
    let pinned = |id| node(id, "pinned = true\ninstances = 2");
    let d = Doorbell::with(&[node("a", ""), pinned("z"), node("b", ""), pinned("y")].concat());
    let order = ["y", "y:2", "z", "z:2", "a", "b"];
    let first_words = |table: &str| {
        let lines = table.lines().skip(1).take_while(|line| !line.is_empty());
        lines
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(first_words(&d.ok(&["status"])), order);
    assert_eq!(first_words(&d.ok(&["app", "list"])), ["y", "z", "a", "b"]);
    let apps = d.api("read").get("/v1/apps").json();
    let apps = apps["apps"].as_array().expect("a list");
    let told: Vec<_> = apps.iter().map(|app| (&app["id"], app["pinned"] == true)).collect();
    let ids = order.map(serde_json::Value::from);
    assert_eq!(told, ids.iter().zip([true, true, true, true, false, false]).collect::<Vec<_>>());
    for app in ["a", "y", "z"] {
        d.ok(&["start", app]);
    }
    let pid = d.app_pid("a");
    let top: serde_json::Value = serde_json::from_str(&d.ok(&["top", "--json"])).expect("JSON");
    let top: Vec<_> = top.as_array().expect("a list").iter().map(|app| &app["pinned"]).collect();
    assert!(top.len() >= 3 && top.is_sorted_by_key(|is_pinned| **is_pinned == false), "{top:?}");
    // To be pinned is no reason to be started again.
    d.rewrite(&node("a", "pinned = true"));
    eventually("it is pinned", || d.cli(&["status", "b"]).status != 0);
    assert_eq!((&d.status("a")["pinned"], d.app_pid("a")), (&true.into(), pid));
}

#[test]
fn stop_is_undone_by_a_visit_and_disable_is_not() {
    let d = Doorbell::with(&[node("app", ""), node("other", "")].concat());
    d.ok(&["start", "app"]);
    let first = d.app_pid("app");
    assert!(first.is_some());
    d.ok(&["stop", "app"]);
    assert_eq!(d.state("app"), "stopped");
    assert_eq!(d.get("app.test", "/").status, 200);
    d.ok(&["restart", "app"]);
    assert_ne!(d.app_pid("app"), first);
    d.ok(&["disable", "app"]);
    assert_eq!(d.get("app.test", "/").status, 503);
    let start = d.cli(&["start", "app"]);
    assert!(start.status != 0 && start.stderr.contains("disabled"), "{start:?}");
    assert_eq!(d.get("other.test", "/").status, 200, "the other app is untouched");
    d.ok(&["reload"]);
    assert_eq!(d.get("app.test", "/").status, 503, "it sticks through a reload");
    d.ok(&["enable", "app"]);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_disabled_app_stays_so_across_a_restart() {
    let keep = tempfile::tempdir().expect("a folder");
    let apps = node("app", "");
    let with_state = |apps: &str| Setup::new(apps).state_dir(keep.path()).start();
    let state = apps.as_str();
    let d = with_state(state);
    d.ok(&["disable", "app"]);
    d.stop();
    let d = with_state(state);
    assert_eq!(d.get("app.test", "/").status, 503);
    assert_eq!(d.status("app")["goal"], "disabled");
    d.ok(&["enable", "app"]);
    d.stop();
    let d = with_state(state);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn the_history_of_an_app_is_a_table_the_newest_last() {
    let d = Doorbell::with(&[node("app", ""), node("other", "")].concat());
    assert_eq!(d.ok(&["history", "other"]).trim(), "WHEN  APP  STATE  WHY");
    d.ok(&["start", "app"]);
    d.ok(&["disable", "app"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    eventually("it is kept", || {
        let table = d.ok(&["history", "app"]);
        let mut lines = table.lines().map(words);
        assert_eq!(lines.next().expect("a header"), ["WHEN", "APP", "STATE", "WHY"]);
        let states: Vec<_> = lines.map(|words| words[2..4].join(" ")).collect();
        let at = |state: &str| states.iter().position(|have| have.as_str() == state);
        let is_whole = states.last().is_some_and(|last| last.starts_with("app disabled"));
        assert!(!is_whole || at("app starting") < at("app ready"), "{table}");
        is_whole && at("app starting").is_some()
    });
    let unknown = d.cli(&["history", "nobody"]);
    assert!(unknown.status == 1 && unknown.stderr.contains("nobody"), "{unknown:?}");
}

#[test]
fn an_unknown_app_is_told() {
    let d = Doorbell::with(&node("app", ""));
    let output = d.cli(&["stop", "nobody"]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("nobody"), "{}", output.stderr);
    let output = d.cli(&["stop", "../../etc"]);
    assert_eq!(output.status, 1);
}

#[test]
fn logs_show_the_last_lines_and_follow() {
    let d = Doorbell::with(&python("app", "", ""));
    for n in 0..5 {
        assert_eq!(d.get("app.test", &format!("/{n}")).status, 200);
    }
    eventually("the output is there", || d.ok(&["logs", "app"]).contains("GET /4 "));
    let two = d.ok(&["logs", "app", "-n", "2"]);
    assert_eq!(two.lines().count(), 2, "{two}");
    let mut follow = d.spawn(&["logs", "app", "-f", "-n", "1"]);
    assert_eq!(d.get("app.test", "/later").status, 200);
    follow.wait_for_line("GET /later ");
}

#[test]
fn the_admin_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let d = Doorbell::with(&node("app", ""));
    let mode = |name: &str| {
        let metadata = std::fs::metadata(d.dir.path().join(name)).expect("metadata");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("admin.sock"), 0o600);
    assert_eq!(mode("state"), 0o700);
}

#[test]
fn the_admin_address_carries_no_verbs_for_strangers_and_answers_no_foreign_names() {
    let d = Doorbell::with(&node("app", ""));
    let ask = |host: &str, path: &str| doorbell_tests::get(d.metrics_port, host, path).status;
    assert_eq!(ask("localhost", "/healthz"), 200);
    assert_eq!(ask("127.0.0.1", "/readyz"), 200);
    assert_eq!(ask("evil.example", "/metrics"), 403);
    assert_eq!(ask("localhost", "/v1/apps"), 401);
    let post = doorbell_tests::post(d.metrics_port, "localhost", "/v1/apps/app/stop", b"");
    assert_eq!(post.status, 401);
}

#[test]
fn a_second_doorbell_on_the_same_state_is_refused() {
    let d = Doorbell::with(&node("app", ""));
    let path = d.config_path();
    let output = tool(&["serve", "--config", &path.to_string_lossy()]);
    assert_eq!(output.status, 1);
    assert!(
        output.stderr.contains("in use") || output.stderr.contains("another"),
        "{}",
        output.stderr
    );
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn schema_man_and_completions_are_printed() {
    let schema: serde_json::Value = serde_json::from_str(&tool(&["schema"]).stdout).expect("JSON");
    assert!(schema["properties"]["app"].is_object(), "{schema:#}");
    assert!(tool(&["man"]).stdout.contains(".TH doorbell"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(tool(&["completions", shell]).stdout.contains("doorbell"), "{shell}");
    }
    for verb in [
        "serve",
        "check",
        "reload",
        "status",
        "start",
        "stop",
        "restart",
        "enable",
        "disable",
        "history",
        "events",
        "logs",
        "schema",
        "completions",
        "man",
    ] {
        assert!(tool(&["--help"]).stdout.contains(verb), "{verb}");
        assert_eq!(tool(&[verb, "--help"]).status, 0, "{verb}");
    }
}
