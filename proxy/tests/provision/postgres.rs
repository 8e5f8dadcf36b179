//! What is special in PostgreSQL.

use doorbell_config::spec::DatabaseSpec;
use doorbell_proxy::provision::{Adopt, ProvisionError, Removed, provisioner};

use crate::{
    client::{Client, write},
    rig::{Kind, Rig, app, owner, postgres, secret, url},
};

#[tokio::test]
async fn a_role_that_has_something_elsewhere_is_kept_and_locked_out() {
    let rig = Rig::new(Kind::PostgresSchema);
    let elsewhere = postgres().database();
    let owner = owner(&app("rooted"));
    let connection = rig.provision(&owner).await.unwrap();
    let sql = format!("CREATE TABLE kept (); ALTER TABLE kept OWNER TO {}", connection.user);
    postgres().sql(&elsewhere, &sql);
    let Removed::ButUser(words) = rig.remove(&owner).await.unwrap() else { panic!("all of it") };
    assert!(words.contains("objects depend on it"), "{words}");
    assert!(Client::connect(&connection).await.is_err());
    assert_eq!(rig.left_of(&owner.app), format!("role {}", connection.user));
    postgres().sql(&elsewhere, "DROP TABLE kept");
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
}

#[tokio::test]
async fn a_schema_is_where_its_app_makes_tables() {
    let rig = Rig::new(Kind::PostgresSchema);
    let owner = owner(&app("path"));
    let connection = rig.provision(&owner).await.unwrap();
    write(&connection, "note").await;
    let mut client = Client::connect(&connection).await.unwrap();
    let schema = connection.schema.as_deref().unwrap();
    let tables = "SELECT schemaname::text FROM pg_tables WHERE tablename = 'note'";
    assert_eq!(client.run(tables).await.unwrap(), [schema]);
    assert!(client.run("CREATE TABLE public.note ()").await.is_err());
    assert!(client.run("CREATE SCHEMA another").await.is_err());
}

#[tokio::test]
async fn a_schema_and_a_database_of_one_app_are_two_places() {
    let rig = Rig::new(Kind::PostgresSchema);
    let owner = owner(&app("moved"));
    rig.provision(&owner).await.unwrap();
    // The app now asks for a database: it gets one, its schema stays where it is.
    let server = provisioner(&DatabaseSpec::NewDatabase(url(&postgres().address("postgres"))));
    let made = server.provision(&owner, &secret(), Adopt::No, &|_| {}).await.unwrap();
    write(&made, "new").await;
    assert!(matches!(server.remove(&owner, &|_| {}).await.unwrap(), Removed::ButUser(_)));
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
    assert_eq!(rig.left_of(&owner.app), "");
}

#[tokio::test]
async fn a_database_of_somebody_else_is_not_had_by_the_comment_of_its_own() {
    let rig = Rig::new(Kind::PostgresDatabase);
    let owner = owner(&app("forged"));
    let admin = postgres().address("postgres");
    let name = format!("app_{}", owner.app);
    postgres().sql(&admin, &format!("CREATE DATABASE {name}"));
    postgres().sql(&admin, &format!("COMMENT ON DATABASE {name} IS '{owner}'"));
    postgres().sql(&admin, &format!("CREATE ROLE {name}; COMMENT ON ROLE {name} IS '{owner}'"));
    let error = rig.provision(&owner).await.unwrap_err();
    assert!(matches!(error, ProvisionError::NameTaken { .. }), "{error}");
    assert!(rig.remove(&owner).await.is_err());
}
