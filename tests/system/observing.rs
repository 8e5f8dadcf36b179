//! What is seen of it all: figures, health, access log.

use std::io::Write;
use std::process::{Command, Stdio};

use doorbell_tests::{Doorbell, Setup, eventually, free_port, get};

use crate::{node, python};

pub(crate) fn promtool(page: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: run ./test, which installs it");
    child.stdin.take().expect("its input").write_all(page.as_bytes()).expect("to write");
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "{output:?}\n{page}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_metrics_have_their_names_and_promtool_is_silent() {
    let apps = [node("app", ""), python("bad", "exit", "")].concat();
    let d = Doorbell::with(&apps);
    assert_eq!(d.get("app.test", "/").status, 200);
    assert_eq!(d.get("bad.test", "/").status, 503);
    assert_eq!(d.get("nobody.test", "/").status, 404);
    let page = d.metrics();
    assert_eq!(promtool(&page), "");
    let value = |series: &str| d.metric(series);
    assert_eq!(
        value("doorbell_http_requests_total{app=\"app\",method=\"GET\",code=\"200\"}"),
        Some(1.0)
    );
    assert_eq!(
        value("doorbell_http_requests_total{app=\"_other\",method=\"GET\",code=\"404\"}"),
        Some(1.0)
    );
    assert_eq!(value("doorbell_http_request_duration_seconds_count{app=\"app\"}"), Some(1.0));
    assert_eq!(value("doorbell_http_requests_in_flight{app=\"app\"}"), Some(0.0));
    assert_eq!(value("doorbell_app_state{app=\"app\",state=\"ready\"}"), Some(1.0));
    assert_eq!(value("doorbell_app_cold_starts_total{app=\"app\",result=\"ready\"}"), Some(1.0));
    assert_eq!(value("doorbell_app_cold_starts_total{app=\"bad\",result=\"failed\"}"), Some(1.0));
    for phase in ["queued", "spawn", "listen", "ready", "first_byte"] {
        let series = format!(
            "doorbell_app_cold_start_duration_seconds_count{{app=\"app\",phase=\"{phase}\"}}"
        );
        assert_eq!(value(&series), Some(1.0), "{phase}");
    }
    assert_eq!(value("doorbell_app_held_requests{app=\"app\"}"), Some(0.0));
    assert!(value("doorbell_app_memory_bytes{app=\"app\"}") > Some(1e6));
    assert!(value("doorbell_app_cpu_seconds_total{app=\"app\"}") > Some(0.0));
    assert_eq!(value("doorbell_config_last_reload_successful"), Some(1.0));
    assert!(value("doorbell_config_last_reload_success_timestamp_seconds") > Some(1.7e9));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(value(&format!("doorbell_build_info{{version=\"{version}\"}}")), Some(1.0));
}

#[test]
fn only_the_start_is_a_cold_start() {
    let d = Doorbell::with(&node("app", ""));
    for _ in 0..5 {
        assert_eq!(d.get("app.test", "/").status, 200);
    }
    d.ok(&["reload"]);
    let count = "doorbell_app_cold_start_duration_seconds_count{app=\"app\",phase=\"first_byte\"}";
    assert_eq!(d.metric(count), Some(1.0));
    assert_eq!(d.metric("doorbell_app_cold_starts_total{app=\"app\",result=\"ready\"}"), Some(1.0));
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(d.get("app.test", "/").status, 200);
    let port = free_port();
    let folder = d.dir.path().join("prometheus");
    std::fs::create_dir(&folder).expect("a folder");
    let config = format!(
        "global: {{ scrape_interval: 200ms }}\nscrape_configs:\n- job_name: doorbell\n  \
         static_configs: [{{ targets: ['127.0.0.1:{}'] }}]\n",
        d.metrics_port
    );
    std::fs::write(folder.join("prometheus.yml"), config).expect("its configuration");
    let log = std::fs::File::create(folder.join("log")).expect("a log file");
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}/prometheus.yml", folder.display()))
        .arg(format!("--storage.tsdb.path={}/data", folder.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("prometheus: run ./test, which installs it");
    let query = "/api/v1/query?query=doorbell_http_requests_total%7Bapp%3D%22app%22%7D";
    let seen = || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && {
            let answer = get(port, "localhost", query);
            answer.status == 200 && answer.json()["data"]["result"][0]["value"][1] == "1"
        }
    };
    let outcome = std::panic::catch_unwind(|| eventually("Prometheus knows the request", seen));
    drop(prometheus.kill());
    drop(prometheus.wait());
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    assert!(outcome.is_ok(), "{log}");
}

