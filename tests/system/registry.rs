//! Apps of the registry: added, changed and deleted while Doorbell runs.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Postgres, Role, Setup, app_dir, binary, eventually};
use serde_json::{Value, json};

use crate::{node, python};

mod access;
mod addresses;
mod backup;
mod databases;
mod harm;
mod loss;
mod obstacles;
mod output;
pub(crate) mod secrets;
mod upgrades;

/// The keys of an app that answers.
pub(crate) fn keys(host: &str) -> Value {
    json!({
        "hosts": [host],
        "command": ["python3", app_dir().join("server.py"), "plain"],
        "directory": app_dir(),
    })
}

/// The same on the command line.
fn pairs(host: &str) -> [String; 3] {
    let server = app_dir().join("server.py");
    [
        format!("hosts={host}"),
        format!("command=[\"python3\", \"{}\", \"plain\"]", server.display()),
        format!("directory={}", app_dir().display()),
    ]
}

#[track_caller]
pub(crate) fn add(d: &Doorbell, app: &str, host: &str) {
    let pairs = pairs(host);
    d.ok(&["app", "add", app, &pairs[0], &pairs[1], &pairs[2]]);
}

/// A control process that is started while what stands behind these apps in the file is no TOML.
fn starts_on_a_broken_file(d: &Doorbell, good: &str) {
    d.rewrite(&format!("{good}[app.broken\n"));
    eventually("it is seen", || d.log().contains("configuration not loaded"));
    d.kill_role(Role::Control);
}

/// A Doorbell with a file app, on a registry at this place.
fn on(place: &str) -> Doorbell {
    Setup::new(&node("main", "")).server(&format!("registry = \"{place}\"")).start()
}

/// Runs statements on a file of SQLite, and shows their rows.
pub(crate) fn sqlite(file: &Path, statements: &str) -> String {
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], 60, isolation_level=None)\n\
        print(*[row for s in sys.argv[2].split(';') for row in c.execute(s)], sep='\\n')";
    let mut python = Command::new("python3");
    let output = python.args(["-c", script]).arg(file).arg(statements).output().expect("python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn an_app_is_added_served_changed_renamed_and_deleted() {
    let d = Doorbell::with(&node("main", ""));
    assert_eq!(d.get("blog.test", "/").status, 404);
    add(&d, "blog", "blog.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.get("main.test", "/").status, 200);
    let listed = d.ok(&["app", "list"]);
    assert!(
        listed.lines().any(|l| l.trim().starts_with("blog") && l.contains("registry")),
        "{listed}"
    );
    assert!(listed.lines().any(|l| l.trim().starts_with("main") && l.contains("file")), "{listed}");

    d.ok(&["app", "set", "blog", "hosts=news.test", "env.A=secret value"]);
    assert_eq!(d.get("blog.test", "/").status, 404);
    assert_eq!(d.get("news.test", "/").status, 200);
    let shown = d.ok(&["app", "show", "blog"]);
    assert!(shown.contains("[app.blog]") && shown.contains("A = \"secret value\""), "{shown}");
    d.ok(&["app", "set", "blog", "--unset", "env.A"]);
    assert!(!d.ok(&["app", "show", "blog"]).contains("secret value"));
    assert!(d.ok(&["app", "open", "blog"]).starts_with("http://news.test:"));

    d.ok(&["app", "rename", "blog", "news"]);
    assert_eq!(d.get("news.test", "/").status, 200);
    assert_eq!(d.cli(&["status", "blog"]).status, 1);
    eventually("the old instance is gone", || d.app_pids().len() == 2);

    let refused = d.cli(&["app", "delete", "news"]);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    d.ok(&["app", "delete", "news", "--yes"]);
    assert_eq!(d.get("news.test", "/").status, 404);
    assert_eq!(d.get("main.test", "/").status, 200);
    let acts = d.ok(&["audit"]);
    for act in ["put app", "rename app", "delete app"] {
        assert!(acts.contains(act), "{acts}");
    }
    assert!(acts.contains("unix:") && !acts.contains("secret value"), "{acts}");
}

#[test]
fn whoever_is_answered_finds_it_in_force() {
    let d = Doorbell::with(&node("main", ""));
    let api = d.api("admin");
    let put = |start: &str| {
        let mut keys = keys("blog.test");
        keys["start"] = start.into();
        assert!(api.ask("PUT", "/v1/apps/blog/definition", &[], &keys).status < 300);
    };
    let tell = |verb: &str| {
        let path = format!("/v1/apps/blog/{verb}");
        assert_eq!(api.ask("POST", &path, &[], &Value::Null).status, 200);
    };
    // A client that is there already is faster than one that connects.
    let mut client = d.connect();
    let mut visit = || {
        client.send_get("blog.test", "/");
        client.read().status
    };
    for round in 0..20 {
        put("disabled");
        assert_eq!(visit(), 503, "{round}");
        put("on-demand");
        assert_eq!(visit(), 200, "{round}");
        tell("disable");
        assert_eq!(visit(), 503, "{round}");
        tell("enable");
        assert_eq!(visit(), 200, "{round}");
    }
}

#[test]
fn apps_of_the_registry_outlive_every_end_of_doorbell() {
    let mut d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    let pid = d.app_pid("blog");
    d.kill_role(Role::Control);
    eventually("another control process", || d.cli(&["app", "show", "blog"]).status == 0);
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), pid, "the same instance");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.app_pid("blog"), pid, "the same instance");
    d.stop_and_start_again();
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.status("blog")["source"], "registry");
}

