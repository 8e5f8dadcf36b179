//! Apps that run several times side by side: who gets which request, and how they live and die together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use doorbell_tests::{
    Connection, Doorbell, Frames, Setup, binary, eventually, eventually_within,
    frames::{fields, frame},
    free_port, kill,
};

use crate::{
    activation::thousand_ask,
    node,
    pages::{browse, listen, news, rest},
    reloading::Load,
};

const ALL: [&str; 3] = ["app", "app:2", "app:3"];
/// More than an app below is idle for before it stops.
const LONG: Duration = Duration::from_secs(4);

fn app(more: &str) -> String {
    let env = "env = { STARTS_FILE = \"{dir}/starts\" }";
    node("app", &format!("instances = 3\n{env}\n{more}"))
}

/// Three that serve.
fn serving(more: &str) -> Doorbell {
    let d = Doorbell::with(&app(more));
    // Held open, so that none sleeps before all are seen.
    let busy = streams(&d, 1);
    all_are(&d, "ready");
    drop(busy);
    eventually("nobody uses them", || d.status("app")["in_flight"] == 0);
    d
}

#[track_caller]
fn all_are(d: &Doorbell, state: &str) {
    ALL.iter().for_each(|id| d.wait_for_state(id, state));
}

fn states(d: &Doorbell) -> [String; 3] {
    ALL.map(|id| d.state(id))
}

fn pids(d: &Doorbell) -> [Option<u32>; 3] {
    ALL.map(|id| d.app_pid(id))
}

/// Programs that were started in all.
fn starts(d: &Doorbell) -> usize {
    fs::read_to_string(d.dir.path().join("starts")).map_or(0, |text| text.lines().count())
}

/// How many of so many requests, one after the other, each replica answers.
fn answers(d: &Doorbell, requests: usize) -> BTreeMap<String, usize> {
    let mut by = BTreeMap::new();
    for _ in 0..requests {
        *by.entry(d.get("app.test", "/replica").text()).or_default() += 1;
    }
    by
}

/// Answers that do not end, by the replica that gives them.
fn streams(d: &Doorbell, count: usize) -> BTreeMap<String, Vec<Connection>> {
    let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for _ in 0..count {
        let mut stream = d.connect();
        stream.send_get("app.test", "/stream?count=100000&ms=50");
        let head = stream.read_head().expect("a head");
        by.entry(head.field("x-replica").expect("whose it is").to_owned())
            .or_default()
            .push(stream);
    }
    by
}

#[test]
fn a_thousand_first_requests_make_one_start_of_each() {
    let d = Setup::new(&app("")).start();
    thousand_ask(&d);
    all_are(&d, "ready");
    assert_eq!((starts(&d), ALL.map(|id| d.starts(id))), (3, [1, 1, 1]));
}

