//! Several Doorbells on one registry.

use std::time::{Duration, Instant};

use doorbell_config::registry::Revision;
use doorbell_tests::Postgres;

use crate::place::{Place, eventually, id, write};

crate::on_both!(
    a_change_through_one_shows_in_the_other_within_a_second,
    a_watch_tells_what_came_before_it_looked,
    a_watch_that_is_interrupted_loses_nothing,
);

async fn a_change_through_one_shows_in_the_other_within_a_second(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let mut watch = other.watch(Revision::ZERO);
    // It has looked once.
    let mut now = write(&one, "blog", "first").await;
    assert_eq!(watch.changed().await, now);
    for number in 0..10 {
        let written = write(&one, "blog", &number.to_string()).await;
        let since = Instant::now();
        assert_eq!(watch.changed().await, written);
        let changes = other.changes_since(now).await.unwrap();
        let took = since.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!((changes.put.len(), &changes.put[0].id), (1, &id("blog")));
        now = changes.now;
    }
    assert_eq!(watch.problem(), None);
}

async fn a_watch_tells_what_came_before_it_looked(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let known = other.changes_since(Revision::ZERO).await.unwrap().now;
    let written = write(&one, "blog", "one").await;
    let told = tokio::time::timeout(Duration::from_secs(5), other.watch(known).changed()).await;
    assert_eq!(told.unwrap(), written);
}

async fn a_watch_that_is_interrupted_loses_nothing(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let mut watch = other.watch(Revision::ZERO);
    let written = write(&one, "blog", "one").await;
    let mut told = None;
    for _ in 0..2000 {
        if let Ok(now) = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await {
            told = Some(now);
            break;
        }
    }
    assert_eq!(told, Some(written));
}

/// The poll would take longer than this.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_tells_of_a_change_at_once() {
    let place = Place::postgres();
    let (one, other) = (place.open().await, place.open().await);
    let mut watch = other.watch(Revision::ZERO);
    write(&one, "blog", "first").await;
    watch.changed().await;
    let mut times = Vec::new();
    for number in 0..20 {
        let written = write(&one, "blog", &number.to_string()).await;
        let since = Instant::now();
        assert_eq!(watch.changed().await, written);
        times.push(since.elapsed());
    }
    times.sort_unstable();
    assert!(
        times[10] < Duration::from_millis(200),
        "half of them took longer than {:?}",
        times[10]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_its_connection() {
    let place = Place::postgres();
    let (one, other) = (place.open().await, place.open().await);
    let mut watch = other.watch(Revision::ZERO);
    let written = write(&one, "blog", "first").await;
    assert_eq!(watch.changed().await, written);
    for number in 0..3 {
        place
            .sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'doorbell'",
            )
            .await;
        let written = write(&one, "blog", &number.to_string()).await;
        let told = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
        assert_eq!(told.expect("within five seconds"), written);
    }
    // What listens is there again, and known by its name.
    let Some(address) = place.address() else { panic!("a database") };
    eventually("somebody listens", async || {
        let listening = Postgres::shared().sql(
            address,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'doorbell' AND query LIKE 'LISTEN%'",
        );
        (listening == "1").then_some(())
    })
    .await;
}
