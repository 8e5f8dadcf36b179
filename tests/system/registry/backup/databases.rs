//! Databases of all kinds, saved while somebody writes, and restored here or elsewhere.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use doorbell_tests::{Authority, Doorbell, MariaDb, Postgres, eventually};

use super::{
    super::{secrets::variable, sqlite},
    Saved, add,
};
use crate::node;

/// Writes again and again until `meanwhile` is over, which begins when something was written.
fn while_written<T>(write: impl Fn() + Sync, meanwhile: impl FnOnce() -> T) -> T {
    let (is_over, written) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                write();
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually("something is written", || written.load(Ordering::Relaxed) > 0);
        let done = meanwhile();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

const PAIRS: &str = "CREATE TABLE a (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text,
        size int GENERATED ALWAYS AS (length(t)) STORED);
    CREATE TABLE b (n serial PRIMARY KEY, t text);
    INSERT INTO a (t) SELECT repeat('x', 1000) FROM generate_series(1, 5000);
    INSERT INTO b (t) SELECT repeat('y', 1000) FROM generate_series(1, 5000);";
const PAIR: &str = "BEGIN; INSERT INTO a (t) VALUES ('a'); INSERT INTO b (t) VALUES ('b'); COMMIT;";

#[test]
fn a_database_of_postgresql_is_saved_as_it_was_at_one_moment() {
    let (postgres, other) = (Postgres::start(), Postgres::start());
    let server = postgres.database();
    let (d, there) = (Doorbell::with(&node("main", "")), Doorbell::with(&node("main", "")));
    add(&d, "shop", &format!("new_database={server}"));
    let own = variable(&d, "shop", "K");
    let shop = postgres.address("app_shop");
    postgres.sql(&shop, &format!("SET ROLE app_shop; {PAIRS}"));
    let saved = Saved::at(&d);
    let write = || drop(postgres.sql(&shop, &format!("SET ROLE app_shop; {PAIR}")));
    while_written(write, || saved.export("shop", &[]));

    let database = format!("database.new_database={}", other.database());
    let told = saved.import(&there, &["--set", &database]);
    assert_eq!(told["from"], "shop");
    assert_eq!(variable(&there, "shop", "K"), own);
    let counts = other.sql(
        &other.address("app_shop"),
        "SELECT (SELECT count(*) FROM a) = (SELECT count(*) FROM b), (SELECT count(*) FROM a) > 5000,
            (SELECT max(size) FROM a)",
    );
    assert_eq!(counts, "t|t|1000");
    let next = "SET ROLE app_shop; INSERT INTO a (t) VALUES ('next') RETURNING n > 5000, size";
    assert_eq!(other.sql(&other.address("app_shop"), next), "t|4");
    // It is this Doorbell's own from now on.
    there.ok(&["app", "delete", "shop", "--yes", "--with-database"]);
    assert_eq!(
        other.sql(
            &other.address("postgres"),
            "SELECT count(*) FROM pg_roles WHERE rolname = 'app_shop'"
        ),
        "0"
    );
}

#[test]
fn a_schema_of_postgresql_comes_back_as_another_one() {
    let postgres = Postgres::start();
    let server = postgres.database();
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_schema={server}"));
    assert_eq!(variable(&d, "shop", "DB").split(' ').nth(1), Some("app_shop"));
    postgres.sql(
        &server,
        "SET ROLE app_shop; SET search_path TO app_shop;
         CREATE TABLE goods (id serial PRIMARY KEY, app_shop text DEFAULT 'app_shop.x');
         INSERT INTO goods (app_shop) VALUES ('in app_shop.goods'), ('b');
         CREATE FUNCTION count_goods() RETURNS bigint LANGUAGE sql SET search_path TO app_shop
             AS $$ SELECT count(*) FROM app_shop.goods $$;
         CREATE FUNCTION two() RETURNS bigint BEGIN ATOMIC SELECT 1; SELECT count(*) FROM goods; END;
         CREATE TABLE app_shop (id int REFERENCES goods);
         COMMENT ON TABLE goods IS 'a; \\! b';
         RESET ROLE; CREATE TABLE public.others (id int);",
    );
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    let elsewhere = format!("directory={}", d.dir.path().display());
    saved.import(&d, &["--as", "shop-2", "--set", "hosts=shop-2.test", "--set", &elsewhere]);
    let database = variable(&d, "shop-2", "DB");
    let schema = database.split(' ').nth(1).expect("a schema");
    assert!(schema.starts_with("appx_shop_2_"), "{schema}");
    let ask = |question: &str| postgres.sql(&server, &question.replace("{s}", schema));
    assert_eq!(ask("SELECT {s}.count_goods(), {s}.two()"), "2|2");
    postgres.sql(&server, "DELETE FROM app_shop.app_shop; DELETE FROM app_shop.goods");
    assert_eq!(ask("SELECT {s}.count_goods(), {s}.two()"), "2|2");
    assert_eq!(ask("SELECT app_shop FROM {s}.goods ORDER BY 1"), "b\nin app_shop.goods");
    assert_eq!(ask("SELECT count(*) FROM {s}.app_shop"), "0");
    assert_eq!(ask("SELECT obj_description('{s}.goods'::regclass)"), "a; \\! b");
    assert_eq!(ask("SELECT count(*) FROM pg_class WHERE relname = 'others'"), "1");
}

