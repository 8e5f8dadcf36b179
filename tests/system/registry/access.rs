//! Who may ask for what.

use doorbell_tests::{Connection, Doorbell, Postgres, eventually};
use serde_json::{Value, json};

use super::{keys, on};
use crate::node;

#[test]
fn a_token_lets_its_user_do_what_it_says_and_no_more() {
    let d = Doorbell::with(&node("main", ""));
    let [read, operate, admin] = ["read", "operate", "admin"].map(|scope| d.api(scope));
    let stranger = d.api_of_stranger();
    let none = &Value::Null;
    let answer = stranger.get("/v1/apps");
    assert_eq!(
        (answer.status, answer.field("www-authenticate")),
        (401, Some("Bearer realm=\"doorbell\""))
    );
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(stranger.get("/healthz").status, 200);
    assert_eq!(stranger.get("/v1/openapi.json").status, 200);

    assert_eq!(read.get("/v1/apps").status, 200);
    assert_eq!(read.ask("POST", "/v1/apps/main/start", &[], none).status, 403);
    assert_eq!(operate.ask("POST", "/v1/apps/main/start", &[], none).status, 200);
    let mut blog = keys("blog.test");
    blog["id"] = "blog".into();
    blog["env"] = json!({"PASSWORD": "hunter2"});
    blog["database"] = json!({"new_connection": "postgres://a:hunter2@db.test/a"});
    assert_eq!(operate.ask("POST", "/v1/apps", &[], &blog).status, 403);
    assert_eq!(operate.get("/v1/tokens").status, 403);
    let added = admin.ask("POST", "/v1/apps", &[], &blog);
    assert_eq!((added.status, added.field("location")), (201, Some("/v1/apps/blog")));

    let shown = read.get("/v1/apps/blog/definition").text();
    assert!(shown.contains("PASSWORD") && !shown.contains("hunter2"), "{shown}");
    assert!(admin.get("/v1/apps/blog/definition").text().contains("hunter2"));
    assert!(!d.log().contains("hunter2"));

    let tokens = admin.get("/v1/tokens").text();
    assert!(tokens.contains("test-read-") && !tokens.contains("doorbell_"), "{tokens}");
    for refused in ["Origin: http://evil.test", "Origin: null"] {
        assert_eq!(admin.ask("GET", "/v1/apps", &[refused], none).status, 403);
    }
}

#[test]
fn a_token_that_is_removed_or_over_is_of_no_use() {
    let d = Doorbell::with(&node("main", ""));
    let token = d.ok(&["token", "add", "ci", "--scope", "read"]);
    let api = d.api_with(token.trim());
    assert_eq!(api.get("/v1/apps").status, 200);
    let taken = d.cli(&["token", "add", "ci", "--scope", "read"]);
    assert!(taken.stderr.contains("ci"), "{taken:?}");
    d.ok(&["token", "remove", "ci"]);
    assert_eq!(api.get("/v1/apps").status, 401);
    assert_ne!(d.cli(&["token", "remove", "ci"]).status, 0);
    let short = d.ok(&["token", "add", "short", "--scope", "read", "--expires", "1ms"]);
    let short = d.api_with(short.trim());
    eventually("it is over", || short.get("/v1/apps").status == 401);
    assert!(d.ok(&["token", "list"]).contains("expired"));
}

/// Streams that go on until they are ended.
const STREAMS: [(&str, &[&str]); 3] = [
    ("/v1/events", &[]),
    ("/v1/apps/main/logs?follow=true", &[]),
    ("/v1/apps/main/logs", &["Accept: text/event-stream"]),
];

/// Those of somebody with this token, once they have begun; `None` if it is over already.
fn streams(d: &Doorbell, token: &str) -> Option<Vec<Connection>> {
    let api = d.api_with(token.trim());
    let begin = |(path, fields): (&str, &[&str])| {
        let mut stream = api.begin(path, fields);
        let status = stream.read_head().expect("an answer").status;
        assert!(matches!(status, 200 | 401), "{path}: {status}");
        (status == 200).then_some(stream)
    };
    STREAMS.into_iter().map(begin).collect()
}