#[test]
fn what_is_wrong_is_told_and_changes_nothing() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    for (pairs, words) in [
        (&["hosts=main.test", "command=true"][..], "already belongs to app `main`"),
        (&["host=a.test", "command=true"], "did you mean `hosts`?"),
        (&["hosts=a.test"], "registry:new"),
        (&["hosts=a.test", "command=true", "env.A=${HOME}"], "`HOME` is not set"),
    ] {
        let mut line = vec!["app", "add", "new"];
        line.extend(pairs);
        let output = d.cli(&line);
        assert!(output.status != 0 && output.stderr.contains(words), "{pairs:?}: {output:?}");
        assert_eq!(d.cli(&["app", "show", "new"]).status, 1);
    }
    let taken = d.cli(&["app", "add", "blog", "hosts=x.test", "command=true"]);
    assert_ne!(taken.status, 0, "{taken:?}");
    let of_file = d.cli(&["app", "set", "main", "name=x"]);
    assert!(of_file.stderr.contains("stands in a file"), "{of_file:?}");
    let bad = d.cli(&["app", "add", "Bad", "hosts=x.test", "command=true"]);
    assert!(bad.stderr.contains("is no app id"), "{bad:?}");
    assert_eq!(d.get("blog.test", "/").status, 200);
}

#[test]
fn a_file_that_takes_what_a_registry_app_has_is_refused_and_both_are_named() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    assert_eq!(d.get("blog.test", "/").status, 200);
    d.rewrite(&(node("main", "") + &python("blog2", "", "").replace("blog2.test", "blog.test")));
    let output = d.cli(&["reload"]);
    assert_ne!(output.status, 0);
    assert!(
        output.stderr.contains("app `blog2`") && output.stderr.contains("registry:blog"),
        "{output:?}"
    );
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.status("blog")["source"], "registry");
    d.rewrite(&(node("main", "") + &python("other", "", "")));
    d.ok(&["reload"]);
    assert_eq!(d.get("other.test", "/").status, 200);
}