#[test]
fn requests_go_where_the_fewest_are() {
    let d = serving("");
    let turns = answers(&d, 30);
    assert_eq!(turns.keys().collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(turns.values().all(|count| *count == 10), "{turns:?}");
    let mut busy = streams(&d, 9);
    assert!(busy.len() == 3 && busy.values().all(|streams| streams.len() == 3));
    busy.retain(|replica, _| replica == "2");
    eventually("those of the others have ended", || d.status("app")["in_flight"] == 3);
    let others = answers(&d, 30);
    assert_eq!(others.keys().collect::<Vec<_>>(), ["1", "3"], "{others:?}");
    drop(busy);
    eventually("it is free again", || answers(&d, 3).len() == 3);
}

#[test]
fn one_that_is_killed_under_load_costs_at_most_what_it_had() {
    let d = serving("");
    for (n, (id, replica)) in ALL.iter().zip(["1", "2", "3"]).enumerate() {
        let mut others = streams(&d, 9);
        let mut its_own = others.remove(replica).expect("some on each");
        assert_eq!((its_own.len(), others.len()), (3, 2));
        // It has more than the others ever have, so that no request of the load goes there.
        others.values_mut().for_each(|streams| streams.truncate(1));
        eventually("those of the others have ended", || d.status("app")["in_flight"] == 5);
        let load = Load::on(d.port, "app.test", 4);
        load.wait_for(100);
        kill(d.app_pid(id).expect("a process"));
        its_own.iter_mut().for_each(|stream| while stream.read_bytes(1).is_some() {});
        load.wait_for(100);
        eventually("it is back, though others serve", || {
            d.starts(id) == 2 && d.state(id) == "ready"
        });
        load.wait_for(100);
        load.end_without_failure();
        eventually("two streams are left", || d.status("app")["in_flight"] == 2);
        let go_on = |stream: &mut Connection| matches!(stream.read_chunk(), Some(Some(_)));
        assert!(others.values_mut().flatten().all(go_on));
        drop(others);
        eventually("nobody uses them", || d.status("app")["in_flight"] == 0);
        eventually("all answer", || answers(&d, 3).len() == 3);
        assert_eq!(starts(&d), 4 + n);
    }
}

/// Three, each of which fails or starts when a file says so, and does not try again.
fn hesitant() -> Doorbell {
    let script = "while :; do [ -e {dir}/fail-$DOORBELL_REPLICA ] && exit 3; \
                  [ -e {dir}/go-$DOORBELL_REPLICA ] && exec node {apps}/node.js; sleep .02; done";
    Doorbell::with(&format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ninstances = 3\n\
         directory = \"{{apps}}\"\nback_off = {{ initial = \"10m\", max = \"10m\" }}\n\
         waiting_page = {{ after = \"50ms\" }}\n"
    ))
}

/// One who came when all were starting, and one when the first had failed.
fn wait_for_the_others(d: &Doorbell) -> [Connection; 2] {
    let come = |n: usize| {
        let mut connection = d.connect();
        connection.send_get("app.test", "/replica");
        eventually("it waits", || d.status("app")["held"] == n);
        connection
    };
    let before = come(1);
    all_are(d, "starting");
    d.write_file("fail-1", "");
    d.wait_for_state("app", "backing_off");
    [before, come(2)]
}

fn cold_starts(d: &Doorbell, id: &str) -> [Option<u64>; 2] {
    ["cold_ready", "cold_failed"].map(|which| d.status(id)["starts"][which].as_u64())
}

#[test]
fn a_first_one_that_fails_refuses_nobody_while_others_start() {
    let d = hesitant();
    let waiting = wait_for_the_others(&d);
    let page = browse(&d, "app.test", "/");
    assert_eq!(page.status, 503);
    let (_, mut told) = listen(&d, "app.test", &news(&page));
    assert!(told.read_bytes(1).is_some());
    d.write_file("go-3", "");
    for mut one in waiting {
        assert_eq!(one.read().text(), "3");
    }
    let told = rest(&mut told);
    assert!(told.ends_with("event: ready\ndata: {}\n\n"), "{told}");
    assert_eq!(browse(&d, "app.test", "/replica").text(), "3");
    d.write_file("fail-2", "");
    d.wait_for_state("app:2", "backing_off");
    assert_eq!(answers(&d, 3), BTreeMap::from([("3".to_owned(), 3)]));
    // What they waited for was the start of the third one.
    let cold = ALL.map(|id| cold_starts(&d, id));
    assert_eq!(cold, [[Some(0), Some(0)], [Some(0), Some(0)], [Some(1), Some(0)]]);
    let count = "doorbell_app_cold_start_duration_seconds_count{app=\"app\",phase=\"spawn\"}";
    assert_eq!(d.metric(count), Some(1.0));
}

#[test]
fn who_waits_for_the_others_is_refused_when_all_have_failed() {
    let d = hesitant();
    let waiting = wait_for_the_others(&d);
    d.write_file("fail-2", "");
    d.wait_for_state("app:2", "backing_off");
    assert_eq!(d.status("app")["held"], 2, "the third one may start yet");
    d.write_file("fail-3", "");
    for mut one in waiting {
        assert_eq!(one.read().status, 503);
    }
    let refused = d.get("app.test", "/");
    assert_eq!(refused.status, 503);
    let seconds = refused.field("retry-after").and_then(|text| text.parse().ok());
    assert!(seconds > Some(60), "until it is tried again: {seconds:?}");
    assert_eq!(cold_starts(&d, "app"), [Some(0), Some(1)]);
}

