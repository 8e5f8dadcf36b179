//! Names that somebody chose to do harm.

use doorbell_config::registry::{
    Act, Actor, Edit, Expect, NewToken, Registry, TokenHash, What, WriteError,
};
use serde_json::{Map, Value, json};

use crate::place::{Place, edit, id, ids, of, somebody, write};

const NAMES: &[&str] = &[
    "'; DROP TABLE app; --",
    "\"; DROP SCHEMA doorbell CASCADE; --",
    "$1 $2 ?1 :name @name",
    "%' OR '1'='1",
    "\\'; \\x00 \\\\",
    "E'\\047'",
    "$$; DELETE FROM token; $$",
    "$(reboot) `reboot` ; reboot | sh & \n reboot",
    "../../../etc/passwd",
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m",
    "\r\nlast line",
    "\u{202e}evil\u{2066}\u{feff}\u{200b}",
    "🔔\u{10ffff}\u{fffe}é e\u{301}",
    " ",
    "İıſK",
    "{\"id\": \"x\"}",
];

crate::on_both!(
    hostile_names_are_kept_as_they_are,
    what_no_database_can_hold_is_refused,
    nobody_gets_past_the_log,
);

async fn hostile_names_are_kept_as_they_are(place: Place) {
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    for (number, name) in NAMES.iter().enumerate() {
        let definition: Map<String, Value> =
            [((*name).to_owned(), json!({ *name: [name, "\0", "\u{0}\u{1}"] }))]
                .into_iter()
                .collect();
        let by = Actor { name: (*name).into(), from: (*name).into() };
        let secret = What::PutSecret { name: (*name).into(), sealed: name.as_bytes().into() };
        let edits: [Edit; 2] = [
            edit("blog", Expect::Present, What::Put(definition.clone())),
            edit("blog", Expect::Present, secret),
        ];
        registry.write(&edits, &by).await.unwrap();
        let app = registry.app(&id("blog")).await.unwrap().unwrap();
        assert_eq!(app.definition, definition);
        let hash = TokenHash([u8::try_from(number).unwrap(); 32]);
        let (name, scope) = ((*name).to_owned(), (*name).to_owned());
        let token = NewToken { name: name.clone(), scope, hash, expires_at: None };
        registry.add_token(&token, &by).await.unwrap();
        let found = registry.find_token(&hash).await.unwrap().unwrap();
        assert_eq!((&found.name, &found.scope), (&name, &name));
        registry.note_use(&found).await.unwrap();
        let entry = &registry.audit(None, None, 1).await.unwrap()[0];
        assert_eq!((&entry.by, entry.act.subject.as_ref()), (&by, Some(&name)));
    }
    let secrets = registry.secrets(&of("blog")).await.unwrap();
    let mut names: Vec<_> = secrets.iter().map(|secret| &*secret.name).collect();
    let mut expected = NAMES.to_vec();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in NAMES {
        assert!(registry.remove_token(name, &somebody()).await.unwrap(), "{name:?}");
        let remove = What::RemoveSecret { name: (*name).into() };
        registry.write(&[edit("blog", Expect::Present, remove)], &somebody()).await.unwrap();
    }
    assert_eq!(registry.secrets(&of("blog")).await.unwrap(), []);
    assert_eq!(registry.tokens().await.unwrap(), []);
    assert_eq!(ids(&registry).await, ["blog"]);
}

async fn what_no_database_can_hold_is_refused(place: Place) {
    let registry: Registry = place.open().await;
    write(&registry, "blog", "one").await;
    let long = "x".repeat(256);
    for name in ["", "a\0b", &long] {
        let hash = TokenHash([1; 32]);
        let token = NewToken { name: name.into(), scope: String::new(), hash, expires_at: None };
        let refused = registry.add_token(&token, &somebody()).await.unwrap_err();
        assert!(matches!(refused, WriteError::Refused { .. }), "{refused}");
        let secret = What::PutSecret { name: name.into(), sealed: vec![] };
        let edits = [edit("blog", Expect::Present, secret)];
        let refused = registry.write(&edits, &somebody()).await.unwrap_err();
        assert!(matches!(refused, WriteError::Refused { .. }), "{refused}");
    }
    let replica =
        Edit { app: id("blog").replica(2), ..edit("blog", Expect::Anything, What::Delete) };
    let refused = registry.write(&[replica], &somebody()).await.unwrap_err();
    assert!(matches!(refused, WriteError::Refused { .. }), "{refused}");
}

async fn nobody_gets_past_the_log(place: Place) {
    let registry = place.open().await;
    let by = Actor { name: "a\0b".into(), from: "x".repeat(100_000) };
    let act = Act { what: "restart\0".into(), app: None, subject: Some("é".repeat(100_000)) };
    registry.note(&act, &by).await.unwrap();
    let entry = &registry.audit(None, None, 1).await.unwrap()[0];
    assert_eq!((&*entry.by.name, &*entry.act.what), ("a\u{2400}b", "restart\u{2400}"));
    assert_eq!((entry.by.from.len(), entry.act.subject.as_ref().unwrap().len()), (1024, 1024));
}
