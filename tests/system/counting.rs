//! What Prometheus counts, seen by somebody who never stops looking: it does not fall, and no series of it goes
//! away, whatever is killed or replaced meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use doorbell_tests::{Connection, Doorbell, Role, Setup, began, eventually};

use crate::{crowd::Crowd, node};

/// The processes of an app count their own time, and it goes with them.
const TIME_OF_APPS: &str = "doorbell_app_cpu_seconds_total";
/// One that was killed had counted them, and who was told is replaced: "Known limits" of the architecture.
const COLD_STARTS: &str = "doorbell_app_cold_starts_total";

/// Every series of a metrics page that may only rise, but for these kinds.
pub(crate) fn counters(page: &str, but_for: &[&str]) -> BTreeMap<String, f64> {
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let kind = name.split('{').next()?;
        let rises = ["_total", "_count", "_sum", "_bucket"].iter().any(|end| kind.ends_with(end));
        let counts = rises && kind != TIME_OF_APPS && !but_for.contains(&kind);
        counts.then_some((name.to_owned(), value.parse().ok()?))
    });
    series.collect()
}

/// Somebody who scrapes all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    pages: Arc<AtomicUsize>,
    /// Scrapes that were not answered.
    missed: Arc<AtomicUsize>,
    /// Gives what fell or went away.
    thread: JoinHandle<Vec<String>>,
}

impl Watch {
    fn on(port: u16, but_for: &'static [&'static str]) -> Self {
        let (stop, pages) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let missed = Arc::<AtomicUsize>::default();
        let (stopped, seen, cut) = (Arc::clone(&stop), Arc::clone(&pages), Arc::clone(&missed));
        let thread = std::thread::spawn(move || {
            let (mut highest, mut fallen) = (BTreeMap::new(), Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                // Who answers may just be killed.
                let answer = Connection::try_open(port)
                    .ok()
                    .and_then(|mut connection| connection.try_get("localhost", "/metrics"));
                let Some(page) = answer.filter(|answer| answer.status == 200) else {
                    cut.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let now = counters(&page.text(), but_for);
                let number = seen.fetch_add(1, Ordering::Relaxed);
                fallen.extend(what_fell(&highest, &now, number));
                highest.extend(now);
            }
            fallen
        });
        Self { stop, pages, missed, thread }
    }

    /// Waits until it has seen so many more pages.
    fn wait_for(&self, more: usize) {
        let goal = self.pages.load(Ordering::Relaxed) + more;
        eventually("the page is read", || self.pages.load(Ordering::Relaxed) >= goal);
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn what_fell(
    before: &BTreeMap<String, f64>,
    now: &BTreeMap<String, f64>,
    page: usize,
) -> Vec<String> {
    let fell = before.iter().filter_map(|(name, value)| match now.get(name) {
        Some(now) if now >= value => None,
        now => Some(format!("page {page}, {name}: {value}, then {now:?}")),
    });
    fell.collect()
}

/// Visits an app whenever it sleeps.
struct Visitor {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Visitor {
    fn of(port: u16, host: &'static str) -> Self {
        let (stop, visits) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&visits));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let answer = Connection::try_open(port)
                    .ok()
                    .and_then(|mut connection| connection.try_get(host, "/pid"));
                let pid = answer.and_then(|answer| answer.text().parse().ok());
                let Some(pid) = pid else { continue };
                done.fetch_add(1, Ordering::Relaxed);
                eventually("it sleeps", || began(pid).is_none() || stopped.load(Ordering::Relaxed));
            }
        });
        Self { stop, visits, thread }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        self.visits.load(Ordering::Relaxed)
    }
}

/// What is done to a doorbell.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Proxy,
    Control,
    Supervisor,
    Upgrade,
}

/// Under load, while an app comes and goes; gives what fell.
fn watch_through(blows: &[Blow], but_for: &'static [&'static str]) -> Vec<String> {
    let apps = node("app", "") + &node("naps", "idle = { stop_after = \"300ms\" }");
    let mut d = Setup::new(&apps).own_binary().start();
    let (crowd, visitor) = (Crowd::on(d.port, "app.test", 4), Visitor::of(d.port, "naps.test"));
    let watch = Watch::on(d.metrics_port, but_for);
    eventually("it comes and goes", || visitor.visits.load(Ordering::Relaxed) > 1);
    for blow in blows {
        crowd.wait_for(20);
        watch.wait_for(20);
        strike(&mut d, *blow);
    }
    crowd.wait_for(20);
    watch.wait_for(20);
    let pages = watch.pages.load(Ordering::Relaxed);
    let asked = crowd.end(&[]).asked;
    eprintln!("{pages} pages, {asked} requests, {} visits to one that sleeps", visitor.end());
    let seen = counters(&d.metrics(), but_for);
    for app in ["app", "naps"] {
        let of_app = format!("app=\"{app}\"");
        assert!(
            seen.iter().any(|(name, value)| name.contains(&of_app) && *value > 0.0),
            "{seen:?}"
        );
    }
    watch.end()
}

fn strike(d: &mut Doorbell, blow: Blow) {
    match blow {
        Blow::Proxy => d.kill_role(Role::Proxy),
        Blow::Control => d.kill_role(Role::Control),
        Blow::Supervisor => {
            d.kill_supervisor();
            d.start_again();
        }
        Blow::Upgrade => {
            // It is refused while somebody is on the way back.
            eventually("it upgrades", || d.cli(&["upgrade"]).status == 0);
        }
    }
}

#[test]
fn no_page_counts_less_than_the_one_before_whatever_part_is_replaced() {
    use Blow::{Control, Proxy, Upgrade};
    let blows = [Proxy, Control, Upgrade, Proxy, Upgrade, Control, Proxy, Upgrade];
    assert_eq!(watch_through(&blows, &[]), [""; 0]);
}

#[test]
fn no_page_counts_less_than_the_one_before_though_supervisors_are_killed() {
    use Blow::{Proxy, Supervisor};
    let blows = [Supervisor, Proxy, Supervisor, Supervisor, Proxy, Supervisor];
    assert_eq!(watch_through(&blows, &[]), [""; 0]);
}

#[test]
fn no_page_counts_less_than_the_one_before_though_all_parts_go_one_after_the_other() {
    use Blow::{Control, Proxy, Supervisor, Upgrade};
    let blows = [Supervisor, Control, Upgrade, Supervisor, Proxy, Control, Upgrade, Supervisor];
    assert_eq!(watch_through(&blows, &[COLD_STARTS]), [""; 0]);
}

#[test]
fn nobody_who_scrapes_or_asks_is_cut_off_by_upgrades() {
    let d = Setup::new(&node("app", "")).own_binary().start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let watches: Vec<_> = (0..4).map(|_| Watch::on(d.metrics_port, &[])).collect();
    for _ in 0..10 {
        watches.iter().for_each(|watch| watch.wait_for(3));
        d.ok(&["upgrade"]);
        d.ok(&["status", "app"]);
    }
    watches.iter().for_each(|watch| watch.wait_for(3));
    let missed = watches.iter().map(|watch| watch.missed.load(Ordering::Relaxed)).sum::<usize>();
    assert_eq!(missed, 0, "{}", d.log());
    assert_eq!(watches.into_iter().flat_map(Watch::end).collect::<Vec<_>>(), [""; 0]);
}
