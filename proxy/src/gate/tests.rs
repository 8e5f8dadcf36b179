use doorbell_supervisor::message::{StartPhase, StartProgress, WaitsFor};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

struct Scene {
    gate: Arc<Gate>,
    reports: Arc<Mutex<Vec<GateReport>>>,
}

fn scene_with(cap: usize, total: usize) -> Scene {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let gate = Gate::new(
        app(),
        cap,
        HeldTotal::new(total),
        Arc::new(move |report| sink.lock().unwrap().push(report)),
    );
    Scene { gate: Arc::new(gate), reports }
}

fn scene() -> Scene {
    scene_with(100, 100)
}

fn app() -> AppId {
    AppId::parse("blog").unwrap()
}

impl Scene {
    fn open(&self, generation: u64) -> Arc<Instance> {
        self.gate.open(Generation(generation), Endpoint::Upstream, None);
        let open = self.gate.open.load_full();
        open.unwrap_or_else(|| panic!("not open: {generation}"))
    }

    /// Opened for an instance that nobody has used for an hour.
    fn open_idle(&self, generation: u64) {
        let hour_ago = Instant::now().checked_sub(HOUR).expect("a clock that began earlier");
        self.gate.open_since(Generation(generation), Endpoint::Upstream, None, hour_ago);
    }

    fn take_reports(&self) -> Vec<GateReport> {
        std::mem::take(&mut self.reports.lock().unwrap())
    }

    fn place(&self) -> Place {
        self.place_of(Sway::Wakes)
    }

    fn place_of(&self, sway: Sway) -> Place {
        match self.gate.lease(sway) {
            Entry::Held(place) => place,
            other => panic!("not held: {other:?}"),
        }
    }

    fn leased(&self) -> Lease {
        self.leased_by(Sway::Wakes)
    }

    fn leased_by(&self, sway: Sway) -> Lease {
        match self.gate.lease(sway) {
            Entry::Leased(lease) => lease,
            other => panic!("not leased: {other:?}"),
        }
    }
}

fn is_asleep(entry: &Entry) -> bool {
    matches!(entry, Entry::Refused(Denial::Asleep))
}

/// Those who may not wake an app.
const ASIDE: [Sway; 2] = [Sway::Keeps, Sway::Neither];

fn busy(s: &Scene) -> Duration {
    match s.take_reports().as_slice() {
        [GateReport::Busy { idle_for, .. }] => *idle_for,
        other => panic!("not busy: {other:?}"),
    }
}

fn refusal() -> Refusal {
    Refusal { reason: RefusalReason::StartFailed, retry_after: SECOND }
}

#[tokio::test]
async fn a_held_request_gets_a_lease_when_the_gate_opens() {
    let s = scene();
    let place = s.place();
    assert_eq!(s.gate.held(), 1);
    s.open(7);
    let lease = place.lease(SECOND).await.unwrap();
    assert_eq!(lease.instance().generation, Generation(7));
    assert_eq!(s.gate.held(), 0);
}

#[tokio::test]
async fn visitors_of_an_app_that_shares_the_instance_count_at_its_own_gate() {
    let host = scene_with(1, 3);
    let reports: ReportSink = Arc::new(|_| {});
    let own = AppId::parse("shop").unwrap();
    let own = Arc::new(Gate::new(own, 2, Arc::clone(&host.gate.total), reports));
    let held = |entry| match entry {
        Entry::Held(place) => place,
        other => panic!("not held: {other:?}"),
    };
    let first = held(host.gate.lease_for(Sway::Wakes, &own));
    let second = held(host.gate.lease_for(Sway::Wakes, &own));
    let third = host.gate.lease_for(Sway::Wakes, &own);
    assert!(matches!(third, Entry::Refused(Denial::QueueFull)), "its own cap");
    let place = host.place();
    assert_eq!((own.held(), host.gate.held()), (2, 1));
    assert!(own.count_held().is_none());
    drop((second, place));
    assert!(own.count_held().is_some() && host.gate.is_in_use());
    assert_eq!(host.take_reports(), [GateReport::Wanted { app: app() }]);
    host.open(7);
    assert!(first.lease(SECOND).await.unwrap().instance().is_of(&app()));
    assert_eq!((own.held(), host.gate.total.enter()), (0, true));
}

