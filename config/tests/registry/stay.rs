//! Which of the apps that have had an id an app of a file is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorbell_config::registry::{Ended, Registry, Turn};

use crate::place::{Place, id, somebody};

crate::on_both!(
    who_stays_is_the_same,
    who_comes_back_is_another,
    who_was_away_for_a_moment_is_the_same,
    who_is_in_the_files_of_two_is_one,
    what_an_earlier_one_was_up_to_is_forgotten,
);

const LONG: Duration = Duration::from_secs(600);
/// A second past 1970: longer ago than any absence that is overlooked.
const LONG_AGO: u64 = 1_000;

async fn stay(registry: &Registry, doorbell: &str) -> u64 {
    registry.stay(&id("blog"), doorbell).await.unwrap()
}

async fn note(registry: &Registry, doorbell: &str, since: u64, is_there: bool) {
    registry.note_stays(doorbell, since, |app| app == "blog" && is_there).await.unwrap();
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn who_stays_is_the_same(place: Place) {
    let registry = place.open().await;
    assert_eq!(stay(&registry, "a").await, 0, "the first of its id");
    note(&registry, "a", LONG_AGO, true).await;
    assert_eq!(stay(&place.open().await, "a").await, 0);
}

async fn who_comes_back_is_another(place: Place) {
    let registry = place.open().await;
    let mut seen = vec![stay(&registry, "a").await];
    for _ in 0..3 {
        note(&registry, "a", LONG_AGO, false).await;
        // Noted once: it is not away for a shorter time because somebody looks again.
        note(&registry, "a", now(), false).await;
        note(&registry, "a", now(), true).await;
        let again = stay(&registry, "a").await;
        assert!(!seen.contains(&again), "{again} in {seen:?}");
        assert_eq!(stay(&registry, "a").await, again);
        seen.push(again);
    }
    assert_eq!(registry.revision().await.unwrap().number(), seen[3]);
}

async fn who_was_away_for_a_moment_is_the_same(place: Place) {
    let registry = place.open().await;
    stay(&registry, "a").await;
    note(&registry, "a", now(), false).await;
    assert_eq!(stay(&registry, "a").await, 0, "it starts before anybody has looked");
    note(&registry, "a", LONG_AGO, false).await;
    note(&registry, "a", LONG_AGO + 5_000, true).await;
    assert_eq!(stay(&registry, "a").await, 0, "it was there again, and starts much later");
}

async fn who_is_in_the_files_of_two_is_one(place: Place) {
    let registry = place.open().await;
    stay(&registry, "a").await;
    stay(&registry, "b").await;
    note(&registry, "a", LONG_AGO, false).await;
    assert_eq!(stay(&registry, "a").await, 0, "it is still in those of the other");
    for doorbell in ["a", "b"] {
        note(&registry, doorbell, LONG_AGO, false).await;
    }
    let next = stay(&registry, "b").await;
    assert_ne!(next, 0);
    assert_eq!(stay(&registry, "a").await, next);
    assert_eq!(stay(&registry, "c").await, next);
}

async fn what_an_earlier_one_was_up_to_is_forgotten(place: Place) {
    let registry = place.open().await;
    let turn = async || registry.begin_upgrade(&id("blog"), "1", "a", LONG).await.unwrap();
    stay(&registry, "a").await;
    assert_eq!(turn().await, Turn::Yours);
    let reached = Ended::Reached("1");
    registry.end_upgrade(&id("blog"), reached, "a", &somebody()).await.unwrap();
    note(&registry, "a", LONG_AGO, false).await;
    assert_eq!(turn().await, Turn::Done);
    stay(&registry, "a").await;
    assert_eq!(turn().await, Turn::Yours);
}
