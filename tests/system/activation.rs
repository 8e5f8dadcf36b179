//! The first visit: the app is started once, everyone waits, everyone gets the app's own answer.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use doorbell_tests::{Connection, Doorbell, Setup, WebSocket, eventually, post, within};

use crate::{node, python};

/// A body with content that shows displacement, and its SHA-256 by the system's own tool.
fn body_with_hash(length: usize) -> (Vec<u8>, String) {
    let body: Vec<u8> = (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sha256sum");
    child.stdin.take().expect("its input").write_all(&body).expect("to hash");
    let output = child.wait_with_output().expect("its output");
    let hash = String::from_utf8_lossy(&output.stdout)[..64].to_owned();
    (body, hash)
}

#[test]
fn the_first_request_wakes_the_app_and_gets_its_answer() {
    let d = Doorbell::with(&python("app", "", ""));
    assert_eq!(d.state("app"), "stopped");
    let response = d.get("app.test", "/hello");
    assert_eq!((response.status, response.text().as_str()), (200, "python /hello\n"));
    let timing = response.field("server-timing").expect("Server-Timing");
    assert!(timing.contains("hold;dur=") && timing.contains("start;dur="), "{timing}");
    assert_eq!(d.state("app"), "ready");
    let again = d.get("app.test", "/again");
    assert_eq!(again.field("server-timing"), None);
    assert_eq!(d.starts("app"), 1);
}

/// A thousand clients ask at once, and each gets its own answer.
pub(crate) fn thousand_ask(d: &Doorbell) {
    let mut connections: Vec<Connection> = (0..1000).map(|_| d.connect()).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        connection.send_get("app.test", &format!("/n/{n}"));
    }
    for (n, connection) in connections.iter_mut().enumerate() {
        let response = connection.read();
        assert_eq!((response.status, response.text()), (200, format!("node GET /n/{n}\n")));
    }
}

#[test]
fn a_thousand_first_requests_make_one_start_and_a_thousand_answers() {
    let env = "env = { START_DELAY = \"700\", STARTS_FILE = \"{dir}/starts\" }";
    let d = Setup::new(&node("app", env)).start();
    thousand_ask(&d);
    let starts = std::fs::read_to_string(d.dir.path().join("starts")).expect("the app's list");
    assert_eq!(starts.lines().count(), 1);
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn an_upload_during_the_start_arrives_byte_for_byte() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"500\" }"));
    let (body, hash) = body_with_hash(50 * 1024 * 1024);
    let answer = post(d.port, "app.test", "/upload", &body).json();
    assert_eq!(answer["length"], body.len());
    assert_eq!(answer["sha256"], hash);
}

#[test]
fn a_large_upload_streams_and_is_not_kept_in_memory() {
    const PIECE: usize = 1024 * 1024;
    const PIECES: usize = 1024;
    let d = Doorbell::with(&node("app", ""));
    let mut connection = d.connect();
    let length = PIECE * PIECES;
    connection.send(format!(
        "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n"
    ));
    let piece = vec![b'x'; PIECE];
    for _ in 0..PIECES {
        connection.send(&piece);
    }
    assert_eq!(connection.read().json()["length"], length);
    let peak = d.memory("VmHWM");
    assert!(peak < 200 * 1024, "doorbell took {peak} KiB for a 1 GiB upload");
}

#[test]
fn a_held_upload_waits_in_the_socket_and_not_in_memory() {
    const PIECE: usize = 1024 * 1024;
    const PIECES: usize = 200;
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"1500\" }"));
    let before = d.memory("VmHWM");
    let (mut connection, sent) = (d.connect(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let length = PIECE * PIECES;
            connection.send(format!(
                "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n"
            ));
            let piece = vec![b'x'; PIECE];
            for _ in 0..PIECES {
                connection.send(&piece);
                sent.fetch_add(1, Ordering::Relaxed);
            }
            assert_eq!(connection.read().json()["length"], length);
        });
        eventually("it waits", || d.status("app")["held"] == 1);
        let mut taken = 0;
        eventually("nothing more is taken", || {
            let before = std::mem::replace(&mut taken, sent.load(Ordering::Relaxed));
            taken == before && taken > 0
        });
        assert!(taken < PIECES / 2, "{taken} MiB were taken while the app starts");
        assert_eq!(d.state("app"), "starting");
        let grown = d.memory("VmHWM") - before;
        assert!(grown < 16 * 1024, "{grown} KiB for a held upload");
    });
}

