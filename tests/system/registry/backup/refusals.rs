//! What cannot be saved or brought back leaves nothing half done, and nothing of it is in the clear.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use doorbell_tests::{Doorbell, MariaDb, Output, Postgres, eventually};

use super::{
    super::secrets::{files_with, variable},
    PASSPHRASE, Saved, add, path,
};
use crate::node;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// An app with a database, on a server of its own, and the address of another database there.
fn shop() -> (Postgres, String, Doorbell) {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={server}"));
    (postgres, server, d)
}

fn apps(d: &Doorbell) -> String {
    d.ok(&["app", "list", "--json"])
}

#[test]
fn an_archive_that_is_not_whole_or_not_ours_changes_nothing() {
    let (postgres, server, d) = shop();
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    let (before, whole) = (d.ok(&["audit"]), fs::read(&saved.archive).expect("an archive"));
    let import = |bytes: &[u8], words: &str| {
        fs::write(&saved.archive, bytes).expect("an archive");
        for more in [&[][..], &["--dry-run"]] {
            let refused = d.cli(&saved.line(&["app", "import"], more));
            assert!(refused.status == 1 && refused.stderr.contains(words), "{refused:?}");
        }
    };
    import(&whole[..whole.len() - 1], "damaged");
    import(&whole[..whole.len() / 2], "damaged");
    let mut bent = whole.clone();
    *bent.last_mut().expect("a byte") ^= 1;
    import(&bent, "damaged");
    import(b"nothing of the kind", "no archive");
    fs::write(&saved.key, "another passphrase\n").expect("a file");
    import(&whole, "passphrase is wrong");
    fs::write(&saved.key, "short\n").expect("a file");
    let refused = d.cli(&saved.line(&["app", "export", "main"], &[]));
    assert!(refused.stderr.contains("12 or more"), "{refused:?}");
    let databases =
        postgres.sql(&server, "SELECT count(*) FROM pg_database WHERE datname = 'app_shop'");
    assert_eq!((databases.as_str(), d.ok(&["audit"])), ("0", before));
}