#[test]
fn a_database_of_mariadb_is_saved_as_it_was_at_one_moment() {
    let (mariadb, other) = (MariaDb::start(), MariaDb::start());
    let (d, there) = (Doorbell::with(&node("main", "")), Doorbell::with(&node("main", "")));
    add(&d, "shop", &format!("new_database={}", mariadb.address("root")));
    let own = variable(&d, "shop", "K");
    mariadb.sql(
        "USE app_shop;
         CREATE TABLE a (n int AUTO_INCREMENT PRIMARY KEY, t text CHARACTER SET latin1, raw blob,
             size int AS (char_length(t)) STORED, odd int AS (char_length(t) % 2) VIRTUAL) ENGINE = InnoDB;
         CREATE TABLE b (n int AUTO_INCREMENT PRIMARY KEY, t text) ENGINE = InnoDB;
         CREATE TABLE digit (d int); INSERT INTO digit VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9);
         CREATE TABLE number AS SELECT 1 + k.d + 10 * l.d + 100 * m.d + 1000 * n.d AS seq
             FROM digit k, digit l, digit m, digit n WHERE n.d < 5 ORDER BY 1;
         INSERT INTO a (t, raw) SELECT 'it''s; \\\\ ä -- #', x'00FF5C27' FROM number;
         INSERT INTO b (t) SELECT concat('line\\n;', seq) FROM number ORDER BY seq;
         DROP TABLE digit, number;
         CREATE DEFINER = app_shop@localhost VIEW few AS SELECT * FROM a WHERE n < 10;
         DELIMITER ;;
         CREATE DEFINER = app_shop@localhost TRIGGER twice BEFORE INSERT ON b FOR EACH ROW
             BEGIN SET @x = ';'; SET NEW.t = concat(NEW.t, NEW.t); END;;
         CREATE DEFINER = app_shop@localhost PROCEDURE answer() BEGIN SELECT 'a;b'; SELECT 42; END;;
         CREATE DEFINER = app_shop@localhost EVENT daily ON SCHEDULE EVERY 1 DAY DO SET @y = 1;;",
    );
    let saved = Saved::at(&d);
    let write = || {
        let pair = "BEGIN; INSERT INTO a (t) VALUES ('a'); INSERT INTO b (t) VALUES ('b'); COMMIT;";
        mariadb.sql(&format!("USE app_shop; {pair}"));
    };
    while_written(write, || saved.export("shop", &[]));

    let database = format!("database.new_database={}", other.address("root"));
    let line = ["--as", "store", "--set", "hosts=store.test", "--set", &database];
    saved.import(&there, &line);
    assert_eq!(variable(&there, "store", "K"), own);
    let ask = |question: &str| other.sql(&format!("USE app_store; {question}"));
    let same = "SELECT (SELECT count(*) FROM a) = (SELECT count(*) FROM b), (SELECT count(*) FROM a) > 5000";
    assert_eq!(ask(same), "1\t1");
    let rows = "SELECT sha2(group_concat(t, hex(raw), size, odd ORDER BY n), 256) FROM few";
    assert_eq!(ask(rows), mariadb.sql(&format!("USE app_shop; {rows}")));
    assert_eq!(ask("SELECT t FROM b WHERE n = 7"), "line\\n;7");
    assert_eq!(
        ask("INSERT INTO b (t) VALUES ('z'); SELECT t FROM b ORDER BY n DESC LIMIT 1"),
        "zz"
    );
    assert_eq!(ask("CALL answer()"), "a;b\n42");
    let definers = "SELECT DISTINCT definer FROM information_schema.triggers WHERE trigger_schema = 'app_store'
        UNION SELECT definer FROM information_schema.routines WHERE routine_schema = 'app_store'
        UNION SELECT definer FROM information_schema.views WHERE table_schema = 'app_store'
        UNION SELECT definer FROM information_schema.events WHERE event_schema = 'app_store'";
    assert_eq!(ask(definers), "app_store@localhost");
}