#[test]
fn a_client_that_leaves_while_held_is_never_forwarded() {
    let env = "env = { START_DELAY = \"1500\", SEEN_FILE = \"{dir}/seen\" }";
    let d = Doorbell::with(&node("app", env));
    let held = |count: usize| d.status("app")["held"].as_u64() == Some(count as u64);
    let mut with_body = d.connect();
    with_body
        .send("POST /gone-post HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000\r\n\r\nsome");
    let mut plain = d.connect();
    plain.send_get("app.test", "/gone-get");
    let mut stays = d.connect();
    stays.send_get("app.test", "/stays");
    eventually("three wait", || held(3));
    drop((with_body, plain));
    eventually("two have left", || held(1));
    assert_eq!(stays.read().text(), "node GET /stays\n");
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen, "GET /stays\n");
    assert_eq!(
        d.metric("doorbell_http_requests_total{app=\"app\",method=\"GET\",code=\"499\"}"),
        Some(1.0)
    );
    assert_eq!(
        d.metric("doorbell_http_requests_total{app=\"app\",method=\"POST\",code=\"499\"}"),
        Some(1.0)
    );
}

#[test]
fn when_everybody_leaves_the_start_goes_on_and_the_next_visitor_is_served() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"800\" }"));
    let mut connection = d.connect();
    connection.send_get("app.test", "/");
    eventually("it starts", || d.state("app") == "starting");
    drop(connection);
    d.wait_for_state("app", "ready");
    assert_eq!(d.get("app.test", "/").status, 200);
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn a_websocket_wakes_the_app_and_needs_no_retry() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"300\" }"));
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    socket.echo("hello");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn a_full_queue_is_answered_at_once() {
    let more = "env = { START_DELAY = \"2000\" }\nlimits = { held_requests = 2 }";
    let d = Doorbell::with(&node("app", more));
    let mut waiting: Vec<Connection> = (0..2).map(|_| d.connect()).collect();
    for connection in &mut waiting {
        connection.send_get("app.test", "/");
    }
    eventually("two wait", || d.status("app")["held"] == 2);
    let since = Instant::now();
    let full = d.get("app.test", "/");
    assert_eq!((full.status, full.field("retry-after")), (503, Some("1")));
    assert!(since.elapsed() < Duration::from_secs(1));
    for connection in &mut waiting {
        assert_eq!(connection.read().status, 200);
    }
}

#[test]
fn the_cap_on_held_requests_holds_over_all_apps() {
    let slow = "env = { START_DELAY = \"2000\" }";
    let apps = [node("one", slow), node("two", slow)].concat();
    let d = Setup::new(&apps).server("[server.limits]\nheld_requests = 2").start();
    let mut a = d.connect();
    a.send_get("one.test", "/");
    let mut b = d.connect();
    b.send_get("two.test", "/");
    eventually("both wait", || d.status("one")["held"] == 1 && d.status("two")["held"] == 1);
    assert_eq!(d.get("one.test", "/").status, 503);
    assert_eq!((a.read().status, b.read().status), (200, 200));
}

#[test]
fn a_request_waits_no_longer_than_its_deadline() {
    let more = "env = { START_DELAY = \"3000\" }\ntimeouts = { hold = \"500ms\" }";
    let d = Doorbell::with(&node("app", more));
    let response = d.get("app.test", "/");
    assert_eq!(response.status, 504);
    assert!(response.field("retry-after").is_some());
    d.wait_for_state("app", "ready");
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_failed_start_is_answered_in_the_kind_the_client_wants() {
    let d = Doorbell::with(&python("app", "exit", ""));
    let ask = |accept: &str| {
        let mut connection = d.connect();
        connection.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\nAccept: {accept}\r\n\r\n"));
        connection.read()
    };
    let html = ask("text/html,application/xhtml+xml");
    assert_eq!(html.status, 503);
    assert!(html.field("retry-after").is_some());
    assert_eq!(html.field("content-type"), Some("text/html; charset=utf-8"));
    let json = ask("application/json");
    assert_eq!(json.status, 503);
    assert_eq!(json.json()["code"], "start_failed");
    let plain = ask("*/*");
    assert_eq!(plain.field("content-type"), Some("text/plain; charset=utf-8"));
    for response in [&html, &json, &plain] {
        assert!(!response.text().contains("settings"), "the app's output is not for the public");
    }
    let status = d.status("app");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains('7')), "{status:#}");
    assert!(status["last_output"].to_string().contains("cannot find my settings"), "{status:#}");
}

