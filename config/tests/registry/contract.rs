//! What holds of every registry.

use std::time::Duration;

use doorbell_config::registry::{
    Act, Expect, MOST_DEFINITION_BYTES, NewToken, Registry, Revision, TokenHash, What, WriteError,
};
use serde_json::{Map, Value, json};

use crate::place::{Place, edit, id, ids, named, of, put, somebody, write};

crate::on_both!(
    what_is_put_is_there,
    a_reader_learns_what_it_missed,
    what_is_not_as_expected_is_not_written,
    what_was_seen_to_fit_older_apps_is_not_written,
    all_edits_are_made_or_none,
    a_deleted_app_leaves_its_id_and_nothing_else,
    who_is_gone_for_long_is_forgotten_and_nobody_misses_that,
    who_is_being_deleted_is_not_changed_until_it_is_gone_or_kept,
    a_deletion_that_is_given_up_is_not_another_one,
    a_renamed_app_keeps_its_place_and_its_secrets,
    an_app_in_other_words_is_the_same_app,
    tokens_are_found_by_hash_until_they_end,
    every_change_is_in_the_audit_log,
    what_is_too_large_never_gets_there,
    an_app_that_somebody_broke_harms_no_other,
    a_registry_that_was_set_back_is_read_anew,
);

async fn what_is_put_is_there(place: Place) {
    let registry = place.open().await;
    assert_eq!(registry.app(&id("blog")).await.unwrap(), None);
    let first = write(&registry, "blog", "one").await;
    let second = write(&registry, "blog", "two").await;
    assert!(second > first);

    let again = place.open().await;
    let app = again.app(&id("blog")).await.unwrap().unwrap();
    assert_eq!((app.revision, app.created), (second, first));
    assert_eq!(app.definition, named("two"));
    assert!(app.created_at > 1_600_000_000_000 && app.changed_at >= app.created_at);
    assert_eq!(again.revision().await.unwrap(), second);
}

async fn a_reader_learns_what_it_missed(place: Place) {
    let registry = place.open().await;
    let nothing = registry.changes_since(Revision::ZERO).await.unwrap();
    assert_eq!((nothing.now, nothing.put.len(), nothing.whole), (Revision::ZERO, 0, true));
    for app in ["zoo", "blog", "shop"] {
        write(&registry, app, "one").await;
    }
    assert_eq!(ids(&registry).await, ["zoo", "blog", "shop"], "in the order of their creation");

    let all = registry.changes_since(Revision::ZERO).await.unwrap();
    write(&registry, "zoo", "two").await;
    let gone = [edit("blog", Expect::Present, What::Delete)];
    let last = registry.write(&gone, &somebody()).await.unwrap();
    let changes = registry.changes_since(all.now).await.unwrap();
    assert_eq!((changes.now, changes.whole), (last, false));
    assert_eq!(changes.gone, [id("blog")]);
    assert_eq!(changes.put.len(), 1);
    assert_eq!((&changes.put[0].id, &changes.put[0].definition), (&id("zoo"), &named("two")));
    let nothing = registry.changes_since(last).await.unwrap();
    assert_eq!((nothing.now, nothing.put.len(), nothing.gone.len()), (last, 0, 0));
    let all = registry.changes_since(Revision::ZERO).await.unwrap();
    assert!(all.gone.is_empty(), "who knows nothing need not know who is gone");
}

async fn an_app_in_other_words_is_the_same_app(place: Place) {
    let registry = place.open().await;
    let first = write(&registry, "blog", "one").await;
    let before = registry.app(&id("blog")).await.unwrap().unwrap();
    registry.begin_ending(&id("blog"), Expect::Revision(first)).await.unwrap();
    let reword = |at| [edit("blog", Expect::Revision(at), What::Reword(named("two")))];
    let second = registry.write(&reword(first), &somebody()).await.unwrap();
    let app = registry.app(&id("blog")).await.unwrap().unwrap();
    assert_eq!((app.revision, app.definition), (second, named("two")));
    assert_eq!((app.created, app.changed_at), (before.created, before.changed_at));
    assert!(registry.is_ending(&id("blog")).await.unwrap(), "nobody has decided anything");
    let stale = registry.write(&reword(first), &somebody()).await.unwrap_err();
    assert_eq!(stale, WriteError::Conflict { app: id("blog"), found: Some(second) });
    let nobody = [edit("shop", Expect::Anything, What::Reword(named("two")))];
    let absent = registry.write(&nobody, &somebody()).await.unwrap_err();
    assert_eq!(absent, WriteError::Conflict { app: id("shop"), found: None });
}

