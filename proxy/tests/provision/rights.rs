//! Servers that do not let us, or do not answer.

use std::time::{Duration, Instant};

use doorbell_config::spec::DatabaseSpec;
use doorbell_proxy::provision::{Adopt, Connection, Marker, ProvisionError, Removed, provisioner};
use doorbell_tests::{MariaDb, Postgres};
use tokio::net::TcpListener;

use crate::{
    client::{read, write},
    rig::{app, owner, postgres, secret, strict, url},
};

async fn make(spec: &DatabaseSpec, owner: &Marker) -> Result<Connection, ProvisionError> {
    provisioner(spec).provision(owner, &secret(), Adopt::No, &|_| {}).await
}

async fn remove(spec: &DatabaseSpec, owner: &Marker) -> Result<Removed, ProvisionError> {
    provisioner(spec).remove(owner, &|_| {}).await
}

/// That this right is missing.
fn assert_refused(error: &ProvisionError, right: &str, words: &str) {
    let ProvisionError::Refused { .. } = error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains(right) && text.contains(words), "{text}");
    assert!(!text.contains("hunter2") && !text.contains(secret().reveal()), "{text}");
}

#[tokio::test]
async fn postgresql_tells_which_right_is_missing_and_all_is_well_when_it_is_given() {
    let admin = postgres().address("postgres");
    postgres().sql(&admin, "CREATE ROLE limited LOGIN PASSWORD 'hunter2'");
    let limited = admin.replace("doorbell@", "limited:hunter2@");
    let spec = DatabaseSpec::NewDatabase(url(&limited));
    let owner = owner(&app("limited"));
    let error = make(&spec, &owner).await.unwrap_err();
    assert_refused(&error, "create its role, which takes CREATEROLE", "permission denied");
    postgres().sql(&admin, "ALTER ROLE limited CREATEROLE");
    let error = make(&spec, &owner).await.unwrap_err();
    assert_refused(&error, "create its database, which takes CREATEDB", "permission denied");
    postgres().sql(&admin, "ALTER ROLE limited CREATEDB");
    let connection = make(&spec, &owner).await.unwrap();
    write(&connection, "made").await;
    make(&spec, &owner).await.unwrap();
    assert_eq!(read(&connection).await, ["made"]);
    assert_eq!(remove(&spec, &owner).await.unwrap(), Removed::All);

    let wrong = admin.replace("doorbell@", "limited:hunter22@");
    let error = make(&DatabaseSpec::NewDatabase(url(&wrong)), &owner).await.unwrap_err();
    assert_refused(&error, "log in", "password authentication failed");
}

#[tokio::test]
async fn a_schema_takes_the_right_to_create_in_its_database() {
    let database = postgres().database();
    let name = database.split_once("@/").unwrap().1.split_once('?').unwrap().0;
    postgres().sql(&database, "CREATE ROLE schemer LOGIN PASSWORD 'hunter2' CREATEROLE");
    let spec = DatabaseSpec::NewSchema(url(&database.replace("doorbell@", "schemer:hunter2@")));
    let owner = owner(&app("schemer"));
    let error = make(&spec, &owner).await.unwrap_err();
    assert_refused(&error, "create its schema, which takes CREATE on the database", "permission");
    postgres().sql(&database, &format!("GRANT CREATE ON DATABASE {name} TO schemer"));
    // Nor may everybody connect.
    postgres().sql(&database, &format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"));
    postgres()
        .sql(&database, &format!("GRANT CONNECT ON DATABASE {name} TO schemer WITH GRANT OPTION"));
    let connection = make(&spec, &owner).await.unwrap();
    write(&connection, "made").await;
    assert_eq!(read(&connection).await, ["made"]);
    assert_eq!(remove(&spec, &owner).await.unwrap(), Removed::All);
}

#[tokio::test]
async fn mariadb_tells_which_right_is_missing_and_all_is_well_when_it_is_given() {
    let server = MariaDb::shared();
    server.sql("CREATE USER limited@localhost IDENTIFIED BY 'hunter2'");
    let address = server.address("limited:hunter2");
    let spec = DatabaseSpec::NewDatabase(url(&address));
    let owner = owner(&app("limited"));
    for (right, missing) in [
        ("SELECT ON mysql.user", "look what is there"),
        ("CREATE, SELECT, INSERT, UPDATE, DELETE ON doorbell.*", "which takes"),
        ("ALL ON `app\\_%`.*", "create its database, which takes CREATE on it"),
        ("CREATE USER ON *.*", "create its user, which takes CREATE USER"),
    ] {
        let error = make(&spec, &owner).await.unwrap_err();
        assert_refused(&error, missing, "denied");
        server.sql(&format!("GRANT {right} TO limited@localhost"));
    }
    let error = make(&spec, &owner).await.unwrap_err();
    assert_refused(&error, "WITH GRANT OPTION", "denied");
    server.sql("GRANT ALL ON `app\\_%`.* TO limited@localhost WITH GRANT OPTION");
    let connection = make(&spec, &owner).await.unwrap();
    write(&connection, "made").await;
    make(&spec, &owner).await.unwrap();
    assert_eq!(read(&connection).await, ["made"]);
    assert_eq!(remove(&spec, &owner).await.unwrap(), Removed::All);

    let wrong = DatabaseSpec::NewDatabase(url(&server.address("limited:hunter22")));
    assert_refused(&make(&wrong, &owner).await.unwrap_err(), "log in", "Access denied");
}

#[tokio::test]
async fn a_server_that_is_down_is_told_and_comes_back() {
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    strict(&postgres);
    let owner = owner(&app("down"));
    for spec in [
        DatabaseSpec::NewDatabase(url(&postgres.address("postgres"))),
        DatabaseSpec::NewDatabase(url(&mariadb.address("root"))),
    ] {
        let connection = make(&spec, &owner).await.unwrap();
        write(&connection, "kept").await;
        postgres.stop();
        mariadb.stop();
        let error = make(&spec, &owner).await.unwrap_err();
        assert!(matches!(error, ProvisionError::Unreachable { .. }), "{error}");
        let error = remove(&spec, &owner).await.unwrap_err();
        assert!(matches!(error, ProvisionError::Unreachable { .. }), "{error}");
        postgres.resume();
        mariadb.resume();
        make(&spec, &owner).await.unwrap();
        assert_eq!(read(&connection).await, ["kept"]);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let owner = owner(&app("silent"));
    let tries = ["postgres", "mysql"].map(|scheme| {
        let spec =
            DatabaseSpec::NewDatabase(url(&format!("{scheme}://a:hunter2@127.0.0.1:{port}/")));
        let owner = owner.clone();
        tokio::spawn(async move { make(&spec, &owner).await.unwrap_err() })
    });
    let began = Instant::now();
    for tried in tries {
        let error = tried.await.unwrap();
        assert!(matches!(error, ProvisionError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("no answer within 5 s"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(silent);
    let closed = format!("mariadb://a:hunter2@127.0.0.1:{port}/");
    let error = make(&DatabaseSpec::NewDatabase(url(&closed)), &owner).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Unreachable { .. }), "{error}");
}
