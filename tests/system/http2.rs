//! HTTP/2 without TLS: clients that know, floods, and apps that speak it.

use std::{process::Command, time::Duration};

use doorbell_tests::{
    Doorbell, Frames, Outcome, Setup, eventually,
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
        PROTOCOL_ERROR, RST_STREAM, SETTINGS, fields, frame,
    },
};

use crate::node;

/// How long the server may take to end a connection or refuse a stream.
const SOON: Duration = Duration::from_secs(10);

fn curl(args: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "--max-time", "20"])
        .args(args)
        .output()
        .expect("curl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut list =
        vec![(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path)];
    list.extend(more);
    fields(&list)
}

fn open(d: &Doorbell) -> Frames {
    Frames::open(d.port)
}

/// Sends pieces until the server ends the connection. One that takes them all and goes on, or that
/// neither reads nor ends, fails the test; so does one that has no time for others meanwhile.
#[track_caller]
fn is_cut_off(mut piece: impl FnMut(u32) -> Vec<u8>) {
    let d = Doorbell::with(&node("app", ""));
    let mut connection = open(&d);
    assert_eq!(d.get("app.test", "/canary").status, 200);
    connection.set_patience(SOON);
    if (0..200_000).all(|n| connection.try_send(piece(n))) {
        // Took them all: it says goodbye, or just ends.
        connection.read_until(|kind, _| kind == GOAWAY);
    }
    assert_eq!(d.get("app.test", "/canary").status, 200);
}

#[test]
fn requests_wake_the_app_and_share_a_connection() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"300\" }"));
    let url = format!("http://127.0.0.1:{}/x", d.port);
    let (body, error) = curl(&["-H", "Host: app.test", "-w", "%{http_version}", &url]);
    assert_eq!(body, "node GET /x\n2", "{error}");
    let (status, _) =
        curl(&["-H", "Host: nobody.test", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert_eq!(status, "404");
    let output = Command::new("h2load")
        .args(["-n", "500", "-c", "5", "-m", "20", "--header", ":authority: app.test"])
        .arg(format!("http://127.0.0.1:{}/", d.port))
        .output()
        .expect("h2load: run ./test, which installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("500 succeeded, 0 failed, 0 errored"), "{text}");
}

#[test]
fn uploads_during_a_start_wait_in_flow_control_and_arrive_whole() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"1500\" }"));
    let file = d.dir.path().join("upload");
    let body: Vec<u8> = (0..200_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    std::fs::write(&file, body).expect("a file");
    let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum");
    let hash = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
    let url = format!("http://127.0.0.1:{}/upload", d.port);
    let upload = format!("@{}", file.display());
    let before = d.memory("VmHWM");
    let (answer, error) =
        curl(&["-H", "Host: app.test", "-H", "Expect:", "--data-binary", &upload, &url]);
    let grown = d.memory("VmHWM") - before;
    let answer: serde_json::Value =
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e} {error}"));
    assert_eq!(answer["sha256"], hash.as_str());
    assert_eq!(d.starts("app"), 1);
    assert!(grown < 32 * 1024, "{grown} KiB for an upload");
}

#[test]
fn cookie_crumbs_are_joined_for_the_app() {
    let d = Doorbell::with(&node("app", ""));
    let mut connection = open(&d);
    let block = head("GET", "/headers", &[("cookie", "a=1"), ("cookie", "b=2")]);
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
    let body = connection.read_until(|kind, _| kind == DATA).expect("an answer");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(text.contains("a=1; b=2"), "{text}");
}

#[test]
fn a_length_that_lies_never_reaches_the_app_as_a_whole_request() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    for (length, body) in [("10", &b"hello"[..]), ("3", b"hello")] {
        let mut connection = open(&d);
        let block = head("POST", "/upload", &[("content-length", length)]);
        connection.send(frame(HEADERS, END_HEADERS, 1, &block));
        connection.send(frame(DATA, END_STREAM, 1, body));
        connection.set_patience(SOON);
        let outcome = connection.outcome(1);
        assert!(matches!(outcome, Outcome::Reset(_) | Outcome::Status(400)), "{outcome:?}");
    }
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn malformed_heads_are_refused() {
    let d = Doorbell::with(&node("app", "env = { SEEN_FILE = \"{dir}/seen\" }"));
    assert_eq!(d.get("app.test", "/first").status, 200);
    let bad = [
        (head("GET", "/../../etc", &[]), Outcome::Status(400)),
        (head("GET", "/%00", &[]), Outcome::Status(400)),
        (head("TRACE", "/", &[]), Outcome::Status(405)),
        (head("GET", "/", &[("connection", "close")]), Outcome::Reset(PROTOCOL_ERROR)),
        (head("GET", "/", &[("host", "other.test")]), Outcome::Status(400)),
    ];
    for (block, expected) in bad {
        let mut connection = open(&d);
        connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
        connection.set_patience(SOON);
        assert_eq!(connection.outcome(1), expected, "{}", String::from_utf8_lossy(&block));
    }
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen, "GET /first\n");
}

