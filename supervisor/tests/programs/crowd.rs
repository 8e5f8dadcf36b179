//! Many at once.

use std::{sync::Arc, time::Duration};

use doorbell_supervisor::message::{GateReport, Instruction, StateName, Verb};

use crate::house::{House, id, server, survivors, with};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_apps_start_a_few_at_a_time_in_a_fair_line() {
    const APPS: usize = 50;
    const CAP: usize = 4;
    let house = House::with_parallel_starts(CAP);
    let specs = (0..APPS).map(|n| Arc::new(server(&format!("app{n:02}")))).collect();
    house.supervisor.instruct(Instruction::DefineAll(specs)).await.unwrap();
    let mut changes = house.supervisor.changes();
    let requests: Vec<_> = (0..APPS)
        .map(|n| {
            let gate = house.gate.clone();
            tokio::spawn(async move { gate.request(&id(&format!("app{n:02}"))).await.is_ok() })
        })
        .collect();
    let mut most = 0;
    let mut ready = 0;
    let mut starting = std::collections::HashSet::new();
    while ready < APPS {
        let doorbell_supervisor::Change::Updated(seen) = changes.recv().await.unwrap() else {
            continue;
        };
        match seen.state {
            StateName::Starting => _ = starting.insert(seen.app.clone()),
            StateName::Ready => ready += usize::from(starting.remove(&seen.app)),
            _ => {}
        }
        most = most.max(starting.len());
    }
    assert!(most <= CAP, "{most} at once");
    for request in requests {
        assert!(request.await.unwrap());
    }
    let waited = (0..APPS).map(|n| house.gate.started(&id(&format!("app{n:02}"))).queued);
    assert!(waited.max().unwrap() > Duration::ZERO);
    house.shutdown().await;
    assert!(survivors(&house).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_make_one_start() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    let requests: Vec<_> = (0..1000)
        .map(|_| {
            let (gate, app) = (house.gate.clone(), app.clone());
            tokio::spawn(async move { gate.visit(&app).await.generation })
        })
        .collect();
    // However often it is asked for.
    for _ in 0..100 {
        house.supervisor.report(GateReport::Wanted { app: app.clone() });
    }
    let mut generations = std::collections::HashSet::new();
    for request in requests {
        generations.insert(request.await.unwrap());
    }
    assert_eq!(generations.len(), 1);
    assert_eq!(house.snapshot(&app).starts.ready, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visit_while_an_app_stops_is_held_for_its_return() {
    let house = House::new();
    let script = format!(
        "import signal, time\nsignal.signal(15, lambda *_: (time.sleep(0.3), os._exit(0)))\n{}",
        crate::house::SERVER
    );
    let spec = crate::house::python("slow", &script);
    let app = house.define(with(spec, |p| p.stop.grace = Duration::from_secs(20))).await;
    let first = house.gate.visit(&app).await.generation;
    house.supervisor.operate(app.clone(), Verb::Stop).await.unwrap();
    house.until_state(&app, StateName::Stopping).await;
    let second = house.gate.visit(&app).await.generation;
    assert!(second > first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_uses_is_told() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    assert_eq!(house.supervisor.usage(&app).await, None);
    drop(house.gate.visit(&app).await);
    house.until_state(&app, StateName::Ready).await;
    // An answer may be a second old, from before the start.
    let usage = loop {
        match house.supervisor.usage(&app).await {
            Some(usage) => break usage,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(usage.memory_bytes > 1_000_000 && usage.processes == 1, "{usage:?}");
    house.operate(&app, Verb::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_sleeping_apps_are_defined_and_changed_cheaply() {
    let house = House::new();
    let mut specs: Vec<_> = (0..100_000).map(|n| Arc::new(server(&format!("app{n}")))).collect();
    let begun = std::time::Instant::now();
    house.supervisor.instruct(Instruction::DefineAll(specs.clone())).await.unwrap();
    let all = begun.elapsed();
    let changed = with(server("app7"), |p| p.idle_stop_after = Some(Duration::from_secs(9)));
    specs[7] = Arc::new(changed);
    let begun = std::time::Instant::now();
    house.supervisor.instruct(Instruction::Define(specs[7].clone())).await.unwrap();
    let one = begun.elapsed();
    let begun = std::time::Instant::now();
    house.supervisor.instruct(Instruction::DefineAll(specs)).await.unwrap();
    let again = begun.elapsed();
    assert_eq!(house.supervisor.snapshots().all().len(), 100_000);
    assert!(house.gate.orders.lock().unwrap().is_empty(), "sleeping apps need no orders");
    assert!(one < all / 20, "one app costs {one:?}, all {all:?}, all again {again:?}");
}