#[test]
fn who_waits_for_the_others_is_refused_when_an_operator_stops_all() {
    let d = hesitant();
    let waiting = wait_for_the_others(&d);
    d.ok(&["stop", "app"]);
    for mut one in waiting {
        assert_eq!(one.read().status, 503);
    }
    assert_eq!((states(&d), d.app_pids().len()), (["stopped"; 3].map(str::to_owned), 0));
}

#[test]
fn requests_of_one_http2_connection_go_to_all() {
    let d = serving("");
    let mut client = Frames::open(d.port);
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.test"),
        (":path", "/replica"),
    ];
    let mut who = BTreeSet::new();
    for stream in (1..60).step_by(2) {
        // HEADERS with END_STREAM and END_HEADERS, RFC 9113 section 6.2; what comes back in DATA.
        client.send(frame(1, 5, stream, &fields(&head)));
        let body = client.read_until(|kind, of| kind == 0 && of == stream).expect("an answer");
        who.insert(String::from_utf8(body).expect("a number"));
    }
    assert_eq!(who.into_iter().collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn one_that_cannot_start_keeps_nobody_from_the_others() {
    let script =
        "grep -qx \\\"$DOORBELL_REPLICA\\\" {dir}/broken && exit 3; exec node {apps}/node.js";
    let d = Setup::new(&format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ninstances = 3\n\
         back_off = {{ initial = \"100ms\", max = \"1s\" }}\n"
    ));
    let d = d.file("broken", "3\n").start();
    let load = Load::on(d.port, "app.test", 4);
    d.wait_for_state("app:2", "ready");
    eventually("it fails again and again", || {
        d.status("app:3")["starts"]["failed"].as_u64() >= Some(2)
    });
    // The first one, which brings the others, is no exception.
    d.write_file("broken", "1\n");
    d.wait_for_state("app:3", "ready");
    kill(d.app_pid("app").expect("a process"));
    eventually("it fails again and again", || {
        d.status("app")["starts"]["failed"].as_u64() >= Some(3)
    });
    load.wait_for(100);
    assert_eq!([d.state("app:2"), d.state("app:3")], ["ready", "ready"]);
    d.write_file("broken", "none\n");
    d.wait_for_state("app", "ready");
    load.end_without_failure();
}

#[test]
fn a_rolling_restart_loses_no_request() {
    let d = serving("");
    let (before, load) = (pids(&d), Load::on(d.port, "app.test", 8));
    load.wait_for(100);
    d.ok(&["restart", "app"]);
    load.wait_for(100);
    let after = pids(&d);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after && after.is_some()));
    d.ok(&["restart", "app:2"]);
    load.wait_for(100);
    load.end_without_failure();
    let last = pids(&d);
    assert_eq!((last[0], last[2]), (after[0], after[2]), "one alone can be restarted");
    assert_ne!(last[1], after[1]);
}

#[test]
fn they_wake_together_and_stop_together() {
    let d = serving("idle = { stop_after = \"3s\" }");
    // Whichever is in use, all stay.
    for replica in ["1", "2", "3"] {
        let mut busy = streams(&d, 3);
        busy.retain(|of, _| of == replica);
        let since = Instant::now();
        eventually("they could have stopped", || since.elapsed() > LONG);
        assert_eq!(states(&d), ["ready", "ready", "ready"], "{replica} is in use");
        drop(busy);
    }
    all_are(&d, "stopped");
    assert_eq!(starts(&d), 3);
    let busy = streams(&d, 1);
    all_are(&d, "ready");
    assert_eq!(starts(&d), 6);
    drop(busy);
}

#[test]
fn the_others_follow_at_once_when_the_first_one_stops() {
    let d = Doorbell::with(&app("idle = { stop_after = \"5s\" }"));
    let busy = streams(&d, 1);
    all_are(&d, "ready");
    let since = Instant::now();
    drop(busy);
    d.wait_for_state("app", "stopped");
    assert!(since.elapsed() >= Duration::from_secs(5), "{:?}", since.elapsed());
    // Far less than they would take from now on.
    eventually_within(Duration::from_secs(3), "they have followed", || {
        states(&d)[1..] == ["stopped", "stopped"]
    });
}

