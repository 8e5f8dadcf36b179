//! Whatever an app does, stopping it leaves no process and a free port.

use std::time::Duration;

use doorbell_config::spec::EndpointSpec;
use doorbell_supervisor::message::{Endpoint, StateName, Verb};

use crate::house::{House, SERVER, eventually, exists, python, server, sh, survivors, with};

/// Starts the app, stops it, and looks what is left.
async fn starts_and_leaves_nothing(spec: doorbell_config::spec::AppSpec, processes: usize) {
    let house = House::new();
    let app = house.define(spec).await;
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.contains("pid "));
    let Endpoint::Tcp(address) = lease.endpoint.clone() else { panic!("no port") };
    drop(lease);
    eventually("all processes run", || survivors(&house).len() == processes).await;
    let pid = house.snapshot(&app).pid.unwrap();
    house.operate(&app, Verb::Stop).await;
    assert_eq!(survivors(&house), Vec::<String>::new());
    assert!(!exists(pid), "a zombie is left");
    std::net::TcpListener::bind(address).expect("the port is free");
    assert_eq!(house.snapshot(&app).state, StateName::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process() {
    starts_and_leaves_nothing(server("one"), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ignores_sigterm() {
    let script = format!("import signal\nsignal.signal(15, signal.SIG_IGN)\n{SERVER}");
    let stubborn = python("stubborn", &script);
    let grace = Duration::from_millis(200);
    starts_and_leaves_nothing(with(stubborn, |p| p.stop.grace = grace), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_that_leaves_the_server_on_sigterm() {
    let script = format!(
        r#"
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(15, signal.SIG_IGN)
    exec({SERVER:?})
signal.signal(15, lambda *_: os._exit(0))
while True: time.sleep(100)
"#
    );
    let wrapper = python("wrapper", &script);
    let grace = Duration::from_millis(300);
    starts_and_leaves_nothing(with(wrapper, |p| p.stop.grace = grace), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_waits_for_its_children() {
    let script = format!("python3 -c '{SERVER}' & sleep 1000 & wait");
    starts_and_leaves_nothing(sh("shell", &script), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_left_group_session_and_parent() {
    let script = format!(
        r#"
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    while True: time.sleep(100)
os.wait()
{SERVER}"#
    );
    starts_and_leaves_nothing(python("helper", &script), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hides_all_its_tracks() {
    // Own session, no parent, no environment, no output of ours: only its port gives it away.
    let script = r#"
import os, sys, time
if os.environ.get("PORT"):
    port = os.environ["PORT"]
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1); os.dup2(null, 2)
        os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], port], {})
    os.wait()
while True: time.sleep(100)
"#;
    let server = SERVER.replace("os.environ[\"PORT\"]", "sys.argv[1]");
    let house = House::new();
    let spec = with(python("spy", script), |p| {
        p.command.push(doorbell_config::spec::Template::text(&server));
    });
    let app = house.define(spec).await;
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.contains("pid "));
    let Endpoint::Tcp(address) = lease.endpoint.clone() else { panic!("no port") };
    drop(lease);
    house.operate(&app, Verb::Stop).await;
    std::net::TcpListener::bind(address).expect("the port is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_port_is_free_for_the_next_instance() {
    let house = House::new();
    let port = crate::house::free_port();
    let fixed = with(server("fixed"), |p| p.endpoint = EndpointSpec::FixedPort(port));
    let app = house.define(fixed).await;
    for _ in 0..3 {
        drop(house.gate.visit(&app).await);
        house.operate(&app, Verb::Stop).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_stops_everything_at_once() {
    let house = House::new();
    let mut apps = Vec::new();
    for n in 0..5 {
        apps.push(house.define(server(&format!("app{n}"))).await);
    }
    for app in &apps {
        drop(house.gate.visit(app).await);
    }
    let stubborn = format!("import signal\nsignal.signal(15, signal.SIG_IGN)\n{SERVER}");
    let stubborn = house.define(python("stubborn", &stubborn)).await;
    drop(house.gate.visit(&stubborn).await);
    let report = house.supervisor.shutdown(Duration::from_secs(1)).await;
    assert_eq!((report.killed, report.left), (1, 0), "{report:?}");
    assert_eq!(report.stopped, 5);
    assert!(survivors(&house).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_doorbell_left_is_ended_before_anything_starts() {
    let house = House::new();
    let state = house.folder.path().join("state").canonicalize().unwrap();
    house.shutdown().await;
    let mut left = std::process::Command::new("sleep")
        .arg("1000")
        .env("DOORBELL_STATE_DIR", &state)
        .spawn()
        .unwrap();
    let reaped = tokio::task::spawn_blocking(move || left.wait().unwrap());
    let again = House::in_folder(house.folder.clone(), 4);
    let app = again.define(server("next")).await;
    drop(again.gate.visit(&app).await);
    assert!(!reaped.await.unwrap().success());
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_handle_takes_its_apps_along() {
    let house = House::new();
    let app = house.define(server("blog")).await;
    drop(house.gate.visit(&app).await);
    let House { supervisor, gate, folder, .. } = house;
    let mark = folder.path().join("state");
    gate.close();
    drop((supervisor, gate));
    eventually("the app is gone", || crate::house::processes_of(&mark).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_that_dies_while_its_server_serves_is_no_crash() {
    let script = format!(
        "import os, time\nif os.fork():\n    while True: time.sleep(100)\nexec({SERVER:?})"
    );
    let house = House::new();
    let app = house.define(python("wrapped", &script)).await;
    let lease = house.gate.visit(&app).await;
    let wrapper = house.until(&app, |s| s.pid.is_some()).await.pid.unwrap();
    crate::house::kill(wrapper, rustix::process::Signal::KILL);
    eventually("the wrapper is gone", || survivors(&house).len() == 1).await;
    assert!(lease.get("/").await.contains("pid "));
    drop(lease);
    assert_eq!(house.snapshot(&app).state, StateName::Ready);
    house.operate(&app, Verb::Stop).await;
    assert_eq!(survivors(&house), Vec::<String>::new());
}