#[test]
fn a_file_that_is_being_mended_keeps_nobody_from_adding_an_app() {
    let d = Doorbell::with(&node("main", ""));
    d.rewrite("[app.main\n");
    // The address of the socket stands in the file too.
    let socket = d.dir.path().join("admin.sock");
    let socket = ["--socket", &*socket.to_string_lossy()];
    assert_ne!(d.cli(&[&["reload"], &socket[..]].concat()).status, 0);
    let pairs = pairs("blog.test");
    let line = ["app", "add", "blog", &pairs[0], &pairs[1], &pairs[2]];
    d.ok(&[&line, &socket[..]].concat());
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.get("main.test", "/").status, 200);
}

#[test]
fn apply_makes_the_apps_of_a_file_and_tells_what_differs() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "old", "old.test");
    let file = d.dir.path().join("apps.toml");
    let path = file.to_string_lossy();
    let text = python("blog", "plain", "env = { A = \"1\" }")
        .replace("{apps}", &app_dir().to_string_lossy());
    std::fs::write(&file, &text).expect("a file");
    let trial = d.ok(&["apply", "-f", &path, "--dry-run", "--prune"]);
    assert!(trial.contains("+ blog") && trial.contains("- old"), "{trial}");
    assert!(trial.contains("env") && !trial.contains("\"1\""), "{trial}");
    assert_eq!(d.get("old.test", "/").status, 200);
    assert_eq!(d.get("blog.test", "/").status, 404);
    // Who cannot be asked deletes nothing, and changes nothing.
    let unasked = d.cli(&["apply", "-f", &path, "--prune"]);
    assert_eq!(unasked.status, 1, "{unasked:?}");
    assert!(unasked.stderr.contains("say --yes to delete 1 app "), "{unasked:?}");
    assert_eq!(d.get("blog.test", "/").status, 404);
    let config = d.config_path();
    let config = config.to_string_lossy();
    for (typed, status) in [("2\n", 1), ("y\n", 1), ("1\n", 0)] {
        assert_eq!(d.get("old.test", "/").status, 200);
        let asked = ["apply", "-f", &path, "--prune", "--config", &config];
        let (ended, told) = on_a_terminal(&asked, typed);
        assert_eq!(ended, status, "{typed:?}: {told}");
        assert!(told.contains("- old") && told.contains("This stops 1 app "), "{told}");
    }
    assert_eq!(d.get("blog.test", "/").status, 200);
    assert_eq!(d.get("old.test", "/").status, 404);
    // Where nothing is deleted, nothing is asked.
    let again = d.ok(&["apply", "-f", &path, "--prune"]);
    assert!(again.contains("nothing to change"), "{again}");
    // All of it or nothing.
    std::fs::write(
        &file,
        text.replace("A = \"1\"", "A = \"2\"") + "[app.bad]\nhosts = [\"main.test\"]\n",
    )
    .expect("a file");
    assert_ne!(d.cli(&["apply", "-f", &path]).status, 0);
    assert!(d.ok(&["app", "show", "blog"]).contains("A = \"1\""));
}

/// Runs a verb on a terminal of its own, where this is typed; its exit status, and what it printed.
fn on_a_terminal(args: &[&str], typed: &str) -> (i32, String) {
    let script =
        "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(binary()).args(args);
    let python = python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python3");
    child.stdin.as_mut().expect("its input").write_all(typed.as_bytes()).expect("to type");
    let output = child.wait_with_output().expect("its end");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("an exit status"), told)
}