#[test]
fn a_database_that_cannot_be_saved_leaves_no_archive() {
    let postgres = Postgres::start();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={}", postgres.database()));
    d.ok(&["start", "shop"]);
    let saved = Saved::at(&d);
    let folder = d.dir.path().join("backups");
    fs::create_dir(&folder).expect("a folder");
    let saved = Saved { archive: folder.join("a.doorbell"), ..saved };
    let (path, key) = ("/v1/apps/shop/export", serde_json::json!({"recipient": "age1nobody"}));
    assert_eq!(d.api("operate").ask("POST", path, &[], &key).status, 403);
    assert_eq!(d.api("admin").ask("POST", path, &[], &key).status, 422);
    // A table that the app may not read: `pg_dump` says so, in the middle.
    let shop = postgres.address("app_shop");
    postgres.sql(&shop, "CREATE TABLE not_its_own AS SELECT 1");
    let failed = d.cli(&saved.line(&["app", "export", "shop"], &[]));
    assert!(failed.status == 1 && failed.stderr.contains("not_its_own"), "{failed:?}");
    assert!(failed.stderr.contains("pg_dump failed"), "{failed:?}");
    assert_eq!(names(&folder), [""; 0]);
    postgres.sql(&shop, "DROP TABLE not_its_own");
    saved.export("shop", &[]);
    assert_eq!(names(&folder), ["a.doorbell"]);
    let mode = fs::metadata(&saved.archive).expect("an archive").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_import_that_fails_leaves_an_app_that_does_not_start_and_says_how_to_go_on() {
    let (postgres, _, d) = shop();
    assert_eq!(variable(&d, "shop", "DB"), "app_shop ");
    let shop = postgres.address("app_shop");
    postgres.sql(&shop, "SET ROLE app_shop; CREATE TABLE goods AS SELECT 42 AS n");
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    // Its data stay, and are not to be overwritten.
    d.ok(&["app", "delete", "shop", "--yes"]);
    let refused = d.cli(&saved.line(&["app", "import"], &[]));
    assert!(refused.stderr.contains("earlier app"), "{refused:?}");
    assert!(refused.stderr.trim().contains("doorbell app delete shop: "), "{refused:?}");
    assert!(d.ok(&["app", "show", "shop"]).contains("start = \"disabled\""));
    assert_eq!(d.get("shop.test", "/").status, 503);
    let again = d.cli(&saved.line(&["app", "import"], &[]));
    assert!(again.stderr.contains("was there before"), "{again:?}");

    d.ok(&["app", "delete", "shop", "--yes"]);
    let refused = d.cli(&saved.line(&["app", "import"], &["--adopt"]));
    assert!(refused.stderr.contains("has something in it"), "{refused:?}");
    // What was there before is not to be deleted.
    assert!(!refused.stderr.contains("--with-database"), "{refused:?}");
    assert_eq!(postgres.sql(&shop, "SELECT n FROM goods"), "42");
    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    saved.import(&d, &[]);
    assert!(!d.ok(&["app", "show", "shop"]).contains("disabled"));
    assert_eq!(variable(&d, "shop", "DB"), "app_shop ");
    assert_eq!(postgres.sql(&shop, "SELECT n FROM goods"), "42");
}

#[test]
fn a_dump_that_the_server_refuses_leaves_an_empty_database() {
    let (postgres, _, d) = shop();
    d.ok(&["start", "shop"]);
    let shop = postgres.address("app_shop");
    // An app cannot make this one, only a superuser can.
    let extension = "CREATE EXTENSION pg_buffercache";
    postgres.sql(&shop, extension);
    postgres.sql(&shop, "SET ROLE app_shop; CREATE TABLE goods AS SELECT 42 AS n");
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    let line = ["--as", "b", "--set", "hosts=b.test"];
    let refused = d.cli(&saved.line(&["app", "import"], &line));
    assert!(refused.stderr.contains("permission denied to create extension"), "{refused:?}");
    assert!(refused.stderr.contains("doorbell app delete b --with-database"), "{refused:?}");
    assert_eq!(d.get("b.test", "/").status, 503);
    let b = postgres.address("app_b");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(postgres.sql(&b, tables), "0");
    // Who makes it there goes on with that database.
    postgres.sql(&b, extension);
    d.ok(&["app", "delete", "b", "--yes"]);
    let told = saved.import(&d, &[&line[..], &["--adopt"]].concat());
    assert!(told["notes"].to_string().contains("COMMENT ON EXTENSION"), "{told}");
    assert_eq!(postgres.sql(&b, "SELECT n FROM goods"), "42");
    assert_eq!(variable(&d, "b", "DB"), "app_b ");
}

#[test]
fn an_import_that_is_killed_leaves_an_app_that_is_disabled_or_whole() {
    let (postgres, server, d) = shop();
    d.ok(&["start", "shop"]);
    let shop = postgres.address("app_shop");
    postgres.sql(
        &shop,
        "SET ROLE app_shop; CREATE TABLE goods AS SELECT n FROM generate_series(1, 100000) n",
    );
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    for round in 0..4 {
        d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
        let mut command = Command::new(doorbell_tests::binary());
        command.args(saved.line(&["app", "import"], &[])).arg("--config").arg(d.config_path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it");
        let has_database = || {
            let count = "SELECT count(*) FROM pg_database WHERE datname = 'app_shop'";
            postgres.sql(&server, count) == "1"
        };
        eventually("it has begun", || match round % 2 {
            0 => apps(&d).contains("\"shop\""),
            _ => has_database(),
        });
        // It may have ended by now.
        drop(child.kill());
        child.wait().expect("its end");
        let is_disabled = d.ok(&["app", "show", "shop"]).contains("start = \"disabled\"");
        let rows = || postgres.sql(&shop, "SELECT count(*) FROM goods");
        assert!(is_disabled || rows() == "100000", "round {round}");
        assert!(!is_disabled || d.get("shop.test", "/").status == 503, "round {round}");
    }
    d.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    saved.import(&d, &[]);
    assert_eq!(d.get("shop.test", "/").status, 200);
}

#[test]
fn a_dump_that_could_not_be_restored_is_refused() {
    let mariadb = MariaDb::start();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={}", mariadb.address("root")));
    assert_eq!(d.get("shop.test", "/").status, 200);
    let of_another_set = b"USE app_shop; SET NAMES latin1;
        CREATE DEFINER = app_shop@localhost PROCEDURE p() SELECT '\xe4';";
    mariadb.sql(of_another_set);
    let saved = Saved::at(&d);
    let refused = d.cli(&saved.line(&["app", "export", "shop"], &[]));
    assert!(refused.status != 0 && refused.stderr.contains("not UTF-8"), "{refused:?}");
    assert!(!saved.archive.exists());
    mariadb.sql("USE app_shop; DROP PROCEDURE p");
    saved.export("shop", &[]);
}

#[test]
fn no_passphrase_secret_or_password_is_in_the_clear() {
    let mariadb = MariaDb::start();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={}", mariadb.address("root")));
    let own = variable(&d, "shop", "K");
    let url = variable(&d, "shop", "DATABASE_URL");
    let password = url.split(':').nth(2).and_then(|rest| rest.split('@').next()).expect("one");
    mariadb.sql("USE app_shop; CREATE TABLE t AS SELECT 'a row of the app' AS s");
    let saved = Saved::at(&d);
    // Tells what it was given before it does its work.
    let tools = d.dir.path().join("tools");
    fs::create_dir(&tools).expect("a folder");
    let real = MariaDb::dump_program();
    let tool = tools.join(real.file_name().expect("its name"));
    let seen = d.dir.path().join("seen");
    let script = format!(
        "#!/bin/sh\n(tr '\\0' ' ' </proc/$PPID/cmdline; tr '\\0' ' ' </proc/$PPID/environ; echo \"$@\"; env) >> {}\n\
         exec {} \"$@\"\n",
        seen.display(),
        real.display()
    );
    fs::write(&tool, script).expect("a script");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut command = Command::new(doorbell_tests::binary());
    command.args(saved.line(&["app", "export", "shop"], &[])).arg("--config").arg(d.config_path());
    command.env("PATH", format!("{}:/usr/bin:/bin", path(&tools)));
    let output = command.output().expect("the binary");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = ["--as", "b", "--set", "hosts=b.test"];
    saved.import(&d, &line);
    assert_eq!(variable(&d, "b", "K"), own);
    fs::remove_file(&saved.key).expect("the passphrase");

    assert!(fs::read_to_string(&seen).expect("what it saw").contains("--single-transaction"));
    for text in [PASSPHRASE, "hunter2", &own, password, "a row of the app"] {
        assert!(!told.contains(text) && !d.log().contains(text), "{text}");
        assert_eq!(files_with(d.dir.path(), text), [""; 0], "{text} in the clear");
    }
    let acts = d.ok(&["audit", "--app", "shop"]);
    assert!(acts.contains("export app"), "{acts}");
    let Output { stdout, .. } = d.cli(&["audit", "--app", "b"]);
    for act in ["put app", "put secret", "open database"] {
        assert!(stdout.contains(act), "{act}: {stdout}");
    }
}
