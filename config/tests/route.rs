//! The route table: each rule once, and random tables against a model that is too simple to err.

use doorbell_config::{
    name::{AppId, HostPattern, PathPrefix},
    route::{Change, PathAccess, RouteKind, RouteTable},
    spec::{PrefixRule, RouteSpec},
};
use proptest::prelude::*;

type Table = RouteTable<String>;

fn routes(hosts: &[&str], paths: &[&str]) -> RouteSpec {
    RouteSpec::new(
        hosts.iter().map(|host| HostPattern::parse(host).expect("a valid name")).collect(),
        paths.iter().map(|path| PathPrefix::parse(path).expect("a valid name")).collect(),
    )
}

fn id(text: &str) -> AppId {
    AppId::parse(text).expect("a valid name")
}

fn put(app: &str, hosts: &[&str], paths: &[&str]) -> Change<String> {
    Change::Put { app: id(app), routes: routes(hosts, paths).into(), target: app.into() }
}

/// A table of these apps, none of which conflicts.
fn table(apps: &[(&str, &[&str], &[&str])]) -> Table {
    let (table, conflicts) =
        Table::new().with(apps.iter().map(|(app, hosts, paths)| put(app, hosts, paths)));
    assert_eq!(conflicts, []);
    table
}

fn find<'t>(table: &'t Table, host: &str, path: &str) -> Option<&'t str> {
    table.lookup(Some(host), path).map(|found| found.target.as_str())
}

#[test]
fn an_exact_host_beats_wildcards_and_the_longest_wildcard_beats_shorter_ones() {
    let table = table(&[
        ("exact", &["a.b.example.com"], &[]),
        ("long", &["*.b.example.com"], &[]),
        ("short", &["*.example.com"], &[]),
        ("any", &["*"], &[]),
    ]);
    for (host, app) in [
        ("a.b.example.com", "exact"),
        ("x.b.example.com", "long"),
        ("y.x.b.example.com", "long"),
        ("b.example.com", "short"),
        ("example.com", "any"),
        ("other.org", "any"),
    ] {
        assert_eq!(find(&table, host, "/"), Some(app), "{host}");
    }
    assert_eq!(table.lookup(None, "/").unwrap().target, "any");
}

#[test]
fn the_longest_prefix_wins_on_segment_boundaries() {
    let host: &[&str] = &["example.com"];
    let table = table(&[("root", host, &["/"]), ("a", host, &["/a"]), ("ab", host, &["/a/b"])]);
    for (path, app) in [
        ("/", "root"),
        ("/ab", "root"),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/bc", "a"),
        ("/a/b", "ab"),
        ("/a/b/c", "ab"),
        ("//a/b", "root"),
    ] {
        assert_eq!(find(&table, "example.com", path), Some(app), "{path}");
    }
}

#[test]
fn a_host_without_a_matching_prefix_falls_through_to_wildcard_and_any_host() {
    let table = table(&[
        ("exact", &["a.example.com"], &["/x"]),
        ("wild", &["*.example.com"], &["/y"]),
        ("any", &["*"], &["/z"]),
    ]);
    assert_eq!(find(&table, "a.example.com", "/x"), Some("exact"));
    assert_eq!(find(&table, "a.example.com", "/y"), Some("wild"));
    assert_eq!(find(&table, "a.example.com", "/z"), Some("any"));
    assert_eq!(find(&table, "a.example.com", "/w"), None);
}

