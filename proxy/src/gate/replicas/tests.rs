use std::{collections::BTreeMap, sync::Mutex};

use doorbell_config::name::AppId;
use doorbell_supervisor::message::{Endpoint, Generation, Refusal, RefusalReason};

use super::*;
use crate::gate::{Denial, HeldTotal, Place};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    replicas: Replicas,
    reports: Arc<Mutex<Vec<GateReport>>>,
}

fn id(number: u8) -> AppId {
    AppId::parse("blog").unwrap().replica(number)
}

fn scene(count: u8) -> Scene {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let total = HeldTotal::new(1000);
    let gate = |number| {
        let (sink, total) = (Arc::clone(&reports), Arc::clone(&total));
        let report = Arc::new(move |report| sink.lock().unwrap().push(report));
        Arc::new(Gate::new(id(number), 1000, total, report))
    };
    let replicas = Replicas::new(gate(1), (2..=count).map(gate));
    Scene { replicas, reports }
}

impl Scene {
    fn gate(&self, number: u8) -> &Arc<Gate> {
        &self.replicas.gates[usize::from(number) - 1]
    }

    fn open(&self, number: u8) {
        self.gate(number).open(Generation(u64::from(number)), Endpoint::Upstream, None);
    }

    fn shut(&self, number: u8) {
        self.gate(number).shut(Generation(u64::from(number)));
    }

    fn leased(&self) -> Lease {
        match self.replicas.lease(Sway::Wakes) {
            Entry::Leased(lease) => lease,
            other => panic!("not leased: {other:?}"),
        }
    }

    fn held(&self) -> Place {
        match self.replicas.lease(Sway::Wakes) {
            Entry::Held(place) => place,
            other => panic!("not held: {other:?}"),
        }
    }

    fn take_reports(&self) -> Vec<GateReport> {
        std::mem::take(&mut self.reports.lock().unwrap())
    }
}

fn number_of(lease: &Lease) -> u8 {
    lease.instance().app.replica_number()
}

fn wanted(number: u8) -> GateReport {
    GateReport::Wanted { app: id(number) }
}

fn refusal(reason: RefusalReason) -> Refusal {
    Refusal { reason, retry_after: SECOND }
}

