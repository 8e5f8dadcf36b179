//! Databases that are made for apps: before their first start, and removed only when told to.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use doorbell_tests::{Doorbell, Postgres, Role, app_dir, eventually};

use serde_json::Value;

use super::{backup::Saved, secrets::variable, sqlite, starts_on_a_broken_file};
use crate::{node, python};

/// Adds an app that gets a database of its own on this server.
fn add(d: &Doorbell, app: &str, server: &str) -> doorbell_tests::Output {
    let host = format!("hosts={app}.test");
    let command = format!("command=[\"python3\", \"{}/server.py\"]", app_dir().display());
    let directory = format!("directory={}", app_dir().display());
    let database = format!("database.new_database={server}");
    let back_off = "back_off={ initial = \"50ms\", max = \"50ms\" }";
    let env = "env.DB=the {database_dialect} {database_name} of {database_user}";
    d.cli(&["app", "add", app, &host, &command, &directory, &database, back_off, env])
}

fn databases(postgres: &Postgres, server: &str) -> String {
    postgres.sql(server, "SELECT datname FROM pg_database WHERE datname LIKE 'app%' ORDER BY 1")
}

#[test]
fn an_app_gets_a_database_that_outlives_it_unless_told_otherwise() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    assert_eq!(add(&d, "shop", &server).status, 0);
    let url = variable(&d, "shop", "DATABASE_URL");
    assert!(url.starts_with("postgres://app_shop:"), "{url}");
    assert_eq!(databases(&postgres, &server), "app_shop");
    assert_eq!(variable(&d, "shop", "DB"), "the postgres app_shop of app_shop");
    let password = url.split(':').nth(2).and_then(|rest| rest.split('@').next()).expect("one");
    assert!(password.len() >= 32 && !d.log().contains(password));
    let refused = d.cli(&["app", "rename", "shop", "store"]);
    assert!(refused.stderr.contains("named after it"), "{refused:?}");
    d.ok(&["restart", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), url);

    d.ok(&["app", "delete", "shop", "--yes"]);
    assert_eq!(databases(&postgres, &server), "app_shop", "its data are kept");
    assert_eq!(add(&d, "shop", &server).status, 0);
    let refused = d.cli(&["start", "shop"]);
    assert!(refused.stderr.contains("earlier app"), "{refused:?}");
    d.ok(&["app", "adopt", "shop"]);
    d.ok(&["start", "shop"]);
    assert_ne!(variable(&d, "shop", "DATABASE_URL"), url, "its password is another");

    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    assert_eq!(databases(&postgres, &server), "");
    assert_eq!(add(&d, "shop", &server).status, 0);
    d.ok(&["start", "shop"]);
}

#[test]
fn a_database_that_cannot_be_made_fails_its_app_in_the_servers_words() {
    let postgres = Postgres::start();
    let server = postgres.database();
    postgres.sql(&server, "CREATE ROLE weak LOGIN");
    let d = Doorbell::with(&node("main", ""));
    let weak = server.replace("postgres://doorbell@", "postgres://weak@");
    assert_eq!(add(&d, "weak", &weak).status, 0);
    let refused = d.cli(&["start", "weak"]);
    assert!(refused.stderr.contains("does not let us"), "{refused:?}");
    assert!(d.status("weak").to_string().contains("does not let us"));
    // Nobody else notices.
    assert_eq!(d.get("main.test", "/").status, 200);

    assert_eq!(add(&d, "shop", &server).status, 0);
    postgres.stop();
    let refused = d.cli(&["start", "shop"]);
    assert!(refused.stderr.contains("cannot be reached"), "{refused:?}");
    postgres.resume();
    eventually("it starts", || d.get("shop.test", "/").status == 200);
    let undone = d.ok(&["app", "delete", "weak", "--yes", "--dry-run"]);
    assert!(undone.contains("could be"), "{undone}");
}

/// The table of an app of a file with a database on this server.
fn of_file(server: &str) -> String {
    let database = format!("database = {{ new_database = \"{server}\" }}\n");
    node("main", "") + &python("shop", "", &database)
}

#[test]
fn an_app_of_a_file_that_comes_back_later_is_another() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&of_file(&server));
    let url = variable(&d, "shop", "DATABASE_URL");
    assert!(url.starts_with("postgres://app_shop:"), "{url}");
    let remembered = d.state_path().join("registry/file-apps.json");
    let is_remembered =
        |what: &str| fs::read_to_string(&remembered).is_ok_and(|text| text.contains(what));
    let take_out = || {
        d.rewrite(&node("main", ""));
        eventually("it is out", || d.cli(&["status", "shop"]).status != 0);
        eventually("that is remembered", || is_remembered("\"left\""));
    };
    let put_back = || {
        d.rewrite(&of_file(&server));
        eventually("it is back", || d.cli(&["status", "shop"]).status == 0);
    };
    take_out();
    put_back();
    eventually("that is remembered", || is_remembered("{\"is\":0}") && !is_remembered("left"));
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), url, "it was away for a moment");
    take_out();
    // As if that was longer ago.
    let text = fs::read_to_string(&remembered).expect("what is remembered");
    let at = text.find("\"at\":").expect("since when") + 5;
    let end = at + text[at..].find(',').expect("an end");
    fs::write(&remembered, format!("{}1000{}", &text[..at], &text[end..])).expect("a file");
    d.kill_role(Role::Control);
    put_back();
    let refused = d.cli(&["start", "shop"]);
    assert!(refused.stderr.contains("an earlier app"), "{refused:?}");
    assert!(refused.stderr.contains("adopt"), "{refused:?}");
    assert_eq!(databases(&postgres, &server), "app_shop");
    d.ok(&["app", "adopt", "shop"]);
    d.ok(&["start", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), url);
    d.kill_role(Role::Control);
    d.ok(&["restart", "shop"]);
    assert_eq!(variable(&d, "shop", "DATABASE_URL"), url);
}

