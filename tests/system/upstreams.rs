//! Servers that somebody else runs.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, WebSocket, eventually, free_port};

/// A server that says its name, and may be told to be unwell.
struct Server {
    port: u16,
    well: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(name: &'static str) -> Self {
        Self::start_on(0, name)
    }

    fn start_on(port: u16, name: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let server = Self { port, well: Arc::clone(&well), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (well, asked) = (Arc::clone(&well), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, name, &well, &asked));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("\"http://127.0.0.1:{}\"", self.port)
    }
}

fn serve(mut stream: TcpStream, name: &str, well: &AtomicBool, asked: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    loop {
        let mut path = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
            if line == "\r\n" {
                break;
            }
        }
        let health = path.as_deref() == Some("/health");
        if !health {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        let status = if well.load(Ordering::Relaxed) { "200 OK" } else { "500 Unwell" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn app(upstream: &str) -> String {
    format!("[app.app]\nhosts = [\"app.test\"]\nupstream = {upstream}\n")
}

#[test]
fn requests_take_turns() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let d = Doorbell::with(&app(&format!("[{}, {}]", a.url(), b.url())));
    for _ in 0..20 {
        assert_eq!(d.get("app.test", "/").status, 200);
    }
    let (a, b) = (a.asked.load(Ordering::Relaxed), b.asked.load(Ordering::Relaxed));
    assert_eq!((a, b), (10, 10));
}

#[test]
fn a_server_that_refuses_is_passed_over_and_its_requests_are_not_lost() {
    let good = Server::start("good");
    let nobody = format!("\"http://127.0.0.1:{}\"", free_port());
    let d = Doorbell::with(&app(&format!("[{nobody}, {}]", good.url())));
    for _ in 0..20 {
        assert_eq!(d.get("app.test", "/").text(), "good");
    }
    let post = doorbell_tests::post(d.port, "app.test", "/", b"body");
    assert_eq!(post.status, 200, "nothing was sent, so a POST may go to the next one too");
}

#[test]
fn a_server_that_failed_is_left_out_for_its_time_and_then_asked_again() {
    let (good, port) = (Server::start("good"), free_port());
    let servers = format!("[\"http://127.0.0.1:{port}\", {}]", good.url());
    let (left_out, more) = (Duration::from_secs(2), "max_fails = 2, fail_timeout = \"2s\"");
    let d = Doorbell::with(&app(&format!("{{ servers = {servers}, {more} }}")));
    let before = Instant::now();
    for _ in 0..4 {
        // By turns: two of them go to nobody first.
        assert_eq!(d.get("app.test", "/").text(), "good");
    }
    let back = Server::start_on(port, "back");
    let asked = || back.asked.load(Ordering::Relaxed) > 0;
    for _ in 0..10 {
        let answer = d.get("app.test", "/").text();
        assert!(answer == "good" || before.elapsed() >= left_out, "asked too early");
    }
    eventually("it is asked again", || d.get("app.test", "/").status == 200 && asked());
    assert!(before.elapsed() >= left_out, "{:?}", before.elapsed());
}

#[test]
fn when_all_refuse_the_answer_is_502() {
    let url = |port: u16| format!("\"http://127.0.0.1:{port}\"");
    let d = Doorbell::with(&app(&format!("[{}, {}]", url(free_port()), url(free_port()))));
    let since = Instant::now();
    assert_eq!(d.get("app.test", "/").status, 502);
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_server_that_fails_its_checks_is_left_out_until_it_is_well() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let health = "health = { path = \"/health\", interval = \"200ms\", timeout = \"200ms\" }";
    let d = Doorbell::with(&app(&format!("{{ servers = [{}, {}], {health} }}", a.url(), b.url())));
    let only_b = || (0..6).all(|_| d.get("app.test", "/").text() == "b");
    let both = || (0..6).any(|_| d.get("app.test", "/").text() == "a");
    eventually("both serve", both);
    a.well.store(false, Ordering::Relaxed);
    eventually("the unwell one is left out", only_b);
    a.well.store(true, Ordering::Relaxed);
    eventually("it is back", both);
    assert!(d.log().contains("unwell"));
}

#[test]
fn unix_sockets_and_websockets_work() {
    let d = Doorbell::with(&crate::node("inner", "env = { SOCKET = \"{socket}\" }"));
    assert_eq!(d.get("inner.test", "/").status, 200);
    let status = d.status("inner");
    let socket = status["endpoint"]["Unix"].as_str().expect("a socket").to_owned();
    let outer = Doorbell::with(&app(&format!("\"unix:{socket}\"")));
    assert_eq!(outer.get("app.test", "/x").text(), "node GET /x\n");
    let mut socket = WebSocket::open(outer.port, "app.test", "/ws").expect("a WebSocket");
    socket.echo("through two doors");
}

#[test]
fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let more = "timeouts = { response_idle = \"300ms\" }";
    let d = Doorbell::with(&format!("{}{more}\n", app(&format!("\"http://127.0.0.1:{port}\""))));
    assert_eq!(d.get("app.test", "/").status, 504);
    let with_body = doorbell_tests::post(d.port, "app.test", "/", b"some body");
    assert_eq!(with_body.status, 504);
}

#[test]
fn a_slow_upload_is_not_cut_by_the_silence_of_its_server() {
    let d = Doorbell::with(&crate::node("app", "timeouts = { response_idle = \"1s\" }"));
    assert_eq!(d.get("app.test", "/").status, 200);
    let mut connection = d.connect();
    connection.send("POST /upload HTTP/1.1\r\nHost: app.test\r\nContent-Length: 30\r\n\r\n");
    for _ in 0..29 {
        connection.send("x");
        let early = connection.read_within(Duration::from_millis(100));
        assert!(early.is_none(), "answered before its end: {early:?}");
    }
    connection.send("x");
    assert_eq!(connection.read().json()["length"], 30);
}

#[test]
fn a_disabled_upstream_is_refused_and_comes_back() {
    let server = Server::start("a");
    let d = Doorbell::with(&app(&server.url()));
    assert_eq!(d.get("app.test", "/").status, 200);
    d.ok(&["disable", "app"]);
    assert_eq!(d.get("app.test", "/").status, 503);
    d.ok(&["enable", "app"]);
    assert_eq!(d.get("app.test", "/").status, 200);
}

#[test]
fn a_request_that_was_too_slow_is_not_repeated() {
    let more = "timeouts = { response_idle = \"2s\" }\nenv = { SEEN_FILE = \"{dir}/seen\" }";
    let d = Doorbell::with(&crate::node("app", more));
    let mut connection = d.connect();
    assert_eq!(connection.get("app.test", "/first").status, 200);
    // On an upstream connection that was used before.
    connection.send("PUT /slow?ms=8000 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
    let response = connection.read();
    assert_eq!((response.status, response.field("connection")), (504, Some("keep-alive")));
    assert_eq!(connection.get("app.test", "/next").status, 200);
    let seen = std::fs::read_to_string(d.dir.path().join("seen")).expect("the app's list");
    assert_eq!(seen.matches("PUT").count(), 1);
}