#[test]
fn machines_are_told_what_apply_changes() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "old", "old.test");
    add(&d, "blog", "blog.test");
    let file = d.dir.path().join("apps.toml");
    let path = file.to_string_lossy();
    let blog = d.ok(&["app", "show", "blog"]) + "env = { PASSWORD = \"hunter2\" }\n";
    let new = d.ok(&["app", "show", "old"]).replace("old", "new");
    std::fs::write(&file, blog.replace("blog.test", "news.test") + &new).expect("a file");
    let told = |more: &[&str]| -> Value {
        let text = d.ok(&[&["apply", "-f", &path, "--prune", "--yes", "--json"], more].concat());
        assert!(!text.contains("hunter2"), "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let (trial, made) = (told(&["--dry-run"]), told(&[]));
    for (told, is_made) in [(&trial, false), (&made, true)] {
        let told = told.as_array().expect("a list");
        let kinds: Vec<_> = told.iter().map(|one| (&one["id"], &one["change"])).collect();
        let expected = [("blog", "changed"), ("new", "added"), ("old", "deleted")]
            .map(|(id, kind)| (Value::from(id), Value::from(kind)));
        assert_eq!(kinds, expected.iter().map(|(id, kind)| (id, kind)).collect::<Vec<_>>());
        assert_eq!(
            told[0]["keys"],
            json!([
                {"key": "env", "new": "********"},
                {"key": "hosts", "old": ["blog.test"], "new": ["news.test"]},
            ])
        );
        assert_eq!(told[0]["revision"].as_u64() > Some(0), is_made, "{told:?}");
        assert!(told[1]["keys"].to_string().contains("new.test"), "{told:?}");
    }
    assert_eq!(told(&[]), json!([]));
    assert_eq!(d.get("news.test", "/").status, 200);
    assert_eq!(d.get("old.test", "/").status, 404);
}

#[test]
fn two_doorbells_share_a_registry_and_see_each_others_changes_within_a_second() {
    let postgres = Postgres::shared();
    let place = postgres.database();
    let (a, b) = (on(&place), on(&place));
    add(&a, "blog", "blog.test");
    eventually("the other sees it", || b.get("blog.test", "/").status == 200);
    let (api, mut times) = (a.api("admin"), Vec::new());
    for number in 0..11 {
        let host = format!("h{number}.test");
        let changed = api.ask("PATCH", "/v1/apps/blog/definition", &["If-Match: *"], &keys(&host));
        assert_eq!(changed.status, 200, "{}", changed.text());
        let since = Instant::now();
        eventually("the other serves it", || b.get(&host, "/").status == 200);
        times.push(since.elapsed());
    }
    times.sort_unstable();
    assert!(times[5] < Duration::from_secs(1), "more than half took longer than {:?}", times[5]);
    eprintln!("served by the other after {:?}, {:?} at most", times[5], times[10]);
    b.ok(&["app", "set", "blog", "hosts=news.test"]);
    eventually("the change is seen", || a.get("news.test", "/").status == 200);
    a.ok(&["app", "delete", "blog", "--yes"]);
    eventually("it is gone", || b.get("news.test", "/").status == 404);
}

#[test]
fn of_two_apps_that_claim_one_host_at_two_doorbells_one_is_stored() {
    let place = Postgres::shared().database();
    let both = [on(&place), on(&place)];
    let apis = both.each_ref().map(|d| d.api("admin"));
    for round in 0..12 {
        let host = format!("h{round}.test");
        let meet = std::sync::Barrier::new(2);
        let answers = std::thread::scope(|scope| {
            let ask = |number: usize| {
                let (api, meet, host) = (&apis[number], &meet, &host);
                scope.spawn(move || {
                    let mut app = keys(host);
                    app["id"] = format!("a{round}-{number}").into();
                    meet.wait();
                    api.ask("POST", "/v1/apps", &[], &app)
                })
            };
            [ask(0), ask(1)].map(|asked| asked.join().expect("an answer"))
        });
        let mut statuses = answers.each_ref().map(|answer| answer.status);
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 422], "{}", answers.map(|answer| answer.text()).join("\n"));
        let told = answers.iter().find(|answer| answer.status == 422).expect("who was refused");
        assert!(told.text().contains("already belongs to app"), "{}", told.text());
    }
}

