use super::*;
use doorbell_config::spec::HttpProbe;

use crate::message::{Question, RefusalReason, StartPhase, StartProgress, WaitsFor};

const G: Generation = Generation(7);

fn id() -> AppId {
    AppId::parse("blog").unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint::Tcp(([127, 0, 0, 1], 3000).into())
}

fn open() -> GateOrder {
    GateOrder::Open { app: id(), generation: G, endpoint: endpoint(), started: None }
}

fn ask() -> GateOrder {
    GateOrder::AskRetire { app: id(), generation: G, idle_at_least: Duration::from_secs(1) }
}

fn wanted() -> GateReport {
    GateReport::Wanted { app: id() }
}

fn retired() -> GateReport {
    GateReport::Retired { app: id(), generation: G }
}

fn busy(seconds: u64) -> GateReport {
    GateReport::Busy { app: id(), generation: G, idle_for: Duration::from_secs(seconds) }
}

fn drained() -> GateReport {
    GateReport::Drained { app: id(), generation: G }
}

fn board(proxies: &[Number]) -> Switchboard {
    let mut board = Switchboard::default();
    for proxy in proxies {
        assert!(board.join(*proxy).is_empty());
    }
    board
}

#[test]
fn an_instance_retires_when_it_has_everywhere() {
    let mut board = board(&[1, 2]);
    assert_eq!(board.order(&open()).orders.len(), 2);
    assert_eq!(board.order(&ask()).orders.len(), 2);
    assert_eq!(board.report(1, retired()), Outcome::default());
    assert_eq!(board.report(2, retired()).reports, [retired()]);
    assert!(board.gates.is_empty());
}

#[test]
fn an_instance_that_one_proxy_uses_is_opened_again_where_it_retired() {
    let mut board = board(&[1, 2, 3]);
    board.order(&open());
    board.order(&ask());
    board.report(1, retired());
    // Somebody came there meanwhile: no need to trouble the desk.
    assert_eq!(board.report(1, wanted()), Outcome::default());
    board.report(2, busy(5));
    let outcome = board.report(3, busy(2));
    assert_eq!(outcome.reports, [busy(2)]);
    let again = GateOrder::Reopen { app: id(), generation: G, endpoint: endpoint() };
    assert_eq!(outcome.orders, [(1, again)]);
    assert_eq!(board.report(1, wanted()).reports, [wanted()]);
}

#[test]
fn who_came_while_the_others_were_asked_is_told_behind_the_retirement() {
    let mut board = board(&[1, 2]);
    board.order(&open());
    board.order(&ask());
    board.report(1, retired());
    board.report(1, wanted());
    assert_eq!(board.report(2, retired()).reports, [retired(), wanted()]);
    // It says so again when it hears that the instance is not opened any more, and is heard again.
    assert_eq!(board.order(&GateOrder::Hold { app: id() }).orders.len(), 2);
    assert_eq!(board.report(1, wanted()).reports, [wanted()]);
}

#[test]
fn a_proxy_that_dies_has_retired_and_drained_all() {
    let mut one = board(&[1, 2]);
    one.order(&open());
    one.order(&ask());
    one.report(1, retired());
    assert_eq!(one.leave(2).reports, [retired()]);
    let mut other = board(&[1, 2]);
    other.order(&open());
    other.order(&GateOrder::Shut { app: id(), generation: G });
    assert_eq!(other.report(1, drained()), Outcome::default());
    assert_eq!(other.leave(2).reports, [drained()]);
    assert!(other.gates.is_empty());
}

#[test]
fn without_a_proxy_nothing_is_in_use() {
    let mut board = board(&[]);
    board.order(&open());
    assert_eq!(board.order(&ask()).reports, [retired()]);
    board.order(&open());
    let shut = GateOrder::Shut { app: id(), generation: G };
    assert_eq!(board.order(&shut).reports, [drained()]);
}

#[test]
fn a_proxy_that_comes_learns_what_the_others_know() {
    let mut board = board(&[1]);
    board.order(&open());
    let refusal =
        Refusal { reason: RefusalReason::Disabled, retry_after: Duration::from_secs(1000) };
    let other = AppId::parse("off").unwrap();
    board.order(&GateOrder::Refuse { app: other.clone(), refusal });
    let orders = board.join(2);
    assert_eq!(orders.len(), 2);
    assert!(orders.iter().any(|order| matches!(
        order,
        GateOrder::Reopen { app, generation: G, .. } if *app == id()
    )));
    assert!(orders.iter().any(|order| matches!(
        order,
        GateOrder::Refuse { app, refusal } if *app == other
            && refusal.retry_after > Duration::from_secs(900)
    )));
    board.order(&GateOrder::Hold { app: other });
    assert_eq!(board.join(3).len(), 1);
}

