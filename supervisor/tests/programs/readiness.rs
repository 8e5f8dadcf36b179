//! When an app counts as ready, and when it never will.

use std::time::Duration;

use doorbell_config::spec::{EndpointSpec, HttpProbe, Probe, Template};
use doorbell_supervisor::message::{
    Endpoint, GateOrder, GateReport, Generation, Question, RefusalReason, StateName,
};

use crate::gate::Lease;
use crate::house::{
    House, LONG, SERVER, app, eventually, free_port, on_socket, probed, python, server, sh,
    survivors, with,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_exits_at_once_fails_at_once_with_its_last_words() {
    let house = House::new();
    let app = house.define(sh("bad", "echo no database >&2; exit 3")).await;
    let begun = std::time::Instant::now();
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::StartFailed));
    assert!(begun.elapsed() < LONG / 4, "took {:?}", begun.elapsed());
    let seen = house.until(&app, |s| s.starts.failed == 1).await;
    assert_eq!(seen.state, StateName::BackingOff);
    let reason = seen.reason.clone().unwrap();
    assert!(reason.starts_with("exited with status 3 after "), "{reason}");
    assert!(reason.ends_with(" s before it was ready"), "{reason}");
    assert_eq!(*seen.last_output, ["no database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_is_named() {
    let house = House::new();
    let app = house.define(app("bad", &["no-such-program"])).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::StartFailed));
    let reason = house.until(&app, |s| s.reason.is_some()).await.reason.clone().unwrap();
    assert!(reason.starts_with("command `no-such-program` is in no folder of PATH"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_never_listens_meets_its_deadline() {
    let house = House::new();
    let spec = sh("deaf", "echo thinking; exec sleep 1000");
    let app = house.define(with(spec, |p| p.ready.deadline = Duration::from_millis(300))).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::StartDeadline));
    let seen = house.until(&app, |s| s.reason.is_some()).await;
    let reason = seen.reason.clone().unwrap();
    assert!(reason.starts_with("not ready within 300ms: port "), "{reason}");
    assert_eq!(*seen.last_output, ["thinking"]);
    house.shutdown().await;
    assert!(survivors(&house).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_port_is_not_readiness_where_http_is_asked_for() {
    let house = House::new();
    let probe = HttpProbe { path: "/up".into(), status: Some(200), body: None, host: None };
    let app = house.define(probed(server("slow"), Probe::Http(probe.clone()))).await;
    house.supervisor.report(GateReport::Wanted { app: app.clone() });
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Probe { .. })).await;
    let Some(GateOrder::Probe { generation, endpoint, question, .. }) =
        house.gate.orders(&app).into_iter().find(|order| matches!(order, GateOrder::Probe { .. }))
    else {
        panic!("nobody is to ask");
    };
    assert_eq!(*question, Question { probe, host: "localhost".into(), http2: false });
    let Endpoint::Tcp(address) = endpoint else { panic!("no port") };
    assert!(std::net::TcpStream::connect(address).is_ok(), "it listens");

    let report = |report| house.supervisor.report(report);
    let words = "GET /up: status 503".to_owned();
    report(GateReport::NotAnswered { app: app.clone(), generation, words });
    // Of another instance, this says nothing.
    report(GateReport::Answered { app: app.clone(), generation: Generation(generation.0 + 1) });
    house.catch_up().await;
    assert_eq!(house.snapshot(&app).state, StateName::Starting);
    report(GateReport::Answered { app: app.clone(), generation });
    house.until_state(&app, StateName::Ready).await;
    let ends = |order: &GateOrder| matches!(order, GateOrder::EndProbe { .. });
    assert!(!house.gate.orders(&app).iter().any(ends), "whoever asked knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_answers_until_its_deadline_is_told_and_asked_no_more() {
    let house = House::new();
    let probe = HttpProbe { path: "/up".into(), status: Some(200), body: None, host: None };
    let spec = probed(server("never"), Probe::Http(probe));
    let app = house.define(with(spec, |p| p.ready.deadline = Duration::from_secs(2))).await;
    let gate = house.gate.clone();
    let asked = app.clone();
    let visit = tokio::spawn(async move { gate.request(&asked).await.err() });
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::Probe { .. })).await;
    let generation = house.snapshot(&app).generation.unwrap();
    let words = "GET /up: status 503".to_owned();
    house.supervisor.report(GateReport::NotAnswered { app: app.clone(), generation, words });
    assert_eq!(visit.await.unwrap(), Some(RefusalReason::StartDeadline));
    let reason = house.until(&app, |s| s.reason.is_some()).await.reason.clone().unwrap();
    assert_eq!(&*reason, "not ready within 2s: GET /up: status 503");
    house.gate.until_ordered(&app, |order| matches!(order, GateOrder::EndProbe { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_says_itself_that_it_is_ready() {
    let script = r#"
import os, socket, threading, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=warming up")
time.sleep(0.2)
s.send(b"READY=1\nMAINPID=%d" % os.getpid())
"#;
    let house = House::new();
    let app = house.define(probed(python("told", &format!("{script}{SERVER}")), Probe::Notify));
    let app = app.await;
    let lease = house.gate.visit(&app).await;
    assert!(house.gate.started(&app).listen >= Duration::from_millis(200));
    drop(lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_may_go_on_to_say_things_of_itself() {
    let script = format!(
        r#"
import os, socket, threading
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
for n in range(1000):
    s.send(b"STATUS=%d" % n)
{SERVER}"#
    );
    let house = House::new();
    let app = house.define(probed(python("talks", &script), Probe::Notify)).await;
    let lease = house.gate.visit(&app).await;
    // It listens only when all of it has been taken.
    eventually("it answers", || lease_answers(&lease)).await;
}

fn lease_answers(lease: &Lease) -> bool {
    let Endpoint::Tcp(address) = lease.endpoint else { panic!("no port") };
    std::net::TcpStream::connect(address).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_say_that_an_app_is_ready() {
    let house = House::new();
    let spec = probed(sh("mute", "echo $NOTIFY_SOCKET; exec sleep 1000"), Probe::Notify);
    let app = house.define(with(spec, |p| p.ready.deadline = Duration::from_secs(1))).await;
    let request = tokio::spawn({
        let (gate, app) = (house.gate.clone(), app.clone());
        async move { gate.request(&app).await.err() }
    });
    let path = loop {
        if let Some(path) = house.log(&app).await.into_iter().find(|line| line.starts_with('/')) {
            break path;
        }
        tokio::task::yield_now().await;
    };
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", path).unwrap();
    assert_eq!(request.await.unwrap(), Some(RefusalReason::StartDeadline));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_inherits_its_socket_and_is_ready_at_once() {
    let script = r#"
import os, socket, time
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_FDNAMES"] == "http"
assert os.environ["DOORBELL_APP"].endswith("-heir")
time.sleep(0.3)
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b"HTTP/1.0 200 OK\r\n\r\ninherited")
    c.close()
"#;
    let house = House::new();
    for (name, on_unix) in [("tcp-heir", false), ("unix-heir", true)] {
        let spec = probed(python(name, script), Probe::SocketActivation);
        let spec = if on_unix { on_socket(spec) } else { spec };
        let app = house.define(spec).await;
        let lease = house.gate.visit(&app).await;
        assert_eq!(matches!(lease.endpoint, Endpoint::Unix(_)), on_unix);
        assert!(house.gate.started(&app).total() < Duration::from_millis(300));
        assert!(lease.get("/").await.ends_with("inherited"));
        drop(lease);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_listens_on_a_socket_of_its_own() {
    let script = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(8)
while True:
    c, _ = s.accept()
    if c.recv(4096): c.sendall(b"HTTP/1.0 200 OK\r\n\r\nover a socket")
    c.close()
"#;
    let house = House::new();
    let spec = with(on_socket(python("unix", script)), |p| {
        p.command.push(Template::parse("{socket}").unwrap());
    });
    let app = house.define(spec).await;
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.ends_with("over a socket"));
    let Endpoint::Unix(path) = lease.endpoint.clone() else { panic!("{:?}", lease.endpoint) };
    drop(lease);
    house.operate(&app, doorbell_supervisor::message::Verb::Stop).await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_port_is_not_the_apps() {
    let house = House::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let fixed = |spec| with(spec, |p| p.endpoint = EndpointSpec::FixedPort(port));
    let app = house.define(fixed(sh("squat", "exec sleep 1000"))).await;
    assert_eq!(house.gate.request(&app).await.err(), Some(RefusalReason::StartFailed));
    let reason = house.until(&app, |s| s.reason.is_some()).await.reason.clone().unwrap();
    let expected = format!("port {port} is already in use by pid {} (", std::process::id());
    assert!(reason.starts_with(&expected), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_during_the_start_is_not_the_apps() {
    let house = House::new();
    let port = free_port();
    let spec = sh("slow", "exec sleep 1000");
    let app = house.define(with(spec, |p| p.endpoint = EndpointSpec::FixedPort(port))).await;
    let request = tokio::spawn({
        let (gate, app) = (house.gate.clone(), app.clone());
        async move { gate.request(&app).await.err() }
    });
    house.until(&app, |s| s.pid.is_some()).await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert_eq!(request.await.unwrap(), Some(RefusalReason::StartFailed));
    let reason = house.until(&app, |s| s.reason.is_some()).await.reason.clone().unwrap();
    assert!(reason.contains("is already in use by pid"), "{reason}");
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_forks_away_is_ready_and_can_be_stopped() {
    let script = format!(
        r#"
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
import time; time.sleep(0.2)
{SERVER}"#
    );
    let house = House::new();
    let app = house.define(python("daemon", &script)).await;
    let lease = house.gate.visit(&app).await;
    let answer = lease.get("/").await;
    assert!(answer.contains("pid "));
    drop(lease);
    assert_eq!(survivors(&house).len(), 1);
    house.operate(&app, doorbell_supervisor::message::Verb::Stop).await;
    assert!(survivors(&house).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_listens_beyond_loopback_is_flagged() {
    let house = House::new();
    let open = with(server("open"), |p| {
        p.env.insert("HOST".into(), Template::text("0.0.0.0"));
    });
    let open = house.define(open).await;
    let lease = house.gate.visit(&open).await;
    let seen = house.until(&open, |s| !s.warnings.is_empty()).await;
    assert!(seen.warnings[0].contains("listens on 0.0.0.0:"), "{:?}", seen.warnings);
    drop(lease);
}