/// Makes a database over TLS, fills it by `fill`, and brings it back on the same server.
fn over_tls(server: &str, fill: impl Fn(), text: impl Fn(&str) -> String) {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_database={server}"));
    assert_eq!(d.get("shop.test", "/").status, 200);
    fill();
    let saved = Saved::at(&d);
    saved.export("shop", &[]);
    let elsewhere = format!("directory={}", d.dir.path().display());
    saved.import(&d, &["--as", "shop2", "--set", "hosts=shop2.test", "--set", &elsewhere]);
    assert_eq!(text("app_shop2"), "over TLS");
    // Who is not whom it says is told nothing.
    let lie = format!("database.new_database={}", server.replace("@localhost", "@127.0.0.1"));
    d.ok(&["app", "set", "shop", &lie]);
    d.ok(&["stop", "shop"]);
    assert_eq!(d.get("shop.test", "/").status, 503);
    let reason = d.status("shop")["reason"].to_string();
    assert!(reason.contains("certificate"), "{reason}");
    fs::remove_file(&saved.archive).expect("the archive");
    let refused = d.cli(&saved.line(&["app", "export", "shop"], &[]));
    assert!(refused.status != 0 && refused.stderr.contains("certificate"), "{refused:?}");
}

#[test]
fn a_database_of_postgresql_behind_tls_is_made_saved_and_restored() {
    let authority = Authority::new();
    let postgres = Postgres::start_with_tls(&authority);
    over_tls(
        &postgres.tls_address(&authority),
        || {
            let fill = "SET ROLE app_shop; CREATE TABLE t AS SELECT 'over TLS'::text AS text";
            postgres.sql(&postgres.address("app_shop"), fill);
        },
        |database| postgres.sql(&postgres.address(database), "SELECT text FROM t"),
    );
}

#[test]
fn a_database_of_mariadb_behind_tls_is_made_saved_and_restored() {
    let authority = Authority::new();
    let mariadb = MariaDb::start_with_tls(&authority);
    over_tls(
        &mariadb.tls_address(&authority),
        || drop(mariadb.sql("USE app_shop; CREATE TABLE t AS SELECT 'over TLS' AS text")),
        |database| mariadb.sql(&format!("SELECT text FROM {database}.t")),
    );
}

#[test]
fn a_file_of_sqlite_is_saved_while_it_is_written() {
    let d = Doorbell::with(&node("main", ""));
    // Where the control process may write.
    let place = |name: &str| {
        let folder = d.state_path().join("registry").join(name);
        fs::create_dir(&folder).expect("a folder");
        folder
    };
    let (here, elsewhere) = (place("databases"), place("others"));
    add(&d, "shop", &format!("new_database=sqlite:{}", here.display()));
    let own = variable(&d, "shop", "K");
    let file = here.join("app_shop/database.sqlite");
    sqlite(
        &file,
        "PRAGMA journal_mode = WAL; CREATE TABLE a (n); CREATE TABLE b (n);
        INSERT INTO a VALUES (x'00ff'); INSERT INTO b VALUES (x'00ff')",
    );
    let saved = Saved::at(&d);
    let write =
        || drop(sqlite(&file, "BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); COMMIT"));
    let told = while_written(write, || saved.export("shop", &[]));
    assert_eq!(told["database"], "sqlite");
    let database = format!("database.new_database=sqlite:{}", elsewhere.display());
    let line = ["--as", "shop2", "--set", "hosts=shop2.test", "--set", &database];
    saved.import(&d, &line);
    assert_eq!(variable(&d, "shop2", "K"), own);
    let copy = elsewhere.join("app_shop2/database.sqlite");
    let question =
        "SELECT (SELECT count(*) FROM a) = (SELECT count(*) FROM b), (SELECT count(*) FROM a) > 1";
    assert_eq!(sqlite(&copy, question), "(1, 1)");
    assert_eq!(sqlite(&copy, "PRAGMA integrity_check"), "('ok',)");
}