#[test]
fn the_access_log_is_nginx_combined() {
    let d =
        Setup::new(&node("app", "")).server("[server.access_log]\npath = \"access.log\"").start();
    let mut connection = d.connect();
    connection.send(
        "GET /big?size=10 HTTP/1.1\r\nHost: app.test\r\nReferer: http://r/\r\nUser-Agent: tester \"x\"\r\n\r\n",
    );
    assert_eq!(connection.read().status, 200);
    let path = d.dir.path().join("access.log");
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("the line is there", || log().ends_with('\n'));
    let text = log();
    let (start, rest) = text.split_once('[').expect("a time");
    let (time, rest) = rest.split_once(']').expect("a time");
    assert_eq!(start, "127.0.0.1 - - ");
    assert_eq!(time.len(), "21/Nov/2026:09:00:00 +0000".len());
    assert_eq!(
        rest,
        " \"GET /big?size=10 HTTP/1.1\" 200 10 \"http://r/\" \"tester \\x22x\\x22\"\n"
    );
}

#[test]
fn the_access_log_moves_with_logrotate() {
    let d =
        Setup::new(&node("app", "")).server("[server.access_log]\npath = \"access.log\"").start();
    let path = d.dir.path().join("access.log");
    let moved = d.dir.path().join("access.log.1");
    let lines =
        |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    assert_eq!(d.get("app.test", "/before").status, 200);
    eventually("the line is there", || lines(&path) == 1);
    std::fs::rename(&path, &moved).expect("to move");
    d.signal(rustix::process::Signal::HUP);
    eventually("a new file is there", || path.exists());
    assert_eq!(d.get("app.test", "/after").status, 200);
    eventually("the line is in the new file", || lines(&path) == 1);
    assert_eq!(lines(&moved), 1);
}

#[test]
fn the_access_log_may_be_json_and_shows_held_time() {
    let server = "[server.access_log]\npath = \"access.log\"\nformat = \"json\"";
    let d = Setup::new(&node("app", "")).server(server).start();
    assert_eq!(d.get("app.test", "/x").status, 200);
    let path = d.dir.path().join("access.log");
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("the line is there", || log().ends_with('\n'));
    let line: serde_json::Value =
        serde_json::from_str(log().lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["request"]["uri"], "/x");
    assert_eq!(line["request"]["remote_ip"], "127.0.0.1");
    assert_eq!(line["status"], 200);
    assert_eq!(line["doorbell"]["app"], "app");
    assert!(line["doorbell"]["held"].as_f64() > Some(0.0));
}

#[test]
fn own_log_may_be_json() {
    let d = Setup::new(&node("app", "")).server("[server.log]\nformat = \"json\"").start();
    assert_eq!(d.get("app.test", "/").status, 200);
    for line in d.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(value["level"].is_string() && value["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn health_and_readiness_are_told() {
    let d = Doorbell::with(&node("app", ""));
    assert_eq!(get(d.metrics_port, "localhost", "/healthz").status, 200);
    assert_eq!(get(d.metrics_port, "localhost", "/readyz").status, 200);
    let mut slow = d.connect();
    slow.send_get("app.test", "/slow?ms=1000");
    eventually("it runs", || d.status("app")["in_flight"] == 1);
    d.signal(rustix::process::Signal::TERM);
    eventually("no longer ready", || get(d.metrics_port, "localhost", "/readyz").status == 503);
    assert_eq!(get(d.metrics_port, "localhost", "/healthz").status, 200);
    assert_eq!(slow.read().text(), "slow");
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
    let told = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let d = Setup::new(&node("app", "")).env("NOTIFY_SOCKET", &path.to_string_lossy()).start();
    let ready = told();
    assert_eq!(ready.lines().next(), Some("READY=1"), "{ready}");
    assert_eq!(d.get("app.test", "/").status, 200);
    d.signal(rustix::process::Signal::HUP);
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told(), "READY=1");
    d.stop();
    assert_eq!(told(), "STOPPING=1");
}
