//! Another binary takes over: nobody notices.

mod failing;

use std::time::{Duration, Instant};

use doorbell_tests::{
    Doorbell, Frames, Outcome, Role, Setup, WebSocket, eventually,
    frames::{ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, fields, frame},
    get, within,
};

use crate::{node, reloading::Load};

fn start(more: &str) -> Doorbell {
    Setup::new(&(node("app", "") + more)).own_binary().start()
}

/// Processes that must stay what they are.
fn lasting(d: &Doorbell) -> (u32, Option<u32>) {
    (d.pid(), d.app_pid("app"))
}

#[test]
fn requests_uploads_websockets_and_a_pending_start_pass_through_an_upgrade() {
    let d = start(&node("slow", "env = { START_DELAY = \"1500\" }"));
    let load = Load::on(d.port, "app.test", 6);
    load.wait_for(20);
    let (before, proxy, control) = (lasting(&d), d.proxy_pid(), d.control_pid());
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    websocket.echo("before");
    let mut upload = d.connect();
    upload.send("POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello");
    let mut cold = d.connect();
    cold.send_get("slow.test", "/");
    eventually("it starts", || d.state("slow") == "starting");

    d.replace_binary(None);
    assert!(d.ok(&["upgrade"]).starts_with("upgraded from "));
    assert_eq!(lasting(&d), before, "the supervisor and the app are the same processes");
    assert!(d.proxy_pid() != proxy && d.control_pid() != control, "the others are new");

    assert_eq!(cold.read().status, 200);
    upload.send("world");
    let uploaded = upload.read();
    assert_eq!((uploaded.status, uploaded.json()["length"].as_u64()), (200, Some(10)));
    websocket.echo("after");
    load.wait_for(50);
    load.end_without_failure();
    assert_eq!((d.starts("slow"), d.app_pids().len()), (1, 2), "{}", d.log());
    drop((websocket, upload, cold));
    eventually("the old proxy ends when its last client leaves", || {
        doorbell_tests::began(proxy).is_none()
    });
}

#[test]
fn a_websocket_outlives_an_upgrade_by_more_than_a_shutdown_may_take() {
    let d = Setup::new(&node("app", "")).server("timeouts = { shutdown = \"500ms\" }");
    let d = d.own_binary().start();
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    d.ok(&["upgrade"]);
    within(Duration::from_secs(2), "it is open", || {
        websocket.echo("still here");
        true
    });
}

#[test]
fn twenty_upgrades_in_a_row_fail_nobody() {
    let d = start("");
    let load = Load::on(d.port, "app.test", 4);
    load.wait_for(10);
    let before = lasting(&d);
    for _ in 0..20 {
        d.replace_binary(None);
        d.ok(&["upgrade"]);
        load.wait_for(5);
    }
    load.end_without_failure();
    assert_eq!(lasting(&d), before);
    eventually("old proxies end", || d.role_pids().len() == 2);
}