#[test]
fn a_broken_file_keeps_no_app_from_its_database() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&of_file(&server));
    starts_on_a_broken_file(&d, &of_file(&server));
    let url = variable(&d, "shop", "DATABASE_URL");
    assert!(url.starts_with("postgres://app_shop:"), "{url}");
}

#[test]
fn an_app_of_the_registry_has_its_database_though_the_files_are_broken() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    assert_eq!(add(&d, "shop", &server).status, 0);
    starts_on_a_broken_file(&d, &node("main", ""));
    let url = variable(&d, "shop", "DATABASE_URL");
    assert!(url.starts_with("postgres://app_shop:"), "{url}");
}

/// An app with a database of SQLite, in this folder, and a note beside that.
fn with_note(d: &Doorbell) -> (PathBuf, PathBuf) {
    let folder = folder(d, "databases");
    assert_eq!(add(d, "shop", &format!("sqlite:{}", folder.display())).status, 0);
    d.ok(&["start", "shop"]);
    let note = folder.join("app_shop/note");
    fs::write(&note, "kept").expect("a note");
    (folder, note)
}

const DELETE: [&str; 5] = ["app", "delete", "shop", "--yes", "--with-database"];

fn is_noted(d: &Doorbell) -> bool {
    let registry = d.state_path().join("registry/registry.db");
    sqlite(&registry, "SELECT ending_since IS NOT NULL FROM app WHERE id = 'shop'") == "(1,)"
}

/// Nobody makes or removes databases in a folder as long as this is open.
fn hold(folder: &Path) -> File {
    let held = File::open(folder).expect("a folder");
    held.lock().expect("its lock");
    held
}

/// A folder that the control process may make databases of SQLite in.
fn folder(d: &Doorbell, name: &str) -> PathBuf {
    let folder = d.state_path().join("registry").join(name);
    fs::create_dir(&folder).expect("a folder");
    folder
}

#[test]
fn an_app_whose_deletion_was_cut_short_gets_no_empty_database() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    assert_eq!(add(&d, "shop", &server).status, 0);
    d.ok(&["start", "shop"]);
    d.ok(&["stop", "shop"]);
    // As it is when a control process dies between the removal of the database and that of the app.
    let registry = d.state_path().join("registry/registry.db");
    sqlite(&registry, "UPDATE app SET ending_since = 1000");
    d.kill_role(Role::Control);
    let refused = d.cli(&["start", "shop"]);
    assert!(refused.stderr.contains("delete it again"), "{refused:?}");
    assert_eq!(d.get("shop.test", "/").status, 503);
    d.ok(&["app", "adopt", "shop"]);
    d.ok(&["start", "shop"]);
    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    assert_eq!(databases(&postgres, &server), "");
}

#[test]
fn a_deletion_that_is_killed_before_its_first_loss_may_be_thought_better_of() {
    let d = Doorbell::with(&node("main", ""));
    let (folder, note) = with_note(&d);
    let held = hold(&folder);
    let deletion = d.spawn(&DELETE);
    eventually("it is noted", || is_noted(&d));
    d.kill_role(Role::Control);
    drop((held, deletion));
    for line in [&["start", "shop"][..], &["app", "set", "shop", "name=Shop"]] {
        let refused = d.cli(line);
        assert!(refused.status != 0 && refused.stderr.contains("delete it again"), "{refused:?}");
    }
    d.ok(&["app", "adopt", "shop"]);
    d.ok(&["app", "set", "shop", "name=Shop"]);
    d.ok(&["start", "shop"]);
    assert_eq!(fs::read_to_string(&note).expect("it is there"), "kept");
    d.ok(&DELETE);
    assert!(!note.exists());
}