/// Reads them to their ends, before which nobody says again and again that there is nothing to say.
#[track_caller]
fn come_to_an_end(streams: Vec<Connection>) {
    for (mut stream, (path, _)) in streams.into_iter().zip(STREAMS) {
        let mut silences = 0;
        while let Some(Some(piece)) = stream.read_chunk() {
            silences += usize::from(
                piece
                    == b":

",
            );
            assert!(silences < 4, "{path} goes on");
        }
    }
}

#[test]
fn who_hears_what_happens_hears_no_more_without_a_token() {
    let place = Postgres::shared().database();
    let both = [on(&place), on(&place)];
    let token = both[0].ok(&["token", "add", "ci", "--scope", "read"]);
    let other = both[0].ok(&["token", "add", "other", "--scope", "read"]);
    let mut kept = streams(&both[1], &other).expect("all").swap_remove(0);
    let all = both.each_ref().map(|d| streams(d, &token).expect("all"));
    both[0].ok(&["token", "remove", "ci"]);
    all.into_iter().for_each(come_to_an_end);
    both[1].ok(&["start", "main"]);
    let mut heard = String::new();
    while !heard.contains("ready") {
        let piece = kept.read_chunk().flatten().expect("nobody took this one's token");
        heard += &String::from_utf8_lossy(&piece);
    }
}

#[test]
fn who_hears_what_happens_hears_no_more_when_the_token_is_over() {
    let d = Doorbell::with(&node("main", ""));
    // As long as it takes to begin them.
    let mut begun = ["1s", "5s", "30s"].into_iter().filter_map(|lasts| {
        let token = d.ok(&["token", "add", lasts, "--scope", "read", "--expires", lasts]);
        streams(&d, &token)
    });
    come_to_an_end(begun.next().expect("some that have begun"));
}

#[test]
fn who_guesses_tokens_is_told_to_wait() {
    let d = Doorbell::with(&node("main", ""));
    let guess =
        d.api_with("doorbell_0000000000000000000000000000000000000000000000000000000000000000");
    let answers: Vec<_> = (0..12).map(|_| guess.get("/v1/apps")).collect();
    assert!(answers[..10].iter().all(|answer| answer.status == 401));
    assert_eq!(answers[11].status, 429);
    assert!(answers[11].field("retry-after").is_some());
    // Whoever has one is not kept out.
    assert_eq!(d.api("read").get("/v1/apps").status, 200);
}

#[test]
fn nobody_overwrites_what_they_have_not_seen() {
    let d = Doorbell::with(&node("main", ""));
    let api = d.api("admin");
    let path = "/v1/apps/blog/definition";
    let put = |fields: &[&str], host: &str| api.ask("PUT", path, fields, &keys(host));
    let none = &Value::Null;
    assert_eq!(put(&["If-Match: *"], "a.test").status, 412);
    assert_eq!(api.ask("PATCH", path, &[], &json!({"name": "x"})).status, 404);
    assert_eq!(api.ask("DELETE", "/v1/apps/blog", &[], none).status, 404);
    assert_eq!(put(&["If-None-Match: *"], "a.test").status, 200);
    assert_eq!(put(&["If-None-Match: *"], "a.test").status, 412);
    let mut again = keys("a.test");
    again["id"] = "blog".into();
    assert_eq!(api.ask("POST", "/v1/apps", &[], &again).status, 409);
    let tag = api.get(path).field("etag").expect("an ETag").to_owned();
    let fresh = format!("If-Match: {tag}");
    assert_eq!(put(&[&fresh], "b.test").status, 200);
    assert_eq!(put(&[&fresh], "c.test").status, 412);
    assert_eq!(api.ask("DELETE", "/v1/apps/blog", &[&fresh], none).status, 412);
    // The same for several at once.
    let seen: u64 = tag.trim_matches('"').parse().expect("a number");
    for apply in [
        json!({"put": {"blog": keys("c.test")}, "seen": {"blog": seen}}),
        json!({"delete": ["blog"], "seen": {"blog": seen}}),
        json!({"add": {"blog": keys("c.test"), "other": keys("d.test")}}),
    ] {
        assert_eq!(api.ask("POST", "/v1/apply", &[], &apply).status, 412, "{apply}");
    }
    // What nobody looks at says so.
    for unseen in ["other", "nobody"] {
        let apply = json!({"put": {"blog": keys("c.test")}, "add": {"other": keys("d.test")}, "seen": {(unseen): seen}});
        let answer = api.ask("POST", "/v1/apply", &[], &apply);
        assert!(answer.status == 422 && answer.text().contains(unseen), "{}", answer.text());
    }
    let all = api.get("/v1/definitions").json();
    let all: Vec<_> = all.as_array().expect("a list").iter().collect();
    assert!(matches!(&all[..], [blog] if blog["keys"]["hosts"][0] == "b.test"), "{all:?}");
    let seen = all[0]["revision"].as_u64().expect("a number");
    let apply = json!({"put": {"blog": keys("c.test")}, "seen": {"blog": seen}});
    assert_eq!(api.ask("POST", "/v1/apply", &[], &apply).status, 200);
    assert_eq!(api.get(path).json()["keys"]["hosts"][0], "c.test");
    assert_eq!(api.ask("DELETE", "/v1/apps/blog", &[], none).status, 200);
    assert_eq!(api.get(path).status, 404);
}