#[test]
fn they_freeze_together_and_thaw_together() {
    let d = serving("idle = { freeze_after = \"300ms\", stop_after = \"1h\" }");
    all_are(&d, "frozen");
    let before = pids(&d);
    for _ in 0..3 {
        all_are(&d, "frozen");
        let busy = streams(&d, 1);
        all_are(&d, "ready");
        drop(busy);
    }
    assert_eq!((pids(&d), starts(&d)), (before, 3));
}

#[test]
fn work_of_one_keeps_that_one_awake_and_the_next_visit_brings_the_others() {
    let d = Doorbell::with(&format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"python3\", \"{{apps}}/greedy.py\"]\n\
         directory = \"/\"\ninstances = 3\nenv = {{ DOORBELL = {:?} }}\nidle = {{ stop_after = \"2s\" }}\n",
        binary()
    ));
    let say = |line: &str| d.get("app.test", &format!("/say/{line}")).text();
    let works = |id: &str| d.status(id)["vigils"].as_array().is_some_and(|some| !some.is_empty());
    // They take turns: another one hears it each time.
    eventually("the second one works", || {
        assert_eq!(say("awake+1h+import"), "ok 3600");
        works("app:2") || {
            (0..3).for_each(|_| drop(say("done+import")));
            false
        }
    });
    assert!(!works("app") && !works("app:3"));
    let pid = d.app_pid("app:2");
    d.wait_for_state("app", "stopped");
    d.wait_for_state("app:3", "stopped");
    assert_eq!((d.state("app:2"), d.app_pid("app:2")), ("ready".to_owned(), pid));
    // Who is awake answers at once, and the others are brought.
    assert_eq!(say("done+import"), "ok");
    eventually("all have started again", || ["app", "app:3"].map(|id| d.starts(id)) == [2, 2]);
    assert_eq!((d.starts("app:2"), d.app_pid("app:2")), (1, pid));
    all_are(&d, "stopped");
}

#[test]
fn a_reload_adds_and_takes_away_without_a_failed_request() {
    let with = |instances: &str| {
        node("app", &format!("{instances}\nenv = {{ STARTS_FILE = \"{{dir}}/starts\" }}"))
    };
    let d = Doorbell::with(&with(""));
    assert_eq!(d.get("app.test", "/replica").text(), "none");
    let (first, load) = (d.app_pid("app"), Load::on(d.port, "app.test", 8));
    for round in 1..=2 {
        load.wait_for(100);
        d.rewrite(&with("instances = 3"));
        d.ok(&["reload"]);
        all_are(&d, "ready");
        eventually("all answer", || answers(&d, 3).len() == 3);
        load.wait_for(100);
        d.rewrite(&with(""));
        d.ok(&["reload"]);
        eventually("one is left", || d.app_pids().len() == 1);
        assert_eq!(d.cli(&["status", "app:2"]).status, 1);
        assert_eq!(starts(&d), 1 + 2 * round);
    }
    load.wait_for(100);
    load.end_without_failure();
    assert_eq!(d.app_pid("app"), first, "the first one is the app itself");
    assert_eq!(fs::read_dir(d.state_path().join("own")).map_or(0, Iterator::count), 0);
}

#[test]
fn all_outlive_the_supervisor_and_an_upgrade() {
    let mut d = Setup::new(&app("")).own_binary().start();
    let load = Load::on(d.port, "app.test", 4);
    all_are(&d, "ready");
    let before = pids(&d);
    d.kill_supervisor();
    load.wait_for(50);
    d.start_again();
    all_are(&d, "ready");
    assert_eq!((pids(&d), starts(&d)), (before, 3));
    d.ok(&["upgrade"]);
    all_are(&d, "ready");
    assert_eq!((pids(&d), starts(&d)), (before, 3));
    load.end_without_failure();
    assert_eq!(answers(&d, 30).len(), 3);
}