#[test]
fn a_signal_upgrades_too() {
    let d = start("");
    let proxy = d.proxy_pid();
    d.signal(rustix::process::Signal::USR2);
    d.wait_for_successor(Role::Proxy, proxy);
    eventually("the new version is ready", || d.log().matches(" ready version").count() == 2);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_shutdown_is_heard_at_any_moment_of_an_upgrade() {
    for moment in (0..400).step_by(50).map(Duration::from_millis) {
        let d = start("");
        d.signal(rustix::process::Signal::USR2);
        let since = Instant::now();
        eventually("the moment has come", || since.elapsed() >= moment);
        d.stop();
    }
}

#[test]
fn many_listeners_pass_through_an_upgrade() {
    let ports: Vec<u16> = (0..36).map(|_| doorbell_tests::free_port()).collect();
    let d = start("");
    let more: String = ports.iter().map(|port| format!("\"127.0.0.1:{port}\", ")).collect();
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    let text = text.replacen("listen = [", &format!("listen = [{more}\"unix:http.sock\", "), 1);
    d.write_file("doorbell.toml", &text);
    d.ok(&["reload"]);
    let answers = |d: &Doorbell| {
        assert!(ports.iter().all(|port| get(*port, "app.test", "/").status == 200), "{}", d.log());
        assert!(std::os::unix::net::UnixStream::connect(d.dir.path().join("http.sock")).is_ok());
    };
    answers(&d);
    for _ in 0..2 {
        d.ok(&["upgrade"]);
        answers(&d);
    }
}

#[test]
fn counters_do_not_fall_over_upgrades() {
    let d = start("");
    let series = "doorbell_http_requests_total{app=\"app\",method=\"GET\",code=\"200\"}";
    for round in 1..=4 {
        for _ in 0..5 {
            assert_eq!(d.get("app.test", "/").status, 200);
        }
        let expected = f64::from(round * 5);
        eventually("all are counted", || d.metric(series) == Some(expected));
        d.ok(&["upgrade"]);
    }
    eventually("none is forgotten", || d.metric(series) == Some(20.0));
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn what_operators_did_and_what_failed_outlives_an_upgrade() {
    let gone = "[app.gone]\nhosts = [\"gone.test\"]\ncommand = [\"false\"]\ndirectory = \"/\"\n\
                back_off = { initial = \"1m\" }\n";
    let more = node("off", "") + &node("rests", "start = \"always\"") + gone;
    let d = start(&more);
    d.ok(&["disable", "off"]);
    d.wait_for_state("rests", "ready");
    d.ok(&["stop", "rests"]);
    assert_eq!(d.get("gone.test", "/").status, 503);
    d.wait_for_state("gone", "backing_off");
    d.ok(&["upgrade"]);
    assert_eq!(d.get("off.test", "/").status, 503);
    assert_eq!(d.state("rests"), "stopped");
    assert_eq!(d.state("gone"), "backing_off");
    let status = d.status("gone");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("exited")), "{status}");
    assert_eq!(status["starts"]["failed"], 1);
}

#[test]
fn old_websockets_are_cut_at_the_end_of_their_time() {
    let d = Setup::new(&node("app", ""))
        .own_binary()
        .server("[server.timeouts]\nupgrade = \"1s\"")
        .start();
    let proxy = d.proxy_pid();
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    d.ok(&["upgrade"]);
    assert_eq!(websocket.read(), None);
    eventually("the old proxy ends", || doorbell_tests::began(proxy).is_none());
    assert!(d.log().contains("connections cut at the end of timeouts.upgrade"), "{}", d.log());
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_stream_of_http2_ends_well_though_its_proxy_is_replaced() {
    let d = start("");
    let proxy = d.proxy_pid();
    let mut client = Frames::open(d.port);
    let upload = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "app.test"),
        (":path", "/upload"),
    ];
    client.send(frame(HEADERS, END_HEADERS, 1, &fields(&upload)));
    client.send(frame(DATA, 0, 1, b"hello"));
    eventually("it is under way", || {
        d.metric("doorbell_http_requests_in_flight{app=\"app\"}") == Some(1.0)
    });
    d.ok(&["upgrade"]);
    let goodbye = client.read_until(|kind, _| kind == GOAWAY).expect("a goodbye");
    assert_eq!(goodbye[4..8], [0; 4], "nothing is wrong");
    // By the answer it knows that we have read that (RFC 9113 section 6.8).
    let ping = client.read_until(|kind, _| kind == PING).expect("a question whether we have heard");
    client.send(frame(PING, ACK, 0, &ping));
    assert_ne!(d.proxy_pid(), proxy);
    assert_eq!(d.get("app.test", "/").status, 200);
    client.send(frame(DATA, END_STREAM, 1, b"world"));
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let answer = client.read_until(|kind, stream| (kind, stream) == (DATA, 1)).expect("its body");
    assert!(String::from_utf8_lossy(&answer).contains("\"length\":10"), "{answer:?}");
    while client.read().is_some() {}
    eventually("the old proxy ends", || doorbell_tests::began(proxy).is_none());
    assert!(!d.log().contains("connections cut"), "{}", d.log());
}

#[test]
fn all_in_one_process_says_that_it_cannot() {
    let d = Setup::new(&node("app", "")).one_process().start();
    let output = d.cli(&["upgrade"]);
    assert!(output.stderr.contains("one process"), "{output:?}");
    assert_eq!(d.get("app.test", "/").status, 200);
    assert!(d.stop() < Duration::from_secs(30));
}

