//! Which app a request is for, and what the app sees of the path.

use std::{process::Command, time::Duration};

use doorbell_tests::{Doorbell, Setup, eventually_within};

use crate::node;

/// An app that says its own name, for each of the ids.
fn named(id: &str, routes: &str) -> String {
    format!(
        "[app.{id}]\n{routes}\ncommand = [\"node\", \"{{apps}}/node.js\"]\ndirectory = \"{{apps}}\"\n\
         env = {{ VERSION = \"{id}\" }}\n"
    )
}

#[test]
fn the_most_exact_host_and_the_longest_prefix_win() {
    let apps = [
        named("exact", "hosts = [\"a.shop.test\"]"),
        named("wild", "hosts = [\"*.shop.test\"]"),
        named("deep", "hosts = [\"*.eu.shop.test\"]"),
        named("any", "paths = [\"/status\"]"),
        named("blog", "hosts = [\"site.test\"]\npaths = [\"/blog\"]\nstrip_prefix = true"),
        named("site", "hosts = [\"site.test\"]"),
    ];
    let d = Doorbell::with(&apps.concat());
    let who = |host: &str, path: &str| {
        let response = d.get(host, path);
        if response.status == 200 { response.text() } else { response.status.to_string() }
    };
    assert_eq!(who("a.shop.test", "/version"), "exact");
    assert_eq!(who("A.Shop.Test.", "/version"), "exact");
    assert_eq!(who("b.shop.test:8080", "/version"), "wild");
    assert_eq!(who("b.eu.shop.test", "/version"), "deep");
    assert_eq!(who("shop.test", "/version"), "404");
    assert_eq!(who("nobody.test", "/status"), "node GET /status\n");
    assert_eq!(who("nobody.test", "/statusx"), "404");
    assert_eq!(who("site.test", "/blog/version"), "blog");
    assert_eq!(who("site.test", "/blogger"), "node GET /blogger\n");
    assert_eq!(who("site.test", "/x/../blog/version"), "blog");
}

#[test]
fn a_stripped_prefix_is_put_back_into_answers() {
    let d = Doorbell::with(&named("blog", "paths = [\"/blog\"]\nstrip_prefix = true"));
    assert_eq!(d.get("h.test", "/blog").text(), "node GET /\n");
    assert_eq!(d.get("h.test", "/blog/a?b=c").text(), "node GET /a?b=c\n");
    let seen = d.get("h.test", "/blog/headers").json();
    let raw = seen["raw"].as_array().expect("a list");
    let at = raw.iter().position(|name| {
        name.as_str().is_some_and(|n| n.eq_ignore_ascii_case("x-forwarded-prefix"))
    });
    assert_eq!(raw[at.expect("the prefix") + 1], "/blog");
    let moved = d.get("h.test", "/blog/moved");
    assert_eq!(moved.field("location"), Some("/blog/login"));
    let cookies: Vec<_> = moved
        .fields
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .map(|(_, v)| v.as_str())
        .collect();
    assert_eq!(cookies, ["a=b; Path=/blog", "c=d"]);
}

/// What a client that keeps cookies sends to `path` after it was at `/moved` below the base, in HTTP/1.1 and 2.
fn cookies_sent(d: &Doorbell, base: &str, path: &str) -> [String; 2] {
    ["--http1.1", "--http2-prior-knowledge"].map(|version| {
        let jar = d.dir.path().join("cookies");
        let ask = |path: &str| {
            let url = format!("http://127.0.0.1:{}{path}", d.port);
            let mut curl = Command::new("curl");
            curl.args(["-s", "--max-time", "20", version, &url, "-b"])
                .arg(&jar)
                .arg("-c")
                .arg(&jar);
            curl.output().expect("curl").stdout
        };
        ask(&format!("{base}/moved"));
        let seen: serde_json::Value = serde_json::from_slice(&ask(path)).expect("headers");
        std::fs::remove_file(&jar).expect("cookies were kept");
        let raw = seen["raw"].as_array().expect("a list");
        let is_cookie = |name: &serde_json::Value| {
            name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("cookie"))
        };
        let at = raw.iter().position(is_cookie);
        at.map_or_else(String::new, |at| raw[at + 1].as_str().expect("text").to_owned())
    })
}

