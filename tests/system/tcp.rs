//! TCP apps: a connection wakes them, waits, and is joined to them, whatever is spoken on it.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

use doorbell_tests::{Doorbell, Role, Setup, eventually, free_port, get, kill, may_mount, within};

use crate::node;

/// How long a read may take before it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);
/// A while in which an idle app would have stopped several times.
const WHILE: Duration = Duration::from_millis(1500);
const SOON: &str = "idle = { stop_after = \"300ms\" }";

/// A TCP app in a mode of the test program.
fn app(port: u16, mode: &str, more: &str) -> String {
    format!(
        "[tcp.db]\nlisten = \"127.0.0.1:{port}\"\n\
         command = [\"python3\", \"{{apps}}/tcp.py\", \"{mode}\"]\ndirectory = \"{{apps}}\"\n{more}\n"
    )
}

fn started(mode: &str, more: &str) -> (Doorbell, u16) {
    let port = free_port();
    (Doorbell::with(&app(port, mode, more)), port)
}

fn call(port: u16) -> TcpStream {
    try_call(port).expect("a connection")
}

fn try_call(port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether a connection is reset, perhaps before its maker sees that it was made.
fn is_turned_away(port: u16) -> bool {
    let read = try_call(port).and_then(|mut stream| stream.read(&mut [0]));
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Says something to an app that echoes.
#[track_caller]
fn echoes(stream: &mut (impl Read + Write), words: &str) {
    stream.write_all(words.as_bytes()).expect("it is taken");
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), words);
}

/// All that comes to the end.
fn rest(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end");
    text
}

/// Whether the connection is reset, not just ended.
fn is_reset(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Lets the app begin that waits for it.
const WAITS: &str = "START_FILE = \"{dir}/go\"";

fn begin(d: &Doorbell) {
    d.write_file("go", "");
}

fn held(d: &Doorbell) -> u64 {
    d.status("db")["held"].as_u64().expect("a number")
}

fn file(d: &Doorbell, name: &str) -> String {
    fs::read_to_string(d.dir.path().join(name)).unwrap_or_default()
}

#[test]
fn a_connection_wakes_the_app_and_is_joined_to_it() {
    let (d, port) = started("echo", &format!("{SOON}\nenv = {{ {WAITS} }}"));
    assert_eq!(d.state("db"), "stopped");
    let mut stream = call(port);
    eventually("it waits", || held(&d) == 1);
    begin(&d);
    echoes(&mut stream, "first words");
    assert_eq!((d.state("db").as_str(), d.starts("db"), held(&d)), ("ready", 1, 0));
    assert_eq!(d.status("db")["listen"][0], format!("127.0.0.1:{port}"));
    assert_eq!(d.status("db")["in_flight"], 1);
    assert!(d.ok(&["status", "db"]).contains("1 running"), "{}", d.ok(&["status", "db"]));
    within(WHILE, "an open connection keeps it awake", || d.state("db") == "ready");
    echoes(&mut stream, "last words");
    drop(stream);
    d.wait_for_state("db", "stopped");
    assert_eq!(d.metric("doorbell_tcp_connections_total{app=\"db\",result=\"joined\"}"), Some(1.0));
    assert_eq!(d.metric("doorbell_tcp_connections{app=\"db\"}"), Some(0.0));
    assert_eq!(d.metric("doorbell_tcp_received_bytes_total{app=\"db\"}"), Some(21.0));
    assert_eq!(d.metric("doorbell_tcp_sent_bytes_total{app=\"db\"}"), Some(21.0));
    assert_eq!(d.metric("doorbell_app_held_requests{app=\"db\"}"), Some(0.0));
    let cold = "doorbell_app_cold_starts_total{app=\"db\",result=\"ready\"}";
    assert_eq!(d.metric(cold), Some(1.0));
}

#[test]
fn an_app_may_speak_first() {
    let (_d, port) = started("greet", "");
    for _ in 0..2 {
        let mut stream = call(port);
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting, b"hello\n");
        echoes(&mut stream, "hello yourself");
    }
    // Who comes only to hear that has nothing to say.
    let mut stream = call(port);
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(rest(&mut stream), "hello\n");
}

