//! Values that mean something to a database, a shell, a path, a terminal, a page or the eye, in every text that an app
//! may have: stored and given to its program as they are, and shown so that they do nothing.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use doorbell_tests::{Api, Doorbell, binary, eventually};
use serde_json::{Value, json};

use crate::{node, observing::promtool, registry::sqlite};

/// A program that prints its arguments and environment, and tells them to whoever asks.
const TELLS: &str = "
    const { createServer } = require('node:http');
    const all = JSON.stringify({ args: process.argv.slice(2), env: process.env });
    console.log(process.argv.slice(2).join(' '), process.env.TEXT);
    createServer((_, response) => response.end(all)).listen(process.env.PORT, '127.0.0.1');
";

/// A file of a Doorbell's that there is once a shell has run one of the values.
fn ran(d: &Doorbell) -> PathBuf {
    d.dir.path().join("ran")
}

fn values(d: &Doorbell) -> Vec<String> {
    let ran = ran(d).to_string_lossy().into_owned();
    let shells =
        ["$(touch R)", "`touch R`", "; touch R #", "| touch R", "& touch R", "\n touch R\n"];
    let others = [
        "'; DROP TABLE app; --",
        "\" OR \"\"=\"",
        "../../../../../../etc/passwd",
        "/etc/shadow",
        "%2e%2e%2f%00",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{9b}31m\u{9d}0;owned\u{9c}",
        "\u{1b}[999D\u{1b}[1A\rroot ready",
        "\u{8}\u{8}\u{8}\u{7f}",
        "\u{202e}dedrawroff\u{202c} \u{2066}x\u{2069}",
        "\u{2028}\u{2029}\u{85}",
        "a\u{200d}\u{feff}\u{301}\u{301}\u{301}",
        "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
        "x\r\nSet-Cookie: owned=1\r\n\r\n<html>",
        "\"]\n[server]\nlisten = [\"0.0.0.0:1\"]",
        "\" } 1\nowned{app=\"x\"} 1\n# HELP owned",
        "${HOME} $HOME %s%n {{7*7}}",
        "-rf",
        "--help",
        "=cmd|' /C calc'!A1",
        "\\",
        "",
        " ",
        "日本語 🚪",
    ];
    let shells = shells.into_iter().map(|value| value.replace('R', &ran));
    shells.chain(others.map(str::to_owned)).collect()
}

/// What an app may have in a text, as a patch of its keys.
fn texts(value: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("name", json!({"name": value})),
        ("argument", json!({"command": ["node", "tells.js", value]})),
        ("variable", json!({"env": {"TEXT": value}})),
        ("name of a variable", json!({"env": {"TEXT": value, value: "x"}})),
        ("version", json!({"version": value})),
        ("host", json!({"hosts": [value]})),
        ("path", json!({"paths": [value]})),
        ("folder", json!({"directory": value})),
        ("user", json!({"user": value})),
        ("group", json!({"group": value})),
        ("readiness", json!({"ready": {"http": value}})),
        ("readiness of a body", json!({"ready": {"http": "/", "body": value}})),
        ("host of readiness", json!({"ready": {"http": "/", "host": value}})),
        ("secret", json!({"secrets": [value]})),
        ("paths that wake", json!({"wake": {"paths": [value]}})),
        ("clients that do not", json!({"wake": {"deny_user_agents": [value]}})),
        ("page", json!({"pages": {"maintenance": value}})),
        ("hours", json!({"keep_awake": value})),
        ("needs", json!({"needs": [value]})),
        ("upstream", json!({"upstream": value})),
        ("share", json!({"shared_with": value})),
        ("database", json!({"database": {"new_connection": value}})),
        ("place to write", json!({"read_write_paths": [value]})),
        ("upgrade", json!({"upgrade": ["true", value]})),
        ("unknown", json!({value: value})),
    ]
}

fn base(d: &Doorbell, id: &str) -> Value {
    json!({
        "id": id, "hosts": [format!("{id}.test")], "directory": d.dir.path(),
        "command": ["node", "tells.js"],
    })
}