#[test]
fn path_access_works_only_on_hosts_that_no_app_claims() {
    let table =
        table(&[("blog", &["blog.example.com"], &[]), ("wild", &["*.example.org"], &["/x"])]);
    for path in ["/apps/blog", "/apps/blog/", "/apps/blog/post", "/_app/blog/post"] {
        let found = table.lookup(Some("127.0.0.1"), path).unwrap();
        assert_eq!((found.target.as_str(), found.kind), ("blog", RouteKind::PathAccess));
        assert_eq!(found.prefix_len, 10);
        assert_eq!(found.rule, PrefixRule::Strip);
        assert!(table.lookup(None, path).is_some());
        assert_eq!(find(&table, "a.example.org", path), None);
    }
    assert_eq!(find(&table, "blog.example.com", "/apps/wild/"), Some("blog"));
    for path in ["/apps/", "/apps", "/apps/nobody/", "/apps/blogger", "/Apps/blog", "/apps//blog"] {
        assert_eq!(find(&table, "127.0.0.1", path), None, "{path}");
    }
    let off = table.with_settings(PathAccess::Off, None);
    assert_eq!(find(&off, "127.0.0.1", "/apps/blog/"), None);
}

#[test]
fn path_access_and_any_host_claims_compete_by_length_and_the_claim_wins_a_tie() {
    let table = table(&[
        ("blog", &["blog.example.com"], &[]),
        ("shop", &["shop.example.com"], &[]),
        ("root", &["*"], &[]),
        ("list", &[], &["/apps"]),
        ("tie", &[], &["/apps/shop"]),
        ("deep", &[], &["/apps/blog/admin"]),
    ]);
    for (path, app) in [
        ("/", "root"),
        ("/apps", "list"),
        ("/apps/none/x", "list"),
        ("/apps/blog/x", "blog"),
        ("/apps/blog/admin", "deep"),
        ("/apps/shop/x", "tie"),
        ("/_app/shop/x", "shop"),
    ] {
        assert_eq!(find(&table, "localhost", path), Some(app), "{path}");
    }
}

#[test]
fn the_default_app_answers_what_nothing_else_matches() {
    let table = table(&[("main", &["main.example.com"], &[]), ("b", &["b.example.com"], &["/b"])])
        .with_settings(PathAccess::On, Some(id("main")));
    let found = table.lookup(Some("b.example.com"), "/c").unwrap();
    assert_eq!((found.target.as_str(), found.kind), ("main", RouteKind::Default));
    assert_eq!(find(&table, "unknown.org", "/apps/nobody/"), Some("main"));
    let without = table.with([Change::Remove(id("main"))]).0;
    assert_eq!(find(&without, "unknown.org", "/"), None);
}

#[test]
fn a_match_tells_how_much_of_the_path_its_prefix_is() {
    let mut spec = routes(&["example.com"], &["/blog", "/"]);
    spec.prefix = PrefixRule::Strip;
    let change = Change::Put { app: id("blog"), routes: spec.into(), target: "blog".to_owned() };
    let (table, _) = Table::new().with([change]);
    for (path, prefix) in
        [("/blog", "/blog"), ("/blog/", "/blog"), ("/blog/x", "/blog"), ("/y", "")]
    {
        let found = table.lookup(Some("example.com"), path).unwrap();
        assert_eq!((&path[..found.prefix_len], found.rule), (prefix, PrefixRule::Strip));
    }
}

#[test]
fn the_later_app_on_a_route_is_rejected_whole_and_the_earlier_keeps_serving() {
    let before = table(&[("first", &["a.com"], &[])]);
    let (after, conflicts) = before.with([put("second", &["b.com", "a.com"], &[])]);
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].to_string(), r#"app "second": a.com/ already belongs to app "first""#);
    assert_eq!(find(&after, "a.com", "/"), Some("first"));
    assert_eq!(find(&after, "b.com", "/"), None);
    assert_eq!(after.app("second"), None);
}

#[test]
fn a_rejected_change_leaves_the_app_with_what_it_had() {
    let before = table(&[("first", &["a.com"], &[]), ("second", &["b.com"], &[])]);
    let (after, conflicts) = before.with([put("second", &["a.com"], &[])]);
    assert_eq!(conflicts.len(), 1);
    assert_eq!(find(&after, "b.com", "/"), Some("second"));
}

