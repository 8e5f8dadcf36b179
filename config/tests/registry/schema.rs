//! How a registry comes to be, and who may not have it.

use std::os::unix::fs::PermissionsExt;

use doorbell_config::registry::{
    Act, NewToken, Registry, RegistryError, Revision, TokenHash, WriteError,
};
use doorbell_tests::Postgres;

use crate::place::{Place, ids, somebody, try_write, write};

/// As many migrations as there are.
const KNOWN: u64 = 6;

crate::on_both!(
    a_newer_registry_is_refused,
    one_that_becomes_newer_is_refused_too,
    of_many_that_open_it_at_once_one_makes_it,
    one_that_is_opened_again_is_the_same,
);

async fn a_newer_registry_is_refused(place: Place) {
    write(&place.open().await, "blog", "one").await;
    assert_eq!(Registry::is_known(&place.location).await, Ok(()));
    place.sql("UPDATE registry SET version = 99").await;
    assert!(Registry::is_known(&place.location).await.unwrap_err().is_too_new());
    let error = Registry::open(&place.location).await.unwrap_err();
    assert_eq!(error.error, RegistryError::TooNew { found: 99, known: KNOWN });
    assert!(error.to_string().contains("upgrade this one"), "{error}");
    place.sql("UPDATE registry SET version = 6").await;
    assert_eq!(ids(&place.open().await).await, ["blog"], "and nothing was done to it");
}

async fn one_that_becomes_newer_is_refused_too(place: Place) {
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    let hash = TokenHash([1; 32]);
    let token = NewToken { name: "ci".into(), scope: "admin".into(), hash, expires_at: None };
    registry.add_token(&token, &somebody()).await.unwrap();
    let known = registry.find_token(&hash).await.unwrap().expect("a token");
    place.sql("UPDATE registry SET version = version + 1").await;
    let too_new = RegistryError::TooNew { found: KNOWN + 1, known: KNOWN };
    let error = try_write(&registry, "blog").await.unwrap_err();
    assert_eq!(error, WriteError::Registry(too_new.clone()));
    assert_eq!(registry.changes_since(Revision::ZERO).await.unwrap_err(), too_new);
    // Nor is anybody let in by it, or anything noted in it.
    assert_eq!(registry.find_token(&hash).await.unwrap_err(), too_new);
    assert_eq!(registry.note_use(&known).await.unwrap_err(), too_new);
    let act = Act { what: "look".into(), app: None, subject: None };
    assert_eq!(registry.note(&act, &somebody()).await.unwrap_err(), too_new);
}

async fn of_many_that_open_it_at_once_one_makes_it(place: Place) {
    let opening: Vec<_> = (0..8)
        .map(|number| {
            let location = place.location.clone();
            tokio::spawn(async move {
                let registry = Registry::open(&location).await.expect("a registry");
                write(&registry, &format!("app-{number}"), "one").await;
            })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap();
    }
    assert_eq!(ids(&place.open().await).await.len(), 8);
}

async fn one_that_is_opened_again_is_the_same(place: Place) {
    for number in 0..3 {
        let registry = place.open().await;
        write(&registry, &format!("app-{number}"), "one").await;
    }
    assert_eq!(ids(&place.open().await).await, ["app-0", "app-1", "app-2"]);
}

#[tokio::test]
async fn nobody_else_may_read_the_file() {
    let place = Place::sqlite();
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    let mode = |name: &str| {
        let file = place.file().with_file_name(name);
        std::fs::metadata(file).expect(name).permissions().mode() & 0o777
    };
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    drop(registry);
    std::fs::set_permissions(place.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    place.open().await;
    assert_eq!(mode("registry.db"), 0o600);
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let place = Place::sqlite();
    std::fs::write(place.file(), "").unwrap();
    place.sql("CREATE TABLE app (id TEXT); INSERT INTO app VALUES ('theirs')").await;
    let before = std::fs::read(place.file()).unwrap();
    let error = Registry::open(&place.location).await.unwrap_err();
    assert!(error.to_string().contains("of another program"), "{error}");
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_be_shared_with_others() {
    let place = Place::postgres();
    let (server, address) = (Postgres::shared(), place.address().unwrap());
    server.sql(
        address,
        "CREATE TABLE public.app (id TEXT); INSERT INTO public.app VALUES ('theirs')",
    );
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    assert_eq!(server.sql(address, "SELECT id FROM public.app"), "theirs");
    assert_eq!(server.sql(address, "SELECT id FROM doorbell.app"), "blog");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_the_schema_uses_one_that_is_there() {
    let place = Place::postgres();
    let (server, address) = (Postgres::shared(), place.address().unwrap());
    server.sql(address, "CREATE ROLE tenant LOGIN");
    let as_tenant = Place::of(&address.replace("doorbell@", "tenant@"));
    let error = Registry::open(&as_tenant.location).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    server.sql(address, "CREATE SCHEMA doorbell AUTHORIZATION tenant");
    write(&as_tenant.open().await, "blog", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_hold_every_name_is_refused() {
    let (server, place) = (Postgres::shared(), Place::postgres());
    server.sql(
        place.address().unwrap(),
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
    );
    let latin = Place::of(&server.address("latin"));
    let error = Registry::open(&latin.location).await.unwrap_err();
    assert!(error.to_string().contains("not UTF8"), "{error}");
}