fn with(mut app: Value, patch: &Value) -> Value {
    for (key, value) in patch.as_object().expect("an object") {
        app[key] = value.clone();
    }
    app
}

/// Whether something would steer a terminal, or show letters in another order than they stand in.
fn steers(text: &str) -> Option<char> {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().find(|c| c.is_control() && !"\n\t".contains(*c) || turns(*c))
}

/// What a verb shows on a terminal.
fn on_terminal(d: &Doorbell, args: &[&str]) -> String {
    let (program, config) = (binary(), d.config_path());
    let (program, config) = (program.to_string_lossy(), config.to_string_lossy());
    let words = [&[&*program], args, &["--config", &config]];
    let quoted = words.concat().iter().map(|word| format!("'{word}'")).collect::<Vec<_>>();
    let mut script = Command::new("script");
    // Our own colours are no concern here.
    script.env("NO_COLOR", "1").stdin(Stdio::null());
    script.args(["-qec", &quoted.join(" "), "/dev/null"]);
    let output = script.output().expect("script(1)");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {shown}");
    // The terminal's own end of a line.
    shown.replace("\r\n", "\n")
}

/// Adds an app for each value with all texts that may be that; gives the ids, and which texts.
fn add_all(d: &Doorbell, api: &Api) -> Vec<(String, String, Vec<&'static str>)> {
    let mut added = Vec::new();
    for (number, value) in values(d).into_iter().enumerate() {
        let id = format!("h{number}");
        let (mut app, mut taken) = (base(d, &id), Vec::new());
        for (text, patch) in texts(&value) {
            let tried = with(app.clone(), &patch);
            let answer = api.ask("POST", "/v1/apps?dry_run=true", &[], &tried);
            assert!(matches!(answer.status, 200 | 422), "{text} {value:?}: {}", answer.text());
            // What decides what it is, and where, is only tried.
            let decides = [
                "upstream",
                "share",
                "database",
                "needs",
                "folder",
                "user",
                "group",
                "host",
                "place to write",
            ];
            if answer.status == 200 && !decides.contains(&text) && !text.starts_with("readiness") {
                app = tried;
                taken.push(text);
            }
        }
        let answer = api.ask("POST", "/v1/apps", &[], &app);
        assert_eq!(answer.status, 201, "{value:?}: {}", answer.text());
        added.push((id, value, taken));
    }
    added
}

#[test]
fn hostile_values_are_given_as_they_are_and_do_nothing_where_they_are_shown() {
    let d = doorbell_tests::Setup::new(&node("main", "")).file("tells.js", TELLS).start();
    let registry = d.state_path().join("registry/registry.db");
    let tables = sqlite(&registry, "SELECT sql FROM sqlite_schema ORDER BY 1");
    let api = d.api("admin");
    let added = add_all(&d, &api);
    let taken = |text: &str| added.iter().filter(|(.., taken)| taken.contains(&text)).count();
    for text in ["name", "argument", "variable", "version", "clients that do not", "upgrade"] {
        assert!(taken(text) > 5, "{text}: hardly any is accepted");
    }

    are_given_as_they_are(&d, &added);
    are_stored_as_they_are(&api, &added);
    let now = sqlite(&registry, "SELECT sql FROM sqlite_schema ORDER BY 1");
    assert_eq!(now, tables, "the registry is what it was");
    show_nothing_that_steers(&d, &added);
    are_no_markup(&d, &added);
    are_no_metrics(&d);
    assert!(!ran(&d).exists(), "a shell has run one");
    assert_eq!(steers(&d.log()), None, "{}", d.log());
}