#[test]
fn two_apps_may_swap_routes_in_one_change() {
    let before = table(&[("first", &["a.com"], &[]), ("second", &["b.com"], &[])]);
    let (after, conflicts) =
        before.with([put("first", &["b.com"], &[]), put("second", &["a.com"], &[])]);
    assert_eq!(conflicts, []);
    assert_eq!(find(&after, "a.com", "/"), Some("second"));
    assert_eq!(find(&before, "a.com", "/"), Some("first"), "the old table is untouched");
}

#[test]
fn of_two_changes_of_one_app_the_later_counts() {
    let (after, conflicts) =
        Table::new().with([put("app", &["a.com", "b.com"], &[]), put("app", &["b.com"], &[])]);
    assert_eq!(conflicts, []);
    assert_eq!(find(&after, "b.com", "/"), Some("app"));
    assert_eq!(find(&after, "a.com", "/"), None);
    assert_eq!(after.len(), 1);
}

#[test]
fn a_path_of_slashes_costs_a_bounded_number_of_steps() {
    let paths: Vec<String> = (0..20).map(|at| format!("/p{at}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let table = table(&[("many", &["example.com"], &paths)]);
    let hostile = "/".repeat(1 << 20);
    let began = std::time::Instant::now();
    assert_eq!(find(&table, "example.com", &hostile), None);
    assert!(began.elapsed().as_millis() < 500);
}

/// A claim as the model holds it: host as written, prefix, app.
type Model = Vec<(HostPattern, PathPrefix, String)>;

fn model_covers(host: &HostPattern, request: &str) -> Option<usize> {
    match host {
        HostPattern::Exact(name) => (name.as_str() == request).then_some(usize::MAX),
        HostPattern::Wildcard(suffix) => {
            request.ends_with(&format!(".{suffix}")).then_some(suffix.as_str().len())
        }
        HostPattern::Any => Some(0),
    }
}

fn model_find(model: &Model, host: &str, path: &str) -> Option<String> {
    model
        .iter()
        .filter(|(_, prefix, _)| prefix.covers(path))
        .filter_map(|claim| Some((model_covers(&claim.0, host)?, claim.1.as_str().len(), &claim.2)))
        .max_by_key(|(host, path, _)| (*host, *path))
        .map(|(_, _, app)| app.clone())
}

fn model_put(model: &mut Model, app: &str, spec: &RouteSpec) {
    let before = model.clone();
    model.retain(|claim| claim.2 != app);
    let free = |model: &Model, host: &HostPattern, path: &PathPrefix| {
        model.iter().all(|claim| (&claim.0, &claim.1) != (host, path))
    };
    if spec.claims().all(|(host, path)| free(model, &host, &path)) {
        model.extend(spec.claims().map(|(host, path)| (host, path, app.to_owned())));
    } else {
        *model = before;
    }
}

fn hosts() -> impl Strategy<Value = Vec<String>> {
    let host = prop_oneof![Just("*".to_owned()), "(\\*\\.)?[ab](\\.[ab]){0,2}",];
    prop::collection::vec(host, 0..3)
}

fn paths() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("(/[abc]{1,2}){1,3}|/", 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_series_of_changes_looks_up_as_the_model_does(
        changes in prop::collection::vec((0..6_u8, hosts(), paths(), prop::bool::weighted(0.8)), 1..24),
        requests in prop::collection::vec(("[ab](\\.[ab]){0,3}", "(/[abc]{0,2}){1,4}"), 24),
    ) {
        let mut table = Table::new().with_settings(PathAccess::Off, None);
        let mut model = Model::new();
        for (app, hosts, paths, is_put) in changes {
            let app = format!("app{app}");
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            if is_put {
                table = table.with([put(&app, &hosts, &paths)]).0;
                model_put(&mut model, &app, &routes(&hosts, &paths));
            } else {
                table = table.with([Change::Remove(id(&app))]).0;
                model.retain(|claim| claim.2 != app);
            }
            for (host, path) in &requests {
                let found = find(&table, host, path).map(str::to_owned);
                prop_assert_eq!(found, model_find(&model, host, path), "{} {}", host, path);
            }
        }
    }
}