#[test]
fn a_flood_of_settings_is_cut_off() {
    is_cut_off(|_| frame(SETTINGS, 0, 0, b""));
}

#[test]
fn a_flood_of_pings_is_cut_off() {
    is_cut_off(|n| frame(PING, 0, 0, &u64::from(n).to_be_bytes()));
}

#[test]
fn a_flood_of_priorities_is_cut_off() {
    is_cut_off(|_| frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16]));
}

#[test]
fn a_flood_of_empty_pieces_of_a_body_is_cut_off() {
    is_cut_off(|n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &head("POST", "/upload", &[])),
        _ => frame(DATA, 0, 1, b""),
    });
}

/// CVE-2023-44487.
#[test]
fn a_flood_of_requests_that_are_reset_at_once_is_cut_off() {
    is_cut_off(|n| {
        let stream = n * 2 + 1;
        let mut both =
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", "/slow?ms=50", &[]));
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        both
    });
}

/// CVE-2024-24549 and relatives.
#[test]
fn a_head_that_never_ends_is_cut_off() {
    is_cut_off(|n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &head("GET", "/", &[])),
        _ => frame(CONTINUATION, 0, 1, &fields(&[(&format!("x-{n}"), "y")])),
    });
}

#[test]
fn a_stream_that_is_reset_while_held_is_never_forwarded() {
    let env = "env = { START_DELAY = \"1200\", SEEN_FILE = \"{dir}/seen\" }";
    let d = Doorbell::with(&node("app", env));
    let mut connection = open(&d);
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("GET", "/gone", &[])));
    connection.send(frame(HEADERS, END_HEADERS, 3, &head("POST", "/gone-too", &[])));
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 5, &head("GET", "/stays", &[])));
    eventually("three wait", || d.status("app")["held"] == 3);
    for stream in [1, 3] {
        connection.send(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    eventually("one waits", || d.status("app")["held"] == 1);
    let body = connection.read_until(|kind, stream| kind == DATA && stream == 5);
    assert_eq!(body.as_deref(), Some(&b"node GET /stays\n"[..]));
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen, "GET /stays\n");
}

#[test]
fn a_body_that_stops_in_the_middle_does_not_hold_the_app_for_ever() {
    let more = "timeouts = { write_idle = \"500ms\" }";
    let server = "[server.timeouts]\nbody_idle = \"500ms\"";
    let d = Setup::new(&node("app", more)).server(server).start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = open(&d);
    connection.send(frame(HEADERS, END_HEADERS, 1, &head("POST", "/upload", &[])));
    connection.send(frame(DATA, 0, 1, b"some"));
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    eventually("it is given up", || d.status("app")["in_flight"] == 0);
}

#[test]
fn an_idle_connection_is_closed() {
    let d =
        Setup::new(&node("app", "")).server("[server.timeouts]\nkeep_alive = \"500ms\"").start();
    let mut connection = open(&d);
    connection.set_patience(SOON);
    assert!(connection.read_until(|_, _| false).is_none());
}

#[test]
fn apps_may_speak_http2() {
    let inner = Doorbell::with(&node("app", ""));
    let outer = Doorbell::with(&format!(
        "[app.outer]\nhosts = [\"app.test\"]\nupstream = \"http://127.0.0.1:{}\"\nhttp2 = true\n",
        inner.port
    ));
    assert_eq!(outer.get("app.test", "/x").text(), "node GET /x\n");
    let answer = doorbell_tests::post(outer.port, "app.test", "/upload", &vec![b'x'; 300_000]);
    assert_eq!(answer.json()["length"], 300_000);
}

#[test]
fn an_upload_may_be_held_longer_than_its_own_time_limits() {
    let more = "env = { START_DELAY = \"2500\" }\ntimeouts = { write_idle = \"500ms\" }";
    let server = "[server.timeouts]\nbody_idle = \"500ms\"";
    let d = Setup::new(&node("app", more)).server(server).start();
    let file = d.dir.path().join("upload");
    std::fs::write(&file, vec![b'x'; 1_000_000]).expect("a file");
    let url = format!("http://127.0.0.1:{}/upload", d.port);
    let upload = format!("@{}", file.display());
    let (answer, error) =
        curl(&["-H", "Host: app.test", "-H", "Expect:", "--data-binary", &upload, &url]);
    assert!(answer.contains("1000000"), "{answer} {error}");
}

