//! Raw bytes in, raw bytes out: what a client may send, and what the app gets of it.

use std::time::{Duration, Instant};

use doorbell_tests::{Connection, Doorbell, Setup, WebSocket, eventually, request, within};

use crate::node;

fn doorbell() -> Doorbell {
    Doorbell::with(&node("app", ""))
}

/// The header fields that the app saw, as name and value.
fn headers_seen(response: &doorbell_tests::Response) -> Vec<(String, String)> {
    let json = response.json();
    let raw = json["raw"].as_array().expect("a list");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    raw.chunks(2).map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect()
}

fn values<'a>(seen: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    seen.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn malformed_and_ambiguous_requests_get_400_and_never_reach_the_app() {
    let seen_file = "env = { SEEN_FILE = \"{dir}/seen\" }";
    let d = Doorbell::with(&node("app", seen_file));
    assert_eq!(d.get("app.test", "/first").status, 200);
    let with = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n\r\nhello");
    let host = "Host: app.test";
    let cases = [
        with("POST / HTTP/1.1", "Host: app.test\r\nContent-Length: 5\r\nContent-Length: 5"),
        with("POST / HTTP/1.1", "Host: app.test\r\nContent-Length: 5, 5"),
        with(
            "POST / HTTP/1.1",
            "Host: app.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        ),
        with(
            "POST / HTTP/1.1",
            "Host: app.test\r\nTransfer_Encoding: chunked\r\nContent-Length: 5",
        ),
        with("POST / HTTP/1.1", "Host: app.test\r\nTransfer-Encoding: chunked, identity"),
        with("POST / HTTP/1.0", "Host: app.test\r\nTransfer-Encoding: chunked"),
        with("POST / HTTP/1.1", "Host: app.test\r\nTransfer-Encoding : chunked"),
        with("POST * HTTP/1.1", host),
        with("GET /a\rb HTTP/1.1", host),
        with("GET /a\0b HTTP/1.1", host),
        with("GET /%00 HTTP/1.1", host),
        with("GET /../../etc/passwd HTTP/1.1", host),
        with("GET / HTTP/1.1", "X: y"),
        with("GET / HTTP/1.1", "Host: app.test\r\nHost: app.test"),
        with("GET / HTTP/1.1", "Host: app.test\r\nX: a\n b"),
        with("GET / HTTP/1.1", "Host: app.test\r\nX: a\r\n folded"),
        with("GET http://user@app.test/ HTTP/1.1", host),
        "GET / HTTP/1.1\nHost: app.test\n\n\r\n\r\n".to_owned(),
    ];
    for case in cases {
        let mut connection = d.connect();
        connection.send(&case);
        let response = connection.read();
        assert_eq!(response.status, 400, "{case:?}");
        assert_eq!(response.field("connection"), Some("close"), "{case:?}");
        assert!(connection.is_closed(), "{case:?}");
    }
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen, "GET /first\n");
}

#[test]
fn other_refusals_have_their_own_status() {
    let d = doorbell();
    let status = |text: String| request(d.port, text).expect("an answer").status;
    assert_eq!(status("TRACE / HTTP/1.1\r\nHost: app.test\r\n\r\n".into()), 405);
    assert_eq!(status("CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\n\r\n".into()), 405);
    assert_eq!(status("GET / HTTP/3.0\r\nHost: app.test\r\n\r\n".into()), 505);
    let long = "a".repeat(9 * 1024);
    assert_eq!(status(format!("GET /{long} HTTP/1.1\r\nHost: app.test\r\n\r\n")), 414);
    let large = "a".repeat(70 * 1024);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: app.test\r\nX: {large}\r\n\r\n")), 431);
    let many = "X: y\r\n".repeat(300);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{many}\r\n")), 431);
    let options =
        request(d.port, "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n").expect("an answer");
    assert_eq!(options.status, 204);
    assert!(options.field("allow").is_some());
    assert_eq!(d.starts("app"), 0, "nothing of this woke the app");
}

