//! Which of the apps that have had an id an app of a file is.

use std::time::Duration;

use doorbell_config::registry::{Ended, Entrance, Owner, Registry, Turn};

use crate::place::{Place, id, somebody};

crate::on_both!(
    who_stays_is_the_same,
    who_comes_back_is_another,
    who_is_in_the_files_of_two_is_one,
    a_doorbell_that_is_not_seen_any_more_has_no_apps,
    who_left_before_it_was_noted_was_there,
    what_an_earlier_one_was_up_to_is_forgotten,
);

async fn enter(registry: &Registry, doorbell: &str, is_other: bool) -> u64 {
    let entrances = ["blog", "shop"].map(|app| Entrance { app: id(app), is_other });
    registry.enter(&entrances, doorbell).await.unwrap()[0]
}

async fn leave(registry: &Registry, doorbell: &str) {
    registry.leave(&[id("blog")], doorbell).await.unwrap();
}

async fn who_stays_is_the_same(place: Place) {
    let registry = place.open().await;
    assert_eq!(enter(&registry, "a", false).await, 0, "the first of its id");
    assert_eq!(enter(&place.open().await, "a", false).await, 0);
}

async fn who_comes_back_is_another(place: Place) {
    let registry = place.open().await;
    let mut seen = vec![enter(&registry, "a", false).await];
    for round in 0..4 {
        // Whether it was noted that it left, or nobody could be told.
        if round % 2 == 0 {
            leave(&registry, "a").await;
        }
        let again = enter(&registry, "a", round % 2 == 1).await;
        assert!(!seen.contains(&again), "{again} in {seen:?}");
        assert_eq!(enter(&registry, "a", false).await, again);
        seen.push(again);
    }
}

async fn who_is_in_the_files_of_two_is_one(place: Place) {
    let registry = place.open().await;
    for doorbell in ["a", "b"] {
        enter(&registry, doorbell, false).await;
    }
    leave(&registry, "a").await;
    assert_eq!(enter(&registry, "a", true).await, 0, "it is still in those of the other");
    for doorbell in ["a", "b"] {
        leave(&registry, doorbell).await;
    }
    let next = enter(&registry, "b", true).await;
    assert_ne!(next, 0);
    for doorbell in ["a", "c"] {
        assert_eq!(enter(&registry, doorbell, true).await, next);
    }
}

async fn a_doorbell_that_is_not_seen_any_more_has_no_apps(place: Place) {
    let registry = place.open().await;
    for doorbell in ["a", "b"] {
        enter(&registry, doorbell, false).await;
    }
    place.sql("UPDATE file_app SET seen_at = 1000").await;
    registry.note_presence("b").await.unwrap();
    leave(&registry, "a").await;
    assert_eq!(enter(&registry, "a", true).await, 0, "the other is there");
    place.sql("UPDATE file_app SET seen_at = 1000 WHERE doorbell = 'b'").await;
    leave(&registry, "a").await;
    assert_ne!(enter(&registry, "a", false).await, 0);
}

async fn who_left_before_it_was_noted_was_there(place: Place) {
    let registry = place.open().await;
    leave(&registry, "a").await;
    assert_ne!(enter(&registry, "a", false).await, 0);
}

async fn what_an_earlier_one_was_up_to_is_forgotten(place: Place) {
    let registry = place.open().await;
    let long = Duration::from_secs(600);
    let turn =
        async || registry.begin_upgrade(&Owner::File(id("blog")), "1", "a", long).await.unwrap();
    enter(&registry, "a", false).await;
    assert_eq!(turn().await, Turn::Yours);
    let reached = Ended::Reached("1");
    registry.end_upgrade(&Owner::File(id("blog")), reached, "a", &somebody()).await.unwrap();
    leave(&registry, "a").await;
    assert_eq!(turn().await, Turn::Done);
    enter(&registry, "a", false).await;
    assert_eq!(turn().await, Turn::Yours);
}
