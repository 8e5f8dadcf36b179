//! What apps print goes with them, and not with their ids.

use std::{
    fs,
    path::{Path, PathBuf},
};

use doorbell_tests::{Connection, Doorbell, Postgres, eventually, kill};
use serde_json::{Value, json};

use super::{add, keys, on};
use crate::node;

/// Visits an app at a path, which it prints.
#[track_caller]
fn visit(d: &Doorbell, path: &str) {
    assert_eq!(d.get("blog.test", path).status, 200);
    eventually("it is printed", || printed(d).iter().any(|text| text.contains(path)));
}

/// All logs there are, whosever they are.
fn printed(d: &Doorbell) -> Vec<String> {
    let folders = fs::read_dir(d.dir.path().join("logs")).into_iter().flatten().flatten();
    let text = |folder: PathBuf| fs::read_to_string(folder.join("current.log")).ok();
    folders.filter_map(|entry| text(entry.path())).collect()
}

/// What was put aside.
fn aside(d: &Doorbell) -> Vec<PathBuf> {
    let folder = d.dir.path().join("logs/.deleted");
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_renamed_app_keeps_its_output() {
    let mut d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    visit(&d, "/first");
    d.ok(&["app", "rename", "blog", "news"]);
    visit(&d, "/second");
    let told = |d: &Doorbell| d.ok(&["logs", "news"]);
    let shown = told(&d);
    assert!(shown.contains("/first") && shown.contains("/second"), "{shown}");
    assert!(!d.dir.path().join("logs/blog").exists());
    // It goes on so whoever writes it.
    kill(d.pid());
    eventually("it is gone", || d.has_ended());
    d.start_again();
    visit(&d, "/third");
    let shown = told(&d);
    for path in ["/first", "/second", "/third"] {
        assert_eq!(shown.matches(&format!("GET {path} ")).count(), 1, "{path}: {shown}");
    }
    assert_eq!(aside(&d), [""; 0].map(PathBuf::from), "nothing is put aside");
}

#[test]
fn a_new_app_of_an_id_shows_nothing_of_the_earlier_one() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    visit(&d, "/of-old");
    d.ok(&["app", "delete", "blog", "--yes"]);
    add(&d, "blog", "blog.test");
    visit(&d, "/of-new");
    let shown = d.ok(&["logs", "blog"]);
    assert!(shown.contains("/of-new") && !shown.contains("/of-old"), "{shown}");
    let aside = aside(&d);
    let [folder] = &aside[..] else { panic!("{aside:?}") };
    assert!(d.log().contains(&folder.display().to_string()), "where it is is told");
    eventually("its end is with it", || {
        let kept = fs::read_to_string(folder.join("current.log")).expect("its output");
        kept.contains("/of-old") && kept.contains("was killed by SIGTERM")
    });
    assert_eq!(d.get("main.test", "/hello").status, 200);
}

#[test]
fn a_deletion_that_no_supervisor_heard_of_is_made_up_for() {
    let mut d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    visit(&d, "/of-old");
    kill(d.pid());
    eventually("it is gone", || d.has_ended());
    let told = d.ok(&["app", "delete", "blog", "--yes"]);
    assert!(told.contains("warning"), "nobody makes it hold yet: {told}");
    d.start_again();
    eventually("it holds", || d.get("blog.test", "/").status == 404);
    add(&d, "blog", "blog.test");
    visit(&d, "/of-new");
    let shown = d.ok(&["logs", "blog"]);
    assert!(shown.contains("/of-new") && !shown.contains("/of-old"), "{shown}");
    assert!(!aside(&d).is_empty());
}

#[test]
fn what_an_app_of_a_file_prints_stays_when_one_of_the_registry_goes_that_was_left_out_for_it() {
    let mut d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    visit(&d, "/first");
    d.signal(rustix::process::Signal::TERM);
    eventually("it ends", || d.has_ended());
    let text = fs::read_to_string(d.config_path()).expect("the file");
    let blog = "[app.blog]\nhosts = [\"blog.test\"]\ndirectory = \"{apps}\"\n\
                command = [\"python3\", \"{apps}/server.py\", \"plain\"]\n";
    d.write_file("doorbell.toml", &(text + blog));
    d.start_again();
    visit(&d, "/second");
    d.ok(&["disable", "blog"]);
    d.ok(&["app", "delete", "blog", "--yes"]);
    assert_eq!(d.get("blog.test", "/").status, 503, "what operators switched stays too");
    d.ok(&["enable", "blog"]);
    visit(&d, "/third");
    let shown = d.ok(&["logs", "blog"]);
    assert!(shown.contains("/second") && shown.contains("/third"), "{shown}");
    assert!(aside(&d).is_empty());
}

#[test]
fn each_doorbell_that_shares_a_registry_keeps_what_its_own_printed() {
    let postgres = Postgres::start();
    let address = postgres.database();
    let both = [on(&address), on(&address)];
    add(&both[0], "blog", "blog.test");
    eventually("the other one knows", || both[1].get("blog.test", "/").status == 200);
    both.iter().for_each(|d| visit(d, "/of-old"));
    both[1].ok(&["app", "delete", "blog", "--yes"]);
    eventually("the other one knows", || both[0].get("blog.test", "/").status == 404);
    add(&both[1], "blog", "blog.test");
    for d in &both {
        eventually("it is there", || d.get("blog.test", "/").status == 200);
        visit(d, "/of-new");
        let shown = d.ok(&["logs", "blog"]);
        assert!(shown.contains("/of-new") && !shown.contains("/of-old"), "{shown}");
        assert_eq!(aside(d).len(), 1);
    }
}

