//! Servers that speak TLS: whose word is believed, by which name they are asked, in which protocol.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use doorbell_tests::{Authority, Doorbell, Setup, app_dir, eventually, free_port};

/// A running server; ended when dropped.
struct Server {
    port: u16,
    child: Child,
}

impl Server {
    fn start((key, certificate): (PathBuf, PathBuf)) -> Self {
        let port = free_port();
        let mut command = Command::new("node");
        command.arg(app_dir().join("tls.js")).arg(port.to_string()).arg(key).arg(certificate);
        let server = Self { port, child: command.stdin(Stdio::null()).spawn().expect("node") };
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A doorbell that believes what the certificates of a file say.
fn doorbell(believes: &Path, upstream: &str, more: &str) -> Doorbell {
    Setup::new(&format!("[app.app]\nhosts = [\"app.test\"]\nupstream = {upstream}\n{more}\n"))
        .env("SSL_CERT_FILE", &believes.to_string_lossy())
        .start()
}

#[test]
fn a_server_is_asked_by_its_name_for_the_clients_host() {
    let authority = Authority::new();
    let server = Server::start(authority.certify("DNS:localhost"));
    let url = format!("\"https://localhost:{}\"", server.port);
    for (more, version) in [("", "1.1"), ("http2 = true", "2.0")] {
        let d = doorbell(&authority.certificate(), &url, more);
        let response = d.get("app.test", "/a/../b?c");
        assert_eq!(response.status, 200, "{}", d.log());
        let seen = response.json();
        let seen = ["version", "url", "host", "name"].map(|key| seen[key].as_str());
        assert_eq!(seen, [version, "/b?c", "app.test", "localhost"].map(Some));
    }
}

#[test]
fn fields_of_one_connection_do_not_go_on_in_http2() {
    let authority = Authority::new();
    let server = Server::start(authority.certify("DNS:localhost"));
    let url = format!("\"https://localhost:{}\"", server.port);
    let d = doorbell(&authority.certificate(), &url, "http2 = true");
    let response = doorbell_tests::request(
        d.port,
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, X-Secret\r\nX-Secret: s\r\n\
         Keep-Alive: timeout=5\r\nTE: gzip\r\nUpgrade: h2c\r\nProxy-Connection: keep-alive\r\n\
         X-Keep: this\r\n\r\n",
    );
    let seen = response.expect("an answer").json();
    let fields: Vec<_> = seen["fields"].as_array().expect("a list").iter().collect();
    for gone in ["connection", "x-secret", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert!(!fields.iter().any(|field| **field == gone), "{gone}: {fields:?}");
    }
    assert!(fields.iter().any(|field| **field == "x-keep"), "{fields:?}");
}

#[test]
fn trailers_of_an_answer_reach_the_client_in_http2() {
    let authority = Authority::new();
    let server = Server::start(authority.certify("DNS:localhost"));
    let url = format!("\"https://localhost:{}\"", server.port);
    let d = doorbell(&authority.certificate(), &url, "http2 = true");
    let output = Command::new("nghttp")
        .args(["-v", "-H", ":authority: app.test"])
        .arg(format!("http://127.0.0.1:{}/trailers", d.port))
        .output()
        .expect("nghttp: run ./test, which installs it");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("no {text:?}: {told}"));
    assert!(at("before") < at("x-after: ours"), "{told}");
}

#[test]
fn a_server_whose_certificate_nobody_vouches_for_is_not_asked() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(theirs.certify("DNS:localhost"));
    let url = format!("\"https://localhost:{}\"", server.port);
    for more in ["", "http2 = true"] {
        let d = doorbell(&ours.certificate(), &url, more);
        assert_eq!(d.get("app.test", "/").status, 502);
    }
}

#[test]
fn a_server_whose_certificate_is_for_another_name_is_not_asked() {
    let authority = Authority::new();
    let server = Server::start(authority.certify("DNS:other.test"));
    let url = format!("\"https://localhost:{}\"", server.port);
    let d = doorbell(&authority.certificate(), &url, "");
    assert_eq!(d.get("app.test", "/").status, 502);
}

#[test]
fn a_server_may_be_named_by_its_address() {
    let authority = Authority::new();
    let server = Server::start(authority.certify("IP:127.0.0.1"));
    let url = format!("\"https://127.0.0.1:{}\"", server.port);
    let d = doorbell(&authority.certificate(), &url, "");
    assert_eq!(d.get("app.test", "/").status, 200, "{}", d.log());
    let stranger = Server::start(authority.certify("IP:127.0.0.2"));
    let url = format!("\"https://127.0.0.1:{}\"", stranger.port);
    let d = doorbell(&authority.certificate(), &url, "");
    assert_eq!(d.get("app.test", "/").status, 502);
}

#[test]
fn a_server_is_checked_with_tls_too() {
    let authority = Authority::new();
    let good = Server::start(authority.certify("DNS:localhost"));
    let bad = Server::start(Authority::new().certify("DNS:localhost"));
    let [good, bad] = [good.port, bad.port].map(|port| format!("\"https://localhost:{port}\""));
    let health = "health = { path = \"/health\", interval = \"1s\", timeout = \"1s\" }";
    let upstream = format!("{{ servers = [{good}, {bad}], {health} }}");
    let d = doorbell(&authority.certificate(), &upstream, "");
    let is_told = |line: &str| line.contains("unwell") && line.contains(bad.trim_matches('"'));
    eventually("the bad one is left out", || d.log().lines().any(is_told));
    for _ in 0..10 {
        assert_eq!(d.get("app.test", "/").status, 200);
    }
}
