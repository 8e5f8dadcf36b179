//! Addresses of databases that tell a password: it reaches who connects, and stands and is shown nowhere.

use std::fs;

use doorbell_tests::{Doorbell, app_dir, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    secrets::{files_with, variable},
    sqlite,
};
use crate::node;

const ADDRESS: &str = "postgres://me:hunter2@db.test/shop";
const SHOWN: &str = "postgres://me:********@db.test/shop";
/// What an app is told that has to do with it.
const DEFINITION: &str = "/v1/apps/shop/definition";

fn keys(address: &str) -> Value {
    json!({
        "hosts": ["shop.test"], "directory": app_dir(), "command": ["python3", "server.py"],
        "database": {"new_connection": address},
    })
}

/// One with an app whose address of a database has a password in it.
fn with_shop() -> Doorbell {
    let d = Doorbell::with(&node("main", ""));
    let mut app = keys(ADDRESS);
    app["id"] = "shop".into();
    let added = d.api("admin").ask("POST", "/v1/apps", &[], &app);
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), ADDRESS);
    d
}

/// The password stands in no file of Doorbell's, if not at once then soon.
#[track_caller]
fn is_sealed(d: &Doorbell, password: &str) {
    let registry = d.state_path();
    eventually("nothing stands in the clear", || files_with(&registry, password).is_empty());
}

fn stored(d: &Doorbell) -> String {
    sqlite(&d.state_path().join("registry/registry.db"), "SELECT definition FROM app")
}

#[test]
fn a_password_needs_not_stand_in_a_command() {
    let d = with_shop();
    let file = d.dir.path().join("address");
    let other = ADDRESS.replace("hunter2", "geheim");
    fs::write(&file, format!("{other}\n")).expect("a file");
    let pair = format!("database.new_connection={}", file.display());
    d.ok(&["app", "set", "shop", "--set-file", &pair]);
    d.ok(&["restart", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), other);
    is_sealed(&d, "geheim");
}

#[test]
fn a_password_is_stored_sealed_and_shown_to_nobody() {
    let mut d = with_shop();
    is_sealed(&d, "hunter2");
    assert!(stored(&d).contains("sealed:"), "{}", stored(&d));
    let api = d.api("admin");
    for path in [DEFINITION, "/v1/definitions", "/v1/apps/shop", "/v1/audit"] {
        assert!(!api.get(path).text().contains("hunter2"), "{path}");
    }
    let shown = d.ok(&["app", "show", "shop"]);
    assert!(shown.contains(SHOWN) && !d.log().contains("hunter2"), "{shown}");
    // It is the same app whatever else is changed, and whoever is told.
    d.ok(&["app", "set", "shop", "name=Shop"]);
    d.ok(&["app", "rename", "shop", "store"]);
    d.ok(&["app", "rename", "store", "shop"]);
    d.ok(&["secret", "rotate"]);
    let file = d.state_path().join("registry/secret.keys");
    let last = fs::read_to_string(&file).expect("keys").lines().last().expect("a key").to_owned();
    fs::write(&file, format!("{last}\n")).expect("the new key alone");
    d.stop_and_start_again();
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), ADDRESS);
    is_sealed(&d, "hunter2");
}

#[test]
fn what_was_shown_may_come_back_and_goes_nowhere_else() {
    let d = with_shop();
    let api = d.api("admin");
    let put = |address: &str| api.ask("PUT", DEFINITION, &[], &keys(address));
    let same = put(SHOWN);
    assert_eq!((same.status, &same.json()["same"]), (200, &json!(true)), "{}", same.text());
    let patch = json!({"name": "Shop", "database": {"new_connection": SHOWN}});
    assert_eq!(api.ask("PATCH", DEFINITION, &[], &patch).status, 200);
    d.ok(&["restart", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), ADDRESS);
    for elsewhere in [
        "postgres://me:********@evil.test/shop",
        "postgres://you:********@db.test/shop",
        "********",
    ] {
        let refused = put(elsewhere);
        assert_eq!(refused.status, 422, "{elsewhere}: {}", refused.text());
        assert!(refused.text().contains("write the whole address"), "{}", refused.text());
    }
    let new = json!({"add": {"other": keys(SHOWN)}});
    assert_eq!(api.ask("POST", "/v1/apply", &[], &new).status, 422, "it is another app's");
}