#[test]
fn who_follows_an_app_is_told_that_it_is_no_more() {
    let d = Doorbell::with(&node("main", ""));
    let followed = |id: &str, more: &[&str]| {
        let mut follow = d.spawn(&[&["logs", id, "-f"], more].concat());
        follow.wait_for_line("/first");
        follow
    };
    add(&d, "blog", "blog.test");
    visit(&d, "/first");
    for more in [&[][..], &["--json"]] {
        let mut follow = followed("blog", more);
        d.ok(&["app", "rename", "blog", "news"]);
        assert_eq!(follow.wait(), 1);
        let mut follow = followed("news", more);
        d.ok(&["app", "rename", "news", "blog"]);
        assert_eq!(follow.wait(), 1);
    }
    let mut follow = followed("blog", &[]);
    d.ok(&["app", "delete", "blog", "--yes"]);
    assert_eq!(follow.wait(), 1);
}

/// Prints what it is asked, holds who asks for `/slow`, and prints when it is told to end.
const LAST_WORDS: &str =
    "process.on('SIGTERM', () => { console.log('last words'); process.exit(); });
    require('http').createServer((request, response) => {
        console.log(request.url);
        if (request.url === '/slow') response.write('x'); else response.end(String(process.pid));
    }).listen(process.env.PORT, '127.0.0.1');";

/// Adds an app that prints so.
fn add_talkative(d: &Doorbell) {
    let script = LAST_WORDS.replace('{', "{{").replace('}', "}}");
    let command = format!("command={}", serde_json::json!(["node", "-e", script]));
    d.ok(&["app", "add", "blog", "hosts=blog.test", &command, "stop.drain=1m"]);
}

/// Keeps an instance of it busy; gives its pid, and what keeps it.
fn keep_busy(d: &Doorbell) -> (String, Connection) {
    visit(d, "/of-old");
    let pid = d.get("blog.test", "/").text();
    let mut slow = d.connect();
    slow.send_get("blog.test", "/slow");
    eventually("it is printed", || printed(d).iter().any(|text| text.contains("/slow")));
    (pid, slow)
}

#[test]
fn an_app_that_was_renamed_while_its_old_instance_drains_is_taken_up_as_itself() {
    let mut d = Doorbell::with(&node("main", ""));
    add_talkative(&d);
    let (old, slow) = keep_busy(&d);
    d.ok(&["app", "rename", "blog", "news"]);
    let renamed = d.get("blog.test", "/").text();
    assert_ne!(renamed, old);
    drop(slow);
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("blog.test", "/").text(), renamed, "{}", d.log());
    assert_eq!(d.state("news"), "ready");
}

#[test]
fn an_app_that_drains_while_another_has_its_id_is_not_taken_for_that() {
    let mut d = Doorbell::with(&node("main", ""));
    add_talkative(&d);
    let (old, slow) = keep_busy(&d);
    d.ok(&["app", "delete", "blog", "--yes"]);
    add_talkative(&d);
    d.kill_supervisor();
    d.start_again();
    visit(&d, "/of-new");
    assert_ne!(d.get("blog.test", "/").text(), old, "its definition is the same");
    assert!(Path::new("/proc").join(&old).exists(), "it still has somebody");
    drop(slow);
    let its_own =
        |folder: PathBuf| fs::read_to_string(folder.join("current.log")).unwrap_or_default();
    eventually("it has said its last words", || {
        aside(&d).into_iter().any(|folder| its_own(folder).contains("last words"))
    });
    let shown = d.ok(&["logs", "blog"]);
    assert!(shown.contains("/of-new") && !shown.contains("/of-old"), "{shown}");
    assert!(!shown.contains("last words"), "{shown}");
}

#[test]
fn an_app_that_takes_the_place_of_another_in_one_step_is_none_the_less_another() {
    let mut d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    visit(&d, "/of-old");
    let old = d.app_pid("blog");
    let mut follow = d.spawn(&["logs", "blog", "-f"]);
    follow.wait_for_line("/of-old");
    let apply = json!({"delete": ["blog"], "add": {"blog": keys("blog.test")}});
    let applied = d.api("admin").ask("POST", "/v1/apply", &[], &apply);
    assert_eq!(applied.status, 200, "{}", applied.text());
    assert_eq!(follow.wait(), 1, "it followed the one that is no more");
    visit(&d, "/of-new");
    let new = d.app_pid("blog");
    assert_ne!(new, old, "its definition is the same");
    let shown = d.ok(&["logs", "blog"]);
    assert!(shown.contains("/of-new") && !shown.contains("/of-old"), "{shown}");
    let history: Value = serde_json::from_str(&d.ok(&["history", "blog", "--json"])).expect("JSON");
    let begun = history.as_array().expect("a list").iter().filter(|one| one["state"] == "starting");
    assert_eq!(begun.count(), 1, "{history}");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.app_pid("blog"), new, "{}", d.log());
}