#[test]
fn the_one_with_the_fewest_leases_is_chosen() {
    let s = scene(3);
    (1..=3).for_each(|number| s.open(number));
    let mut leases: Vec<_> = (0..30).map(|_| s.leased()).collect();
    let mut of = BTreeMap::new();
    leases.iter().for_each(|lease| *of.entry(number_of(lease)).or_insert(0) += 1);
    assert_eq!(of, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
    leases.retain(|lease| number_of(lease) != 2);
    let next: Vec<_> = (0..10).map(|_| s.leased()).collect();
    assert!(next.iter().all(|lease| number_of(lease) == 2), "{next:?}");
}

#[test]
fn those_with_as_few_take_turns() {
    let s = scene(3);
    (1..=3).for_each(|number| s.open(number));
    let mut of = BTreeMap::new();
    (0..30).for_each(|_| *of.entry(number_of(&s.leased())).or_insert(0) += 1);
    assert_eq!(of, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
}

#[tokio::test]
async fn whichever_opens_first_lets_in_who_waits_at_the_apps_gate() {
    let s = scene(3);
    let places: Vec<_> = (0..10).map(|_| s.held()).collect();
    assert_eq!(s.take_reports(), [wanted(1)], "the app alone is woken");
    s.open(3);
    assert!(!s.replicas.let_in());
    for place in places {
        assert_eq!(number_of(&place.lease(SECOND).await.unwrap()), 3);
    }
}

#[test]
fn while_one_serves_nobody_is_held_or_refused() {
    let s = scene(3);
    s.open(2);
    s.gate(1).refuse(&refusal(RefusalReason::BackingOff));
    s.gate(3).refuse(&refusal(RefusalReason::StartFailed));
    assert_eq!(number_of(&s.leased()), 2);
    s.shut(2);
    let entry = s.replicas.lease(Sway::Wakes);
    assert!(matches!(entry, Entry::Refused(Denial::Refusal(_))), "{entry:?}");
}

#[test]
fn the_first_one_is_wanted_once_while_others_serve_in_its_place() {
    let s = scene(2);
    s.open(2);
    let aside = s.replicas.lease(Sway::Keeps);
    assert!(matches!(aside, Entry::Leased(_)));
    assert_eq!(s.take_reports(), [], "it wakes nobody");
    drop([s.leased(), s.leased()]);
    assert_eq!(s.take_reports(), [wanted(1)]);
    s.gate(1).refuse(&refusal(RefusalReason::BackingOff));
    drop([s.leased(), s.leased()]);
    assert_eq!(s.take_reports(), [], "not while it is refused");
    s.gate(1).hold();
    drop([s.leased(), s.leased()]);
    assert_eq!(s.take_reports(), [wanted(1)], "and again after that");
    s.open(1);
    s.shut(2);
    s.take_reports();
    drop(s.leased());
    assert_eq!(s.take_reports(), [], "a further one is brought by the first");
}

#[test]
fn one_that_cannot_be_reached_is_passed_over_and_asks_for_itself_later() {
    let s = scene(2);
    (1..=2).for_each(|number| s.open(number));
    let lease = [s.leased(), s.leased()].into_iter().find(|lease| number_of(lease) == 2).unwrap();
    s.replicas.unreachable(lease.instance());
    let unreachable = GateReport::Unreachable { app: id(2), generation: Generation(2) };
    assert_eq!(s.take_reports(), [unreachable]);
    assert_eq!(number_of(&s.leased()), 1);
    assert_eq!(s.take_reports(), [], "the supervisor looks at it");
    let long_ago = std::time::Instant::now().checked_sub(2 * LOOK);
    s.gate(2).lock().unreachable_since = long_ago;
    drop([s.leased(), s.leased()]);
    assert_eq!(s.take_reports(), [wanted(2)]);
}

#[tokio::test]
async fn who_may_not_wake_the_app_waits_while_a_further_one_is_looked_at() {
    let s = scene(2);
    let asleep = s.replicas.lease(Sway::Keeps);
    assert!(matches!(asleep, Entry::Refused(Denial::Asleep)), "{asleep:?}");
    let held = || {
        s.open(2);
        // By somebody who may not wake the app either: nobody wants the first one.
        match s.replicas.lease(Sway::Neither) {
            Entry::Leased(lease) => s.replicas.unreachable(lease.instance()),
            other => panic!("not leased: {other:?}"),
        }
        match s.replicas.lease(Sway::Neither) {
            Entry::Held(place) => place,
            other => panic!("not held: {other:?}"),
        }
    };
    let place = held();
    s.gate(2).reopen(Generation(2), Endpoint::Upstream);
    s.replicas.look_again();
    assert!(!s.replicas.let_in());
    assert_eq!(number_of(&place.lease(SECOND).await.unwrap()), 2);
    let place = held();
    s.shut(2);
    s.replicas.look_again();
    assert_eq!(place.lease(SECOND).await.unwrap_err(), Denial::Asleep);
}

#[test]
fn who_listens_at_the_apps_gate_hears_of_the_others() {
    let s = scene(2);
    let mut news = s.gate(1).listen();
    news.mark_unchanged();
    s.open(2);
    s.replicas.look_again();
    assert!(news.has_changed().unwrap() && s.replicas.is_open());
}

#[test]
fn the_app_is_idle_when_all_are() {
    let s = scene(2);
    (1..=2).for_each(|number| s.open(number));
    assert_eq!(s.replicas.further_idle_for(), None, "nobody has used it");
    let leases = [s.leased(), s.leased()];
    assert_eq!(s.replicas.further_idle_for(), Some(Duration::ZERO));
    drop(leases);
    let idle = s.replicas.further_idle_for();
    assert!(idle.is_some_and(|idle| idle < HOUR), "{idle:?}");
    s.gate(1).retire_if_all_idle(Generation(1), HOUR, idle);
    assert!(matches!(s.take_reports()[..], [GateReport::Busy { .. }]));
    s.gate(1).retire_if_all_idle(Generation(1), Duration::ZERO, Some(Duration::ZERO));
    assert!(matches!(s.take_reports()[..], [GateReport::Retired { .. }]));
}
