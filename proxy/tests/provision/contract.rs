//! What holds on every kind of server.

use doorbell_proxy::provision::{Adopt, Marker, ProvisionError, Removed, Secret};
use uuid::Uuid;

use crate::{
    client::{Client, read, write},
    rig::{Kind, Rig, app, later, owner, secret},
};

macro_rules! contract {
    ($($name:ident)*) => {
        mod postgres_database { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::PostgresDatabase)).await })* }
        mod postgres_schema { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::PostgresSchema)).await })* }
        mod mariadb { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::MariaDb)).await })* }
        mod sqlite { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::Sqlite)).await })* }
    };
}

contract! {
    an_app_gets_a_database_that_it_can_use
    what_is_there_is_made_no_second_time
    a_new_password_takes_the_place_of_the_old
    apps_cannot_read_each_other
    an_app_has_no_rights_beyond_its_own
    what_is_not_ours_is_left_alone
    data_of_an_earlier_app_is_adopted_only_when_told
    two_doorbells_do_not_share_by_accident
    what_is_removed_is_gone_and_nothing_else
    removal_ends_the_connections_of_the_app
    many_at_once_are_all_made
    values_say_the_same_as_the_address
}

async fn an_app_gets_a_database_that_it_can_use(rig: Rig) {
    let owner = owner(&app("made"));
    let connection = rig.provision(&owner).await.unwrap();
    write(&connection, "it's ünï¢ødé 🔔").await;
    assert_eq!(read(&connection).await, ["it's ünï¢ødé 🔔"]);
}

async fn what_is_there_is_made_no_second_time(rig: Rig) {
    let owner = owner(&app("again"));
    let first = rig.provision(&owner).await.unwrap();
    write(&first, "kept").await;
    let left = rig.left_of(&owner.app);
    for _ in 0..3 {
        assert_eq!(rig.provision(&owner).await.unwrap(), first);
    }
    assert_eq!(read(&first).await, ["kept"]);
    assert_eq!(rig.left_of(&owner.app), left);
}

async fn a_new_password_takes_the_place_of_the_old(rig: Rig) {
    if rig.kind == Kind::Sqlite {
        return;
    }
    let owner = owner(&app("password"));
    let first = rig.provision(&owner).await.unwrap();
    let new = Secret::new("another one");
    let provisioner = rig.provisioner();
    let second = provisioner.provision(&owner, &new, Adopt::No, &|_| {}).await.unwrap();
    assert!(Client::connect(&first).await.is_err());
    Client::connect(&second).await.unwrap().close().await;
    for none in ["", "a\0b"] {
        let refused = provisioner
            .provision(&owner, &Secret::new(none), Adopt::No, &|_| {})
            .await
            .unwrap_err();
        assert!(matches!(refused, ProvisionError::Other { .. }), "{refused}");
    }
}

async fn apps_cannot_read_each_other(rig: Rig) {
    if rig.kind == Kind::Sqlite {
        return;
    }
    // In a grant of MySQL the `_` of one would stand for the `x` of the other.
    let (first, second) = (app("read_x"), app("readx"));
    let second = second.as_str().trim_start_matches("readx").to_owned();
    let second = doorbell_config::name::AppId::parse(&format!("readxx{second}")).unwrap();
    let one = rig.provision(&owner(&first)).await.unwrap();
    let other = rig.provision(&owner(&second)).await.unwrap();
    write(&other, "secret").await;
    let mut spy = Client::connect(&one).await.unwrap();
    let place = other.schema.as_ref().unwrap_or(&other.name);
    for statement in [
        format!("SELECT text FROM {place}.note"),
        format!("CREATE TABLE {place}.planted (text VARCHAR(9))"),
        format!("DROP TABLE {place}.note"),
        format!("DROP SCHEMA {place}"),
        format!("ALTER USER {} {}", other.user, "IDENTIFIED BY 'x'"),
        format!("ALTER ROLE {} PASSWORD 'x'", other.user),
    ] {
        assert!(spy.run(&statement).await.is_err(), "{statement}");
    }
    if rig.kind == Kind::PostgresDatabase {
        let url = one.url.reveal().replace(&format!("/{}?", one.name), &format!("/{place}?"));
        let there = doorbell_proxy::provision::Connection { url: Secret::new(url), ..one };
        let refused = Client::connect(&there).await.err().unwrap().to_string();
        assert!(refused.contains("permission denied for database"), "{refused}");
    }
    assert_eq!(read(&other).await, ["secret"]);
}

async fn an_app_has_no_rights_beyond_its_own(rig: Rig) {
    if rig.kind == Kind::Sqlite {
        return;
    }
    let owner = owner(&app("rights"));
    let connection = rig.provision(&owner).await.unwrap();
    let mut client = Client::connect(&connection).await.unwrap();
    let user = &connection.user;
    for statement in [
        "CREATE DATABASE another".to_owned(),
        "CREATE ROLE another".into(),
        "CREATE USER another".into(),
        // Its own marker.
        format!("COMMENT ON ROLE {user} IS 'doorbell'"),
        "UPDATE doorbell.app_database SET made = 0".into(),
        "SELECT marker FROM doorbell.app_database".into(),
        // Passwords.
        "SELECT rolpassword FROM pg_authid".into(),
        "SELECT CAST(user AS CHAR) FROM mysql.user".into(),
        // Files.
        "SELECT pg_read_file('/etc/passwd')".into(),
        "SELECT 1 INTO OUTFILE 'doorbell-out'".into(),
        format!("GRANT SELECT ON *.* TO {user}"),
    ] {
        assert!(client.run(&statement).await.is_err(), "{statement}");
    }
}