#[test]
fn two_hundred_writers_at_once_lose_nothing() {
    let d = Doorbell::with(&node("main", ""));
    let api = d.api("admin");
    std::thread::scope(|scope| {
        for number in 0..200 {
            let api = &api;
            scope.spawn(move || {
                let mut app = keys(&format!("a{number}.test"));
                app["id"] = format!("a{number}").into();
                let answer = api.ask("POST", "/v1/apps", &[], &app);
                assert_eq!(answer.status, 201, "{}", answer.text());
            });
        }
    });
    let status: Value = serde_json::from_str(&d.ok(&["app", "list", "--json"])).expect("JSON");
    let of_registry = |app: &&Value| app["source"] == "registry";
    assert_eq!(status.as_array().expect("a list").iter().filter(of_registry).count(), 200);
    assert_eq!(d.get("a199.test", "/").status, 200);
    // Each of many changes of one app is made, or refused as overtaken.
    let tag = |answer: &doorbell_tests::Response| answer.field("etag").map(str::to_owned);
    let made: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..50)
            .map(|number| {
                let api = &api;
                scope.spawn(move || {
                    let path = "/v1/apps/a0/definition";
                    let seen = tag(&api.get(path)).expect("an ETag");
                    let patch = json!({"env": {(format!("N{number}")): "1"}});
                    let seen = format!("If-Match: {seen}");
                    let answer = api.ask("PATCH", path, &[&seen], &patch);
                    assert!(matches!(answer.status, 200 | 412), "{}", answer.text());
                    usize::from(answer.status == 200)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
    });
    let shown = api.get("/v1/apps/a0/definition").json();
    assert_eq!(shown["keys"]["env"].as_object().expect("a table").len(), made);
    assert!(made >= 1);
}

#[test]
fn what_happens_is_told_and_kept() {
    let d = Doorbell::with(&node("main", ""));
    let mut events = d.spawn(&["events"]);
    // Told from here on, once the first is heard.
    let api = d.api("read");
    add(&d, "blog", "blog.test");
    events.wait_for_line("defined blog");
    assert_eq!(d.get("blog.test", "/").status, 200);
    events.wait_for_line("blog ready");
    d.ok(&["stop", "blog"]);
    events.wait_for_line("blog stopped");
    let history = || api.get("/v1/apps/blog/history").json();
    eventually("it is written", || {
        history().as_array().is_some_and(|all| all.iter().any(|one| one["state"] == "stopped"))
    });
    let history = history();
    let states: Vec<_> = history
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["state"].as_str())
        .collect();
    let at = |state: &str| states.iter().position(|have| *have == state);
    assert!(at("starting") < at("ready") && at("ready") < at("stopped"), "{states:?}");
    d.kill_role(Role::Control);
    eventually("the next knows it too", || {
        api.get("/v1/apps/blog/history")
            .json()
            .as_array()
            .is_some_and(|all| all.len() >= states.len())
    });
}

#[test]
fn what_operators_switched_is_about_the_app_and_not_its_id() {
    let d = Doorbell::with(&node("main", ""));
    add(&d, "blog", "blog.test");
    d.ok(&["disable", "blog"]);
    d.ok(&["app", "rename", "blog", "news"]);
    assert_eq!(d.get("blog.test", "/").status, 503, "it is disabled under its new id");
    assert_eq!(d.status("news")["goal"], "disabled");
    add(&d, "blog", "other.test");
    assert_eq!(d.get("other.test", "/").status, 200, "another app of the old id");
    d.ok(&["app", "delete", "news", "--yes"]);
    add(&d, "news", "news.test");
    assert_eq!(d.get("news.test", "/").status, 200, "and of the new one");
    // What was enabled against its definition.
    d.ok(&["app", "set", "news", "start=disabled"]);
    d.ok(&["enable", "news"]);
    assert_eq!(d.get("news.test", "/").status, 200);
    d.ok(&["app", "delete", "news", "--yes"]);
    let (id, pairs) = ("news", pairs("news.test"));
    d.ok(&["app", "add", id, &pairs[0], &pairs[1], &pairs[2], "start=disabled"]);
    assert_eq!(d.get("news.test", "/").status, 503);
}