async fn what_is_not_as_expected_is_not_written(place: Place) {
    let registry = place.open().await;
    let refused = async |expect, found| {
        let edits = [put("blog", expect, "refused")];
        let error = registry.write(&edits, &somebody()).await.unwrap_err();
        assert_eq!(error, WriteError::Conflict { app: id("blog"), found });
    };
    refused(Expect::Present, None).await;
    refused(Expect::Revision(Revision::new(1)), None).await;
    let first = registry.write(&[put("blog", Expect::Absent, "one")], &somebody()).await.unwrap();
    refused(Expect::Absent, Some(first)).await;
    let as_known = [put("blog", Expect::Revision(first), "two")];
    let second = registry.write(&as_known, &somebody()).await.unwrap();
    refused(Expect::Revision(first), Some(second)).await;
    let app = registry.app(&id("blog")).await.unwrap().unwrap();
    assert_eq!((app.definition, app.revision), (named("two"), second));

    let delete = [edit("shop", Expect::Anything, What::Delete)];
    registry.write(&delete, &somebody()).await.expect("nothing to do");
    let changes = registry.changes_since(second).await.unwrap();
    assert!(changes.gone.is_empty());
}

async fn what_was_seen_to_fit_older_apps_is_not_written(place: Place) {
    let (registry, other) = (place.open().await, place.open().await);
    let add = async |app: &str, since| {
        let edits = [put(app, Expect::Absent, "one")];
        registry.write_unless_changed(since, &edits, &somebody()).await
    };
    let first = add("blog", Revision::ZERO).await.unwrap();
    assert_eq!(add("shop", Revision::ZERO).await, Err(WriteError::Changed));
    // What is no change of an app is in nobody's way.
    other.add_token(&token("deploy", 1), &somebody()).await.unwrap();
    other
        .note(&Act { what: "restart".into(), app: None, subject: None }, &somebody())
        .await
        .unwrap();
    let secret = What::PutSecret { name: "key".into(), sealed: vec![1] };
    other.write(&[edit("blog", Expect::Present, secret)], &somebody()).await.unwrap();
    let second = add("shop", first).await.unwrap();
    for change in [What::Put(named("two")), What::Rename(id("news")), What::Delete] {
        let since = other.revision().await.unwrap();
        let app = if ids(&registry).await.contains(&"news".into()) { "news" } else { "blog" };
        other.write(&[edit(app, Expect::Present, change)], &somebody()).await.unwrap();
        assert_eq!(add("zoo", since).await, Err(WriteError::Changed));
    }
    assert_eq!(add("zoo", second).await, Err(WriteError::Changed));
    assert_eq!(ids(&registry).await, ["shop"]);
    let now = registry.revision().await.unwrap();
    add("zoo", now).await.unwrap();
    let ahead = Revision::new(now.number() + 100);
    assert_eq!(add("later", ahead).await, Err(WriteError::Changed), "it was set back");
}

async fn all_edits_are_made_or_none(place: Place) {
    let registry = place.open().await;
    let edits = [
        put("blog", Expect::Absent, "one"),
        put("shop", Expect::Absent, "one"),
        edit("blog", Expect::Present, What::PutSecret { name: "key".into(), sealed: vec![1] }),
        put("zoo", Expect::Present, "there is none"),
    ];
    let error = registry.write(&edits, &somebody()).await.unwrap_err();
    assert_eq!(error, WriteError::Conflict { app: id("zoo"), found: None });
    assert_eq!(ids(&registry).await, Vec::<String>::new());
    assert_eq!(registry.audit(None, None, 10).await.unwrap(), []);

    let last = registry.write(&edits[..3], &somebody()).await.unwrap();
    assert_eq!(ids(&registry).await, ["blog", "shop"]);
    let app = registry.app(&id("blog")).await.unwrap().unwrap();
    assert_eq!(app.revision.number() + 2, last.number(), "a secret leaves its app as it is");
    assert_eq!(registry.write(&[], &somebody()).await.unwrap(), last);
}