#[test]
fn cookies_of_an_app_reach_no_other_one_of_its_host() {
    let kept = |id: &str, more: &str| {
        node(id, &format!("path_access = \"keep\"\n{more}\nenv = {{ BASE = \"/{id}\" }}"))
            .replace(&format!("hosts = [\"{id}.test\"]"), &format!("paths = [\"/{id}\"]"))
    };
    let by_id = node("id", "path_access = \"keep\"\nenv = { BASE = \"/apps/id\" }");
    let apps = [kept("own", "scope_cookies = true"), kept("open", ""), kept("other", ""), by_id];
    let d = Doorbell::with(&apps.concat());
    let none = ["", ""];
    for (base, elsewhere) in [("/own", none), ("/open", ["a=b"; 2]), ("/apps/id", none)] {
        let own = cookies_sent(&d, base, &format!("{base}/headers"));
        assert!(own.iter().all(|sent| sent.contains("a=b")), "{base}: {own:?}");
        assert_eq!(cookies_sent(&d, base, "/other/headers"), elsewhere, "{base}");
    }
}

#[test]
fn every_app_is_reachable_by_path_on_hosts_that_no_app_claims() {
    let apps = [node("one", ""), node("kept", "path_access = \"keep\"")].concat();
    let d = Doorbell::with(&apps);
    assert_eq!(d.get("localhost", "/apps/one/x").text(), "node GET /x\n");
    assert_eq!(d.get("localhost", "/_app/one/x").text(), "node GET /x\n");
    assert_eq!(d.get("localhost", "/apps/kept/x").text(), "node GET /apps/kept/x\n");
    let folder = d.get("localhost", "/apps/one?q=1");
    assert_eq!((folder.status, folder.field("location")), (308, Some("/apps/one/?q=1")));
    assert_eq!(d.get("one.test", "/apps/kept/x").text(), "node GET /apps/kept/x\n");
    assert_eq!(d.get("localhost", "/apps/nobody/").status, 404);
    let d = Setup::new(&node("one", "")).server("path_access = false").start();
    assert_eq!(d.get("localhost", "/apps/one/x").status, 404);
}

#[test]
fn the_default_app_answers_the_rest() {
    let d = Setup::new(&node("home", "")).server("default_app = \"home\"").start();
    assert_eq!(d.get("nobody.test", "/x").text(), "node GET /x\n");
}

#[test]
fn a_hundred_thousand_apps_load_and_one_changes() {
    const APPS: usize = 100_000;
    let version = |n: usize, version: &str| {
        let id = format!("app{n}");
        node(&id, &format!("env = {{ VERSION = \"{version}\" }}"))
    };
    let apps: String = (0..APPS).map(|n| version(n, "1")).collect();
    let d = Doorbell::with(&apps);
    let ask = |n: usize, path: &str| d.get(&format!("app{n}.test"), path).text();
    let some = [0, APPS / 2, APPS - 1];
    assert_eq!(some.map(|n| ask(n, "/version")), ["1", "1", "1"]);
    assert_eq!(d.get(&format!("app{APPS}.test"), "/").status, 404);
    let before = some.map(|n| ask(n, "/pid"));
    d.rewrite(&apps.replace(&version(APPS / 2, "1"), &version(APPS / 2, "2")));
    // Not by `doorbell reload`: the watch would do it all once more.
    eventually_within(Duration::from_secs(120), "the changed one is replaced", || {
        ask(APPS / 2, "/version") == "2"
    });
    let after = some.map(|n| ask(n, "/pid"));
    assert_eq!([&after[0], &after[2]], [&before[0], &before[2]], "the others were left alone");
}

#[test]
fn unknown_hosts_cost_no_memory_and_start_nothing() {
    let d = Doorbell::with(&node("app", ""));
    let ask = |from: usize, to: usize| {
        let mut connection = d.connect();
        for n in from..to {
            assert_eq!(connection.get(&format!("h{n}.unknown.test"), &format!("/{n}")).status, 404);
        }
    };
    // What is grown once for all, such as buffers, the allocator's pages and the table of status
    // codes, has its size now.
    ask(0, 10_000);
    let before = d.memory("VmRSS");
    ask(10_000, 20_000);
    let grown = d.memory("VmRSS").saturating_sub(before);
    assert!(grown <= 256, "{grown} KiB more after 10,000 more unknown hosts");
    assert_eq!(d.starts("app"), 0);
    let page = d.metrics();
    assert!(page.contains("app=\"_other\""), "{page}");
    assert!(!page.contains("unknown"), "no label for unknown hosts");
}
