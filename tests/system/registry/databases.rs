//! Databases that are made for apps: before their first start, and removed only when told to.

use doorbell_tests::{Doorbell, Postgres, app_dir, eventually};

use super::secrets::variable;
use crate::node;

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
