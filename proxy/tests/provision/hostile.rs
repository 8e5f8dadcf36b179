//! Names, passwords and words that mean something to somebody.

use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, DatabaseUrl},
};
use doorbell_proxy::provision::{Adopt, Removed, Secret, provisioner};

use crate::{
    client::{Client, read, write},
    rig::{Kind, Rig, app, owner, postgres, secret, url},
};

/// None of those that clients of PostgreSQL refuse to send: control characters, and what Unicode had not in 2002.
const PASSWORDS: &[&str] = &[
    "'; DROP ROLE app; --",
    "\"quoted\" `ticked`",
    "back\\slash\\' and \\",
    "$$dollar$$ $1 {port} %s %40",
    "p@ss:w/o?r#d&=+ [::1]",
    "pässwörd \u{fb01}\u{ad}\u{a0}x",
    "SCRAM-SHA-256$4096:c2FsdA==$a:b",
    "md5d41d8cd98f00b204e9800998ecf8427e",
    " ",
];

const IDS: &[&str] = &[
    "select",
    "user",
    "0",
    "1e5",
    "drop-table-users",
    "a--b",
    "a_b",
    "a-b",
    "x__",
    "doorbell",
    "postgres",
    "mysql",
    "information_schema",
    "an-id-that-is-as-long-as-an-id-may-be-and-that-is-63-characters",
    "an_id_that_is_as_long_as_an_id_may_be_and_that_is_63_characters",
];

/// Ids stand here once: each kind has a server of its own, or a database.
async fn any_id_is_a_name(kind: Kind) {
    let rig = Rig::new(kind);
    let mut made = Vec::new();
    for id in IDS {
        let owner = owner(&AppId::parse(id).unwrap());
        let connection =
            rig.provision(&owner).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        write(&connection, id).await;
        made.push((owner, connection));
    }
    for (owner, connection) in &made {
        assert_eq!(read(connection).await, [owner.app.as_str()]);
    }
    for (owner, _) in &made {
        assert_eq!(rig.remove(owner).await.unwrap(), Removed::All, "{}", owner.app);
    }
}

/// One after the other: their roles are the server's.
#[tokio::test]
async fn any_id_is_a_name_in_postgresql() {
    any_id_is_a_name(Kind::PostgresDatabase).await;
    any_id_is_a_name(Kind::PostgresSchema).await;
}

#[tokio::test]
async fn any_id_is_a_name_in_mariadb() {
    any_id_is_a_name(Kind::MariaDb).await;
}

#[tokio::test]
async fn any_id_is_a_name_in_sqlite() {
    any_id_is_a_name(Kind::Sqlite).await;
}

#[tokio::test]
async fn any_text_is_a_password() {
    for kind in [Kind::PostgresDatabase, Kind::MariaDb] {
        let rig = Rig::new(kind);
        let owner = owner(&app("passwords"));
        for password in PASSWORDS {
            let made = rig
                .provisioner()
                .provision(&owner, &Secret::new(*password), Adopt::No, &|_| {})
                .await
                .unwrap();
            let client = Client::connect(&made).await;
            client.unwrap_or_else(|error| panic!("{kind:?} {password:?}: {error}")).close().await;
            let wrong = doorbell_proxy::provision::Connection {
                url: rig.provision(&owner).await.unwrap().url,
                ..made.clone()
            };
            Client::connect(&wrong).await.unwrap().close().await;
            assert!(Client::connect(&made).await.is_err(), "{kind:?} {password:?}");
        }
    }
}

#[tokio::test]
async fn a_schema_is_made_in_a_database_of_any_name() {
    let name = "we\"ird'; DROP DATABASE postgres; -- $$\\ %é";
    let admin = postgres().address("postgres");
    postgres().sql(&admin, &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let address: DatabaseUrl = url(&postgres().address(&encoded));
    assert_eq!(address.database.as_deref(), Some(name));
    let server = provisioner(&DatabaseSpec::NewSchema(address));
    let owner = owner(&app("weird"));
    let made = server.provision(&owner, &secret(), Adopt::No, &|_| {}).await.unwrap();
    write(&made, "there").await;
    assert_eq!(read(&made).await, ["there"]);
    assert_eq!(server.remove(&owner, &|_| {}).await.unwrap(), Removed::All);
}

#[tokio::test]
async fn a_given_connection_is_told_as_it_is() {
    let given = "mysql://us%40er:p%2Fw@db.example.com:3307/shop?connection_limit=5";
    let spec = DatabaseSpec::NewConnection(url(given));
    spec.check().unwrap();
    let server = provisioner(&spec);
    let owner = owner(&app("given"));
    let connection = server.provision(&owner, &secret(), Adopt::No, &|_| {}).await.unwrap();
    assert_eq!(connection.url.reveal(), given);
    assert_eq!((connection.user.as_str(), connection.password.reveal()), ("us@er", "p/w"));
    assert_eq!((connection.host.as_str(), connection.port), ("db.example.com", Some(3307)));
    assert_eq!(connection.name, "shop");
    assert_eq!(server.remove(&owner, &|_| {}).await.unwrap(), Removed::Nothing);
}