#[test]
fn what_is_matched_is_what_is_sent() {
    let d = doorbell();
    let seen = |path: &str| d.get("app.test", path).text();
    assert_eq!(seen("/a/./b/../c"), "node GET /a/c\n");
    assert_eq!(seen("/a/%2e%2e/%7euser"), "node GET /~user\n");
    assert_eq!(seen("/a%2fb"), "node GET /a%2Fb\n");
    assert_eq!(seen("/a//b"), "node GET /a//b\n");
    assert_eq!(seen("/a?x=/../%zz"), "node GET /a?x=/../%zz\n");
    let absolute = request(d.port, "GET http://app.test/x/../y HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(absolute.expect("an answer").text(), "node GET /y\n");
}

#[test]
fn forwarding_headers_of_strangers_are_replaced() {
    let d = doorbell();
    let response = request(
        d.port,
        "GET /headers HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\nX-Request-ID: mine\r\nX-App: other\r\nX-Hostname: evil\r\n\
         Proxy: http://evil\r\nX-Keep: this\r\n\r\n",
    );
    let seen = headers_seen(&response.expect("an answer"));
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["app.test"]);
    assert_eq!(values(&seen, "x-forwarded-port"), [d.port.to_string()]);
    assert_eq!(values(&seen, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(values(&seen, "forwarded"), ["for=127.0.0.1;host=\"app.test\";proto=http"]);
    assert_eq!(values(&seen, "x-keep"), ["this"]);
    assert_eq!(values(&seen, "x-request-id").len(), 1);
    assert_ne!(values(&seen, "x-request-id"), ["mine"]);
    for gone in ["x-app", "x-hostname", "x_forwarded_for", "proxy"] {
        assert_eq!(values(&seen, gone), [""; 0], "{gone}");
    }
}

#[test]
fn trusted_proxies_are_believed() {
    let d = Setup::new(&node("app", "")).server("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let response = request(
        d.port,
        "GET /headers HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 198.51.100.7\r\n\
         X-Forwarded-Proto: https\r\nX-Request-ID: theirs\r\n\r\n",
    );
    let seen = headers_seen(&response.expect("an answer"));
    assert_eq!(values(&seen, "x-forwarded-for"), ["198.51.100.7, 127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&seen, "x-real-ip"), ["198.51.100.7"]);
    assert_eq!(values(&seen, "x-request-id"), ["theirs"]);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let d = doorbell();
    let response = request(
        d.port,
        "GET /headers HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, X-Secret\r\n\
         X-Secret: s\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n\
         Proxy-Connection: keep-alive\r\n\r\n",
    );
    let seen = headers_seen(&response.expect("an answer"));
    for gone in ["x-secret", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert_eq!(values(&seen, gone), [""; 0], "{gone}");
    }
}

#[test]
fn an_upgrade_goes_on_without_the_fields_of_the_clients_connection() {
    let d = doorbell();
    let response = request(
        d.port,
        "GET /refuse-headers HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, X-Secret\r\n\
         Upgrade: websocket\r\nX-Secret: s\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
         Proxy-Connection: keep-alive\r\nX-Forwarded-For: 6.6.6.6\r\nX-App: other\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let response = response.expect("an answer");
    assert_eq!(response.status, 403);
    let seen = headers_seen(&response);
    for gone in ["x-secret", "keep-alive", "te", "proxy-connection", "x-app"] {
        assert_eq!(values(&seen, gone), [""; 0], "{gone}");
    }
    assert_eq!(values(&seen, "upgrade"), ["websocket"]);
    assert_eq!(values(&seen, "connection"), ["Upgrade"]);
    assert_eq!(values(&seen, "sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
}

#[test]
fn slow_heads_have_a_total_deadline() {
    let d = Setup::new(&node("app", "")).server("[server.timeouts]\nheader = \"1s\"").start();
    let mut connection = d.connect();
    let since = Instant::now();
    connection.send("GET / HTTP/1.1\r\nHost: app.test\r\n");
    let response = loop {
        // Each line is in time for itself; the head as a whole is not.
        connection.send("X: y\r\n");
        if let Some(response) = connection.read_within(Duration::from_millis(200)) {
            break response;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "never cut off");
    };
    assert_eq!(response.status, 408);
    assert!(connection.is_closed());
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_body_that_drips_is_cut_off_and_one_that_flows_is_not() {
    let d = Setup::new(&node("app", ""))
        .server("[server.timeouts]\nbody_idle = \"500ms\"\n[server.limits]\nbody_rate = \"10KiB\"")
        .start();
    assert_eq!(d.get("app.test", "/pid").status, 200);
    let head = "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n";
    let mut connection = d.connect();
    connection.send(head);
    let since = Instant::now();
    let response = loop {
        connection.send("x");
        if let Some(response) = connection.read_within(Duration::from_millis(100)) {
            break response;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "never cut off");
    };
    assert_eq!(response.status, 408);
    let mut connection = d.connect();
    connection.send(head);
    for _ in 0..19 {
        // Longer in all than body_idle, with pauses shorter than it.
        connection.send(vec![b'x'; 5000]);
        let early = connection.read_within(Duration::from_millis(50));
        assert!(early.is_none(), "answered before its end: {early:?}");
    }
    connection.send(vec![b'x'; 5000]);
    let response = connection.read();
    assert_eq!((response.status, response.json()["length"].as_u64()), (200, Some(100_000)));
}

#[test]
fn a_body_of_which_no_byte_comes_is_given_up() {
    let d = Setup::new(&node("app", "")).server("[server.timeouts]\nbody_idle = \"500ms\"").start();
    assert_eq!(d.get("app.test", "/pid").status, 200);
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut connection = d.connect();
        let since = Instant::now();
        connection.send(format!("POST /upload HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
        assert_eq!(connection.read().status, 408, "{framing}");
        assert!(since.elapsed() >= Duration::from_millis(500), "{framing}");
        assert!(connection.is_closed(), "{framing}");
    }
    assert_eq!(d.status("app")["in_flight"], 0);
}

#[test]
fn bad_chunking_is_refused_and_good_chunking_arrives() {
    let d = doorbell();
    let post = |body: &str| {
        let head = "POST /upload HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        request(d.port, format!("{head}{body}")).expect("an answer")
    };
    assert_eq!(post("5\r\nhello\r\n0\r\n\r\n").json()["length"], 5);
    assert_eq!(post("zz\r\nhello\r\n0\r\n\r\n").status, 400);
    assert_eq!(post("5\r\nhelloXX0\r\n\r\n").status, 400);
    assert_eq!(post("5\nhello\n0\n\n").status, 400);
}

#[test]
fn bodies_over_the_limit_get_413() {
    let d = Doorbell::with(&node("app", "limits = { body = \"1KiB\" }"));
    let length = "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2000\r\n\r\n";
    assert_eq!(request(d.port, length).expect("an answer").status, 413);
    assert_eq!(d.starts("app"), 0, "a length is refused before the app is woken");
    let chunk = format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000));
    let chunked = "POST /upload HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(d.port, format!("{chunked}{chunk}")).expect("an answer").status, 413);
    let good = "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(request(d.port, good).expect("an answer").json()["length"], 5);
}

#[test]
fn who_asks_before_a_body_is_told_when_the_app_wants_it() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"700\" }"));
    let head = "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\
                Expect: 100-continue\r\n\r\n";
    for phase in ["held", "ready"] {
        let mut connection = d.connect();
        connection.send(head);
        if phase == "held" {
            eventually("it waits", || d.status("app")["held"] == 1);
            let early = connection.read_within(Duration::from_millis(100));
            assert!(early.is_none(), "nobody can want a body yet: {early:?}");
        }
        assert_eq!(connection.read_head().map(|head| head.status), Some(100), "{phase}");
        connection.send("hello");
        let response = connection.read();
        assert_eq!((response.status, response.json()["length"].as_u64()), (200, Some(5)));
    }
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn who_asks_before_a_body_that_is_refused_is_told_so_at_once() {
    let d = Doorbell::with(&node("app", "limits = { body = \"1KiB\" }"));
    let mut asked =
        [("app.test", 2000, 413), ("nobody.test", 5, 404)].map(|(host, length, status)| {
            let mut connection = d.connect();
            connection.send(format!(
                "POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\n\r\n"
            ));
            let response = connection.read();
            assert_eq!(response.status, status);
            assert_eq!(response.field("connection"), Some("close"));
            connection
        });
    // The client may send the body or not, now: nobody can tell where its next request would begin.
    assert!(asked.iter_mut().all(Connection::is_closed));
    assert_eq!(d.starts("app"), 0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let d = doorbell();
    let mut connection = d.connect();
    connection.send(
        "POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello\
         GET /one HTTP/1.1\r\nHost: app.test\r\n\r\n\
         GET /two HTTP/1.1\r\nHost: nobody.test\r\n\r\n\
         GET /three HTTP/1.1\r\nHost: app.test\r\n\r\n",
    );
    assert_eq!(connection.read().json()["length"], 5);
    assert_eq!(connection.read().text(), "node GET /one\n");
    assert_eq!(connection.read().status, 404);
    assert_eq!(connection.read().text(), "node GET /three\n");
}

#[test]
fn http10_clients_are_served() {
    let d = doorbell();
    let mut connection = d.connect();
    connection.send("GET /old HTTP/1.0\r\nHost: app.test\r\n\r\n");
    let response = connection.read();
    assert_eq!(response.text(), "node GET /old\n");
    assert!(connection.is_closed());
}

#[test]
fn a_websocket_keeps_what_was_sent_ahead_of_the_101() {
    let d = doorbell();
    let early = WebSocket::frame("early");
    for _ in 0..30 {
        let mut socket =
            WebSocket::open_with(d.port, "app.test", "/ws", &early).expect("a WebSocket");
        assert_eq!(socket.read().as_deref(), Some("early"));
        socket.echo("late");
    }
}

#[test]
fn a_websocket_is_closed_when_nothing_passes_for_too_long() {
    let d = Doorbell::with(&node("app", "timeouts = { upgraded_idle = \"2s\" }"));
    let mut socket = WebSocket::open(d.port, "app.test", "/ws").expect("a WebSocket");
    let begun = Instant::now();
    let mut last = begun;
    while begun.elapsed() < Duration::from_secs(4) {
        // Silence, but not for so long.
        within(Duration::from_millis(300), "it is open", || d.status("app")["in_flight"] == 1);
        last = Instant::now();
        socket.echo("still here");
    }
    assert_eq!(socket.read(), None);
    assert!(last.elapsed() >= Duration::from_secs(2), "{:?}", last.elapsed());
    eventually("its lease is given back", || d.status("app")["in_flight"] == 0);
}

#[test]
fn a_refused_upgrade_is_passed_on() {
    let d = doorbell();
    let Err(response) = WebSocket::open(d.port, "app.test", "/refuse") else { panic!("upgraded") };
    assert_eq!(response.status, 403);
    assert_eq!(response.field("x-why"), Some("no"));
    assert_eq!(response.text(), "no");
}

#[test]
fn connections_over_the_cap_are_turned_away() {
    let d = Setup::new(&node("app", "")).server("[server.limits]\nconnections = 3").start();
    let mut kept: Vec<Connection> = (0..3).map(|_| d.connect()).collect();
    for connection in &mut kept {
        assert_eq!(connection.get("app.test", "/").status, 200);
    }
    let crowded = d.get("app.test", "/");
    assert_eq!(crowded.status, 503);
    assert_eq!(crowded.field("retry-after"), Some("1"));
    drop(kept);
    eventually("a place is free", || d.get("app.test", "/").status == 200);
}

#[test]
fn an_idle_connection_is_closed_in_silence() {
    let d =
        Setup::new(&node("app", "")).server("[server.timeouts]\nkeep_alive = \"300ms\"").start();
    let mut connection = d.connect();
    assert_eq!(connection.get("app.test", "/").status, 200);
    assert!(connection.is_closed());
}

#[test]
fn http10_clients_get_no_chunks() {
    let d = doorbell();
    let mut connection = d.connect();
    connection.send(
        "GET /stream?count=2&ms=10 HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n",
    );
    let response = connection.read();
    assert_eq!(response.field("transfer-encoding"), None);
    assert!(response.text().starts_with("data: "), "{}", response.text());
}

#[test]
fn an_upgrade_that_connection_does_not_nominate_is_no_upgrade() {
    let d = doorbell();
    let response = request(
        d.port,
        "GET /headers HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .expect("an answer");
    assert_eq!(response.status, 200);
    assert_eq!(values(&headers_seen(&response), "upgrade"), [""; 0]);
}

#[test]
fn every_connection_field_nominates() {
    let d = doorbell();
    let text = "GET /headers HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive\r\n\
                Connection: X-Secret\r\nX-Secret: s\r\n\r\n";
    let seen = headers_seen(&request(d.port, text).expect("an answer"));
    assert_eq!(values(&seen, "x-secret"), [""; 0]);
}