#[test]
fn apply_tells_a_password_that_is_another_and_none_that_is_the_same() {
    let d = with_shop();
    let file = d.dir.path().join("apps.toml");
    let apply = |address: &str, more: &[&str]| {
        let text = format!(
            "[app.shop]\nhosts = [\"shop.test\"]\ndirectory = {:?}\ncommand = [\"python3\", \"server.py\"]\n\
             database = {{ new_connection = \"{address}\" }}\n",
            app_dir()
        );
        fs::write(&file, text).expect("a file");
        d.ok(&[&["apply", "-f", &file.to_string_lossy()], more].concat())
    };
    assert!(apply(ADDRESS, &[]).starts_with("nothing to change"));
    assert!(apply(SHOWN, &[]).starts_with("nothing to change"));
    let other = ADDRESS.replace("hunter2", "hunter3");
    let told = apply(&other, &["--dry-run"]);
    assert!(told.contains("~ shop\n") && told.contains("1 apps could be changed"), "{told}");
    assert!(!told.contains("hunter"), "{told}");
    apply(&other, &[]);
    d.ok(&["restart", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), other);
    is_sealed(&d, "hunter3");
    is_sealed(&d, "hunter2");
}

#[test]
fn what_an_earlier_version_wrote_is_sealed_when_it_is_read() {
    let mut d = with_shop();
    let registry = d.state_path().join("registry/registry.db");
    let clear = keys(ADDRESS).to_string();
    let write = format!(
        "PRAGMA secure_delete = ON;
         BEGIN IMMEDIATE;
         UPDATE registry SET revision = revision + 1;
         UPDATE app SET definition = '{clear}', revision = (SELECT revision FROM registry);
         INSERT OR REPLACE INTO upgrade (app, failed, why) VALUES ('shop', '2', 'it failed');
         COMMIT;"
    );
    let is_noted = |d: &Doorbell| {
        let noted = sqlite(&registry, "SELECT failed FROM upgrade");
        assert!(noted.contains('2'), "nobody has decided on its upgrade: {noted}");
        assert!(d.ok(&["audit"]).contains("seal app"));
    };
    // Another one, that shares it.
    sqlite(&registry, &write);
    eventually("it is sealed", || stored(&d).contains("sealed:"));
    is_noted(&d);
    // This one, before an upgrade.
    d.signal(Signal::TERM);
    eventually("it has ended", || d.has_ended());
    sqlite(&registry, &write);
    d.start_again();
    eventually("it is sealed", || stored(&d).contains("sealed:"));
    is_noted(&d);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), ADDRESS);
    d.signal(Signal::TERM);
    eventually("it has ended", || d.has_ended());
    assert_eq!(files_with(&d.state_path(), "hunter2"), [""; 0], "in the clear");
    d.start_again();
}

#[test]
fn an_app_whose_address_cannot_be_opened_is_told_and_harms_no_other() {
    let mut d = with_shop();
    let file = d.state_path().join("registry/secret.keys");
    let aside = file.with_extension("aside");
    d.signal(Signal::TERM);
    eventually("it has ended", || d.has_ended());
    fs::rename(&file, &aside).expect("its keys");
    d.start_again();
    let told = d.ok(&["status"]);
    assert!(told.contains("shop") && told.contains("cannot be opened here"), "{told}");
    assert_eq!(d.get("main.test", "/hello").status, 200);
    assert_eq!(d.get("shop.test", "/env").status, 404);
    d.signal(Signal::TERM);
    eventually("it has ended", || d.has_ended());
    fs::rename(&aside, &file).expect("its keys");
    d.start_again();
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), ADDRESS);
}