#[test]
fn start_modes_are_what_they_say() {
    let apps = [
        node("demand", ""),
        node("server", "start = \"with-server\""),
        node("always", "start = \"always\""),
        node("never", "start = \"disabled\""),
    ];
    let d = Doorbell::with(&apps.concat());
    d.wait_for_state("server", "ready");
    d.wait_for_state("always", "ready");
    assert_eq!(d.state("demand"), "stopped");
    let refused = d.get("never.test", "/");
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    assert_eq!(d.starts("never"), 0);
    let _ = d.ok(&["enable", "never"]);
    assert_eq!(d.get("never.test", "/").status, 200);
}

#[test]
fn an_idle_app_is_stopped_and_wakes_again() {
    let d = Doorbell::with(&node("app", "idle = { stop_after = \"500ms\" }"));
    let first = d.get("app.test", "/pid").text();
    d.wait_for_state("app", "stopped");
    let second = d.get("app.test", "/pid").text();
    assert_ne!(first, second);
    assert_eq!(d.starts("app"), 2);
}

#[test]
fn streams_overlaps_and_websockets_keep_an_app_awake() {
    let d = Doorbell::with(&node("app", "idle = { stop_after = \"500ms\" }"));
    let first = d.get("app.test", "/pid");
    assert_eq!(first.status, 200, "{}", first.text());
    let pid = first.text();
    let mut stream = d.connect();
    stream.send_get("app.test", "/stream?count=20&ms=100");
    assert_eq!(stream.read_head().map(|head| head.status), Some(200));
    // The app may put two events into one chunk.
    let mut chunks = 0;
    while let Some(Some(chunk)) = stream.read_chunk() {
        chunks += String::from_utf8_lossy(&chunk).matches("data: ").count();
    }
    assert_eq!(chunks, 20, "the stream went on past the idle time-out");
    assert_eq!(d.get("app.test", "/pid").text(), pid);

    // Traffic that overlaps: at no time is there no request.
    let since = Instant::now();
    let mut before = d.connect();
    before.send_get("app.test", "/slow?ms=200");
    while since.elapsed() < Duration::from_secs(2) {
        let mut next = d.connect();
        next.send_get("app.test", "/slow?ms=200");
        assert_eq!(before.read().text(), "slow");
        before = next;
    }
    assert_eq!(before.read().text(), "slow");
    assert_eq!(d.get("app.test", "/pid").text(), pid);

    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    within(Duration::from_millis(1500), "the app stays awake", || d.state("app") == "ready");
    socket.echo("still here");
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    drop(socket);
    d.wait_for_state("app", "stopped");
}

#[test]
fn server_sent_events_are_not_buffered() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut stream = d.connect();
    let since = Instant::now();
    stream.send_get("app.test", "/stream?count=100&ms=50");
    assert_eq!(stream.read_head().map(|head| head.status), Some(200));
    assert!(stream.read_chunk().flatten().is_some());
    assert!(since.elapsed() < Duration::from_secs(2), "the first event waited for later ones");
}

#[test]
fn downloads_stream() {
    let d = Doorbell::with(&node("app", ""));
    let size = 100 * 1024 * 1024;
    let response = d.get("app.test", &format!("/big?size={size}"));
    assert_eq!(response.body.len(), size);
    assert!(response.body.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_half_read_answer_frees_the_app() {
    let d = Doorbell::with(&node("app", "idle = { stop_after = \"500ms\" }"));
    let mut connection = d.connect();
    connection.send_get("app.test", "/stream?count=1000&ms=20");
    let mut some = [0; 100];
    connection.socket().read_exact(&mut some).expect("the beginning");
    drop(connection);
    d.wait_for_state("app", "stopped");
}
