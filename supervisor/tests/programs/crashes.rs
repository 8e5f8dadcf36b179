//! Crashes, back-off, and coming back alone.

use std::time::Duration;

use doorbell_config::spec::StartMode;
use doorbell_supervisor::message::{Endpoint, GateOrder, GateReport, RefusalReason, StateName};
use rustix::process::Signal;

use crate::house::{House, eventually, kill, server, sh, with};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_crash_costs_the_next_visitor_nothing() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    let lease = house.gate.visit(&app).await;
    let pid = house.until(&app, |s| s.pid.is_some()).await.pid.unwrap();
    kill(pid, Signal::KILL);
    let seen = house.until_state(&app, StateName::Stopped).await;
    house.gate.until_shut(&app).await;
    let reason = seen.reason.clone().unwrap();
    assert!(reason.starts_with("was killed by SIGKILL after "), "{reason}");
    let again = house.gate.visit(&app).await;
    assert!(again.generation > lease.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_crash_backs_off_and_recovers_alone() {
    let house = House::new();
    let spec = with(server("blog"), |p| p.back_off.initial = Duration::from_millis(400));
    let app = house.define(spec).await;
    for _ in 0..2 {
        let lease = house.gate.visit(&app).await;
        let pid = house.until(&app, |s| s.generation == Some(lease.generation)).await.pid;
        kill(pid.unwrap(), Signal::SEGV);
        house.gate.until_shut(&app).await;
    }
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Refuse { .. })).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::BackingOff));
    house.until_state(&app, StateName::Stopped).await;
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Hold { .. })).await;
    assert!(house.gate.request(&app).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_always_runs_comes_back_without_a_visit() {
    let house = House::new();
    let spec = with(server("always"), |p| {
        p.start = StartMode::Always;
        p.back_off.initial = Duration::from_millis(50);
        p.idle_stop_after = Some(Duration::from_millis(50));
    });
    let app = house.define(spec).await;
    for ready in 1..=3 {
        let seen =
            house.until(&app, |s| s.starts.ready == ready && s.state == StateName::Ready).await;
        kill(seen.pid.unwrap(), Signal::KILL);
    }
    house.until(&app, |s| s.starts.ready == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_starts_wait_longer_each_time() {
    let house = House::new();
    let spec = with(sh("bad", "exit 1"), |p| {
        p.start = StartMode::Always;
        p.back_off.initial = Duration::from_millis(20);
    });
    let app = house.define(spec).await;
    house.until(&app, |s| s.starts.failed >= 4).await;
    let waits: Vec<Duration> = house
        .gate
        .orders(&app)
        .iter()
        .filter_map(|order| match order {
            GateOrder::Refuse { refusal, .. } if refusal.reason == RefusalReason::BackingOff => {
                Some(refusal.retry_after)
            }
            _ => None,
        })
        .collect();
    assert!(waits.len() >= 3 && waits.is_sorted(), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_end_of_a_sleeping_app_is_no_failure() {
    let house = House::new();
    let script = "python3 -c 'import os,socket;s=socket.create_server((\"127.0.0.1\",int(os.environ[\"PORT\"])));[s.accept() for _ in range(2)]'";
    let app = house.define(sh("once", script)).await;
    for _ in 0..3 {
        // The second connection, after the probe's, is the last one it serves.
        let lease = house.gate.visit(&app).await;
        let Endpoint::Tcp(at) = lease.endpoint.clone() else { panic!("no port") };
        drop(std::net::TcpStream::connect(at));
        house.gate.until_shut(&app).await;
    }
    assert_eq!(house.snapshot(&app).starts.ready, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_stops_listening_is_replaced() {
    let script = r#"
import os, socket, time
s = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
s.accept()
s.close()
time.sleep(1000)
"#;
    let house = House::new();
    let app = house.define(crate::house::python("deaf", script)).await;
    let lease = house.gate.visit(&app).await;
    let Endpoint::Tcp(at) = lease.endpoint.clone() else { panic!("no port") };
    eventually("it is deaf", || std::net::TcpStream::connect(at).is_err()).await;
    house
        .supervisor
        .report(GateReport::Unreachable { app: app.clone(), generation: lease.generation });
    let seen = house.until(&app, |s| s.state == StateName::Stopped).await;
    assert_eq!(seen.reason.as_deref(), Some("stopped accepting connections"));
}