#[test]
fn each_side_may_end_before_the_other() {
    let (_d, port) = started("count", "env = { START_DELAY = \"500\" }");
    // While it is held, and when the app is there.
    for _ in 0..2 {
        let mut stream = call(port);
        stream.write_all(&[b'x'; 100_000]).expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(rest(&mut stream), "100000");
    }
    let (d, port) = started("speak", "env = { SEEN_FILE = \"{dir}/seen\" }");
    let mut stream = call(port);
    assert_eq!(rest(&mut stream), "that is all\n");
    stream.write_all(&[b'x'; 100_000]).expect("it is taken");
    drop(stream);
    eventually("all arrived", || file(&d, "seen") == "100000\n");
}

#[test]
fn who_breaks_behind_its_last_word_keeps_no_deaf_app_awake() {
    let (d, port) = started("deaf", SOON);
    let mut stream = call(port);
    stream.write_all(b"a question").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("an end");
    eventually("it is joined", || d.state("db") == "ready");
    within(WHILE, "who waits for an answer is there", || d.state("db") == "ready");
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a reset");
    drop(stream);
    eventually("nobody is there any more", || d.state("db") == "stopped");

    let path = d.dir.path().join("db.sock");
    let address = format!("unix:{}", path.display());
    d.rewrite(&app(port, "deaf", SOON).replace(&format!("127.0.0.1:{port}"), &address));
    d.ok(&["reload"]);
    let mut stream = UnixStream::connect(&path).expect("a connection");
    stream.write_all(b"a question").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("an end");
    eventually("it is joined", || d.state("db") == "ready");
    within(WHILE, "who waits for an answer is there", || d.state("db") == "ready");
    drop(stream);
    eventually("nobody is there any more", || d.state("db") == "stopped");
}

#[test]
fn a_thousand_connections_make_one_start() {
    let env = format!("env = {{ {WAITS}, STARTS_FILE = \"{{dir}}/starts\" }}");
    let (d, port) = started("echo", &env);
    let mut streams: Vec<_> = (0..1000).map(|_| call(port)).collect();
    eventually("all wait", || held(&d) == 1000);
    begin(&d);
    for (number, stream) in streams.iter_mut().enumerate() {
        echoes(stream, &format!("number {number}"));
    }
    assert_eq!((file(&d, "starts").as_str(), d.starts("db")), ("start\n", 1));
    drop(streams);
    eventually("all are counted", || d.status("db")["in_flight"] == 0);
    assert_eq!(
        d.metric("doorbell_tcp_connections_total{app=\"db\",result=\"joined\"}"),
        Some(1000.0)
    );
}

#[test]
fn a_hundred_megabytes_each_way_arrive_whole_and_are_not_kept_in_memory() {
    const PIECES: usize = 100;
    let piece: Vec<u8> = (0..1_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    let (d, port) = started("echo", "");
    let mut reading = call(port);
    let mut writing = reading.try_clone().expect("a clone");
    let before = d.memory("VmHWM");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..PIECES {
                writing.write_all(&piece).expect("it is taken");
            }
            writing.shutdown(Shutdown::Write).expect("an end");
        });
        let mut came = vec![0; piece.len()];
        for number in 0..PIECES {
            reading.read_exact(&mut came).expect("a piece");
            assert!(came == piece, "piece {number} is another");
        }
        assert_eq!(rest(&mut reading), "");
    });
    let grown = d.memory("VmHWM") - before;
    assert!(grown < 16 * 1024, "{grown} KiB for what passes through");
}

#[test]
fn who_does_not_read_is_waited_for() {
    let (d, port) = started("echo", "");
    let mut stream = call(port);
    stream.set_nonblocking(true).expect("a mode");
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // Until all that lies between us is full; the app writes, and nobody reads.
    let mut full = 0;
    eventually("it is full", || match stream.write(&piece) {
        Ok(count) => {
            (sent, full) = (sent + count, 0);
            false
        }
        Err(_) => {
            full += 1;
            full > 25
        }
    });
    assert!(sent < 100 << 20, "{sent} bytes were taken");
    let peak = d.memory("VmHWM");
    assert!(peak < 100 * 1024, "{peak} KiB");
    stream.set_nonblocking(false).expect("a mode");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut came = Vec::new();
    stream.read_to_end(&mut came).expect("an end");
    assert_eq!(came.len(), sent);
}

