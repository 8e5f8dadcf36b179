//! Registries as earlier binaries left them: what is in them is there after the migration, and works.

use std::time::Duration;

use doorbell_config::registry::{Expect, NewToken, Owner, Revision, TokenHash, Turn, What};

use crate::place::{Place, edit, id, ids, named, of, somebody, write};

crate::on_both!(a_registry_of_each_earlier_version_is_taken_over_with_all_that_is_in_it);

/// What each version added, for SQLite and PostgreSQL.
const SCRIPTS: [[&str; 2]; 6] = [
    [
        include_str!("../../src/registry/migration/1.sqlite.sql"),
        include_str!("../../src/registry/migration/1.postgres.sql"),
    ],
    [
        include_str!("../../src/registry/migration/2.sqlite.sql"),
        include_str!("../../src/registry/migration/2.postgres.sql"),
    ],
    [
        include_str!("../../src/registry/migration/3.sqlite.sql"),
        include_str!("../../src/registry/migration/3.postgres.sql"),
    ],
    [
        include_str!("../../src/registry/migration/4.sqlite.sql"),
        include_str!("../../src/registry/migration/4.postgres.sql"),
    ],
    [
        include_str!("../../src/registry/migration/5.sqlite.sql"),
        include_str!("../../src/registry/migration/5.postgres.sql"),
    ],
    [
        include_str!("../../src/registry/migration/6.sqlite.sql"),
        include_str!("../../src/registry/migration/6.postgres.sql"),
    ],
];

const HASH: [u8; 32] = [0xab; 32];
const LONG: Duration = Duration::from_secs(600);

/// What stands in a registry since each version.
fn rows(version: usize, is_postgres: bool) -> String {
    let bytes = |hex: &str| match is_postgres {
        true => format!("'\\x{hex}'::bytea"),
        false => format!("x'{hex}'"),
    };
    let (hash, sealed) = (bytes(&"ab".repeat(32)), bytes("c0ffee"));
    match version {
        1 => format!(
            "INSERT INTO app VALUES ('blog', 2, 1, '{{\"name\": \"one\"}}', 1000, 2000);
             INSERT INTO app VALUES ('gone', 3, 3, NULL, 3000, 3000);
             INSERT INTO secret VALUES ('blog', 'KEY', {sealed}, 2000);
             INSERT INTO secret VALUES ('main', 'KEY', {sealed}, 2000);
             INSERT INTO token VALUES ('ci', 'read', {hash}, 1000, NULL, NULL);
             INSERT INTO audit (at, actor, origin, act, app, subject, revision)
                 VALUES (1000, 'unix:0', 'admin.sock', 'put app', 'blog', NULL, 1);
             UPDATE registry SET revision = 3;"
        ),
        2 => "UPDATE registry SET installation = 'the first';".into(),
        3 => "INSERT INTO upgrade (app, version) VALUES ('blog', '1'), ('main', '1');".into(),
        4 => "UPDATE upgrade SET failed = '2', why = 'exited with status 5';".into(),
        5 => "INSERT INTO file_app VALUES ('main', 'a', 7, 1, 1);".into(),
        6 => String::new(),
        other => panic!("what does version {other} keep?"),
    }
}

/// Makes one as a binary of this version left it.
async fn make(place: &Place, version: usize) {
    let is_postgres = place.address().is_some();
    let mut script = match is_postgres {
        true => "CREATE SCHEMA doorbell;".to_owned(),
        false => "PRAGMA application_id = 0x4472626c;".to_owned(),
    };
    for (number, scripts) in (1..=version).zip(SCRIPTS) {
        script += scripts[usize::from(is_postgres)];
        script += "UPDATE registry SET version = version + 1;";
        script += &rows(number, is_postgres);
    }
    if !is_postgres {
        std::fs::write(place.file(), "").unwrap();
    }
    place.script(script).await;
}

async fn a_registry_of_each_earlier_version_is_taken_over_with_all_that_is_in_it(first: Place) {
    let is_postgres = first.address().is_some();
    drop(first);
    for version in 1..=SCRIPTS.len() {
        let place = if is_postgres { Place::postgres() } else { Place::sqlite() };
        make(&place, version).await;
        holds_all(&place, version).await;
        works(&place, version).await;
        assert_eq!(place.number("SELECT version FROM registry").await, SCRIPTS.len() as i64);
    }
}

/// What was put in is there, and what it could not have is as if nothing was.
async fn holds_all(place: &Place, version: usize) {
    let registry = place.open().await;
    let blog = id("blog");
    let all = registry.changes_since(Revision::ZERO).await.unwrap();
    assert_eq!((all.now, all.unreadable), (Revision::new(3), vec![]), "{version}");
    let [app] = &all.put[..] else { panic!("{version}: {:?}", all.put) };
    assert_eq!((&app.id, &app.definition), (&blog, &named("one")));
    assert_eq!((app.revision, app.created), (Revision::new(2), Revision::new(1)));
    assert_eq!((app.created_at, app.changed_at), (1000, 2000));
    let later = registry.changes_since(Revision::new(2)).await.unwrap();
    assert_eq!((later.whole, later.gone), (false, vec![id("gone")]), "{version}");
    let of_file = Owner::File(id("main"));
    for owner in [&of("blog"), &of_file] {
        let secrets = registry.secrets(owner).await.unwrap();
        let [secret] = &secrets[..] else { panic!("{version}: {owner:?}: {secrets:?}") };
        assert_eq!((secret.name.as_str(), &secret.sealed[..]), ("KEY", &b"\xc0\xff\xee"[..]));
    }
    let token = registry.find_token(&TokenHash(HASH)).await.unwrap().expect("a token");
    assert_eq!((token.name.as_str(), token.scope.as_str()), ("ci", "read"));
    let audit = registry.audit(None, None, 10).await.unwrap();
    assert_eq!((audit.len(), audit[0].act.what.as_str()), (1, "put app"));
    let installation = registry.installation().await.unwrap();
    assert!(if version < 2 { !installation.is_empty() } else { installation == "the first" });
    for owner in [&of("blog"), &of_file] {
        let reached = registry.upgraded_to(owner).await.unwrap();
        assert_eq!(reached.as_deref(), (version >= 3).then_some("1"), "{version}");
    }
    let turn = registry.begin_upgrade(&of("blog"), "2", "a", LONG).await.unwrap();
    match version {
        ..4 => assert_eq!(turn, Turn::Yours, "{version}"),
        _ => assert_eq!(turn, Turn::Failed("exited with status 5".into()), "{version}"),
    }
    registry.close().await;
}

/// What a registry is for can be done in it.
async fn works(place: &Place, version: usize) {
    let registry = place.open().await;
    assert_eq!(write(&registry, "blog", "two").await, Revision::new(4), "{version}");
    write(&registry, "gone", "again").await;
    assert_eq!(ids(&registry).await, ["blog", "gone"], "{version}");
    let delete = [edit("blog", Expect::Anything, What::Delete)];
    registry.write(&delete, &somebody()).await.unwrap();
    assert_eq!(ids(&registry).await, ["gone"], "{version}");
    assert!(registry.secrets(&of("blog")).await.unwrap().is_empty());
    let hash = TokenHash([1; 32]);
    let token = NewToken { name: "new".into(), scope: "admin".into(), hash, expires_at: None };
    registry.add_token(&token, &somebody()).await.unwrap();
    assert_eq!(registry.tokens().await.unwrap().len(), 2);
    assert!(registry.audit(None, None, 10).await.unwrap().len() > 1);
    registry.trim_gone(LONG).await.unwrap();
}