#[test]
fn a_proxy_that_comes_while_the_others_are_asked_keeps_the_instance() {
    let mut board = board(&[1]);
    board.order(&open());
    board.order(&ask());
    board.join(2);
    let outcome = board.report(1, retired());
    assert_eq!(outcome.reports, [busy(0)]);
    assert_eq!(outcome.orders.len(), 1);
}

#[test]
fn a_wish_is_passed_on_once_until_it_is_answered() {
    let mut board = board(&[1]);
    assert_eq!(board.report(1, wanted()).reports, [wanted()]);
    for _ in 0..1000 {
        assert_eq!(board.report(1, wanted()), Outcome::default());
    }
    board.order(&open());
    assert_eq!(board.report(1, wanted()).reports, [wanted()]);
}

#[test]
fn who_retires_by_an_earlier_question_opens_again() {
    let mut board = board(&[1]);
    board.order(&open());
    // Both are on their way; the answer to the first is taken for one to the second.
    board.order(&ask());
    board.order(&ask());
    assert_eq!(board.report(1, busy(0)).reports, [busy(0)]);
    let outcome = board.report(1, retired());
    let reopen = GateOrder::Reopen { app: id(), generation: G, endpoint: endpoint() };
    assert_eq!((outcome.orders, outcome.reports), (vec![(1, reopen)], vec![]));
    // The other way round.
    let mut board = self::board(&[1, 2]);
    board.order(&open());
    board.order(&ask());
    board.report(1, busy(0));
    assert_eq!(board.report(1, retired()), Outcome::default());
    let outcome = board.report(2, retired());
    assert_eq!((outcome.orders.len(), outcome.reports), (2, vec![busy(0)]));
}

#[test]
fn what_nobody_asked_is_not_believed() {
    let mut board = board(&[1, 2]);
    board.order(&open());
    let stale = Generation(6);
    for report in [drained(), busy(0)] {
        assert_eq!(board.report(1, report), Outcome::default());
    }
    board.order(&ask());
    board.report(1, retired());
    // Twice from one is not once from each.
    assert_eq!(board.report(1, retired()), Outcome::default());
    let other = GateReport::Retired { app: id(), generation: stale };
    assert_eq!(board.report(2, other), Outcome::default());
    let other = GateReport::Unreachable { app: id(), generation: stale };
    assert_eq!(board.report(2, other), Outcome::default());
    // A number that never joined.
    assert_eq!(board.report(9, retired()), Outcome::default());
    assert_eq!(board.report(2, retired()).reports, [retired()]);
}

#[test]
fn a_start_is_counted_by_the_newest_proxy_alone() {
    let mut board = board(&[1, 2]);
    let started = Some(crate::message::StartTimes::default());
    let order = GateOrder::Open { app: id(), generation: G, endpoint: endpoint(), started };
    let outcome = board.order(&order);
    let counted = |order: &GateOrder| matches!(order, GateOrder::Open { started: Some(_), .. });
    let counts: Vec<_> = outcome.orders.iter().map(|(n, order)| (*n, counted(order))).collect();
    assert_eq!(counts, [(1, false), (2, true)]);
}

fn probe() -> GateOrder {
    let probe = HttpProbe { path: "/up".into(), status: None, body: None, host: None };
    let question = Box::new(Question { probe, host: "localhost".into(), http2: false });
    GateOrder::Probe { app: id(), generation: G, endpoint: endpoint(), question }
}

fn end_probe() -> GateOrder {
    GateOrder::EndProbe { app: id(), generation: G }
}

fn answered() -> GateReport {
    GateReport::Answered { app: id(), generation: G }
}

