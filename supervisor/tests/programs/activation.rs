//! The thin thread: woken by a request, served, stopped when idle, and nothing left behind.
use std::time::Duration;

use crate::house::{House, exists, server, survivors, with};
use doorbell_supervisor::message::StateName;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_wakes_an_app_and_idleness_stops_it() {
    let house = House::new();
    let app = house
        .define(with(server("blog"), |p| p.idle_stop_after = Some(Duration::from_millis(50))))
        .await;
    assert_eq!(house.snapshot(&app).state, StateName::Stopped);
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.contains("pid "));
    let pid = house.until_state(&app, StateName::Ready).await.pid.unwrap();
    drop(lease);
    house.until_state(&app, StateName::Stopped).await;
    assert!(!exists(pid));
    assert_eq!(house.shutdown().await, doorbell_supervisor::ShutdownReport::default());
    assert!(survivors(&house).is_empty());
}
