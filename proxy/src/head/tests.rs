use super::*;
use crate::{forward::Rules, transport::ConnFacts};

fn parse(text: &str) -> Result<RequestHead, HeadError> {
    RequestHead::parse(Bytes::copy_from_slice(text.as_bytes()), 8192)
}

fn good(text: &str) -> RequestHead {
    parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[track_caller]
fn malformed(text: &str) {
    match parse(text) {
        Err(HeadError::Malformed(_)) => {}
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn a_plain_request_is_read() {
    let head = good("GET /a/b?x=1 HTTP/1.1\r\nHost: Blog.Example:8080\r\nUser-Agent: t\r\n\r\n");
    assert_eq!(head.host.as_deref(), Some("blog.example"));
    assert_eq!((head.path(), head.query()), ("/a/b", "?x=1"));
    assert_eq!(head.field("user-agent"), Some(&b"t"[..]));
    assert_eq!(head.body, BodyKind::None);
    assert_eq!(head.authority_port(), Some(8080));
}

#[test]
fn the_path_is_normal_and_the_raw_target_is_kept() {
    let head = good("GET /a/../b/%7ex?q=/../ HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(head.target(), "/b/~x?q=/../");
    assert_eq!(head.raw_target(), b"/a/../b/%7ex?q=/../");
}

#[test]
fn absolute_form_overrides_host() {
    let head = good("GET http://one.example/x HTTP/1.1\r\nHost: two.example\r\n\r\n");
    assert_eq!(head.host.as_deref(), Some("one.example"));
    assert_eq!(head.target(), "/x");
}

#[test]
fn what_the_framework_reads_is_in_normal_form() {
    let odd = "GET http://h/x/../a?b HTTP/1.1\r\nX: y\r\nHost: other\r\nX-Real-IP: 6.6.6.6\r\n\r\n";
    let head = good(odd);
    let facts = ConnFacts::new(Some("192.0.2.1:5".parse().unwrap()), Some(80), false);
    let rules =
        Rules { trusted_proxies: &[], stripped_prefix: "", client_app_headers: false, app: None };
    let bytes =
        head.forwarded_bytes(head.target(), &Passage::of(&head, &facts, rules), Reader::Framework);
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with("GET /a?b HTTP/1.1\r\nHost: h\r\nX: y\r\n"), "{text}");
    assert!(text.contains("\r\nx-real-ip: 192.0.2.1\r\n"), "{text}");
    assert!(!text.contains("other") && !text.contains("6.6.6.6"), "{text}");
    assert!(parse(text).is_ok());
}

#[test]
fn ambiguous_framing_is_refused() {
    let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    malformed(&with("Content-Length: 5\r\nTransfer-Encoding: chunked"));
    malformed(&with("Content-Length: 5\r\nContent-Length: 5"));
    malformed(&with("Content-Length: 5, 5"));
    malformed(&with("Content-Length: +5"));
    malformed(&with("Content-Length: 0x5"));
    malformed(&with("Content-Length:"));
    malformed(&with("Content-Length: 99999999999999999999999"));
    malformed(&with("Transfer-Encoding: gzip, chunked"));
    malformed(&with("Transfer-Encoding: xchunked"));
    malformed(&with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"));
    malformed(&with("Transfer_Encoding: chunked"));
    malformed(&with("Content_Length: 5"));
    malformed(&with("Transfer-Encoding : chunked"));
    malformed(&with("X: a\r\n folded"));
    malformed("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn hosts_are_required_single_and_valid() {
    malformed("GET / HTTP/1.1\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nHost:\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n");
    malformed("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(good("GET / HTTP/1.0\r\n\r\n").host, None);
}

#[test]
fn targets_are_of_a_known_form() {
    malformed("GET  / HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET foo HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("POST * HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(good("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").path(), "*");
}

#[test]
fn bare_line_ends_are_refused() {
    malformed("GET / HTTP/1.1\nHost: h\n\n");
    malformed("GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n");
}

#[test]
fn limits_have_their_own_statuses() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(9000));
    assert_eq!(parse(&long).unwrap_err(), HeadError::TargetTooLong);
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(parse(&many).unwrap_err(), HeadError::FieldsTooLarge);
    let trace = "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(parse(trace).unwrap_err(), HeadError::MethodNotAllowed);
    let version = "GET / HTTP/3.0\r\nHost: h\r\n\r\n";
    assert_eq!(parse(version).unwrap_err(), HeadError::Version);
    malformed("GET / HTTQ/1.1\r\nHost: h\r\n\r\n");
}

#[test]
fn upgrades_need_both_fields_and_no_body() {
    let with =
        |fields: &str| good(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).upgrade;
    assert!(with("Upgrade: websocket\r\nConnection: keep-alive, Upgrade"));
    assert!(!with("Upgrade: websocket"));
    assert!(!with("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings"));
    assert!(!with("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3"));
}

#[test]
fn h2_cookie_crumbs_are_joined() {
    let mut headers = HeaderMap::new();
    headers.append("cookie", "a=1".parse().unwrap());
    headers.append("cookie", "b=2".parse().unwrap());
    headers.append("accept", "x".parse().unwrap());
    let uri = "http://h.example/p".parse().unwrap();
    let head = RequestHead::from_h2(&Method::GET, &uri, &headers, false, 8192).unwrap();
    assert_eq!(head.all_fields("cookie").collect::<Vec<_>>(), [b"a=1; b=2"]);
    assert_eq!(head.host.as_deref(), Some("h.example"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        drop(RequestHead::parse(Bytes::from(bytes), 100));
    }

    #[test]
    fn no_near_miss_panics(head in "(GET|POST|OPTIONS) [ -~]{0,30} HTTP/1\\.[01]\r\n(Host|Content-Length|Transfer-Encoding|X): [ -~]{0,20}\r\n(Host: [a-z.:]{0,9}\r\n)?\r\n") {
        drop(RequestHead::parse(Bytes::from(head), 100));
    }
}
