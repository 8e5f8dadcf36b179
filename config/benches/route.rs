//! What a route lookup and the change of one app cost, at 10, 1,000 and 100,000 apps.
//!
//! Look-ups walk the apps in a scattered order, so that the processor's caches help no more than
//! they would help in service. Budgets: 100 ns a lookup, 1 ms a change, in 100,000 apps.

use std::{hint::black_box, sync::Arc};

use divan::{Bencher, counter::ItemsCount};
use doorbell_config::{
    name::{AppId, HostPattern, PathPrefix},
    route::{Change, RouteTable},
    spec::RouteSpec,
};

const APPS: [usize; 3] = [10, 1_000, 100_000];
/// Look-ups per measured round: the clock's own grain is tens of nanoseconds.
const ROUND: usize = 1_000;

fn main() {
    divan::main();
}

type Table = RouteTable<Arc<usize>>;

fn hosts(number: usize) -> RouteSpec {
    RouteSpec::new(
        vec![HostPattern::parse(&host(number)).expect("a name in a bench is valid")],
        Vec::new(),
    )
}

fn paths(number: usize) -> RouteSpec {
    RouteSpec::new(
        Vec::new(),
        vec![
            PathPrefix::parse(&format!("/team/app-{number}")).expect("a name in a bench is valid"),
        ],
    )
}

fn host(number: usize) -> String {
    format!("app-{number}.example.com")
}

fn put(number: usize, routes: RouteSpec) -> Change<Arc<usize>> {
    let app = AppId::parse(&format!("app-{number}")).expect("a name in a bench is valid");
    Change::Put { app, routes: routes.into(), target: Arc::new(number) }
}

fn table(apps: usize, routes: fn(usize) -> RouteSpec) -> Table {
    let (table, conflicts) = RouteTable::new().with((0..apps).map(|at| put(at, routes(at))));
    assert!(conflicts.is_empty());
    table
}

fn bench_lookups(bencher: Bencher<'_, '_>, table: &Table, requests: &[(String, String)]) {
    let mut at = 0;
    bencher.counter(ItemsCount::new(ROUND)).bench_local(|| {
        for _ in 0..ROUND {
            at = (at + 7_919) % requests.len();
            let (host, path) = &requests[at];
            black_box(table.lookup(Some(host), path));
        }
    });
}

fn requests(of: impl Fn(usize) -> (String, String)) -> Vec<(String, String)> {
    // A fixed few thousand, spread over all apps: the requests themselves stay in the cache.
    (0..4_096).map(|at| of(at * 40_503 % 100_000)).collect()
}

#[divan::bench(args = APPS)]
fn lookup_by_host(bencher: Bencher<'_, '_>, apps: usize) {
    let requests = requests(|at| (host(at % apps), "/login?next=/".into()));
    bench_lookups(bencher, &table(apps, hosts), &requests);
}

#[divan::bench(args = APPS)]
fn lookup_by_path(bencher: Bencher<'_, '_>, apps: usize) {
    let requests = requests(|at| ("localhost".into(), format!("/team/app-{}/x/y", at % apps)));
    bench_lookups(bencher, &table(apps, paths), &requests);
}

#[divan::bench(args = APPS)]
fn lookup_of_unknown_host(bencher: Bencher<'_, '_>, apps: usize) {
    let (table, _) = table(apps, hosts).with([put(
        apps,
        RouteSpec::new(
            vec![HostPattern::parse("*.example.org").expect("a name in a bench is valid")],
            Vec::new(),
        ),
    )]);
    let requests = requests(|at| (format!("x.y.z.unknown-{at}.com"), "/".into()));
    bench_lookups(bencher, &table, &requests);
}

fn bench_change(bencher: Bencher<'_, '_>, table: &Table, routes: fn(usize) -> RouteSpec) {
    let mut at = 0;
    let apps = table.len();
    let mut current = table.clone();
    bencher.bench_local(|| {
        at = (at + 7_919) % apps;
        // The old table lives until the new one is in place, as it does behind arc-swap.
        let (next, _) = current.with([put(at, routes(at))]);
        current = next;
    });
}

#[divan::bench(args = APPS)]
fn change_one_app_with_a_host(bencher: Bencher<'_, '_>, apps: usize) {
    bench_change(bencher, &table(apps, hosts), hosts);
}

#[divan::bench(args = APPS)]
fn change_one_app_with_a_path(bencher: Bencher<'_, '_>, apps: usize) {
    bench_change(bencher, &table(apps, paths), paths);
}

#[divan::bench(args = APPS, sample_count = 5)]
fn build_whole_table(bencher: Bencher<'_, '_>, apps: usize) {
    bencher.bench_local(|| table(apps, hosts));
}