async fn what_is_not_ours_is_left_alone(rig: Rig) {
    let owner = owner(&app("squat"));
    let is_there = rig.squat(&owner.app);
    for error in [rig.provision(&owner).await.unwrap_err(), rig.adopt(&owner).await.unwrap_err()] {
        let ProvisionError::NameTaken { name, why, .. } = &error else { panic!("{error}") };
        assert_eq!(*name, format!("app_{}", owner.app));
        assert!(why.contains("not Doorbell's"), "{error}");
    }
    let error = rig.remove(&owner).await;
    assert!(matches!(error, Err(ProvisionError::NameTaken { .. })), "{error:?}");
    assert!(is_there());
}

async fn data_of_an_earlier_app_is_adopted_only_when_told(rig: Rig) {
    let first = owner(&app("earlier"));
    let connection = rig.provision(&first).await.unwrap();
    write(&connection, "old").await;
    let second = later(&first);
    let error = rig.provision(&second).await.unwrap_err();
    assert!(matches!(error, ProvisionError::NameTaken { .. }), "{error}");
    assert!(error.to_string().contains("of revision 1"), "{error}");
    assert!(rig.remove(&second).await.is_err());
    assert_eq!(read(&connection).await, ["old"]);
    let adopted = rig.adopt(&second).await.unwrap();
    assert_eq!(read(&adopted).await, ["old"]);
    rig.provision(&second).await.unwrap();
    // What was the first one's is no more.
    assert!(rig.provision(&first).await.is_err());
    assert!(rig.remove(&first).await.is_err());
    assert_eq!(rig.remove(&second).await.unwrap(), Removed::All);
    assert_eq!(rig.left_of(&first.app), "");
}

async fn two_doorbells_do_not_share_by_accident(rig: Rig) {
    let ours = owner(&app("elsewhere"));
    let theirs = Marker { installation: Uuid::from_u128(8), ..ours.clone() };
    rig.provision(&ours).await.unwrap();
    let error = rig.provision(&theirs).await.unwrap_err();
    assert!(error.to_string().contains("of another Doorbell"), "{error}");
    assert!(rig.remove(&theirs).await.is_err());
    rig.provision(&ours).await.unwrap();
}

async fn what_is_removed_is_gone_and_nothing_else(rig: Rig) {
    let (gone, kept) = (owner(&app("removed")), owner(&app("kept")));
    let connection = rig.provision(&gone).await.unwrap();
    let other = rig.provision(&kept).await.unwrap();
    write(&connection, "gone").await;
    write(&other, "kept").await;
    assert_eq!(rig.remove(&gone).await.unwrap(), Removed::All);
    assert_eq!(rig.left_of(&gone.app), "");
    assert_eq!(rig.remove(&gone).await.unwrap(), Removed::Nothing);
    assert_eq!(read(&other).await, ["kept"]);
    // And may come again, empty.
    let again = rig.provision(&later(&gone)).await.unwrap();
    write(&again, "new").await;
    assert_eq!(read(&again).await, ["new"]);
}

async fn removal_ends_the_connections_of_the_app(rig: Rig) {
    let owner = owner(&app("busy"));
    let connection = rig.provision(&owner).await.unwrap();
    write(&connection, "note").await;
    let mut client = Client::connect(&connection).await.unwrap();
    client.run("BEGIN").await.unwrap();
    client.run("UPDATE note SET text = 'locked'").await.unwrap();
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
    assert_eq!(rig.left_of(&owner.app), "");
    if rig.kind != Kind::Sqlite {
        assert!(client.run("SELECT text FROM note").await.is_err());
        assert!(Client::connect(&connection).await.is_err());
    }
}

async fn many_at_once_are_all_made(rig: Rig) {
    let owners: Vec<_> = (0..4).map(|_| owner(&app("many"))).collect();
    // Each of them twice.
    let rig = std::sync::Arc::new(rig);
    let each = owners.iter().chain(&owners).cloned();
    let tasks: Vec<_> = each
        .map(|owner| {
            let rig = rig.clone();
            tokio::spawn(async move { rig.provision(&owner).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for owner in &owners {
        write(&rig.provision(owner).await.unwrap(), "one of many").await;
    }
}

async fn values_say_the_same_as_the_address(rig: Rig) {
    let connection = rig.provision(&owner(&app("values"))).await.unwrap();
    let values = connection.values();
    let value = |name: &str| values.iter().find(|(key, _)| *key == name).unwrap().1.reveal();
    assert_eq!(value("database_url"), connection.url.reveal());
    assert_eq!(value("database_name"), connection.name);
    assert_eq!(value("database_schema").is_empty(), rig.kind != Kind::PostgresSchema);
    let is_sqlite = rig.kind == Kind::Sqlite;
    assert_eq!(value("database_user").is_empty(), is_sqlite);
    assert_eq!(value("database_host").is_empty(), is_sqlite);
    assert_eq!(
        value("database_password"),
        if is_sqlite { "" } else { secret().reveal().to_owned().leak() }
    );
    let dialect = match rig.kind {
        Kind::PostgresDatabase | Kind::PostgresSchema => "postgres",
        Kind::MariaDb => doorbell_tests::MariaDb::dialect(),
        Kind::Sqlite => "sqlite",
    };
    assert_eq!(value("database_dialect"), dialect);
}
