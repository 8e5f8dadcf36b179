//! Whose turn it is to bring the data of an app up to date.

use std::time::Duration;

use doorbell_config::registry::{Ended, Expect, Registry, Turn, What};

use crate::place::{Place, edit, id, named, of, somebody, write};

crate::on_both!(
    a_version_is_upgraded_to_once,
    a_turn_that_was_called_off_is_anybodys,
    what_failed_is_not_tried_again_before_somebody_decides,
    a_turn_of_one_that_died_ends,
    of_many_that_ask_at_once_one_has_the_turn,
    what_an_app_was_up_to_goes_with_it,
);

const LONG: Duration = Duration::from_secs(600);

async fn ask(registry: &Registry, version: &str, doorbell: &str) -> Turn {
    registry.begin_upgrade(&of("blog"), version, doorbell, LONG).await.unwrap()
}

async fn end(registry: &Registry, ended: Ended<'_>, doorbell: &str) -> bool {
    registry.end_upgrade(&of("blog"), ended, doorbell, &somebody()).await.unwrap()
}

async fn a_version_is_upgraded_to_once(place: Place) {
    let registry = place.open().await;
    assert_eq!(ask(&registry, "1", "a").await, Turn::Yours);
    assert_eq!(ask(&registry, "1", "b").await, Turn::Others);
    assert_eq!(ask(&registry, "1", "a").await, Turn::Yours, "it has died, and come back");
    assert!(end(&registry, Ended::Reached("1"), "a").await);
    assert!(!end(&registry, Ended::Reached("1"), "a").await, "it has ended");
    let again = place.open().await;
    assert_eq!(ask(&again, "1", "b").await, Turn::Done);
    assert_eq!(ask(&again, "2", "b").await, Turn::Yours);
    let audit = registry.audit(None, None, 10).await.unwrap();
    let noted: Vec<_> = audit.iter().map(|entry| &entry.act).collect();
    assert_eq!((noted.len(), noted[0].what.as_str()), (1, "upgrade app"));
    assert_eq!(noted[0].subject.as_deref(), Some("1"));
}

async fn a_turn_that_was_called_off_is_anybodys(place: Place) {
    let registry = place.open().await;
    ask(&registry, "1", "a").await;
    end(&registry, Ended::Reached("1"), "a").await;
    ask(&registry, "2", "a").await;
    assert!(end(&registry, Ended::CalledOff, "a").await);
    assert_eq!(ask(&registry, "2", "b").await, Turn::Yours);
    assert!(!end(&registry, Ended::Reached("2"), "a").await, "it is not its turn any more");
    end(&registry, Ended::CalledOff, "b").await;
    assert_eq!(ask(&registry, "1", "a").await, Turn::Done, "the last good one");
}

async fn what_failed_is_not_tried_again_before_somebody_decides(place: Place) {
    let registry = place.open().await;
    let fail = async || {
        assert_eq!(ask(&registry, "2", "a").await, Turn::Yours);
        let failed = Ended::Failed { version: "2", why: "no such \u{1b}column" };
        assert!(end(&registry, failed, "a").await);
    };
    write(&registry, "blog", "one").await;
    ask(&registry, "1", "a").await;
    end(&registry, Ended::Reached("1"), "a").await;
    fail().await;
    let again = place.open().await;
    for doorbell in ["a", "b"] {
        let Turn::Failed(why) = ask(&again, "2", doorbell).await else { panic!("{doorbell}") };
        assert!(why.contains("column") && !why.contains('\u{1b}'), "{why}");
    }
    assert_eq!(ask(&registry, "1", "b").await, Turn::Done, "the last good one");
    registry.retry_upgrade(&of("blog")).await.unwrap();
    fail().await;
    write(&registry, "blog", "another definition").await;
    fail().await;
    // Another version is another matter.
    assert_eq!(ask(&registry, "3", "b").await, Turn::Yours);
    end(&registry, Ended::CalledOff, "b").await;
    assert_eq!(ask(&registry, "2", "b").await, Turn::Yours);
    end(&registry, Ended::Reached("2"), "b").await;
    registry.retry_upgrade(&of("blog")).await.unwrap();
    assert_eq!(ask(&registry, "2", "a").await, Turn::Done);
}

async fn a_turn_of_one_that_died_ends(place: Place) {
    let registry = place.open().await;
    ask(&registry, "1", "a").await;
    place.sql("UPDATE upgrade SET until = 1000").await;
    assert_eq!(ask(&registry, "1", "b").await, Turn::Yours);
    assert!(!end(&registry, Ended::Reached("1"), "a").await);
}

async fn of_many_that_ask_at_once_one_has_the_turn(place: Place) {
    let asking: Vec<_> = (0..16)
        .map(|number| {
            let location = place.location.clone();
            tokio::spawn(async move {
                let registry = Registry::open(&location).await.expect("a registry");
                ask(&registry, "1", &format!("doorbell {number}")).await
            })
        })
        .collect();
    let mut turns = Vec::new();
    for asked in asking {
        turns.push(asked.await.expect("it asks"));
    }
    assert_eq!(turns.iter().filter(|turn| **turn == Turn::Yours).count(), 1, "{turns:?}");
}

async fn what_an_app_was_up_to_goes_with_it(place: Place) {
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    ask(&registry, "1", "a").await;
    end(&registry, Ended::Reached("1"), "a").await;
    let rename = [edit("blog", Expect::Present, What::Rename(id("news")))];
    ask(&registry, "2", "a").await;
    let refused = registry.write(&rename, &somebody()).await.unwrap_err();
    assert!(refused.to_string().contains("upgrade is under way"), "{refused}");
    end(&registry, Ended::CalledOff, "a").await;
    registry.write(&rename, &somebody()).await.unwrap();
    let news = registry.begin_upgrade(&of("news"), "1", "a", LONG).await.unwrap();
    assert_eq!(news, Turn::Done);
    assert_eq!(registry.upgraded_to(&of("news")).await.unwrap().as_deref(), Some("1"));
    let delete = [edit("news", Expect::Present, What::Delete)];
    registry.write(&delete, &somebody()).await.unwrap();
    write(&registry, "news", "another one").await;
    let news = registry.begin_upgrade(&of("news"), "1", "a", LONG).await.unwrap();
    assert_eq!(news, Turn::Yours);
    // One that comes with its data.
    let put = edit("shop", Expect::Absent, What::Put(named("one")));
    let reach = edit("shop", Expect::Anything, What::Reach("7".into()));
    registry.write(&[put, reach], &somebody()).await.unwrap();
    let shop = registry.begin_upgrade(&of("shop"), "7", "a", LONG).await.unwrap();
    assert_eq!(shop, Turn::Done);
}