#[test]
fn whatever_is_asked_is_answered_with_a_problem_and_never_with_a_failure() {
    let d = Doorbell::with(&node("main", ""));
    let api = d.api("admin");
    let hostile = [
        "'; DROP TABLE app; --",
        "../../etc/passwd",
        "a\u{0}b",
        "\u{1b}[2J",
        "ä\u{202e}b",
        "$(reboot)",
        &"x".repeat(70_000),
    ];
    for name in hostile {
        for (method, path, body) in [
            ("POST", "/v1/apps", json!({"id": name})),
            ("POST", "/v1/apps", json!({"id": "x", "hosts": [name], "command": [name]})),
            ("POST", "/v1/apps", json!({"id": "x", (name): name, "kind": name})),
            ("POST", "/v1/tokens", json!({"name": name, "scope": name})),
            ("POST", "/v1/apply", json!({"put": {(name): {"hosts": [name]}}, "delete": [name]})),
            ("PUT", "/v1/apps/main/id", json!({"to": name})),
        ] {
            let answer = api.ask(method, path, &[], &body);
            assert!((400..500).contains(&answer.status), "{path} {name:.20}: {}", answer.status);
            assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{path}");
        }
    }
    for (method, path) in [
        ("GET", "/v1/nothing"),
        ("PUT", "/v1/apps"),
        ("GET", "/v1/apps/%00/definition"),
        ("GET", "/v1/apps/%ff/definition"),
        ("GET", "/v1/apps/main/logs?lines=many"),
        ("POST", "/v1/apps/main/explode"),
    ] {
        let answer = api.ask(method, path, &[], &Value::Null);
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.status);
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{path}");
    }
    assert_eq!(d.get("main.test", "/").status, 200);
}

/// Nothing is answered with a 5xx. What is tried is the same each time, unless another seed is given, as the soak does.
#[test]
fn whatever_the_document_of_the_api_allows_is_answered_as_it_says() {
    let seed = std::env::var("DOORBELL_SEED");
    let d = Doorbell::with(&node("main", ""));
    let token = d.ok(&["token", "add", "fuzz", "--scope", "admin"]);
    let document = d.dir.path().join("openapi.json");
    std::fs::write(&document, d.api_of_stranger().get("/v1/openapi.json").body).expect("a file");
    let program = crate::real_apps::installed("venv/bin/schemathesis");
    let mut fuzz = std::process::Command::new(program);
    fuzz.arg("run").arg(&document).current_dir(d.dir.path());
    fuzz.args(["--url", &format!("http://127.0.0.1:{}", d.metrics_port)]);
    fuzz.args(["--header", &format!("Authorization: Bearer {}", token.trim())]);
    // What goes on for ever, and what would replace the binary.
    fuzz.args([
        "--exclude-path-regex",
        "upgrade|events|logs",
        "--max-examples",
        "20",
        "--seed",
        seed.as_deref().unwrap_or("1"),
    ]);
    fuzz.args([
        "--checks",
        "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance",
    ]);
    let output = fuzz.output().expect("schemathesis");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", d.log());
    // It may have been disabled, as the document allows.
    d.ok(&["enable", "main"]);
    assert_eq!(d.get("main.test", "/").status, 200);
    // It was no talk about what is refused alone.
    let audit = d.ok(&["audit", "--json", "--entries", "1000"]);
    for act in
        ["put app", "rename app", "delete app", "put secret", "add token", "start", "export app"]
    {
        assert!(audit.contains(&format!("\"{act}\"")), "{act}: {told}\n{audit}");
    }
}
