//! Apps that speak HTTP/2 without TLS, and nothing else.

use doorbell_tests::{Doorbell, eventually, free_port};

fn app(more: &str) -> String {
    format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"node\", \"{{apps}}/h2c.js\"]\n\
         http2 = true\n{more}\n"
    )
}

#[test]
fn an_app_is_asked_for_its_readiness_in_http2() {
    let d = Doorbell::with(&app("ready = { http = \"/health\" }"));
    assert_eq!(d.get("app.test", "/count").text(), "1");
}

#[test]
fn a_server_is_asked_for_its_health_in_http2() {
    let port = free_port();
    let server = Doorbell::with(&app(&format!("start = \"always\"\nport = {port}")));
    server.wait_for_state("app", "ready");
    let d = Doorbell::with(&format!(
        "[app.outer]\nhosts = [\"outer.test\"]\nhttp2 = true\n\
         upstream = {{ servers = \"http://127.0.0.1:{port}\", \
         health = {{ path = \"/health\", interval = \"100ms\", timeout = \"100ms\" }} }}\n"
    ));
    let asked = || d.get("outer.test", "/count").text().parse::<u32>().unwrap_or(0);
    eventually("it is asked again and again", || asked() > 3);
    assert!(!d.log().contains("unwell"), "{}", d.log());
}