#[test]
fn an_app_in_use_goes_on_answering_others_after_an_upgrade_and_a_kill() {
    let mut d = start("");
    let mut websocket = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    let old = d.proxy_pid();
    d.ok(&["upgrade"]);
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut websocket_too = WebSocket::open(d.port, "app.test", "/ws").expect("a websocket");
    // Only the new one listens.
    for _ in 0..20 {
        let response = d.get("app.test", "/pid");
        assert_eq!((response.status, response.field("connection")), (200, None));
    }
    d.kill_supervisor();
    d.start_again();
    for _ in 0..20 {
        let response = d.get("app.test", "/pid");
        assert_eq!((response.status, response.field("connection")), (200, None));
    }
    websocket.echo("old");
    websocket_too.echo("new");
    assert!(doorbell_tests::began(old).is_some() && d.app_pids().len() == 1);
}

#[test]
fn a_wrong_file_is_no_hindrance_and_nothing_is_lost_by_it() {
    let mut d = start("");
    assert_eq!(d.get("app.test", "/").status, 200);
    let pid = d.app_pid("app");
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    d.write_file("doorbell.toml", &format!("nonsense = 1\n{text}"));
    eventually("it is seen", || d.log().contains("configuration not loaded"));
    d.ok(&["upgrade"]);
    assert_eq!(d.get("app.test", "/").status, 200);
    // What held before is known to the new control process now, which has read the file too.
    let told = || d.log().matches("configuration not loaded").count();
    eventually("the new one has seen it", || told() == 2);
    d.kill_supervisor();
    d.start_again();
    assert_eq!(d.get("app.test", "/").status, 200);
    d.write_file("doorbell.toml", &text);
    eventually("it is good again", || d.cli(&["reload"]).status == 0);
    assert_eq!(d.app_pid("app"), pid);
}

#[test]
fn apps_get_the_same_limit_on_open_files_after_an_upgrade() {
    let d = start(
        "[app.limit]\nhosts = [\"limit.test\"]\ndirectory = \"{dir}\"\n\
         command = [\"sh\", \"-c\", \"ulimit -n >> limits; exec node {apps}/node.js\"]\n",
    );
    let limits = || std::fs::read_to_string(d.dir.path().join("limits")).unwrap_or_default();
    d.ok(&["start", "limit"]);
    d.ok(&["upgrade"]);
    d.ok(&["upgrade"]);
    d.ok(&["restart", "limit"]);
    let limits = limits();
    let limits: Vec<_> = limits.lines().collect();
    assert_eq!(limits.len(), 2);
    assert_eq!(limits[0], limits[1]);
}

#[test]
fn another_state_folder_waits_for_a_restart() {
    let mut d = start("");
    assert_eq!(d.get("app.test", "/").status, 200);
    let before = lasting(&d);
    let text = std::fs::read_to_string(d.config_path()).expect("the file");
    d.write_file("doorbell.toml", &text.replace("state_dir = \"state\"", "state_dir = \"other\""));
    d.ok(&["reload"]);
    d.ok(&["upgrade"]);
    assert_eq!(d.get("app.test", "/").status, 200);
    assert_eq!(lasting(&d), before);
    assert!(!d.dir.path().join("other").exists());
    d.write_file("doorbell.toml", &text);
    d.kill_supervisor();
    d.start_again();
    assert_eq!((d.get("app.test", "/").status, d.app_pid("app")), (200, before.1));
}

#[test]
fn what_an_operator_stopped_is_not_started_by_an_upgrade() {
    let d = start(&node("early", "start = \"with-server\""));
    d.wait_for_state("early", "ready");
    d.ok(&["stop", "early"]);
    d.ok(&["upgrade"]);
    assert_eq!((d.state("early"), d.app_pid("early")), ("stopped".to_owned(), None));
    assert_eq!(d.get("early.test", "/").status, 200);
}

#[test]
fn a_file_that_is_no_toml_keeps_no_supervisor_from_coming_back() {
    let mut d = start("");
    assert_eq!(d.get("app.test", "/").status, 200);
    let (text, pid) =
        (std::fs::read_to_string(d.config_path()).expect("the file"), d.app_pid("app"));
    d.write_file("doorbell.toml", &format!("{text}\n[[["));
    d.kill_supervisor();
    d.begin_again();
    eventually("it serves", || d.log().matches(" ready version").count() == 2);
    assert_eq!(d.get("app.test", "/").status, 200);
    // Without a file the verbs do not know where to ask.
    d.write_file("doorbell.toml", &text);
    assert_eq!(d.app_pid("app"), pid);
}