#[test]
fn a_client_that_leaves_while_held_frees_its_place_and_reaches_nobody() {
    let env = format!("env = {{ {WAITS}, SEEN_FILE = \"{{dir}}/seen\" }}");
    let (d, port) = started("echo", &env);
    let (silent, mut breaks, mut stays) = (call(port), call(port), call(port));
    breaks.write_all(b"something").expect("it is taken");
    eventually("three wait", || held(&d) == 3);
    drop(silent);
    eventually("one has left", || held(&d) == 2);
    let reset = rustix::net::sockopt::set_socket_linger(&breaks, Some(Duration::ZERO));
    reset.expect("a reset at its end");
    drop(breaks);
    eventually("two have left", || held(&d) == 1);
    begin(&d);
    echoes(&mut stays, "still here");
    assert_eq!(file(&d, "seen"), "still here\n");
    assert_eq!(d.metric("doorbell_tcp_connections_total{app=\"db\",result=\"left\"}"), Some(2.0));
}

#[test]
fn who_cannot_be_joined_is_reset() {
    let (d, port) = started("exit", "");
    let (mut one, mut other) = (call(port), call(port));
    assert!(is_reset(&mut one) && is_reset(&mut other), "{}", d.log());
    assert_eq!(
        d.metric("doorbell_tcp_connections_total{app=\"db\",result=\"refused\"}"),
        Some(2.0)
    );

    let late = "env = { START_DELAY = \"60000\" }\ntimeouts = { hold = \"300ms\" }";
    let (d, port) = started("echo", late);
    assert!(is_turned_away(port), "late: {}", d.log());

    let few = "env = { START_DELAY = \"60000\" }\nlimits = { held_requests = 1 }";
    let (d, port) = started("echo", few);
    let mut waits = call(port);
    eventually("it waits", || held(&d) == 1);
    assert!(is_turned_away(port), "too many: {}", d.log());
    d.ok(&["disable", "db"]);
    assert!(is_reset(&mut waits), "disabled while it waits: {}", d.log());
    assert!(is_turned_away(port), "disabled");
}

#[test]
fn connections_to_tcp_apps_count_among_all() {
    let port = free_port();
    let setup = Setup::new(&app(port, "echo", "")).server("limits = { connections = 2 }");
    let d = setup.start();
    let (mut one, mut other) = (call(port), call(port));
    echoes(&mut one, "one");
    echoes(&mut other, "other");
    assert!(is_turned_away(port), "{}", d.log());
    drop(one);
    eventually("there is room again", || {
        let said = try_call(port).and_then(|mut stream| {
            stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0]))
        });
        said.is_ok()
    });
}

#[test]
fn an_app_that_is_killed_ends_its_connections_and_the_next_one_starts_it_again() {
    let (d, port) = started("echo", "");
    let mut stream = call(port);
    echoes(&mut stream, "before");
    kill(d.app_pid("db").expect("a process"));
    has_ended(&mut stream);
    echoes(&mut call(port), "after");
    assert_eq!(d.starts("db"), 2);
}

/// As without anybody in between: an end, or a reset.
#[track_caller]
fn has_ended(stream: &mut TcpStream) {
    let end = stream.read(&mut [0]);
    let is_reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(is_reset), "{end:?}");
}

#[test]
fn an_app_that_dies_of_what_it_is_told_ends_its_connections() {
    let (d, port) = started("echo", "back_off = { initial = \"100ms\", max = \"100ms\" }");
    for starts in 1..4 {
        let (mut other, mut stream) = (call(port), call(port));
        echoes(&mut other, "before");
        stream.write_all(b"die").expect("it is taken");
        has_ended(&mut stream);
        has_ended(&mut other);
        // From the second time on it is left alone for a moment.
        d.wait_for_state("db", "stopped");
        assert_eq!(d.starts("db"), starts);
    }
}

