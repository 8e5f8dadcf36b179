//! Apps that are saved into an archive, and come back from it, here or at another Doorbell.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use doorbell_tests::{Doorbell, Postgres, app_dir};
use serde_json::Value;

use super::secrets::variable;
use crate::node;

mod databases;
mod folders;
mod refusals;

pub(super) const PASSPHRASE: &str = "five words that nobody knows";

/// What an app that is saved is like.
pub(super) struct Saved<'d> {
    d: &'d Doorbell,
    pub(super) key: PathBuf,
    pub(super) archive: PathBuf,
}

impl<'d> Saved<'d> {
    /// Nothing yet; the passphrase is in a file.
    pub(super) fn at(d: &'d Doorbell) -> Self {
        let key = d.dir.path().join("backup.key");
        fs::write(&key, format!("{PASSPHRASE}\n")).expect("a file");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
        Self { d, key, archive: d.dir.path().join("app.doorbell") }
    }

    pub(super) fn line<'a>(&'a self, begin: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let (archive, key) = (path(&self.archive), path(&self.key));
        [begin, &[archive, "--passphrase-file", key], more].concat()
    }

    pub(super) fn export(&self, app: &str, more: &[&str]) -> Value {
        let told = self.d.ok(&self.line(&["app", "export", app], &[&["--json"], more].concat()));
        serde_json::from_str(&told).expect("JSON")
    }

    /// Imports it there, and visits it.
    #[track_caller]
    pub(super) fn import(&self, there: &Doorbell, more: &[&str]) -> Value {
        let line = self.line(&["app", "import"], &[&["--json"], more].concat());
        let told: Value = serde_json::from_str(&there.ok(&line)).expect("JSON");
        let host = format!("{}.test", told["id"].as_str().expect("an id"));
        assert!(told["dry_run"] == true || there.get(&host, "/").status == 200);
        told
    }
}

pub(super) fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Adds an app with a secret, a folder and a database.
pub(super) fn add(d: &Doorbell, app: &str, database: &str) {
    let host = format!("hosts={app}.test");
    let command = format!("command=[\"python3\", \"{}/server.py\"]", app_dir().display());
    let folder = d.dir.path().join(app);
    fs::create_dir_all(&folder).expect("its folder");
    let directory = format!("directory={}", folder.display());
    let database = format!("database.{database}");
    d.ok(&[
        "app",
        "add",
        app,
        &host,
        &command,
        &directory,
        &database,
        "secret=auto",
        "secrets=API_KEY",
        "env.K={secret}",
        "env.DB={database_name} {database_schema}",
    ]);
    let api = d.api("admin");
    let value = serde_json::json!({"value": "hunter2 and more"});
    let stored = api.ask("PUT", &format!("/v1/apps/{app}/secrets/API_KEY"), &[], &value);
    assert_eq!(stored.status, 204, "{}", stored.text());
}

#[test]
fn an_app_with_a_database_of_postgresql_comes_back_under_another_id() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={server}"));
    let own = variable(&d, "shop", "K");
    let shop = postgres.address("app_shop");
    postgres.sql(
        &shop,
        "SET ROLE app_shop;
         CREATE EXTENSION pgcrypto; SELECT lo_from_bytea(4711, 'a large object');
         CREATE TABLE goods (id serial PRIMARY KEY, name text NOT NULL, picture bytea);
         INSERT INTO goods (name, picture) SELECT 'it''s \\ ' || n || E'\\n\\t', decode('00ff5c', 'hex')
             FROM generate_series(1, 20000) n;
         CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN n * 2; END $$;
         CREATE VIEW cheap AS SELECT * FROM goods WHERE id < 10;",
    );
    let uploads = d.dir.path().join("shop/uploads");
    fs::create_dir_all(uploads.join("deep")).expect("a folder");
    fs::write(uploads.join("deep/a.txt"), "a picture").expect("a file");
    symlink("deep/a.txt", uploads.join("link")).expect("a link");

    let saved = Saved::at(&d);
    let told = saved.export("shop", &["--folder", "uploads"]);
    assert_eq!((&told["database"], &told["secrets"]), (&"postgres".into(), &2.into()), "{told}");

    let refused = d.cli(&saved.line(&["app", "import"], &["--as", "shop2"]));
    assert!(refused.stderr.contains("has something in it"), "{refused:?}");
    let elsewhere = d.dir.path().join("elsewhere");
    let to = format!("directory={}", elsewhere.display());
    let refused = d.cli(&saved.line(&["app", "import"], &["--as", "shop2", "--set", &to]));
    assert!(refused.status == 1 && refused.stderr.contains("shop.test"), "{refused:?}");
    let told = saved.import(&d, &["--as", "shop2", "--set", "hosts=shop2.test", "--set", &to]);
    assert_eq!((&told["id"], &told["database"]), (&"shop2".into(), &"postgres".into()), "{told}");
    assert_eq!(variable(&d, "shop2", "K"), own);
    assert_eq!(variable(&d, "shop2", "API_KEY"), "hunter2 and more");
    assert_eq!(variable(&d, "shop2", "DB"), "app_shop2 ");
    let (before, after) = (shop, postgres.address("app_shop2"));
    for question in [
        "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM goods t",
        "SELECT count(*), twice(4) FROM cheap",
        "SELECT nextval('goods_id_seq'), lo_get(4711), encode(digest('a', 'sha256'), 'hex')",
    ] {
        assert_eq!(postgres.sql(&after, question), postgres.sql(&before, question), "{question}");
    }
    assert_eq!(
        postgres.sql(&after, "SELECT tableowner FROM pg_tables WHERE tablename = 'goods'"),
        "app_shop2"
    );
    assert_eq!(fs::read_to_string(elsewhere.join("uploads/link")).expect("a link"), "a picture");
}