#[test]
fn an_app_is_not_changed_while_its_database_goes() {
    let d = Doorbell::with(&node("main", ""));
    let (folder, _) = with_note(&d);
    let api = d.api("admin");
    let path = "/v1/apps/shop/definition";
    let seen = api.get(path).field("etag").expect("an ETag").to_owned();
    let if_match = format!("If-Match: {seen}");
    let patch = serde_json::json!({"name": "Shop"});
    let held = hold(&folder);
    let deleted = std::thread::scope(|scope| {
        let deletion = scope.spawn(|| {
            api.ask("DELETE", "/v1/apps/shop?with_database=true", &[&if_match], &Value::Null)
        });
        eventually("it is noted", || is_noted(&d));
        for fields in [&[][..], &[&*if_match]] {
            let refused = api.ask("PATCH", path, fields, &patch);
            let text = refused.text();
            assert!(refused.status == 409 && text.contains("being deleted"), "{text}");
        }
        drop(held);
        deletion.join().expect("an answer")
    });
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    assert!(!folder.join("app_shop").exists());
    assert_eq!(api.get(path).status, 404);
}

#[test]
fn a_deletion_that_its_operator_does_not_wait_for_comes_to_its_end() {
    let d = Doorbell::with(&node("main", ""));
    let (folder, note) = with_note(&d);
    let held = hold(&folder);
    let deletion = d.spawn(&DELETE);
    eventually("it is noted", || is_noted(&d));
    drop(deletion);
    drop(held);
    eventually("it is gone", || d.cli(&["app", "show", "shop"]).status != 0);
    assert!(!note.exists());
}

#[test]
fn an_app_whose_database_is_lost_in_part_gets_no_empty_one() {
    let d = Doorbell::with(&node("main", ""));
    let (folder, note) = with_note(&d);
    // What keeps the mark from being removed, which comes after the data.
    let obstacle = folder.join("app_shop.new");
    fs::create_dir(&obstacle).expect("a folder");
    let failed = d.cli(&DELETE);
    assert!(failed.status != 0 && failed.stderr.contains("what is left"), "{failed:?}");
    let check = || {
        let refused = d.cli(&["start", "shop"]);
        assert!(refused.stderr.contains("its deletion was begun"), "{refused:?}");
        assert!(!note.parent().expect("its folder").exists());
    };
    check();
    // One that fails before it does anything makes no whole of it.
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).expect("to move it");
    assert_ne!(d.cli(&DELETE).status, 0);
    fs::rename(&aside, &folder).expect("to move it");
    check();
    d.kill_role(Role::Control);
    check();
    fs::remove_dir(&obstacle).expect("to remove it");
    d.ok(&DELETE);
    assert_ne!(d.cli(&["app", "show", "shop"]).status, 0);
}

#[test]
fn a_deletion_that_fails_before_its_first_loss_leaves_the_app_as_it_was() {
    let d = Doorbell::with(&node("main", ""));
    let (folder, note) = with_note(&d);
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).expect("to move it");
    let failed = d.cli(&DELETE);
    assert!(failed.stderr.contains("and so is its database"), "{failed:?}");
    fs::rename(&aside, &folder).expect("to move it");
    d.ok(&["start", "shop"]);
    assert_eq!(fs::read_to_string(&note).expect("it is there"), "kept");
}

#[test]
fn an_app_of_a_file_keeps_what_it_has_where_one_of_the_registry_is_left_out_for_it() {
    let mut d = Doorbell::with(&node("main", ""));
    let (registrys, files) = (folder(&d, "of-registry"), folder(&d, "of-file"));
    assert_eq!(add(&d, "shop", &format!("sqlite:{}", registrys.display())).status, 0);
    d.ok(&["start", "shop"]);
    d.signal(rustix::process::Signal::TERM);
    eventually("it ends", || d.has_ended());
    let database = format!("database = {{ new_database = \"sqlite:{}\" }}\n", files.display());
    d.rewrite(&(node("main", "") + &python("shop", "", &database)));
    d.start_again();
    d.ok(&["start", "shop"]);
    let note = files.join("app_shop/note");
    fs::write(&note, "of the file's app").expect("its own");

    let saved = Saved::at(&d);
    for line in [&DELETE[..], &saved.line(&["app", "export", "shop"], &[])] {
        let refused = d.cli(line);
        assert!(refused.status != 0 && refused.stderr.contains("left out"), "{refused:?}");
    }
    let answer =
        d.api("admin").ask("DELETE", "/v1/apps/shop?with_database=true", &[], &Value::Null);
    assert_eq!(answer.status, 409, "{}", answer.text());
    d.ok(&["app", "delete", "shop", "--yes"]);
    d.ok(&["restart", "shop"]);
    d.ok(&saved.line(&["app", "export", "shop"], &[]));
    assert_eq!(fs::read_to_string(&note).expect("it is there"), "of the file's app");
    assert!(registrys.join("app_shop").exists(), "it is kept too");
}

#[test]
fn an_app_without_a_database_takes_none_along_of_who_has_its_id() {
    let mut d = Doorbell::with(&node("main", ""));
    let files = folder(&d, "of-file");
    super::add(&d, "shop", "shop.test");
    d.signal(rustix::process::Signal::TERM);
    eventually("it ends", || d.has_ended());
    let database = format!("database = {{ new_database = \"sqlite:{}\" }}\n", files.display());
    d.rewrite(&(node("main", "") + &python("shop", "", &database)));
    d.start_again();
    d.ok(&["start", "shop"]);
    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    assert!(files.join("app_shop").exists());
}