#[test]
fn an_operator_means_all_of_them() {
    let d = serving("");
    d.ok(&["stop", "app"]);
    assert_eq!((states(&d), d.app_pids().len()), (["stopped"; 3].map(str::to_owned), 0));
    d.ok(&["start", "app"]);
    assert_eq!(states(&d), ["ready"; 3].map(str::to_owned));
    d.ok(&["disable", "app"]);
    assert_eq!((d.app_pids().len(), d.get("app.test", "/").status), (0, 503));
    for verb in ["start", "stop", "enable", "disable"] {
        let told = d.cli(&[verb, "app:2"]);
        let words = "\"app:2\" is a replica of app \"app\": it alone can be restarted";
        assert!(told.status != 0 && told.stderr.contains(words), "{told:?}");
    }
    d.ok(&["enable", "app"]);
    assert_eq!(d.get("app.test", "/").status, 200);
    all_are(&d, "ready");
    let told = d.cli(&["restart", "app:4"]);
    assert!(told.stderr.contains("app \"app\" has `instances = 3`"), "{told:?}");
}

#[test]
fn operators_see_each_of_them() {
    let d = serving("");
    let table = d.ok(&["status"]);
    let lines: Vec<_> = table.lines().filter(|line| line.starts_with("app")).collect();
    assert!(lines.iter().zip(ALL).all(|(line, id)| line.starts_with(&format!("{id} "))), "{table}");
    assert!(table.contains("\n1 app on "), "{table}");
    let all: serde_json::Value = serde_json::from_str(&d.ok(&["status", "--json"])).expect("JSON");
    let of = |key: &str| [0, 1, 2].map(|n| all["apps"][n][key].clone());
    assert_eq!(of("id"), ALL.map(serde_json::Value::from));
    assert_eq!(of("replica"), [serde_json::Value::Null, 2.into(), 3.into()]);
    let states = |labels: &str| d.metric(&format!("doorbell_app_state{{app=\"app\"{labels}}}"));
    assert_eq!(states(",state=\"ready\""), Some(1.0));
    assert_eq!(states(",replica=\"2\",state=\"ready\""), Some(1.0));
    assert_eq!(states(",replica=\"3\",state=\"stopped\""), Some(0.0));
    assert!(d.metrics().contains("doorbell_app_memory_bytes{app=\"app\",replica=\"3\"}"));
    let logs = d.ok(&["logs", "app"]);
    let whose: BTreeSet<_> = logs.lines().filter_map(|line| line.split_once(" | ")).collect();
    let whose: BTreeSet<_> = whose.into_iter().map(|(whose, _)| whose.trim_end()).collect();
    assert_eq!(whose, BTreeSet::from(ALL), "{logs}");
    let pid = d.app_pid("app:2").expect("a process");
    assert_eq!(
        d.ok(&["logs", "app:2"]),
        format!("[doorbell] started, pid {pid}\nlistening, process {pid}\n")
    );
}

#[test]
fn connections_of_a_tcp_app_are_shared_too() {
    let port = free_port();
    let d = Doorbell::with(&format!(
        "[tcp.db]\nlisten = \"127.0.0.1:{port}\"\ninstances = 2\n\
         command = [\"python3\", \"{{apps}}/tcp.py\", \"echo\"]\ndirectory = \"{{apps}}\"\n"
    ));
    let call = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut [0; 5])).expect("an echo");
        stream
    };
    drop(call());
    ["db", "db:2"].iter().for_each(|id| d.wait_for_state(id, "ready"));
    eventually("nobody is connected", || d.status("db")["in_flight"] == 0);
    let mut calls: Vec<_> = (0..4).map(|_| call()).collect();
    kill(d.app_pid("db:2").expect("a process"));
    let mut goes_on = |stream: &mut TcpStream| {
        stream.write_all(b"on").is_ok() && stream.read_exact(&mut [0; 2]).is_ok()
    };
    let left = calls.iter_mut().map(&mut goes_on).filter(|goes_on| *goes_on).count();
    assert_eq!(left, 2, "each had two of four");
    d.wait_for_state("db:2", "ready");
}