#[test]
fn a_body_that_was_refused_early_does_not_harm_its_connection() {
    let more = "limits = { body = \"1KiB\" }\ntimeouts = { write_idle = \"500ms\" }";
    let server = "[server.timeouts]\nbody_idle = \"500ms\"";
    let d = Setup::new(&node("app", more)).server(server).start();
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = open(&d);
    let block = head("POST", "/upload", &[("content-length", "5000")]);
    connection.send(frame(HEADERS, END_HEADERS, 1, &block));
    assert_eq!(connection.outcome(1), Outcome::Status(413));
    connection.send(frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        3,
        &head("GET", "/slow?ms=2500", &[]),
    ));
    let body = connection.read_until(|kind, stream| kind == DATA && stream == 3);
    assert_eq!(body.as_deref(), Some(&b"slow"[..]));
}

#[test]
fn a_streamed_body_over_the_limit_gets_413() {
    let d = Doorbell::with(&node("app", "limits = { body = \"1KiB\" }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = open(&d);
    connection.send(frame(HEADERS, END_HEADERS, 1, &head("POST", "/upload", &[])));
    connection.send(frame(DATA, 0, 1, &[b'x'; 1000]));
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    connection.send(frame(DATA, 0, 1, &[b'x'; 1000]));
    connection.set_patience(SOON);
    assert_eq!(connection.outcome(1), Outcome::Status(413));
}

#[test]
fn framing_fields_with_underscores_are_refused_here_too() {
    let d = Doorbell::with(&node("app", "env = { SEEN_FILE = \"{dir}/seen\" }"));
    assert_eq!(d.get("app.test", "/first").status, 200);
    for name in ["transfer_encoding", "content_length"] {
        let mut connection = open(&d);
        let block = head("GET", "/bad", &[(name, "5")]);
        connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
        assert_eq!(connection.outcome(1), Outcome::Status(400), "{name}");
    }
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen, "GET /first\n");
}

#[test]
fn a_head_request_to_a_failing_app_is_answered() {
    let d = Doorbell::with(&crate::python("app", "exit", ""));
    let url = format!("http://127.0.0.1:{}/", d.port);
    let (status, error) =
        curl(&["-I", "-H", "Host: app.test", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert_eq!(status, "503", "{error}");
}

#[test]
fn a_silent_app_is_told_from_http2_too() {
    let d = Doorbell::with(&node("app", "timeouts = { response_idle = \"500ms\" }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    let url = format!("http://127.0.0.1:{}/slow?ms=5000", d.port);
    let (status, error) = curl(&[
        "-H",
        "Host: app.test",
        "-d",
        "some body",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ]);
    assert_eq!(status, "504", "{error}");
}

#[test]
fn paths_in_other_forms_reach_apps_that_speak_http2() {
    let inner = Doorbell::with(&node("app", ""));
    let outer = Doorbell::with(&format!(
        "[app.outer]\nhosts = [\"app.test\"]\nupstream = \"http://127.0.0.1:{}\"\nhttp2 = true\n",
        inner.port
    ));
    let url = format!("http://127.0.0.1:{}/a/%7ex", outer.port);
    let (body, error) = curl(&["-H", "Host: app.test", &url]);
    assert_eq!(body, "node GET /a/~x\n", "{error}");
    let mut socket =
        doorbell_tests::WebSocket::open(outer.port, "app.test", "/ws").expect("a WebSocket");
    socket.echo("in HTTP/1.1");
}

#[test]
fn server_sent_events_are_not_buffered() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = open(&d);
    let path = "/stream?count=1000&ms=50";
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("GET", path, &[])));
    connection.set_patience(SOON);
    assert_eq!(connection.outcome(1), Outcome::Status(200));
    // The whole stream would take 50 seconds.
    for _ in 0..3 {
        let event = connection.read_until(|kind, stream| kind == DATA && stream == 1);
        assert!(event.is_some_and(|data| data.starts_with(b"data: ")));
    }
}

#[test]
fn a_stream_that_runs_at_the_shutdown_is_served_to_its_end() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = open(&d);
    let block = head("GET", "/slow?ms=1500", &[]);
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.signal(rustix::process::Signal::TERM);
    connection.set_patience(SOON);
    let (mut body, mut said_goodbye) = (Vec::new(), false);
    while let Some((kind, stream, payload)) = connection.read() {
        match (kind, stream) {
            (DATA, 1) => body.extend(payload),
            (GOAWAY, _) => said_goodbye = true,
            // The server may wait for it, to know that its goodbye has come.
            (PING, _) => connection.send(frame(PING, ACK, 0, &payload)),
            _ => {}
        }
    }
    assert_eq!(body, b"slow");
    assert!(said_goodbye, "the client was not told that no more streams are taken");
    d.stop();
}