async fn a_deleted_app_leaves_its_id_and_nothing_else(place: Place) {
    let registry = place.open().await;
    let secret = What::PutSecret { name: "key".into(), sealed: b"sealed".to_vec() };
    let edits = [
        put("blog", Expect::Absent, "one"),
        edit("blog", Expect::Present, secret),
        put("shop", Expect::Absent, "one"),
    ];
    registry.write(&edits, &somebody()).await.unwrap();
    let first = registry.app(&id("blog")).await.unwrap().unwrap();
    let delete = [edit("blog", Expect::Revision(first.revision), What::Delete)];
    registry.write(&delete, &somebody()).await.unwrap();
    assert_eq!(registry.app(&id("blog")).await.unwrap(), None);
    assert_eq!(registry.secrets(&of("blog")).await.unwrap(), []);

    registry.write(&[put("blog", Expect::Absent, "two")], &somebody()).await.unwrap();
    let second = registry.app(&id("blog")).await.unwrap().unwrap();
    assert!(second.created > first.created, "another app, of the same name");
    assert_eq!(second.created, second.revision);
    assert_eq!(registry.secrets(&of("blog")).await.unwrap(), []);
    assert_eq!(ids(&registry).await, ["shop", "blog"]);
}

async fn who_is_gone_for_long_is_forgotten_and_nobody_misses_that(place: Place) {
    let registry = place.open().await;
    for app in ["old", "new", "there"] {
        write(&registry, app, "one").await;
    }
    let early = registry.revision().await.unwrap();
    let delete = |app| [edit(app, Expect::Present, What::Delete)];
    let old = registry.write(&delete("old"), &somebody()).await.unwrap();
    place.sql("UPDATE app SET changed_at = 1000 WHERE id = 'old'").await;
    registry.write(&delete("new"), &somebody()).await.unwrap();
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(registry.trim_gone(month).await.unwrap(), 1);
    assert_eq!(registry.trim_gone(month).await.unwrap(), 0);
    let late = registry.changes_since(old).await.unwrap();
    assert_eq!((late.whole, late.gone), (false, vec![id("new")]));
    let whole = registry.changes_since(early).await.unwrap();
    let there: Vec<_> = whole.put.iter().map(|row| row.id.as_str()).collect();
    assert_eq!((whole.whole, there), (true, vec!["there"]));
    write(&registry, "old", "another").await;
    assert_eq!(ids(&registry).await, ["there", "old"]);
}

async fn who_is_being_deleted_is_not_changed_until_it_is_gone_or_kept(place: Place) {
    let registry = place.open().await;
    let blog = id("blog");
    let is_ending = async || place.open().await.is_ending(&blog).await.unwrap();
    let absent = registry.begin_ending(&blog, Expect::Anything).await.unwrap_err();
    assert_eq!(absent, WriteError::Conflict { app: blog.clone(), found: None });
    let first = write(&registry, "blog", "one").await;
    let second = write(&registry, "blog", "two").await;
    let stale = registry.begin_ending(&blog, Expect::Revision(first)).await.unwrap_err();
    assert_eq!(stale, WriteError::Conflict { app: blog.clone(), found: Some(second) });
    assert!(!is_ending().await);
    registry.begin_ending(&blog, Expect::Revision(second)).await.unwrap();
    for change in [What::Put(named("three")), What::Rename(id("news"))] {
        let refused = registry.write(&[edit("blog", Expect::Anything, change)], &somebody()).await;
        assert_eq!(refused, Err(WriteError::Ending(blog.clone())));
    }
    let app = registry.app(&blog).await.unwrap().unwrap();
    assert_eq!((app.revision, app.definition), (second, named("two")));
    registry.keep(&blog).await.unwrap();
    let delete = [edit("blog", Expect::Ending, What::Delete)];
    let kept = registry.write(&delete, &somebody()).await.unwrap_err();
    assert_eq!(kept, WriteError::Conflict { app: blog.clone(), found: Some(second) });
    write(&registry, "blog", "three").await;
    registry.begin_ending(&blog, Expect::Present).await.unwrap();
    registry.write(&delete, &somebody()).await.unwrap();
    write(&registry, "blog", "another").await;
    assert!(!is_ending().await);
}

async fn a_deletion_that_is_given_up_is_not_another_one(place: Place) {
    let registry = place.open().await;
    let blog = id("blog");
    write(&registry, "blog", "one").await;
    let first = registry.begin_ending(&blog, Expect::Present).await.unwrap();
    assert!(!first.is_again);
    registry.give_up_ending(&blog, first).await.unwrap();
    assert!(!registry.is_ending(&blog).await.unwrap());
    let second = registry.begin_ending(&blog, Expect::Present).await.unwrap();
    let third = registry.begin_ending(&blog, Expect::Present).await.unwrap();
    assert!(!second.is_again && third.is_again);
    registry.give_up_ending(&blog, second).await.unwrap();
    assert!(registry.is_ending(&blog).await.unwrap(), "the third goes on");
}