#[tokio::test]
async fn many_waiters_want_the_app_once() {
    let s = scene();
    let _places: Vec<_> = (0..50).map(|_| s.place()).collect();
    assert_eq!(s.take_reports(), [GateReport::Wanted { app: app() }]);
}

#[tokio::test]
async fn a_waiter_that_leaves_frees_its_place() {
    let s = scene_with(1, 100);
    let place = s.place();
    assert!(matches!(s.gate.lease(Sway::Wakes), Entry::Refused(Denial::QueueFull)));
    drop(place);
    let again = s.place();
    s.open(1);
    again.lease(SECOND).await.unwrap();
}

#[tokio::test]
async fn the_total_cap_holds_over_gates() {
    let s = scene_with(100, 2);
    let _a = s.place();
    let _b = s.place();
    assert!(matches!(s.gate.lease(Sway::Wakes), Entry::Refused(Denial::QueueFull)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gives_up_at_its_deadline() {
    let s = scene();
    let place = s.place();
    assert_eq!(place.lease(SECOND).await.unwrap_err(), Denial::HoldDeadline);
    assert_eq!(s.gate.held(), 0);
}

#[tokio::test]
async fn a_refusal_answers_the_line_and_whoever_comes() {
    let s = scene();
    let place = s.place();
    s.gate.refuse(&refusal());
    assert_eq!(place.lease(SECOND).await.unwrap_err(), Denial::Refusal(refusal()));
    assert!(matches!(s.gate.lease(Sway::Wakes), Entry::Refused(Denial::Refusal(_))));
    s.gate.hold();
    let _held_again = s.place();
}

#[tokio::test]
async fn a_used_instance_is_not_retired() {
    let s = scene();
    s.open(1);
    let lease = s.leased();
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert_eq!(
        s.take_reports(),
        [GateReport::Busy { app: app(), generation: Generation(1), idle_for: Duration::ZERO }]
    );
    drop(lease);
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert_eq!(s.take_reports(), [GateReport::Retired { app: app(), generation: Generation(1) }]);
    let _held = s.place();
}

#[tokio::test]
async fn an_instance_idle_for_too_short_is_not_retired() {
    let s = scene();
    s.open(1);
    s.gate.retire_if_idle(Generation(1), Duration::from_secs(3600));
    assert!(matches!(s.take_reports()[..], [GateReport::Busy { .. }]));
    s.leased();
}

#[tokio::test]
async fn a_shut_instance_reports_when_its_last_lease_ends() {
    let s = scene();
    s.open(1);
    let (a, b) = (s.leased(), s.leased());
    s.gate.shut(Generation(1));
    drop(a);
    assert_eq!(s.take_reports(), []);
    drop(b);
    assert_eq!(s.take_reports(), [GateReport::Drained { app: app(), generation: Generation(1) }]);
}

#[tokio::test]
async fn a_new_instance_takes_over_and_the_old_one_drains() {
    let s = scene();
    s.open(1);
    let old = s.leased();
    s.open(2);
    assert_eq!(s.leased().instance().generation, Generation(2));
    s.gate.shut(Generation(1));
    s.take_reports();
    drop(old);
    assert_eq!(s.take_reports(), [GateReport::Drained { app: app(), generation: Generation(1) }]);
    assert_eq!(s.leased().instance().generation, Generation(2));
}

#[tokio::test]
async fn shutting_an_unknown_instance_counts_as_drained() {
    let s = scene();
    s.gate.shut(Generation(9));
    assert_eq!(s.take_reports(), [GateReport::Drained { app: app(), generation: Generation(9) }]);
}

#[tokio::test]
async fn an_unreachable_instance_is_reported_once_and_holds() {
    let s = scene();
    let instance = s.open(1);
    s.gate.unreachable(&instance);
    s.gate.unreachable(&instance);
    assert_eq!(
        s.take_reports(),
        [GateReport::Unreachable { app: app(), generation: Generation(1) }]
    );
    let place = s.place();
    let again = s.open(1);
    assert!(Arc::ptr_eq(&instance, &again), "one run is one instance, however often it is opened");
    let lease = place.lease(SECOND).await.unwrap();
    s.take_reports();
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert!(matches!(s.take_reports()[..], [GateReport::Busy { .. }]));
    s.gate.shut(Generation(1));
    assert_eq!(s.take_reports(), []);
    drop(lease);
    assert_eq!(s.take_reports(), [GateReport::Drained { app: app(), generation: Generation(1) }]);
}

#[tokio::test(start_paused = true)]
async fn who_still_waits_when_the_gate_closes_wants_the_next_instance() {
    let s = scene_with(1000, 1000);
    let places: Vec<_> = (0..100).map(|_| s.place()).collect();
    let instance = s.open(1);
    s.take_reports();
    s.gate.unreachable(&instance);
    let reports = s.take_reports();
    assert!(reports.iter().any(|r| matches!(r, GateReport::Wanted { .. })), "{reports:?}");
    drop(places);
}

#[tokio::test]
async fn what_a_new_supervisor_learns_of_late_is_open_again_with_its_leases() {
    let scene = scene();
    let instance = scene.open(1);
    let lease = scene.leased();
    scene.gate.begin_anew(None);
    let held = scene.place();
    assert!(Arc::ptr_eq(&scene.open(1), &instance));
    assert!(held.lease(SECOND).await.is_ok());
    drop((scene.leased(), lease));
    scene.take_reports();
    scene.gate.shut(Generation(1));
    let drained = GateReport::Drained { app: app(), generation: Generation(1) };
    assert_eq!(scene.take_reports(), [drained]);
}

#[tokio::test]
async fn what_was_retired_unheard_is_opened_by_a_new_supervisor() {
    let scene = scene();
    scene.open(1);
    scene.gate.retire_if_idle(Generation(1), Duration::ZERO);
    scene.gate.begin_anew(None);
    scene.open(1);
    drop(scene.leased());
}

#[tokio::test]
async fn an_order_to_open_what_was_just_retired_comes_too_late() {
    let s = scene();
    s.open(1);
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    let place = s.place();
    s.take_reports();
    s.gate.open(Generation(1), Endpoint::Upstream, None);
    assert_eq!(s.take_reports(), [GateReport::Wanted { app: app() }]);
    s.open(2);
    place.lease(SECOND).await.unwrap();
}

#[tokio::test]
async fn an_app_that_is_put_back_lets_visitors_wait_again() {
    let s = scene();
    s.gate.remove();
    assert!(matches!(s.gate.lease(Sway::Wakes), Entry::Refused(_)));
    s.gate.readmit();
    let _held = s.place();
}

#[tokio::test]
async fn retry_after_shrinks_with_time() {
    let s = scene();
    let long = Refusal { retry_after: Duration::from_secs(100), ..refusal() };
    s.gate.refuse(&long);
    let Entry::Refused(Denial::Refusal(told)) = s.gate.lease(Sway::Wakes) else {
        panic!("not refused")
    };
    assert!(told.retry_after < long.retry_after);
}

/// Threads take and give leases of every kind while another retires: a retired instance never has one.
#[test]
fn lease_and_retirement_never_both_succeed() {
    for round in 0..200 {
        let s = scene();
        let instance = s.open(round);
        let retired = std::thread::scope(|scope| {
            let takers: Vec<_> = [Sway::Wakes, Sway::Keeps, Sway::Neither]
                .into_iter()
                .map(|sway| {
                    let instance = &instance;
                    scope.spawn(move || {
                        let mut kept = None;
                        for _ in 0..50 {
                            kept = instance.try_lease(sway);
                        }
                        kept
                    })
                })
                .collect();
            let retirer = scope.spawn(|| (0..50).any(|_| instance.retire()));
            let leases: Vec<_> = takers.into_iter().map(|t| t.join().unwrap()).collect();
            let retired = retirer.join().unwrap();
            if retired {
                assert!(leases.iter().all(Option::is_none), "leased and retired");
            }
            retired
        });
        assert_eq!(instance.is_spent(), retired);
    }
}

#[test]
fn a_lease_from_before_a_new_supervisor_keeps_nobody_out() {
    let scene = scene();
    scene.open(1);
    let lease = scene.leased();
    // Its picture is complete, and its order to open on its way.
    scene.gate.begin_anew(None);
    let place = scene.place();
    assert_eq!(scene.take_reports(), [GateReport::Wanted { app: app() }]);
    scene.open(1);
    drop((scene.leased(), place, lease));
    scene.gate.retire_if_idle(Generation(1), Duration::ZERO);
    let retired = GateReport::Retired { app: app(), generation: Generation(1) };
    assert_eq!(scene.take_reports(), [retired]);
}

#[test]
fn what_an_earlier_supervisor_shut_is_opened_by_the_next() {
    let scene = scene();
    scene.open(1);
    let lease = scene.leased();
    scene.gate.shut(Generation(1));
    scene.gate.begin_anew(None);
    scene.gate.reopen(Generation(1), Endpoint::Upstream);
    drop((scene.leased(), lease));
    assert_eq!(scene.take_reports(), []);
    scene.leased();
}

#[tokio::test]
async fn those_who_listen_hear_what_becomes_of_a_start_and_wake_nobody() {
    let (phase, waits_for) = (StartPhase::Listen, WaitsFor::Turn);
    let progress = StartProgress { phase, waits_for, elapsed: SECOND, usual: None };
    let s = scene();
    let mut view = s.gate.listen();
    assert_eq!(*view.borrow_and_update(), View::Asleep);
    assert_eq!(s.take_reports(), []);
    drop(s.place());
    assert_eq!(s.gate.view(), View::Waking(None), "the start goes on");
    s.gate.progressed(progress);
    let View::Waking(Some(heard)) = view.borrow_and_update().clone() else { panic!("no progress") };
    assert_eq!(heard.now().phase, StartPhase::Listen);
    s.gate.refuse(&refusal());
    assert!(matches!(&*view.borrow_and_update(), View::Refused(_)));
    s.gate.hold();
    assert_eq!(*view.borrow_and_update(), View::Asleep);
    s.gate.progressed(progress);
    assert_eq!(s.gate.view(), View::Asleep, "of a start that nobody waits for");
    s.open(1);
    assert_eq!(*view.borrow_and_update(), View::Open);
}

#[tokio::test]
async fn who_may_not_wake_a_sleeping_app_is_told_that_it_sleeps() {
    let s = scene();
    for sway in ASIDE {
        assert!(is_asleep(&s.gate.lease(sway)));
    }
    assert_eq!((s.take_reports().len(), s.gate.held()), (0, 0));
    s.open(1);
    for sway in ASIDE {
        drop(s.leased_by(sway));
    }
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    s.gate.hold();
    assert!(is_asleep(&s.gate.lease(Sway::Neither)), "frozen or stopped");
    s.gate.refuse(&refusal());
    assert!(matches!(s.gate.lease(Sway::Neither), Entry::Refused(Denial::Refusal(_))));
}

#[tokio::test]
async fn once_somebody_has_woken_the_app_everybody_waits() {
    let s = scene();
    let waker = s.place();
    let other = s.place_of(Sway::Neither);
    drop(waker);
    let late = s.place_of(Sway::Keeps);
    assert_eq!(s.take_reports(), [GateReport::Wanted { app: app() }]);
    s.open(1);
    other.lease(SECOND).await.unwrap();
    late.lease(SECOND).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_start_that_nobody_asks_for_any_more_is_told() {
    let s = scene();
    let waker = s.place();
    let other = s.place_of(Sway::Neither);
    drop(waker);
    s.take_reports();
    // The start is called off.
    s.gate.hold();
    assert_eq!(other.lease(SECOND).await.unwrap_err(), Denial::Asleep);
    assert_eq!((s.take_reports(), s.gate.held()), (vec![], 0));
}

#[tokio::test]
async fn who_may_not_wake_waits_while_an_app_is_looked_at() {
    let s = scene();
    let instance = s.open(1);
    s.gate.unreachable(&instance);
    s.take_reports();
    let other = s.place_of(Sway::Neither);
    s.open(1);
    other.lease(SECOND).await.unwrap();
    s.gate.unreachable(&instance);
    let other = s.place_of(Sway::Neither);
    s.take_reports();
    // It has died; nobody is there for whom it would be started again.
    s.gate.shut(Generation(1));
    assert_eq!(other.lease(SECOND).await.unwrap_err(), Denial::Asleep);
    let reports = s.take_reports();
    assert!(!reports.iter().any(|r| matches!(r, GateReport::Wanted { .. })), "{reports:?}");
}

#[tokio::test]
async fn a_request_that_does_not_keep_awake_holds_the_instance_and_counts_for_nothing() {
    let s = scene();
    s.open_idle(1);
    let aside = s.leased_by(Sway::Neither);
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert!(busy(&s) >= HOUR, "in use, and idle all the same");
    drop(aside);
    s.gate.retire_if_idle(Generation(1), DAY);
    assert!(busy(&s) >= HOUR, "nor does its end count");
    drop(s.leased_by(Sway::Keeps));
    s.gate.retire_if_idle(Generation(1), DAY);
    assert!(busy(&s) < HOUR);
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert_eq!(s.take_reports(), [GateReport::Retired { app: app(), generation: Generation(1) }]);
}

#[tokio::test]
async fn a_long_request_keeps_awake_while_it_lasts_whoever_else_comes() {
    let s = scene();
    s.open(1);
    let long = s.leased();
    drop(s.leased_by(Sway::Neither));
    s.gate.retire_if_idle(Generation(1), Duration::ZERO);
    assert_eq!(busy(&s), Duration::ZERO);
    drop(long);
}

#[tokio::test]
async fn a_shut_instance_waits_for_leases_of_every_kind() {
    let s = scene();
    s.open(1);
    let (awake, aside) = (s.leased(), s.leased_by(Sway::Neither));
    s.gate.shut(Generation(1));
    drop(awake);
    assert_eq!(s.take_reports(), []);
    drop(aside);
    assert_eq!(s.take_reports(), [GateReport::Drained { app: app(), generation: Generation(1) }]);
}

#[tokio::test]
async fn an_instance_that_retired_in_vain_is_idle_as_it_was() {
    let s = scene();
    s.open_idle(1);
    s.gate.retire_if_idle(Generation(1), HOUR);
    assert!(matches!(s.take_reports()[..], [GateReport::Retired { .. }]));
    // Another proxy has a lease.
    s.gate.reopen(Generation(1), Endpoint::Upstream);
    s.gate.retire_if_idle(Generation(1), DAY);
    assert!(busy(&s) >= HOUR);
}

#[tokio::test]
async fn who_may_not_wake_waits_until_it_is_known_whether_others_use_what_was_retired() {
    let s = scene();
    for is_used_elsewhere in [true, false] {
        s.open(1);
        s.gate.retire_if_idle(Generation(1), Duration::ZERO);
        let place = s.place_of(Sway::Neither);
        if is_used_elsewhere {
            s.gate.reopen(Generation(1), Endpoint::Upstream);
            place.lease(SECOND).await.unwrap();
        } else {
            s.gate.hold();
            assert_eq!(place.lease(SECOND).await.unwrap_err(), Denial::Asleep);
        }
    }
    let reports = s.take_reports();
    assert!(!reports.iter().any(|r| matches!(r, GateReport::Wanted { .. })), "{reports:?}");
}
