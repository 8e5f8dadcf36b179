//! Registries that are lost, locked, full or damaged: writes fail and say why, and go on by themselves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use doorbell_config::registry::{Location, Registry, RegistryError, Revision, WriteError};
use doorbell_tests::{Postgres, may_mount};

use crate::place::{Place, eventually, id, ids, try_write, write};

/// What a write comes to that the registry is to blame for.
async fn blame(registry: &Registry) -> RegistryError {
    let since = Instant::now();
    let error = try_write(registry, "blog").await.expect_err("a write that fails");
    assert!(since.elapsed() < Duration::from_secs(20), "{error} after {:?}", since.elapsed());
    match error {
        WriteError::Registry(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_is_used_again_when_it_is_back() {
    let server = Postgres::start();
    let place = Place::of(&server.database());
    let registry = place.open().await;
    let mut watch = registry.watch(Revision::ZERO);
    let written = write(&registry, "blog", "one").await;
    assert_eq!(watch.changed().await, written);

    server.stop();
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    let error = registry.changes_since(written).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    eventually("the watch says so", async || watch.problem()).await;

    server.resume();
    let written = eventually("a write", async || try_write(&registry, "blog").await.ok()).await;
    assert_eq!(watch.changed().await, written);
    // It may answer before it tells.
    eventually("all is well", async || watch.problem().is_none().then_some(())).await;
    assert_eq!(ids(&registry).await, ["blog"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_answers_is_told_soon() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let dead = "postgres://door:hunter2@127.0.0.1:1/bell".to_owned();
    for address in [dead, format!("postgres://door:hunter2@127.0.0.1:{port}/bell")] {
        let since = Instant::now();
        let location: Location = address.parse().unwrap();
        let error = Registry::open(&location).await.unwrap_err();
        assert!(matches!(error.error, RegistryError::Unreachable(_)), "{error}");
        assert!(since.elapsed() < Duration::from_secs(10));
        let said = format!("{error} {error:?}");
        assert!(!said.contains("hunter2") && said.contains("door@127.0.0.1"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_by_the_database() {
    let address = Place::postgres().address().unwrap().to_owned();
    for (from, to, words) in [
        ("doorbell@", "nobody:hunter2@", "role \"nobody\" does not exist"),
        ("/test_", "/no_test_", "does not exist"),
    ] {
        let location: Location = address.replace(from, to).parse().unwrap();
        let error = Registry::open(&location).await.unwrap_err();
        assert!(matches!(error.error, RegistryError::Unreachable(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_says_so() {
    let place = Place::postgres();
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    place
        .sql(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',
             current_database()); END $$;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::ReadOnly(_)), "{error}");
    assert_eq!(ids(&registry).await, ["blog"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_is_told_and_waited_for() {
    let place = Place::postgres();
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    let address = place.address().unwrap().to_owned();
    let holding = tokio::task::spawn_blocking(move || {
        let hold = "BEGIN; UPDATE doorbell.registry SET revision = revision; SELECT pg_sleep(12)";
        Postgres::shared().sql(&address, hold);
    });
    let error =
        eventually("somebody holds it", async || try_write(&registry, "blog").await.err()).await;
    assert!(matches!(error, WriteError::Registry(RegistryError::Locked(_))), "{error}");
    assert_eq!(ids(&registry).await, ["blog"], "reading goes on");
    holding.await.unwrap();
    write(&registry, "blog", "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_locks_is_told_and_waited_for() {
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    let place = Place::sqlite();
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    let options = SqliteConnectOptions::new().filename(place.file());
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::Locked(_)), "{error}");
    assert_eq!(ids(&registry).await, ["blog"], "reading goes on");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    write(&registry, "blog", "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_replaced_is_not_written_to_in_vain() {
    let place = Place::sqlite();
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    registry.close().await;
    let backup = place.file().with_extension("backup");
    fs::copy(place.file(), &backup).unwrap();

    let registry = place.open().await;
    let known = write(&registry, "shop", "one").await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", place.file().display()));
    }
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    assert!(registry.changes_since(known).await.is_err());
    assert!(!place.file().exists(), "nobody makes an empty one in its place");

    fs::rename(&backup, place.file()).unwrap();
    assert_eq!(ids(&registry).await, ["blog"], "what was restored");
    write(&registry, "zoo", "one").await;
    assert_eq!(ids(&place.open().await).await, ["blog", "zoo"]);
}

#[tokio::test]
async fn what_is_no_registry_is_said_to_be_none() {
    let place = Place::sqlite();
    let error = Registry::open(&Location::Sqlite("/nowhere/registry.db".into())).await.unwrap_err();
    assert!(matches!(error.error, RegistryError::Unreachable(_)), "{error}");

    fs::write(
        place.file(),
        "a text, and by far too long to be the head of any database\n".repeat(99),
    )
    .unwrap();
    let error = Registry::open(&place.location).await.unwrap_err();
    assert!(matches!(error.error, RegistryError::Corrupt(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_said_to_be_damaged() {
    let place = Place::sqlite();
    let registry = place.open().await;
    for number in 0..200 {
        write(&registry, &format!("app-{number}"), &"x".repeat(500)).await;
    }
    registry.close().await;
    assert!(!place.file().with_file_name("registry.db-wal").exists(), "all is in the file");
    let mut bytes = fs::read(place.file()).unwrap();
    let length = bytes.len();
    // All but the pages of the schema and the revision.
    bytes[3 * 4096..length].fill(0x5a);
    fs::write(place.file(), bytes).unwrap();
    let registry = place.open().await;
    let error = registry.changes_since(Revision::ZERO).await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt(_)), "{error}");
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::Corrupt(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_gone_are_told() {
    let place = Place::postgres();
    let registry = place.open().await;
    place.sql("DROP TABLE registry").await;
    let error = blame(&registry).await;
    assert!(matches!(error, RegistryError::Corrupt(_)), "{error}");
}

/// Runs another test in a mount namespace of its own, with a small disk.
fn run_on_a_small_disk(test: &str, size: &str) {
    if !may_mount() {
        eprintln!("not run: no mounts are allowed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inside = "mount -t tmpfs -o size=$2,mode=755 tmpfs \"$DOORBELL_SMALL_DISK\" && exec \"$0\" --exact \
                  \"harm::$1\" --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", inside])
        .arg(std::env::current_exe().unwrap())
        .args([test, size])
        .env("DOORBELL_SMALL_DISK", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
}

fn small_disk() -> PathBuf {
    std::env::var("DOORBELL_SMALL_DISK").unwrap().into()
}

#[test]
fn a_disk_that_is_full_is_told_and_recovers() {
    run_on_a_small_disk("on_a_small_disk", "2m");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs on the small disk that the test above makes"]
async fn on_a_small_disk() {
    let folder = small_disk();
    let location = Location::Sqlite(folder.join("registry.db"));
    let registry = Registry::open(&location).await.unwrap();
    let last = write(&registry, "blog", "one").await;
    let ballast = folder.join("ballast");
    let _ = fs::write(&ballast, vec![0; 4 << 20]);
    let error = eventually("no room", async || try_write(&registry, "shop").await.err()).await;
    assert!(matches!(error, WriteError::Registry(RegistryError::Full(_))), "{error}");
    let there = registry.changes_since(Revision::ZERO).await.unwrap();
    assert!(there.now >= last && there.put.iter().any(|app| app.id == id("blog")));
    let error = Registry::open(&Location::Sqlite(folder.join("other.db"))).await.unwrap_err();
    assert!(matches!(error.error, RegistryError::Full(_)), "{error}");

    fs::remove_file(&ballast).unwrap();
    write(&registry, "shop", "one").await;
    assert_eq!(ids(&registry).await, ["blog", "shop"]);
}

#[test]
fn a_server_whose_disk_is_full_is_told_and_recovers() {
    run_on_a_small_disk("of_a_server_on_a_small_disk", "80m");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs on the small disk that the test above makes"]
async fn of_a_server_on_a_small_disk() {
    let folder = small_disk().join("server");
    fs::create_dir(&folder).unwrap();
    let server = Postgres::start_in(folder);
    let place = Place::of(&server.database());
    let registry = place.open().await;
    let last = write(&registry, "blog", "one").await;
    let ballast = small_disk().join("ballast");
    let _ = fs::write(&ballast, vec![0; 80 << 20]);
    // What it has to write goes into pages that it has already, for a while.
    let error = eventually("no room", async || try_write(&registry, "shop").await.err()).await;
    assert!(matches!(error, WriteError::Registry(RegistryError::Full(_))), "{error}");
    let there = registry.changes_since(Revision::ZERO).await.unwrap();
    assert!(there.now >= last && there.put.iter().any(|app| app.id == id("blog")));

    fs::remove_file(&ballast).unwrap();
    write(&registry, "shop", "one").await;
    assert_eq!(ids(&registry).await, ["blog", "shop"]);
}
