//! What operators ask for, and what definitions change.

use std::{sync::Arc, time::Duration};

use doorbell_config::spec::{AppSpec, EndpointSpec, StartMode, Template};
use doorbell_supervisor::{
    Change, OperateError,
    message::{Endpoint, GateOrder, GoalName, Instruction, RefusalReason, StateName, Verb},
};

use crate::house::{House, free_port, id, server, sh, survivors, upstream, with};

fn word(spec: AppSpec, word: &str) -> AppSpec {
    with(spec, |p| {
        p.env.insert("WORD".into(), Template::text(word));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_sticks_through_visits_and_restarts_of_doorbell() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    drop(house.gate.visit(&app).await);
    house.operate(&app, Verb::Disable).await;
    assert!(survivors(&house).is_empty());
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::Disabled));
    let refused = house.supervisor.operate(app.clone(), Verb::Start).await;
    assert_eq!(refused, Err(OperateError::Disabled(app.clone())));
    house.shutdown().await;

    let again = House::in_folder(house.folder.clone(), 4);
    let app = again.define(server("blog")).await;
    assert_eq!(again.snapshot(&app).goal, GoalName::Disabled);
    again.gate.until_ordered(&app, |order| matches!(order, GateOrder::Refuse { .. })).await;
    assert_eq!(again.gate.request(&app).await.err(), Some(RefusalReason::Disabled));
    again.operate(&app, Verb::Enable).await;
    again.gate.until_ordered(&app, |order| matches!(order, GateOrder::Hold { .. })).await;
    assert!(again.gate.request(&app).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn start_mode_disabled_waits_for_enable() {
    let house = House::new();
    let app = house.define(with(server("blog"), |p| p.start = StartMode::Disabled)).await;
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Refuse { .. })).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::Disabled));
    house.operate(&app, Verb::Enable).await;
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Hold { .. })).await;
    assert!(house.gate.request(&app).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn start_waits_until_ready_and_tells_why_not() {
    let house = House::new();
    let good = house.define(server("good")).await;
    let seen = house.operate(&good, Verb::Start).await.unwrap();
    assert_eq!(seen.state, StateName::Ready);
    let bad = house.define(sh("bad", "exit 7")).await;
    let refused = house.supervisor.operate_and_wait(bad, Verb::Start).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.starts_with("app \"bad\" did not start: exited with status 7"), "{message}");
    let unknown = house.supervisor.operate(id("nobody"), Verb::Start).await;
    assert_eq!(unknown, Err(OperateError::Unknown(id("nobody"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_lasts_until_the_next_visit() {
    let house = House::new();
    let app = house.define(with(server("a"), |p| p.start = StartMode::Always)).await;
    house.until_state(&app, StateName::Ready).await;
    house.operate(&app, Verb::Stop).await;
    assert_eq!(house.snapshot(&app).state, StateName::Stopped);
    drop(house.gate.visit(&app).await);
    assert_eq!(house.until_state(&app, StateName::Ready).await.goal, GoalName::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_app_is_replaced_while_the_old_instance_serves() {
    let house = House::new();
    let app = house.define(word(server("blog"), "old")).await;
    let old = house.gate.visit(&app).await;
    assert!(old.get("/").await.ends_with("old"));
    house.define(word(server("blog"), "new")).await;
    let replaced = |order: &GateOrder| matches!(order, GateOrder::Open { generation, .. } if *generation > old.generation);
    house.gate.until_ordered(&app, replaced).await;
    assert!(old.get("/").await.ends_with("old"), "a running request keeps its instance");
    let new = house.gate.visit(&app).await;
    assert!(new.get("/").await.ends_with("new"));
    let (old_generation, new_generation) = (old.generation, new.generation);
    drop(old);
    crate::house::eventually("the old one is gone", || survivors(&house).len() == 1).await;
    let orders = house.gate.orders(&app);
    let at = |wanted: &dyn Fn(&GateOrder) -> bool| orders.iter().position(wanted).unwrap();
    let opened = at(
        &|order| matches!(order, GateOrder::Open { generation, .. } if *generation == new_generation),
    );
    let shut = at(
        &|order| matches!(order, GateOrder::Shut { generation, .. } if *generation == old_generation),
    );
    assert!(opened < shut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_replacement_leaves_the_old_instance_and_shows() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    let lease = house.gate.visit(&app).await;
    house.define(sh("blog", "echo broken; exit 1")).await;
    let seen = house.until(&app, |s| s.starts.failed == 1).await;
    assert_eq!((seen.state, seen.generation), (StateName::Ready, Some(lease.generation)));
    assert!(seen.reason.as_deref().unwrap().starts_with("exited with status 1"));
    assert_eq!(*seen.last_output, ["broken"]);
    assert!(lease.get("/").await.contains("pid "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_a_fixed_port_is_replaced_without_a_refused_request() {
    let house = House::new();
    let port = free_port();
    let fixed = |spec| with(spec, |p| p.endpoint = EndpointSpec::FixedPort(port));
    let app = house.define(fixed(word(server("blog"), "old"))).await;
    let lease = house.gate.visit(&app).await;
    house.define(fixed(word(server("blog"), "new"))).await;
    house.gate.until_shut(&app).await;
    assert!(lease.get("/").await.ends_with("old"));
    drop(lease);
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.ends_with("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_restarts_make_one() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    drop(house.gate.visit(&app).await);
    let burst: Vec<_> = (0..10)
        .map(|_| {
            let (supervisor, app) = (house.supervisor.clone(), app.clone());
            tokio::spawn(async move { supervisor.operate_and_wait(app, Verb::Restart).await })
        })
        .collect();
    for restart in burst {
        restart.await.unwrap().unwrap();
    }
    let more = house.snapshot(&app).starts.ready - 1;
    assert!(more <= 3, "{more} restarts for ten wishes at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_concern_the_program_restarts_nothing() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    let lease = house.gate.visit(&app).await;
    let mut changed = with(server("blog"), |p| p.stop.grace = Duration::from_secs(3));
    changed.name = "Blog".into();
    changed.limits.held_requests = 7;
    let all = Instruction::DefineAll(vec![Arc::new(changed)]);
    house.supervisor.instruct(all).await.unwrap();
    house.catch_up().await;
    house.supervisor.report(doorbell_supervisor::message::GateReport::Wanted { app: app.clone() });
    assert_eq!(house.gate.visit(&app).await.generation, lease.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_app_drains_stops_and_is_forgotten() {
    let house = House::new();
    let (kept, gone) = (house.define(server("kept")).await, house.define(server("gone")).await);
    let lease = house.gate.visit(&gone).await;
    let other = house.gate.visit(&kept).await;
    let mut changes = house.supervisor.changes();
    let all = Instruction::DefineAll(vec![Arc::new(server("kept"))]);
    house.supervisor.instruct(all).await.unwrap();
    house.catch_up().await;
    house.gate.until_shut(&gone).await;
    assert!(lease.get("/").await.contains("pid "));
    assert_eq!(house.gate.request(&gone).await.err(), Some(RefusalReason::Removed));
    drop(lease);
    while !matches!(changes.recv().await.unwrap(), Change::Removed(app) if app == gone) {}
    assert!(house.supervisor.snapshot(&gone).is_none());
    assert!(other.get("/").await.contains("pid "));
    assert_eq!(survivors(&house).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn static_upstreams_are_open_unless_disabled() {
    let house = House::new();
    let app = house.define(upstream("api", 1)).await;
    assert_eq!(house.gate.visit(&app).await.endpoint, Endpoint::Upstream);
    assert_eq!(house.snapshot(&app).state, StateName::Ready);
    let stop = house.supervisor.operate(app.clone(), Verb::Stop).await;
    assert_eq!(stop, Err(OperateError::NoProcess(app.clone())));
    house.operate(&app, Verb::Disable).await;
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Shut { .. })).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::Disabled));
    house.operate(&app, Verb::Enable).await;
    assert!(house.until_state(&app, StateName::Ready).await.generation.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_may_turn_from_program_to_upstream_and_back() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    let lease = house.gate.visit(&app).await;
    house.define(upstream("blog", 1)).await;
    house.until(&app, |s| s.endpoint.as_deref() == Some(&Endpoint::Upstream)).await;
    assert!(lease.get("/").await.contains("pid "));
    drop(lease);
    crate::house::eventually("the program is gone", || survivors(&house).is_empty()).await;
    let refused = |order: &GateOrder| matches!(order, GateOrder::Refuse { .. });
    assert!(!house.gate.orders(&app).iter().any(refused));
    house.define(server("blog")).await;
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.contains("pid "));
}