#[test]
fn a_frozen_app_is_thawed_by_a_connection() {
    let (d, port) = started("echo", "idle = { freeze_after = \"300ms\" }");
    echoes(&mut call(port), "before");
    let pid = d.app_pid("db");
    d.wait_for_state("db", "frozen");
    echoes(&mut call(port), "after");
    assert_eq!((d.app_pid("db"), d.starts("db")), (pid, 1));
}

#[test]
fn a_connection_on_which_nothing_passes_ends_if_told_so() {
    let (d, port) = started("deaf", &format!("{SOON}\ntimeouts = {{ idle = \"1s\" }}"));
    let mut stream = call(port);
    for _ in 0..3 {
        within(Duration::from_millis(500), "it goes on", || d.state("db") != "stopping");
        stream.write_all(b"x").expect("it is open");
    }
    assert!(is_reset(&mut stream), "{}", d.log());
    d.wait_for_state("db", "stopped");
}

#[test]
fn addresses_come_and_go_with_reloads_and_the_app_stays() {
    let (first, second) = (free_port(), free_port());
    let d = Doorbell::with(&app(first, "echo", ""));
    let mut stream = call(first);
    echoes(&mut stream, "one address");
    let pid = d.app_pid("db");
    let two = app(first, "echo", "").replace(
        &format!("\"127.0.0.1:{first}\""),
        &format!("[\"127.0.0.1:{first}\", \"127.0.0.1:{second}\", \"unix:{{dir}}/db.sock\"]"),
    );
    d.rewrite(&two);
    d.ok(&["reload"]);
    let path = d.dir.path().join("db.sock");
    let unix = || {
        let stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(PATIENCE)).map(|()| stream)
    };
    echoes(&mut call(first), "first");
    echoes(&mut call(second), "second");
    echoes(&mut unix().expect("a socket"), "socket");
    d.rewrite(&app(second, "echo", ""));
    d.ok(&["reload"]);
    echoes(&mut call(second), "second");
    assert!(TcpStream::connect(("127.0.0.1", first)).is_err() && unix().is_err());
    echoes(&mut stream, "connections stay");
    assert_eq!((d.app_pid("db"), d.starts("db")), (pid, 1));
    d.rewrite("");
    d.ok(&["reload"]);
    assert!(TcpStream::connect(("127.0.0.1", second)).is_err());
    echoes(&mut stream, "to their end");
}

#[test]
fn an_address_goes_from_one_app_to_another_and_to_http() {
    let (port, http) = (free_port(), free_port());
    let mut d = Setup::new(&app(port, "echo", "")).start();
    echoes(&mut call(port), "db");
    let other = app(port, "greet", "").replace("[tcp.db]", "[tcp.other]");
    d.rewrite(&other);
    d.ok(&["reload"]);
    eventually("another app is there", || {
        let mut stream = call(port);
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting).is_ok() && &greeting == b"hello\n"
    });
    // As HTTP, beside the address that there is.
    d.rewrite(&app(http, "echo", ""));
    let text = fs::read_to_string(d.config_path()).expect("the file");
    let text = text.replacen("listen = [", &format!("listen = [\"127.0.0.1:{port}\", "), 1);
    d.write_file("doorbell.toml", &text);
    d.ok(&["reload"]);
    eventually("requests are answered", || get(port, "nobody.test", "/").status == 404);
    echoes(&mut call(http), "db");
    d.kill_supervisor();
    d.start_again();
    assert_eq!(get(port, "nobody.test", "/").status, 404);
    echoes(&mut call(http), "db");
}