#[test]
fn one_proxy_asks_whether_an_instance_is_ready_and_another_in_its_place() {
    let mut board = board(&[1, 2, 3]);
    assert_eq!(board.order(&probe()).orders, [(3, probe())]);
    assert_eq!(board.report(1, answered()), Outcome::default(), "nobody asked it");
    assert_eq!(board.leave(3).orders, [(2, probe())]);
    assert_eq!(board.leave(1).orders, []);
    assert_eq!(board.leave(2).orders, []);
    assert_eq!(board.join(4), [probe()]);
    // A younger one asks too, should the older be about to end.
    assert_eq!(board.join(5), [probe()]);
    let outcome = board.report(4, answered());
    assert_eq!(outcome, Outcome { orders: vec![(5, end_probe())], reports: vec![answered()] });
    assert_eq!(board.report(5, answered()), Outcome::default());
    assert!(board.gates.is_empty());
}

#[test]
fn who_asks_is_told_to_end_it() {
    let mut board = board(&[1]);
    board.order(&probe());
    let words = "status 503".to_owned();
    let not_yet = GateReport::NotAnswered { app: id(), generation: G, words };
    assert_eq!(board.report(1, not_yet.clone()).reports, std::slice::from_ref(&not_yet));
    assert_eq!(board.order(&end_probe()).orders, [(1, end_probe())]);
    assert_eq!(board.report(1, not_yet), Outcome::default());
    assert!(board.gates.is_empty());
}

#[test]
fn what_an_app_lacks_in_a_shared_instance_is_known_as_long_as_whoever_saw_it_is_there() {
    let lacks = |words: Option<&str>| {
        let words = words.map(str::to_owned);
        GateReport::Lacks { app: id(), generation: G, words }
    };
    let mut board = board(&[1, 2]);
    assert_eq!(board.report(1, lacks(Some("a"))), Outcome::default(), "it is not open");
    board.order(&open());
    assert_eq!(board.report(1, lacks(Some("a"))), Outcome::default(), "it has an instance");
    let (app, endpoint) = (id(), Endpoint::Upstream);
    board.order(&GateOrder::Open { app, generation: G, endpoint, started: None });
    assert_eq!(board.report(1, lacks(None)), Outcome::default(), "it lacked nothing");
    assert_eq!(board.report(1, lacks(Some("a"))).reports, [lacks(Some("a"))]);
    assert_eq!(board.report(1, lacks(None)).reports, [lacks(None)]);
    assert_eq!(board.report(1, lacks(None)), Outcome::default());
    for words in ["a", "b"] {
        assert_eq!(board.report(1, lacks(Some(words))), Outcome::default(), "it is told too often");
        assert_eq!(board.report(1, lacks(None)), Outcome::default(), "nothing was told");
    }
    board.gates.get_mut(&id()).unwrap().lacks.told = None;
    assert_eq!(board.report(1, lacks(Some("a"))).reports, [lacks(Some("a"))]);
    assert_eq!(board.report(2, lacks(Some("b"))), Outcome::default());
    assert_eq!(board.leave(1), Outcome::default());
    assert_eq!(board.leave(2).reports, [lacks(None)]);
}

#[test]
fn a_question_leaves_the_wishes_of_waiters_alone() {
    let mut board = board(&[1]);
    assert_eq!(board.report(1, wanted()).reports, [wanted()]);
    board.order(&probe());
    assert_eq!(board.report(1, wanted()), Outcome::default());
}

#[test]
fn nothing_is_remembered_of_an_app_that_is_gone() {
    let mut board = board(&[1]);
    board.order(&open());
    board.order(&GateOrder::Shut { app: id(), generation: G });
    board.order(&probe());
    let outcome = board.order(&GateOrder::Forget { app: id() });
    assert_eq!(outcome, Outcome { orders: vec![(1, end_probe())], reports: Vec::new() });
    assert!(board.gates.is_empty());
    assert_eq!(board.report(1, drained()), Outcome::default());
    assert!(board.join(2).is_empty());
}

#[test]
fn how_far_a_start_is_concerns_the_newest_proxy_and_is_not_remembered() {
    let mut board = Switchboard::default();
    board.join(1);
    board.join(2);
    let progress = StartProgress {
        phase: StartPhase::Listen,
        waits_for: WaitsFor::Turn,
        elapsed: Duration::ZERO,
        usual: None,
    };
    let order = GateOrder::Progress { app: id(), progress };
    assert_eq!(board.order(&order).orders, [(2, order)]);
    assert_eq!(board.join(3), []);
    assert!(board.gates.is_empty());
}
