//! Pages as a real Chromium shows them, with and without scripts, judged by axe.
//!
//! `SCREENSHOTS=<folder>` keeps what was seen as pictures.

use std::{path::Path, process::Command};

use doorbell_tests::Doorbell;
use serde_json::{Value, json};

use crate::{node, pages::fails};

/// Visits a page with a real browser until it shows a text; what was seen on the way.
fn visit(d: &Doorbell, app: &str, until: &str, more: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("../target/test-apps/node_modules");
    assert!(modules.join("playwright-core").exists(), "no browser's driver: run ./test");
    let url = format!("http://{app}.localhost:{}/a?b=c", d.port);
    let mut options = json!({ "url": url, "until": until });
    let all = options.as_object_mut().expect("an object");
    all.extend(more.as_object().cloned().unwrap_or_default());
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        let name = std::thread::current().name().unwrap_or("page").replace("::", "-");
        let at = Path::new(&folder).join(format!("{name}-{}-{}.png", all.len(), more["width"]));
        all.insert("shot".to_owned(), json!(at));
    }
    let output = Command::new("node")
        .arg(root.join("browser/visit.js"))
        .arg(options.to_string())
        .env("NODE_PATH", modules)
        .output()
        .expect("node");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).expect("JSON")
}

/// An app that is ready when there is a file `go`.
fn waits(id: &str, more: &str) -> String {
    node(id, &format!("env = {{ START_WHEN = \"{{dir}}/go\" }}\n{more}"))
}

/// The file that apps wait for, made once the page was looked at.
fn release(d: &Doorbell) -> Value {
    json!(d.dir.path().join("go"))
}

/// An app that the browser finds.
fn at_localhost(app: &str) -> String {
    app.replace(".test\"", ".localhost\"")
}

#[test]
fn chromium_shows_the_page_and_then_the_app() {
    let d = Doorbell::with(&at_localhost(&waits("app", "name = \"Company blog\"")));
    for look in [json!({}), json!({ "dark": true }), json!({ "width": 320 })] {
        let mut look = look;
        look["release"] = release(&d);
        let seen = visit(&d, "app", "node GET /a?b=c", &look);
        let first = &seen["first"];
        assert_eq!(first["title"], "Company blog is waking up", "{seen:#}");
        assert_eq!(first["step"], "Starting", "{seen:#}");
        assert_eq!((&first["violations"], &first["overflows"]), (&json!([]), &json!(false)));
        assert_eq!((&seen["errors"], &seen["loads"]), (&json!([]), &json!([503, 200])), "{seen:#}");
        let url = seen["last"]["url"].as_str().expect("a URL");
        assert!(url.ends_with("/a?b=c"), "{url}");
        d.ok(&["stop", "app"]);
        std::fs::remove_file(d.dir.path().join("go")).expect("the file");
    }
}

#[test]
fn chromium_without_scripts_looks_again_by_itself() {
    let d = Doorbell::with(&at_localhost(&waits("app", "")));
    let look = json!({ "script": false, "release": release(&d) });
    let seen = visit(&d, "app", "node GET /a?b=c", &look);
    assert_eq!(seen["first"]["title"], "app is waking up", "{seen:#}");
    assert_eq!(seen["loads"].as_array().and_then(|loads| loads.last()), Some(&json!(200)));
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn chromium_shows_a_failed_start_and_does_not_storm() {
    let d = Doorbell::with(&at_localhost(&fails("shop", "")));
    let look = json!({ "stay": 5000, "release": release(&d) });
    let seen = visit(&d, "shop", "could not be started", &look);
    let last = &seen["last"];
    assert_eq!(last["title"], "Broken shop could not be started", "{seen:#}");
    let text = last["text"].as_str().expect("a text");
    assert!(text.contains("Try again") && !text.contains("opens by itself"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!((&last["violations"], &seen["errors"]), (&json!([]), &json!([])), "{seen:#}");
    assert_eq!(seen["loads"], json!([503]), "it tries again by itself");
    assert_eq!(d.status("shop")["starts"]["failed"], 1);
}

#[test]
fn chromium_finds_no_fault_with_the_other_pages() {
    let d = Doorbell::with(&at_localhost(&node("off", "maintenance = true")));
    let there = visit(&d, "off", "being worked on", &json!({}));
    let nowhere = visit(&d, "nobody", "nothing at this address", &json!({ "width": 320 }));
    for (seen, status) in [(&there, 503), (&nowhere, 404)] {
        assert_eq!((&seen["last"]["violations"], &seen["loads"]), (&json!([]), &json!([status])));
        assert_eq!(seen["last"]["overflows"], false, "{seen:#}");
    }
}

#[test]
fn chromium_shows_an_operator_why_the_start_failed() {
    let apps = fails("shop", "back_off = { initial = \"60s\" }");
    let d = Doorbell::with(&at_localhost(&apps));
    let link = d.ok(&["pass", "shop"]);
    let look = json!({ "url": link.trim(), "release": release(&d) });
    let seen = visit(&d, "shop", "hunter2 in /etc/secret", &look);
    let last = &seen["last"];
    assert_eq!(last["title"], "Broken shop could not be started", "{seen:#}");
    assert!(last["text"].as_str().is_some_and(|text| text.contains("exited with status 3")));
    // The link, the waiting page, and the page that says why.
    assert_eq!(seen["loads"], json!([303, 503, 503]), "{seen:#}");
    assert_eq!((&last["violations"], &seen["errors"]), (&json!([]), &json!([])), "{seen:#}");
    let narrow = json!({ "width": 320 });
    let public = visit(&d, "shop", "could not be started", &narrow);
    assert!(!public["last"]["text"].as_str().is_some_and(|text| text.contains("hunter2")));
}
