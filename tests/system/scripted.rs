//! Apps that say exactly what a test wants: what passes between app and client, byte for byte.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use doorbell_tests::{Connection, Doorbell, Setup};

/// A server that gives each connection to the test.
struct App {
    port: u16,
    connections: Receiver<TcpStream>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, connections): (Sender<TcpStream>, _) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { port, connections }
    }

    fn doorbell(&self, more: &str) -> Doorbell {
        Setup::new(&format!(
            "[app.app]\nhosts = [\"app.test\"]\nupstream = \"http://127.0.0.1:{}\"\n{more}",
            self.port
        ))
        .start()
    }

    fn accept(&self) -> Talk {
        let stream = self.connections.recv_timeout(Duration::from_secs(30)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Talk(stream)
    }
}

/// One connection, from the app's side.
struct Talk(TcpStream);

impl Talk {
    /// Reads up to and with a text.
    fn read_to(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(end.as_bytes()) {
            let n = self.0.read(&mut byte).expect("bytes");
            assert_eq!(n, 1, "ended after {:?}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8(seen).expect("text")
    }

    fn read_head(&mut self) -> String {
        self.read_to("\r\n\r\n")
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("to send");
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 16]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[test]
fn chunks_and_trailers_pass_as_they_are() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3;note=1\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
    );
    let mut talk = app.accept();
    assert!(talk.read_head().contains("Transfer-Encoding: chunked"));
    assert_eq!(talk.read_to("\r\n\r\n"), "3;note=1\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n");
    let body = "2\r\nhi\r\n0\r\nX-End: yes\r\n\r\n";
    talk.say(&format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n{body}"
    ));
    let head = client.read_head().expect("a head");
    assert_eq!(head.field("trailer"), Some("X-End"));
    assert_eq!(client.read_bytes(body.len()).expect("a body"), body.as_bytes());
}

#[test]
fn the_apps_own_words_reach_the_client() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    talk.say(
        "HTTP/1.1 299 Quite Fine\r\nDate: yesterday\r\nServer: mine\r\nContent-Length: 0\r\n\
         Connection: X-Own\r\nX-Own: 1\r\nUpgrade: h2,h2c\r\n\r\n",
    );
    let response = client.read();
    assert_eq!((response.status, response.field("date")), (299, Some("yesterday")));
    assert_eq!(response.field("server"), Some("mine"));
    assert_eq!((response.field("x-own"), response.field("upgrade")), (None, None));
}

#[test]
fn interim_answers_come_before_the_final_one() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut talk = app.accept();
    assert!(talk.read_head().contains("Expect: 100-continue"));
    talk.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    let hints = client.read_head().expect("hints");
    assert_eq!((hints.status, hints.field("link")), (103, Some("</x>")));
    assert_eq!(client.read_head().expect("an interim answer").status, 100);
    client.send("ok");
    assert_eq!(talk.read_to("ok"), "ok");
    talk.say("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.read().status, 204);
}

#[test]
fn an_answer_before_the_body_is_there_ends_the_connection() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\nabc");
    let mut talk = app.accept();
    talk.read_to("abc");
    talk.say("HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno");
    let response = client.read();
    assert_eq!((response.status, response.field("connection")), (413, Some("close")));
    assert_eq!(response.text(), "no");
    assert!(client.is_closed());
    assert!(talk.is_closed(), "half a body is left on it");
}

#[test]
fn head_and_not_modified_have_a_length_and_no_body() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut talk = app.accept();
    assert!(talk.read_head().starts_with("HEAD / "));
    talk.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.read_head().expect("a head").field("content-length"), Some("5"));
    client.send(GET);
    talk.read_head();
    talk.say("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.read_head().expect("a head").status, 304);
    client.send(GET);
    talk.read_head();
    talk.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.read().text(), "hello");
}

#[test]
fn a_long_head_needs_no_body() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    let cookies = format!("Set-Cookie: a={}\r\n", "x".repeat(1000)).repeat(40);
    for (method, status) in [("GET", "302 Found"), ("HEAD", "200 OK"), ("GET", "304 Not Modified")]
    {
        client.send(format!("{method} / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"));
        let mut talk = app.accept();
        talk.read_head();
        talk.say(&format!(
            "HTTP/1.1 {status}\r\n{cookies}Content-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        let head = client.read_head().expect("a head");
        assert_eq!(head.fields.iter().filter(|(name, _)| name == "set-cookie").count(), 40);
        assert!(client.is_closed());
        client = d.connect();
    }
}

#[test]
fn a_head_may_come_in_pieces() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    for piece in ["HTTP/1.1 2", "00 OK\r", "\nContent-Le", "ngth: 2\r\n\r", "\nh", "i"] {
        talk.say(piece);
    }
    assert_eq!(client.read().text(), "hi");
}

#[test]
fn what_looks_like_a_request_behind_the_last_chunk_is_refused() {
    let app = App::start();
    let d = app.doorbell("");
    for trailer in ["GET /admin HTTP/1.1\r\nHost: x\r\n", "X-Real-IP: 6.6.6.6\r\n", " x: y\r\n"] {
        let mut client = d.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n{trailer}\r\n"
        ));
        assert_eq!(client.read().status, 400, "{trailer:?}");
    }
}

#[test]
fn a_client_that_waits_to_be_asked_is_not_blamed_for_a_silent_app() {
    let app = App::start();
    let d = Setup::new(&format!(
        "[app.app]\nhosts = [\"app.test\"]\nupstream = \"http://127.0.0.1:{}\"\n\
         timeouts = {{ response_idle = \"2s\" }}\n",
        app.port
    ))
    .server("[server.timeouts]\nbody_idle = \"1s\"")
    .start();
    let mut client = d.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut talk = app.accept();
    talk.read_head();
    assert_eq!(client.read().status, 504);
}

