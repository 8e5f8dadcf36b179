//! Connections to apps that are kept for the next request: used again, closed when they are idle, and
//! never taken for another run of the app.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, app_dir, eventually, free_port};

/// A server that counts its connections.
struct Server {
    port: u16,
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (accepted, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let server = Self { port, accepted: Arc::clone(&accepted), closed: Arc::clone(&closed) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, closed) = (stream.expect("a connection"), Arc::clone(&closed));
                accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    answer_all(stream);
                    closed.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }

    /// A doorbell in front of it.
    fn doorbell(&self, more: &str) -> Doorbell {
        let port = self.port;
        let app = "[app.app]\nhosts = [\"app.test\"]";
        Doorbell::with(&format!("{app}\nupstream = \"http://127.0.0.1:{port}\"\n{more}\n"))
    }
}

/// Answers requests without body until the other side closes.
fn answer_all(mut stream: TcpStream) {
    let reader = BufReader::new(stream.try_clone().expect("a socket"));
    for line in reader.lines() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        match line {
            Ok(line) if line.is_empty() => stream.write_all(answer).expect("to answer"),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn idle_connections_are_used_again() {
    let server = Server::start();
    let d = server.doorbell("");
    let mut connection = d.connect();
    for _ in 0..50 {
        assert_eq!(connection.get("app.test", "/").text(), "a");
    }
    assert_eq!((server.accepted(), server.closed()), (1, 0));
}

#[test]
fn a_connection_that_is_idle_for_too_long_is_closed() {
    let server = Server::start();
    let d = server.doorbell("timeouts = { keep_alive = \"300ms\" }");
    let mut connection = d.connect();
    for _ in 0..10 {
        assert_eq!(connection.get("app.test", "/").text(), "a");
    }
    let since = Instant::now();
    assert_eq!((server.accepted(), server.closed()), (1, 0));
    eventually("it is closed", || server.closed() == 1);
    // The time is counted from the last answer's end, just before the client had it.
    assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
    assert_eq!(connection.get("app.test", "/").text(), "a");
    assert_eq!(server.accepted(), 2);
}

#[test]
fn only_the_app_that_wants_none_kept_has_its_connections_closed_at_once() {
    let server = Server::start();
    let other = format!(
        "[app.other]\nhosts = [\"other.test\"]\nupstream = \"http://127.0.0.1:{}\"",
        server.port
    );
    let d = server.doorbell(&format!("timeouts = {{ keep_alive = \"0s\" }}\n{other}"));
    let mut connection = d.connect();
    assert_eq!(connection.get("other.test", "/").text(), "a");
    for n in 1..=5 {
        assert_eq!(connection.get("app.test", "/").text(), "a");
        eventually("it is closed", || server.closed() == n);
    }
    assert_eq!(connection.get("other.test", "/").text(), "a");
    assert_eq!((server.accepted(), server.closed()), (6, 5));
}

/// Who answers in the name of apps that are gone; ended when dropped.
struct Keeper {
    child: Child,
    folder: tempfile::TempDir,
}

impl Keeper {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("keeper.sock");
        let program = app_dir().join("handover.py");
        let child = Command::new("python3").arg(program).arg("keep").arg(&socket).spawn();
        let keeper = Self { child: child.expect("python3"), folder };
        eventually("the keeper listens", || socket.exists());
        keeper
    }

    fn app(&self, more: &str) -> String {
        let socket = self.folder.path().join("keeper.sock");
        format!(
            "[app.app]\nhosts = [\"app.test\"]\ndirectory = \"{{apps}}\"\n\
             command = [\"python3\", \"handover.py\", \"{}\"]\n{more}\n",
            socket.display()
        )
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks a few times, on as many connections; gives the processes and the connections that answered.
fn who_answers(d: &Doorbell) -> (BTreeSet<String>, BTreeSet<String>) {
    let answers = (0..40).map(|_| d.get("app.test", "/").text());
    answers
        .map(|text| {
            let (process, connection) = text.split_once(' ').expect("two words");
            (process.to_owned(), connection.to_owned())
        })
        .unzip()
}

#[test]
fn a_connection_to_one_run_is_never_used_for_another() {
    let keeper = Keeper::start();
    let port = free_port();
    let more = format!("port = {port}\ntimeouts = {{ keep_alive = \"1m\" }}");
    let d = Doorbell::with(&keeper.app(&more));
    let (first, connections) = who_answers(&d);
    assert_eq!(first.len(), 1);
    assert!(connections.len() < 20, "connections are kept: {connections:?}");
    // They stay as good as they were, and lead to the address of the next run.
    d.ok(&["restart", "app"]);
    let (second, _) = who_answers(&d);
    assert_eq!(second.len(), 1);
    assert!(first.is_disjoint(&second), "{second:?} answered, as before the restart");
}