/// Programs get them byte for byte.
fn are_given_as_they_are(d: &Doorbell, added: &[(String, String, Vec<&'static str>)]) {
    for (id, value, taken) in added.iter().filter(|(_, value, _)| !value.contains(['{', '$'])) {
        if taken.contains(&"hours") || taken.contains(&"paths that wake") || taken.contains(&"path")
        {
            continue;
        }
        let answer = d.get(&format!("{id}.test"), "/");
        assert_eq!(answer.status, 200, "{id} {value:?}: {}", d.status(id));
        let seen = answer.json();
        if taken.contains(&"argument") {
            assert_eq!(seen["args"], json!([value]), "{id}");
        }
        if taken.contains(&"variable") {
            assert_eq!(seen["env"]["TEXT"].as_str(), Some(&**value), "{id}");
        }
    }
}

fn are_stored_as_they_are(api: &Api, added: &[(String, String, Vec<&'static str>)]) {
    let all = api.get("/v1/definitions").json();
    assert_eq!(all.as_array().map(Vec::len), Some(added.len()));
    for (id, value, taken) in added.iter().filter(|(.., taken)| taken.contains(&"name")) {
        let shown = api.get(&format!("/v1/apps/{id}/definition")).json();
        assert_eq!(shown["keys"]["name"].as_str(), Some(&**value), "{taken:?}");
    }
}

fn show_nothing_that_steers(d: &Doorbell, added: &[(String, String, Vec<&'static str>)]) {
    let mut views: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["app", "list"],
        vec!["audit"],
        vec!["app", "list", "--json"],
        vec!["status", "--json"],
    ];
    for (id, ..) in added {
        views.extend([vec!["status", id], vec!["app", "show", id], vec!["logs", id]]);
    }
    for view in views {
        let shown = on_terminal(d, &view);
        assert_eq!(steers(&shown), None, "{view:?}: {shown:?}");
    }
}

/// A page that names the app, as those of one that cannot start do.
fn are_no_markup(d: &Doorbell, added: &[(String, String, Vec<&'static str>)]) {
    for (id, value, _) in added {
        d.ok(&["app", "set", id, "maintenance=true"]);
        let mut client = d.connect();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: {id}.test\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        ));
        let page = client.read();
        assert!(page.field("set-cookie").is_none(), "{value:?}");
        let text = page.text();
        assert!(!text.contains("<script>alert") && !text.contains("<img"), "{value:?}: {text}");
    }
}

fn are_no_metrics(d: &Doorbell) {
    let text = d.metrics();
    assert!(!text.contains("owned"), "{text}");
    assert_eq!(promtool(&text), "");
}

#[test]
fn hostile_values_of_what_is_no_app_do_nothing_either() {
    let d = Doorbell::with(&node("main", ""));
    let api = d.api("admin");
    for value in values(&d) {
        let token = json!({"name": value, "scope": "read"});
        let made = api.ask("POST", "/v1/tokens", &[], &token);
        assert!(matches!(made.status, 201 | 422), "{value:?}: {}", made.text());
        let secret = json!({"value": value});
        let stored = api.ask("PUT", "/v1/apps/main/secrets/TEXT", &[], &secret);
        assert!(matches!(stored.status, 204 | 422), "{value:?}: {}", stored.text());
        let renamed = api.ask("PUT", "/v1/apps/main/id", &[], &json!({"to": value}));
        assert!((400..500).contains(&renamed.status), "{value:?}: {}", renamed.text());
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in ["/v1/apps/X", "/v1/apps/X/definition", "/v1/apps/X/history", "/v1/tokens/X"] {
            let method = if path.contains("tokens") { "DELETE" } else { "GET" };
            let path = path.replace('X', &encoded);
            let answer = api.ask(method, &path, &[], &Value::Null);
            assert!((200..500).contains(&answer.status), "{path}: {}", answer.text());
        }
        // What is refused is told in words that have it in them.
        let wrong = format!("hosts={value}");
        for words in [&["status", &*value][..], &["app", "set", "main", &wrong], &["logs", &value]]
        {
            let asked = d.cli(words);
            assert_eq!(steers(&(asked.stdout + &asked.stderr)), None, "{words:?}");
        }
    }
    for view in [&["token", "list"][..], &["secret", "list", "main"], &["audit"]] {
        let shown = on_terminal(&d, view);
        assert_eq!(steers(&shown), None, "{view:?}: {shown:?}");
    }
    assert!(!ran(&d).exists(), "a shell has run one");
    eventually("it serves on", || d.get("main.test", "/hello").status == 200);
}
