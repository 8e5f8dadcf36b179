//! What is special in MariaDB.

use doorbell_config::spec::DatabaseSpec;
use doorbell_proxy::provision::{Adopt, ProvisionError, Removed, provisioner};
use doorbell_tests::MariaDb;

use crate::{
    client::{read, write},
    rig::{Kind, Rig, app, owner, secret, url},
};

#[tokio::test]
async fn a_database_that_came_in_between_is_left_alone() {
    let rig = Rig::new(Kind::MariaDb);
    let owner = owner(&app("between"));
    rig.left_of(&owner.app);
    let name = format!("app_{}", owner.app);
    let server = MariaDb::shared();
    // As it is when we are killed, and an operator then makes his own of that name.
    server.sql(&format!("INSERT INTO doorbell.app_database VALUES ('{name}', '{owner}', FALSE)"));
    server.sql(&format!("CREATE DATABASE {name}; CREATE TABLE {name}.note (text TEXT)"));
    let error = rig.provision(&owner).await.unwrap_err();
    assert!(matches!(error, ProvisionError::NameTaken { .. }), "{error}");
    assert!(rig.remove(&owner).await.is_err());
    assert_eq!(server.sql(&format!("SHOW TABLES IN {name}")), "note");
}

#[tokio::test]
async fn a_user_of_somebody_else_is_left_alone() {
    let rig = Rig::new(Kind::MariaDb);
    let owner = owner(&app("foreign"));
    let name = format!("app_{}", owner.app);
    MariaDb::shared().sql(&format!("CREATE USER {name}@'10.%' IDENTIFIED BY 'x'"));
    let error = rig.adopt(&owner).await.unwrap_err();
    assert!(error.to_string().contains(&format!("user \"{name}\" is there already")), "{error}");
    assert_eq!(rig.left_of(&owner.app), format!("user {name}"));
}

#[tokio::test]
async fn of_users_of_one_name_those_that_were_made_here_go() {
    let rig = Rig::new(Kind::MariaDb);
    let owner = owner(&app("namesake"));
    let name = format!("app_{}", owner.app);
    let server = MariaDb::shared();
    let hosts = || server.sql(&format!("SELECT host FROM mysql.user WHERE user = '{name}'"));
    let operators = format!("CREATE USER {name}@'10.%' IDENTIFIED BY 'x'");
    rig.provision(&owner).await.unwrap();
    server.sql(&operators);
    // As it is where the server's address was another before.
    server.sql(&format!(
        "CREATE USER {name}@'%'; INSERT INTO doorbell.app_user VALUES ('{name}', '%')"
    ));
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
    assert_eq!((hosts(), rig.left_of(&owner.app)), ("10.%".into(), format!("user {name}")));
    server.sql(&format!("DROP USER {name}@'10.%'"));
    // As it was before that was noted.
    rig.provision(&owner).await.unwrap();
    server.sql(&operators);
    server.sql(&format!("DELETE FROM doorbell.app_user WHERE name = '{name}'"));
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
    assert_eq!(hosts(), "10.%");
}

#[tokio::test]
async fn a_schema_is_a_database() {
    let spec = DatabaseSpec::NewSchema(url(&MariaDb::shared().address("root")));
    spec.check().unwrap();
    let (server, owner) = (provisioner(&spec), owner(&app("schema")));
    let connection = server.provision(&owner, &secret(), Adopt::No, &|_| {}).await.unwrap();
    write(&connection, "note").await;
    assert_eq!(read(&connection).await, ["note"]);
    assert_eq!(server.remove(&owner, &|_| {}).await.unwrap(), Removed::All);
}

#[tokio::test]
async fn a_database_holds_any_character_whatever_the_server_is_set_to() {
    let rig = Rig::new(Kind::MariaDb);
    let connection = rig.provision(&owner(&app("characters"))).await.unwrap();
    write(&connection, "🔔").await;
    assert_eq!(read(&connection).await, ["🔔"]);
}