#[test]
fn an_app_is_not_held_while_a_refused_client_is_talked_to() {
    let app = App::start();
    let d = app.doorbell("limits = { body = \"1KiB\" }\n");
    let mut client = d.connect();
    client
        .send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let mut talk = app.accept();
    talk.read_to("1\r\na\r\n");
    client.send(format!("800\r\n{}", "b".repeat(0x800)));
    assert!(talk.is_closed(), "before the client has taken its answer");
    assert_eq!(client.read().status, 413);
}

#[test]
fn a_body_up_to_the_connections_end_ends_the_clients_too() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    talk.say("HTTP/1.0 200 OK\r\n\r\nall there is");
    drop(talk);
    let response = client.read();
    assert_eq!(
        (response.field("connection"), response.text().as_str()),
        (Some("close"), "all there is")
    );
}

#[test]
fn nonsense_from_an_app_is_a_502_and_its_connection_is_not_used_again() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    ] {
        client.send(GET);
        let mut talk = app.accept();
        talk.read_head();
        talk.say(nonsense);
        assert_eq!(client.read().status, 502, "{nonsense:?}");
        assert!(talk.is_closed(), "{nonsense:?}");
    }
}

#[test]
fn bytes_behind_an_answer_never_become_the_next_one() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    talk.say(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    assert_eq!(client.read().text(), "a");
    client.send(GET);
    let mut next = app.accept();
    next.read_head();
    next.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    assert_eq!(client.read().text(), "b");
}

#[test]
fn bad_chunks_from_an_app_cut_the_answer_off() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n");
    assert_eq!(client.read_head().expect("a head").status, 200);
    let mut client: Connection = client;
    while let Some(Some(_)) = client.read_chunk() {}
    assert!(client.is_closed());
}

#[test]
fn an_idempotent_request_with_a_body_is_sent_again_whole() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(GET);
    let mut talk = app.accept();
    talk.read_head();
    talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read().status, 200);
    client.send("PUT /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\n01234");
    // The app gets half of it on the connection it knows, and ends.
    assert!(talk.read_to("01234").starts_with("PUT /x "));
    drop(talk);
    let mut fresh = app.accept();
    client.send("56789");
    assert!(fresh.read_to("0123456789").starts_with("PUT /x "));
    fresh.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read().status, 201);
}

#[test]
fn a_post_is_sent_once() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
    let mut talk = app.accept();
    talk.read_to("hi");
    drop(talk);
    assert_eq!(client.read().status, 502);
    assert!(app.connections.try_recv().is_err(), "it was sent again");
}

#[test]
fn a_post_is_not_tried_on_a_connection_that_the_app_has_closed() {
    let app = App::start();
    let d = app.doorbell("");
    for round in 0..20 {
        let mut client = d.connect();
        client.send(GET);
        let mut talk = app.accept();
        talk.read_head();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.read().status, 200);
        drop(talk);
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
        let mut fresh = app.accept();
        fresh.read_to("hi");
        fresh.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read().status, 200, "round {round}");
    }
}

#[test]
fn an_app_that_takes_nothing_is_given_up() {
    let app = App::start();
    let d = app.doorbell("timeouts = { write_idle = \"1s\" }\n");
    let mut client = d.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000000\r\n\r\n");
    let mut talk = app.accept();
    talk.read_head();
    let socket = client.socket().try_clone().expect("a socket");
    let sender = std::thread::spawn(move || {
        let piece = [0; 64 * 1024];
        while (&socket).write_all(&piece).is_ok() {}
    });
    assert_eq!(client.read().status, 504);
    drop(client);
    drop(sender);
}

#[test]
fn a_name_with_two_addresses_is_reached_on_either() {
    // `localhost` is ::1 and 127.0.0.1 on most machines; the app listens on the second alone.
    let app = App::start();
    let d = Setup::new(&format!(
        "[app.app]\nhosts = [\"app.test\"]\nupstream = \"http://localhost:{}\"\n",
        app.port
    ))
    .start();
    for _ in 0..3 {
        let mut client = d.connect();
        client.send(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        let mut talk = app.accept();
        talk.read_head();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read().status, 200);
    }
}

#[test]
fn h2c_is_not_asked_for_in_the_clients_name() {
    let app = App::start();
    let d = app.doorbell("");
    for upgrade in [
        "Upgrade: h2c\r\nUpgrade: websocket",
        "Upgrade: websocket\r\nUpgrade: h2c",
        "Upgrade: websocket, h2c",
        "Upgrade: h2c",
    ] {
        let mut client = d.connect();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
             HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n{upgrade}\r\n\r\n"
        ));
        let mut talk = app.accept();
        let head = talk.read_head().to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read().status, 200);
    }
}

#[test]
fn a_client_cannot_take_out_what_we_say() {
    let app = App::start();
    let d = app.doorbell("");
    let mut client = d.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\n\
         Connection: X-Real-IP, Forwarded, X-Forwarded-For, X-Request-ID\r\n\r\n",
    );
    let mut talk = app.accept();
    let head = talk.read_head();
    for field in ["x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1", "x-forwarded-for: 127.0.0.1"]
    {
        assert!(head.contains(field), "{field}: {head}");
    }
    talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read().status, 200);
    for protected in ["Host", "Content-Length", "Transfer-Encoding"] {
        let mut client = d.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: {protected}\r\n\r\n"));
        assert_eq!(client.read().status, 400, "{protected}");
    }
}