#[test]
fn an_app_gets_no_further_by_its_backup_than_by_itself() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let d = Doorbell::with(&node("main", ""));
    let place = tempfile::tempdir().expect("a folder");
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("its rights");
    let folder = |name: &str, owner: u32| {
        let folder = place.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("its rights");
        sqlite(&folder.join("data"), &format!("CREATE TABLE t AS SELECT '{name}' AS whose"));
        for path in [&folder, &folder.join("data")] {
            chown(path, Some(owner), Some(owner)).expect("its owner");
        }
        folder
    };
    let (own, others) = (folder("own", 1), folder("others", 0));
    let copy = place.path().join("copy");
    fs::create_dir(&copy).expect("a folder");
    chown(&copy, Some(1), Some(1)).expect("its owner");
    add(&d, "shop", &format!("new_connection=sqlite:{}", own.join("data").display()));
    d.ok(&["app", "set", "shop", "user=daemon"]);
    let saved = Saved::at(&d);
    saved.export("shop", &["--with-connection"]);
    let database = format!("database.new_connection=sqlite:{}", copy.join("data").display());
    let as_new = ["--as", "b", "--set", "hosts=b.test", "--set", &database, "--with-connection"];
    d.ok(&saved.line(&["app", "import"], &as_new));
    assert_eq!(sqlite(&copy.join("data"), "SELECT whose FROM t"), "('own',)");
    assert_eq!(fs::metadata(copy.join("data")).expect("the copy").uid(), 1);
    // Whoever may write there leads us to what he may not read.
    fs::rename(&own, place.path().join("away")).expect("a move");
    symlink(&others, &own).expect("a link");
    let refused = d.cli(&saved.line(&["app", "export", "shop"], &["--with-connection"]));
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    fs::remove_file(copy.join("data")).expect("the copy");
    fs::rename(&copy, place.path().join("away2")).expect("a move");
    fs::remove_file(others.join("data")).expect("others'");
    symlink(&others, &copy).expect("a link");
    let as_third = ["--as", "c", "--set", "hosts=c.test", "--set", &database, "--with-connection"];
    let refused = d.cli(&saved.line(&["app", "import"], &as_third));
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    assert!(!others.join("data").exists());
}

#[test]
fn a_database_that_may_be_others_is_saved_when_that_is_asked_for() {
    let postgres = Postgres::start();
    let (server, empty) = (postgres.database(), postgres.database());
    let d = Doorbell::with(&node("main", ""));
    add(&d, "shop", &format!("new_connection={server}"));
    postgres.sql(&server, "CREATE TABLE goods AS SELECT 42 AS n");
    let saved = Saved::at(&d);
    let told = saved.export("shop", &[]);
    assert!(told["notes"].to_string().contains("--with-connection"), "{told}");
    assert!(told["database"].is_null(), "{told}");
    saved.export("shop", &["--with-connection"]);
    let database = format!("database.new_connection={empty}");
    let line = ["--as", "b", "--set", "hosts=b.test", "--set", &database];
    let told = saved.import(&d, &[&line[..], &["--dry-run"]].concat());
    assert!(told["notes"].to_string().contains("--with-connection"), "{told}");
    // A superuser's dump could do anything on the server.
    let line = [&line[..], &["--with-connection"]].concat();
    let refused = d.cli(&saved.line(&["app", "import"], &line));
    assert!(refused.stderr.contains("is a superuser"), "{refused:?}");
    d.ok(&["app", "delete", "b", "--yes"]);
    let name = empty.split('?').next().and_then(|name| name.rsplit('/').next()).expect("a name");
    let own = format!("CREATE ROLE b LOGIN; ALTER DATABASE \"{name}\" OWNER TO b");
    postgres.sql(&server, &own);
    let database = format!("database.new_connection={}", empty.replace("doorbell@", "b@"));
    let line = ["--as", "b", "--set", "hosts=b.test", "--set", &database, "--with-connection"];
    saved.import(&d, &line);
    assert_eq!(postgres.sql(&empty, "SELECT n FROM goods"), "42");
}