#[test]
fn a_socket_goes_from_one_app_to_another() {
    let socket = |id: &str, mode: &str| {
        app(0, mode, "").replace("127.0.0.1:0", "unix:{dir}/s").replace("tcp.db", id)
    };
    let d = Doorbell::with(&socket("tcp.db", "echo"));
    let path = d.dir.path().join("s");
    let connected = || {
        let stream = UnixStream::connect(&path).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
    };
    let mut first = connected();
    echoes(&mut first, "db");
    // What follows cannot be opened: nothing has changed.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    d.rewrite(
        &(socket("tcp.other", "greet") + &app(port, "echo", "").replace("tcp.db", "tcp.third")),
    );
    assert_ne!(d.cli(&["reload"]).status, 0);
    echoes(&mut connected(), "db");
    d.rewrite(&socket("tcp.other", "greet"));
    d.ok(&["reload"]);
    let mut greeting = [0; 6];
    connected().read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"hello\n");
    echoes(&mut first, "to its end");
}

#[test]
fn no_request_is_for_a_tcp_app() {
    let (d, port) = started("echo", "");
    for path in ["/apps/db/", "/_app/db/x", "/apps/db"] {
        assert_eq!(get(d.port, "any.test", path).status, 404, "{path}");
    }
    assert_eq!(d.starts("db"), 0);
    let output = d.cli(&["pass", "db"]);
    assert!(output.status != 0 && output.stderr.contains("speaks no HTTP"), "{output:?}");
    echoes(&mut call(port), "it is there");
}

#[test]
fn the_app_may_be_told_who_calls() {
    let (_d, port) = started("echo", "proxy_protocol = true");
    let mut stream = call(port);
    let own = stream.local_addr().expect("an address").port();
    stream.write_all(b"and more").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("an end");
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {port}\r\n");
    assert_eq!(rest(&mut stream), format!("{line}and more"));
}

#[test]
fn an_app_on_a_socket_is_reached_too() {
    let (_d, port) = started("echo", "env = { SOCKET = \"{socket}\" }");
    echoes(&mut call(port), "over a socket");
}

#[test]
fn an_app_on_a_socket_that_is_gone_is_heard_to_the_end() {
    let (d, port) = started("pour", "env = { SOCKET = \"{socket}\", SEEN_FILE = \"{dir}/seen\" }");
    let mut stream = call(port);
    eventually("it is gone", || file(&d, "seen") == "poured\n");
    eventually("its end was passed on", || d.status("db")["in_flight"] == 0);
    assert_eq!(rest(&mut stream).len(), 1 << 20);
}

#[test]
fn connections_outlive_parts_and_upgrades() {
    let port = free_port();
    let mut d = Setup::new(&app(port, "echo", SOON)).own_binary().start();
    let mut stream = call(port);
    echoes(&mut stream, "before");
    let pid = d.app_pid("db");
    d.kill_role(Role::Control);
    echoes(&mut stream, "without control");
    d.kill_supervisor();
    echoes(&mut stream, "without a supervisor");
    echoes(&mut call(port), "anew, without a supervisor");
    d.start_again();
    echoes(&mut stream, "after");
    echoes(&mut call(port), "anew");
    d.ok(&["upgrade"]);
    echoes(&mut stream, "through the old proxy");
    echoes(&mut call(port), "through the new one");
    within(WHILE, "the app stays", || d.app_pid("db") == pid);
    echoes(&mut stream, "still");
    drop(stream);
    d.wait_for_state("db", "stopped");
    // A proxy that dies takes its connections along, and nothing else.
    let mut lost = call(port);
    echoes(&mut lost, "before");
    d.kill_role(Role::Proxy);
    has_ended(&mut lost);
    echoes(&mut call(port), "after");
    d.kill_all();
    d.start_again();
    echoes(&mut call(port), "after all were killed");
    assert_eq!(d.app_pids().len(), 1);
}

#[test]
fn who_waits_while_the_supervisor_dies_is_joined_all_the_same() {
    let port = free_port();
    let env = format!("env = {{ {WAITS} }}");
    let mut d = Setup::new(&app(port, "echo", &env)).start();
    let mut stream = call(port);
    eventually("it waits", || held(&d) == 1);
    d.kill_supervisor();
    d.start_again();
    begin(&d);
    echoes(&mut stream, "in the end");
    assert_eq!(d.app_pids().len(), 1);
}