async fn a_renamed_app_keeps_its_place_and_its_secrets(place: Place) {
    let registry = place.open().await;
    let first = write(&registry, "blog", "one").await;
    write(&registry, "shop", "one").await;
    let secret = What::PutSecret { name: "key".into(), sealed: b"sealed".to_vec() };
    let before =
        registry.write(&[edit("blog", Expect::Present, secret)], &somebody()).await.unwrap();

    let onto = [edit("blog", Expect::Anything, What::Rename(id("shop")))];
    let error = registry.write(&onto, &somebody()).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict { app, found: Some(_) } if app == id("shop")));
    let nobody = [edit("zoo", Expect::Anything, What::Rename(id("zoo2")))];
    let error = registry.write(&nobody, &somebody()).await.unwrap_err();
    assert_eq!(error, WriteError::Conflict { app: id("zoo"), found: None });

    let rename = [edit("blog", Expect::Revision(first), What::Rename(id("journal")))];
    let after = registry.write(&rename, &somebody()).await.unwrap();
    assert_eq!(ids(&registry).await, ["journal", "shop"]);
    let changes = registry.changes_since(before).await.unwrap();
    assert_eq!((&changes.gone[..], &changes.put[0].id), (&[id("blog")][..], &id("journal")));
    assert_eq!(changes.put[0].revision, after);
    let secrets = registry.secrets(&of("journal")).await.unwrap();
    assert_eq!((&*secrets[0].name, &*secrets[0].sealed), ("key", &b"sealed"[..]));
    assert_eq!(registry.secrets(&of("blog")).await.unwrap(), []);
    // And back, onto its own tombstone.
    let back = [edit("journal", Expect::Present, What::Rename(id("blog")))];
    registry.write(&back, &somebody()).await.unwrap();
    assert_eq!(ids(&registry).await, ["blog", "shop"]);
    assert_eq!(registry.secrets(&of("blog")).await.unwrap().len(), 1);
}

fn token(name: &str, number: u8) -> NewToken {
    let hash = TokenHash([number; 32]);
    NewToken { name: name.into(), scope: "apps:read".into(), hash, expires_at: None }
}

