//! Whether a person looks at what is answered: a browser that goes to a page.
//!
//! Only such a request gets a page in the app's place. A script, an image, a download, a monitor or
//! another program would take it for the answer; they wait.

use http::Method;

use crate::head::{BodyKind, RequestHead};

/// Fields by which scripts say that they ask, where the browser does not say it.
const OF_SCRIPTS: [&str; 2] = ["x-requested-with", "hx-request"];

/// Whether this is a browser's navigation: a GET for a document, of a kind that is shown.
#[must_use]
pub fn is_navigation(head: &RequestHead) -> bool {
    head.method == Method::GET
        && head.body == BodyKind::None
        && !head.upgrade
        && says(head, "sec-fetch-mode", &["navigate"])
        && says(head, "sec-fetch-dest", &["document", "iframe", "frame"])
        && head.field("sec-purpose").is_none()
        && OF_SCRIPTS.iter().all(|name| head.field(name).is_none())
        && head.all_fields("accept").any(accepts_html)
}

/// Whether the browser says one of these, or nothing: it is silent on plain HTTP
/// (<https://www.w3.org/TR/fetch-metadata/>).
fn says(head: &RequestHead, name: &str, wanted: &[&str]) -> bool {
    head.field(name)
        .is_none_or(|value| wanted.iter().any(|one| value.eq_ignore_ascii_case(one.as_bytes())))
}

/// Whether a list of media ranges names HTML and does not refuse it (RFC 9110 section 12.5.1).
fn accepts_html(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let media = parts.next().unwrap_or_default();
        let is_html = media.eq_ignore_ascii_case(b"text/html")
            || media.eq_ignore_ascii_case(b"application/xhtml+xml");
        is_html && !parts.any(is_zero_quality)
    })
}

fn is_zero_quality(parameter: &[u8]) -> bool {
    let Some(value) = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))
    else {
        return false;
    };
    value.starts_with(b"0") && value.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn is_one(head: &str) -> bool {
        let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
        let fields = fields.replace('\n', "\r\n");
        let text = format!("{line} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let text = text.replace("\r\n\r\n\r\n", "\r\n\r\n");
        is_navigation(&RequestHead::parse(Bytes::from(text), 8192).unwrap())
    }

    #[test]
    fn browsers_that_go_to_a_page_are_known() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for head in [
            format!("GET /\nAccept: {chromium}"),
            format!(
                "GET /\nAccept: {chromium}\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document"
            ),
            format!("GET /\nAccept: {chromium}\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe"),
            "GET /\nAccept: */*;q=0.1, TEXT/HTML ; q=0.2".to_owned(),
        ] {
            assert!(is_one(&head), "{head}");
        }
    }

    #[test]
    fn others_are_not() {
        for head in [
            "GET /",
            "GET /\nAccept: */*",
            "GET /\nAccept: text/html;q=0, */*",
            "GET /\nAccept: text/html;q=0.000",
            "GET /\nAccept: text/htmlx",
            "HEAD /\nAccept: text/html",
            "POST /\nAccept: text/html",
            "GET /\nAccept: text/html\nContent-Length: 1",
            "GET /\nAccept: text/html\nConnection: upgrade\nUpgrade: websocket",
            "GET /\nAccept: text/html\nSec-Fetch-Mode: cors",
            "GET /\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: image",
            "GET /\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: object",
            "GET /\nAccept: text/html\nX-Requested-With: XMLHttpRequest",
            "GET /\nAccept: text/html\nSec-Purpose: prefetch",
        ] {
            assert!(!is_one(head), "{head}");
        }
    }
}