#[test]
fn a_database_is_woken_by_its_first_client_and_stops_behind_the_last() {
    let port = free_port();
    let database = Database::new();
    let (user, folder) = (database.user(), database.folder.path().display());
    let text = format!(
        "[tcp.db]\nlisten = [\"127.0.0.1:{port}\", \"unix:{{dir}}/.s.PGSQL.{port}\"]\n\
         command = [\"{POSTGRES}/postgres\", \"-D\", \"{folder}/data\", \"-p\", \"{{port}}\", \
         \"-c\", \"listen_addresses=127.0.0.1\", \"-c\", \"unix_socket_directories=\"]\n\
         ready = \"notify\"\nstop = {{ signal = \"SIGINT\" }}\nidle = {{ stop_after = \"500ms\" }}\n{user}"
    );
    let d = Setup::new(&text).open_to_all().start();
    assert_eq!(d.state("db"), "stopped");
    assert_eq!(psql(port, "127.0.0.1", "select 6 * 7"), "42\n");
    let table = "create table visits as select * from generate_series(1, 100000) as n";
    psql(port, "127.0.0.1", table);
    d.wait_for_state("db", "stopped");
    let host = d.dir.path().to_string_lossy().into_owned();
    assert_eq!(psql(port, &host, "select count(*) from visits"), "100000\n");
    assert!(d.starts("db") >= 2);
    let mut running = psql_command(port, "127.0.0.1", "select pg_sleep(2), 'slept'");
    let running = running.stdout(std::process::Stdio::piped()).spawn().expect("psql");
    eventually("it sleeps in the database", || d.status("db")["in_flight"] == 1);
    let output = running.wait_with_output().expect("its answer");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "|slept\n", "a query is not cut off");
    d.wait_for_state("db", "stopped");
    assert_eq!(d.app_pids(), Vec::<u32>::new());
}

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

/// A folder with a database, of a user that is not root.
struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("doorbell-pg-").tempdir().expect("a folder");
        let data = folder.path().join("data");
        let mut command = if is_root() {
            let path = folder.path();
            std::os::unix::fs::chown(path, Some(number("-u")), Some(number("-g")))
                .expect("its owner");
            let mut command = std::process::Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(format!("{POSTGRES}/initdb"));
            command
        } else {
            std::process::Command::new(format!("{POSTGRES}/initdb"))
        };
        command.args(["-U", "postgres", "-A", "trust", "-D"]).arg(&data);
        let output = command.output().expect("initdb: install postgresql");
        assert!(output.status.success(), "{output:?}");
        Self { folder }
    }

    /// The key that names its owner, where that is another one.
    fn user(&self) -> &'static str {
        if is_root() { "user = \"postgres\"\n" } else { "" }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The number of the user `postgres`, or of its group.
fn number(which: &str) -> u32 {
    let output = std::process::Command::new("id").args([which, "postgres"]).output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

fn psql_command(port: u16, host: &str, query: &str) -> std::process::Command {
    let mut command = std::process::Command::new(format!("{POSTGRES}/psql"));
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", host]);
    command.args(["-p", &port.to_string(), "-c", query, "postgres"]);
    command
}

#[track_caller]
fn psql(port: u16, host: &str, query: &str) -> String {
    let output = psql_command(port, host, query).output().expect("psql");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_a_tcp_app_needs_is_ready_before_it_and_it_changes_only_what_it_may() {
    let port = free_port();
    let more = format!("needs = [\"first\"]\nread_only_paths = [\"/usr\"]\n{SOON}");
    let first = node("first", "env = { START_DELAY = \"300\" }\nidle = { stop_after = \"300ms\" }");
    let d = Doorbell::with(&(first + &app(port, "echo", &more)));
    let mut connection = call(port);
    echoes(&mut connection, "hello");
    assert_eq!((d.state("first"), d.starts("first")), ("ready".to_owned(), 1));
    let db = d.app_pid("db").expect("a process");
    let mounts = fs::read_to_string(format!("/proc/{db}/mountinfo")).expect("its mounts");
    assert_eq!(mounts.contains(" /usr "), may_mount(), "{mounts}");
    within(WHILE, "it is needed", || d.state("first") == "ready");
    drop(connection);
    d.wait_for_state("db", "stopped");
    d.wait_for_state("first", "stopped");
}