async fn tokens_are_found_by_hash_until_they_end(place: Place) {
    let registry = place.open().await;
    registry.add_token(&token("deploy", 1), &somebody()).await.unwrap();
    let taken = registry.add_token(&token("deploy", 2), &somebody()).await.unwrap_err();
    assert_eq!(taken, WriteError::TokenTaken("deploy".into()));
    let ended = NewToken { expires_at: Some(1), ..token("ended", 3) };
    registry.add_token(&ended, &somebody()).await.unwrap();
    let later = NewToken { expires_at: Some(4_000_000_000_000), ..token("later", 4) };
    registry.add_token(&later, &somebody()).await.unwrap();

    let found = registry.find_token(&TokenHash([1; 32])).await.unwrap().unwrap();
    assert_eq!((&*found.name, &*found.scope, found.used_at), ("deploy", "apps:read", None));
    for (number, is_found) in [(2, false), (3, false), (4, true), (5, false)] {
        let found = registry.find_token(&TokenHash([number; 32])).await.unwrap();
        assert_eq!(found.is_some(), is_found, "{number}");
    }
    let before = registry.revision().await.unwrap();
    registry.note_use(&found).await.unwrap();
    assert_eq!(registry.revision().await.unwrap(), before, "its use is no change");
    let names = async || {
        let tokens = registry.tokens().await.unwrap();
        tokens.iter().map(|token| token.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["deploy", "ended", "later"]);
    assert!(registry.tokens().await.unwrap()[0].used_at.is_some());

    assert!(registry.remove_token("deploy", &somebody()).await.unwrap());
    assert!(!registry.remove_token("deploy", &somebody()).await.unwrap());
    assert_eq!(names().await, ["ended", "later"]);
    assert_eq!(registry.find_token(&TokenHash([1; 32])).await.unwrap(), None);
    assert!(registry.revision().await.unwrap() > before, "its end is one, for who keeps tokens");
}

async fn every_change_is_in_the_audit_log(place: Place) {
    let registry = place.open().await;
    let edits = [
        put("blog", Expect::Absent, "one"),
        edit("blog", Expect::Present, What::PutSecret { name: "key".into(), sealed: vec![1] }),
        edit("blog", Expect::Present, What::Rename(id("shop"))),
        edit("shop", Expect::Present, What::RemoveSecret { name: "key".into() }),
        edit("shop", Expect::Present, What::Delete),
    ];
    let last = registry.write(&edits, &somebody()).await.unwrap();
    registry.add_token(&token("deploy", 1), &somebody()).await.unwrap();
    registry.remove_token("deploy", &somebody()).await.unwrap();
    let restart = Act { what: "restart".into(), app: Some(id("zoo")), subject: None };
    registry.note(&restart, &somebody()).await.unwrap();

    let entries = registry.audit(None, None, 100).await.unwrap();
    let said: Vec<_> = entries.iter().rev().map(|entry| &*entry.act.what).collect();
    let expected = [
        "put app",
        "put secret",
        "rename app",
        "remove secret",
        "delete app",
        "add token",
        "remove token",
        "restart",
    ];
    assert_eq!(said, expected);
    assert!(entries.iter().all(|entry| entry.by == somebody() && entry.at > 1_600_000_000_000));
    assert_eq!(entries[3].revision, Some(last));
    assert_eq!(entries[0].act, restart);
    assert_eq!(entries[1].act.subject.as_deref(), Some("deploy"));

    let page = registry.audit(None, Some(entries[2].number), 2).await.unwrap();
    assert_eq!(page, entries[3..5]);
    let of_shop = registry.audit(Some(&id("shop")), None, 100).await.unwrap();
    assert_eq!(of_shop, entries[3..6], "its renaming too");
    assert_eq!(registry.trim_audit(3).await.unwrap(), 5);
    assert_eq!(registry.audit(None, None, 100).await.unwrap(), entries[..3]);
}

async fn what_is_too_large_never_gets_there(place: Place) {
    let registry = place.open().await;
    let around = serde_json::to_string(&named("")).unwrap().len();
    let most = "x".repeat(MOST_DEFINITION_BYTES - around);
    write(&registry, "blog", &most).await;
    let app = registry.app(&id("blog")).await.unwrap().unwrap();
    assert_eq!(app.definition, named(&most));

    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let deep: Map<String, Value> = [("deep".to_owned(), deep)].into_iter().collect();
    let secret = What::PutSecret { name: "key".into(), sealed: vec![0; 64 * 1024 + 1] };
    for edit in [
        put("blog", Expect::Present, &(most + "x")),
        edit("blog", Expect::Present, What::Put(deep)),
        edit("blog", Expect::Present, secret),
    ] {
        let error = registry.write(&[edit], &somebody()).await.unwrap_err();
        assert!(matches!(error, WriteError::Refused { .. }), "{error}");
        assert!(error.to_string().len() < 300, "{error}");
    }
}

async fn an_app_that_somebody_broke_harms_no_other(place: Place) {
    let registry = place.open().await;
    for app in ["blog", "shop", "zoo"] {
        write(&registry, app, "one").await;
    }
    place.sql("UPDATE app SET definition = '[1' WHERE id = 'shop'").await;
    place.sql("UPDATE app SET id = 'Zoo' WHERE id = 'zoo'").await;
    let all = registry.changes_since(Revision::ZERO).await.unwrap();
    assert_eq!((all.put.len(), &all.put[0].id), (1, &id("blog")));
    let bad: Vec<_> = all.unreadable.iter().map(|bad| &*bad.id).collect();
    assert_eq!(bad, ["shop", "Zoo"]);
    let error = registry.app(&id("shop")).await.unwrap_err().to_string();
    assert!(error.contains("app \"shop\"") && error.contains("JSON"), "{error}");
    write(&registry, "shop", "mended").await;
    assert_eq!(ids(&registry).await, ["blog", "shop"]);
}

async fn a_registry_that_was_set_back_is_read_anew(place: Place) {
    let registry: Registry = place.open().await;
    for number in 0..5 {
        write(&registry, "blog", &number.to_string()).await;
    }
    let before = registry.revision().await.unwrap();
    let mut watch = registry.watch(before);
    place.sql("UPDATE registry SET revision = 2; UPDATE app SET revision = 2").await;
    let now = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
    assert_eq!(now, Revision::new(2));
    let changes = registry.changes_since(before).await.unwrap();
    assert_eq!((changes.now, changes.whole, changes.put.len()), (now, true, 1));
}
