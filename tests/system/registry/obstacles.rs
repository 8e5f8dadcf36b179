//! Apps of the registry that this machine cannot have, now or any more: they keep nobody else from anything.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
};

use doorbell_tests::{Doorbell, Postgres, Setup, app_dir, eventually, free_port};
use serde_json::{Value, json};

use super::{add, keys, on};
use crate::{node, pages::browse};

/// A TCP app that echoes.
fn echo(port: u16) -> Value {
    json!({
        "kind": "tcp",
        "listen": format!("127.0.0.1:{port}"),
        "command": ["python3", app_dir().join("tcp.py"), "echo"],
        "directory": app_dir(),
    })
}

fn put(d: &Doorbell, app: &str, keys: &Value) -> (u16, String) {
    let answer = d.api("admin").ask("PUT", &format!("/v1/apps/{app}/definition"), &[], keys);
    (answer.status, answer.text())
}

fn take(port: u16) -> TcpListener {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).expect("a free port")
}

fn answers(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn refused(d: &Doorbell) -> String {
    let status: Value = serde_json::from_str(&d.ok(&["status", "--json"])).expect("JSON");
    status["refused"].to_string()
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_is_stored() {
    let d = Doorbell::with(&node("main", ""));
    let port = free_port();
    let other = take(port);
    for way in ["", "?dry_run=true"] {
        let path = format!("/v1/apps/db/definition{way}");
        let answer = d.api("admin").ask("PUT", &path, &[], &echo(port));
        let words = format!("cannot listen on 127.0.0.1:{port}");
        assert!(answer.status == 409 && answer.text().contains(&words), "{}", answer.text());
    }
    assert_eq!(d.cli(&["app", "show", "db"]).status, 1);
    assert!(!d.ok(&["audit"]).contains("put app"));
    drop(other);
    assert_eq!(put(&d, "db", &echo(port)).0, 200);
    assert!(answers(port));
    // Nor is one that holds harmed by a change that cannot be.
    let (taken, free) = (free_port(), free_port());
    let other = take(taken);
    assert_eq!(put(&d, "db", &echo(taken)).0, 409);
    assert!(answers(port));
    drop(other);
    assert_eq!(put(&d, "db", &echo(free)).0, 200);
    assert!(answers(free) && !answers(port));
}

#[test]
fn an_app_whose_address_is_taken_at_the_start_is_left_out_until_it_is_free() {
    let mut d = Setup::new(&node("main", "")).start();
    let port = free_port();
    assert_eq!(put(&d, "db", &echo(port)).0, 200);
    d.signal(rustix::process::Signal::TERM);
    eventually("it ends", || d.has_ended());
    let other = take(port);
    d.start_again();
    assert_eq!(d.get("main.test", "/").status, 200);
    assert!(refused(&d).contains("cannot listen on"), "{}", refused(&d));
    add(&d, "blog", "blog.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.ok(&["reload"]);
    for verb in ["status", "start"] {
        let told = d.cli(&[verb, "db"]);
        assert!(
            told.stderr.contains("is left out") && told.stderr.contains("cannot listen on"),
            "{told:?}"
        );
    }
    drop(other);
    d.ok(&["reload"]);
    assert_eq!(refused(&d), "null");
    assert!(answers(port));
    assert_eq!(d.status("db")["source"], "registry");
}

#[test]
fn an_app_of_a_file_whose_address_is_taken_ends_the_start() {
    let port = free_port();
    let other = take(port);
    let app = format!("[tcp.db]\nlisten = \"127.0.0.1:{port}\"\ncommand = [\"true\"]\n");
    let (_folder, path) = Setup::new(&(node("main", "") + &app)).write();
    let output = doorbell_tests::tool(&["serve", "--config", &path.to_string_lossy()]);
    assert_ne!(output.status, 0);
    let words = format!("cannot listen on 127.0.0.1:{port}");
    assert!(output.stderr.contains(&words), "{output:?}");
    drop(other);
}

#[test]
fn what_another_doorbell_cannot_have_keeps_it_from_nothing_else() {
    let postgres = Postgres::shared();
    let place = postgres.database();
    let (a, b) = (on(&place), on(&place));
    // Both are on one machine: one of them has the address.
    let port = free_port();
    assert_eq!(put(&a, "db", &echo(port)).0, 200);
    // Mostly the one that was asked, unless the other hears of it very fast.
    let cannot = |d: &Doorbell| refused(d).contains("cannot listen on");
    eventually("one of them cannot have it", || cannot(&a) || cannot(&b));
    add(&b, "blog", "blog.test");
    assert_eq!(b.get("blog.test", "/").status, 200);
    eventually("it is seen", || a.get("blog.test", "/").status == 200);
    add(&a, "news", "news.test");
    eventually("it is seen", || b.get("news.test", "/").status == 200);
    assert!(answers(port));
}

#[test]
fn an_app_whose_page_is_gone_stays_as_it_is_and_blocks_nobody() {
    let d = Doorbell::with(&node("main", ""));
    let page = d.dir.path().join("closed.html");
    fs::write(&page, "<p>own words</p>").expect("a file");
    let mut blog = keys("blog.test");
    blog["maintenance"] = true.into();
    blog["pages"] = json!({ "maintenance": page });
    let (status, words) = put(&d, "blog", &blog);
    assert_eq!(status, 200, "{words}");
    let shows = || browse(&d, "blog.test", "/").text().contains("own words");
    assert!(shows());
    fs::remove_file(&page).expect("a file");
    add(&d, "news", "news.test");
    assert_eq!(d.get("news.test", "/").status, 200);
    let told = d.ok(&["reload"]);
    assert!(told.contains("closed.html"), "{told}");
    d.ok(&["app", "set", "news", "hosts=other.test"]);
    assert_eq!(d.get("other.test", "/").status, 200);
    assert!(shows());
    // Who changes the app itself is told.
    blog["name"] = "Blog".into();
    let (status, words) = put(&d, "blog", &blog);
    assert!(status == 422 && words.contains("closed.html"), "{words}");
    fs::write(&page, "<p>other words</p>").expect("a file");
    assert_eq!(put(&d, "blog", &blog).0, 200);
    assert!(browse(&d, "blog.test", "/").text().contains("other words"));
}

#[test]
fn whether_the_file_could_be_loaded_is_told_without_loading_it() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    let api = d.api("operate");
    let check = || api.ask("POST", "/v1/check", &[], &Value::Null);
    let good = check();
    assert_eq!((good.status, good.json()["apps"].as_u64()), (200, Some(2)), "{}", good.text());
    d.rewrite(&(node("main", "") + &node("other", "")));
    assert_eq!(check().json()["apps"], 3);
    assert_eq!(d.get("other.test", "/").status, 404, "nothing is loaded");
    d.rewrite("[app.main\n");
    let bad = check();
    assert!(bad.status == 422 && bad.text().contains("doorbell.toml:"), "{}", bad.text());
    assert_eq!(d.get("main.test", "/").status, 200);
}
