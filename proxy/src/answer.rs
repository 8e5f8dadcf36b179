//! Doorbell's own answers: the one place where what went wrong becomes a status.
//!
//! Answers tell the public what they may do next and nothing about the inside: no app id, no exit
//! status, no output. Operators find those in `doorbell status` and `doorbell logs`.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use doorbell_supervisor::message::RefusalReason;
use http::StatusCode;

use crate::{
    gate::Denial,
    head::{HeadError, RequestHead},
    transport::Trouble,
};

/// Why Doorbell answers by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The head is refused.
    Head(HeadError),
    /// The head did not end in time.
    HeadTooSlow,
    /// What went wrong with the body.
    Body(Trouble),
    /// No app for this host and path.
    NoRoute,
    /// `OPTIONS *`: about Doorbell itself.
    ServerOptions,
    /// The path names an app's folder without its slash.
    Redirect(String),
    /// The gate gave no lease.
    Denied(Denial),
    /// Too many connections are open.
    Crowded,
    /// The app could not be reached, died, or spoke nonsense.
    BadGateway,
    /// The app did not answer in time.
    GatewayTimeout,
    /// Our own fault: no descriptors, say.
    Internal,
    /// The client left; nobody reads an answer.
    ClientLeft,
}

/// An answer's parts, ready to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 499 stands for a client that left, and is never sent.
    pub status: u16,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: &'static str,
    /// For `Retry-After`.
    pub retry_after: Option<Duration>,
    /// For `Location`.
    pub location: Option<String>,
    /// For `Allow`.
    pub allow: Option<&'static str>,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

impl Answer {
    /// What is sent.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Head(error) => head_reply(*error),
            Self::HeadTooSlow => {
                closing(408, "request_timeout", "The request took too long to arrive.")
            }
            Self::Body(trouble) => body_reply(*trouble),
            Self::NoRoute => plain(404, "not_found", "There is nothing at this address."),
            Self::ServerOptions => Reply { allow: Some(METHODS), ..plain(204, "options", "") },
            Self::Redirect(location) => Reply {
                location: Some(location.clone()),
                ..plain(308, "redirect", "The address ends with a slash.")
            },
            Self::Denied(denial) => denial_reply(denial),
            Self::Crowded => Reply {
                retry_after: Some(Duration::from_secs(1)),
                ..closing(503, "crowded", "The server is busy. Please try again.")
            },
            Self::BadGateway => {
                plain(502, "bad_gateway", "The application did not answer as it should.")
            }
            Self::GatewayTimeout => {
                plain(504, "gateway_timeout", "The application did not answer in time.")
            }
            Self::Internal => closing(500, "internal_error", "The server made a mistake."),
            Self::ClientLeft => closing(499, "client_left", ""),
        }
    }
}

fn plain(status: u16, code: &'static str, detail: &'static str) -> Reply {
    Reply { status, code, detail, retry_after: None, location: None, allow: None, closes: false }
}

fn closing(status: u16, code: &'static str, detail: &'static str) -> Reply {
    Reply { closes: true, ..plain(status, code, detail) }
}

fn head_reply(error: HeadError) -> Reply {
    match error {
        HeadError::Malformed(_) => closing(400, "bad_request", "The request is malformed."),
        HeadError::MethodNotAllowed => Reply {
            allow: Some(METHODS),
            ..closing(405, "method_not_allowed", "This method is not allowed.")
        },
        HeadError::TargetTooLong => closing(414, "uri_too_long", "The address is too long."),
        HeadError::FieldsTooLarge => {
            closing(431, "header_too_large", "The request's header is too large.")
        }
        HeadError::Version => {
            closing(505, "version_not_supported", "This version of HTTP is not supported.")
        }
    }
}

fn body_reply(trouble: Trouble) -> Reply {
    match trouble {
        Trouble::TooLarge => closing(413, "body_too_large", "The request's body is too large."),
        Trouble::TooSlow => closing(408, "request_timeout", "The request took too long to arrive."),
        Trouble::Chunking | Trouble::Silent | Trouble::None => {
            closing(400, "bad_request", "The request's body is malformed.")
        }
    }
}

fn denial_reply(denial: &Denial) -> Reply {
    let unavailable = |code, detail, retry_after| Reply {
        retry_after: Some(retry_after),
        ..plain(503, code, detail)
    };
    match denial {
        Denial::QueueFull => unavailable(
            "queue_full",
            "Too many requests wait for this application. Please try again.",
            Duration::from_secs(1),
        ),
        Denial::HoldDeadline => Reply {
            retry_after: Some(Duration::from_secs(5)),
            ..plain(504, "start_timeout", "The application did not start in time.")
        },
        Denial::Refusal(refusal) => match refusal.reason {
            RefusalReason::Disabled => {
                unavailable("disabled", "This application is switched off.", refusal.retry_after)
            }
            RefusalReason::StartFailed | RefusalReason::BackingOff => unavailable(
                "start_failed",
                "This application could not be started. Please try again later.",
                refusal.retry_after,
            ),
            RefusalReason::StartDeadline => Reply {
                retry_after: Some(refusal.retry_after),
                ..plain(504, "start_timeout", "The application did not start in time.")
            },
            RefusalReason::Removed => plain(404, "not_found", "There is nothing at this address."),
            RefusalReason::ShuttingDown => Reply {
                closes: true,
                ..unavailable(
                    "shutting_down",
                    "The server restarts. Please try again.",
                    refusal.retry_after,
                )
            },
        },
    }
}

/// What kind of text the client prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Html,
    Json,
    Plain,
}

impl Kind {
    /// The first kind in `Accept` that we have; quality values are not weighed between ours.
    fn wanted(head: Option<&RequestHead>) -> Self {
        let accept = head.and_then(|head| head.field("accept")).unwrap_or_default();
        for part in accept.split(|b| *b == b',') {
            let media = part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            match media.to_ascii_lowercase().as_slice() {
                b"text/html" | b"application/xhtml+xml" => return Self::Html,
                b"application/json" | b"application/problem+json" => return Self::Json,
                b"text/plain" => return Self::Plain,
                _ => {}
            }
        }
        Self::Plain
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/problem+json",
            Self::Plain => "text/plain; charset=utf-8",
        }
    }
}

/// A reply as header fields and body, for any protocol.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Status.
    pub status: StatusCode,
    /// Fields but for framing, date and connection.
    pub fields: Vec<(&'static str, String)>,
    /// Body; sent unless the request was HEAD.
    pub body: Bytes,
}

impl Reply {
    /// Renders for this request; `None` where its head could not be read.
    #[must_use]
    pub fn render(&self, head: Option<&RequestHead>, request_id: &str) -> Rendered {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = Kind::wanted(head);
        let mut fields = Vec::with_capacity(5);
        if let Some(after) = self.retry_after {
            fields.push(("retry-after", retry_after(after).to_string()));
        }
        if let Some(location) = &self.location {
            fields.push(("location", location.clone()));
        }
        if let Some(allow) = self.allow {
            fields.push(("allow", allow.to_owned()));
        }
        let body = if status == StatusCode::NO_CONTENT {
            Bytes::new()
        } else {
            fields.push(("content-type", kind.content_type().to_owned()));
            fields.push(("cache-control", "no-store".to_owned()));
            if !request_id.is_empty() {
                fields.push(("x-request-id", request_id.to_owned()));
            }
            Bytes::from(self.text(kind, status, request_id))
        };
        Rendered { status, fields, body }
    }

    fn text(&self, kind: Kind, status: StatusCode, request_id: &str) -> String {
        let title = status.canonical_reason().unwrap_or("Error");
        match kind {
            Kind::Plain => format!("{} {title}\n{}\n", self.status, self.detail),
            Kind::Json => serde_json::json!({
                "type": "about:blank",
                "title": title,
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
                "request_id": request_id,
            })
            .to_string(),
            Kind::Html => format!(
                "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
                 <meta name=\"viewport\" content=\"width=device-width\">\
                 <title>{status} {title}</title>\n<style>{STYLE}</style>\n\
                 <main><h1>{title}</h1><p>{detail}</p><small>{status}{id}</small></main></html>\n",
                status = self.status,
                detail = self.detail,
                id = if request_id.is_empty() {
                    String::new()
                } else {
                    format!(" · request {}", escape(request_id))
                },
            ),
        }
    }
}

const STYLE: &str = ":root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;\
    place-items:center;font:1rem/1.5 system-ui,sans-serif}main{max-width:32rem;padding:2rem}\
    h1{font-size:1.5rem;margin:0 0 .5rem}p{margin:0 0 1.5rem}small{opacity:.6}";

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Whole seconds, rounded up, at least one.
fn retry_after(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

impl Rendered {
    /// As HTTP/1.1 bytes.
    #[must_use]
    pub fn to_http1(&self, closes: bool, is_head: bool, date: &str) -> Bytes {
        let mut text = String::with_capacity(512 + self.body.len());
        let reason = self.status.canonical_reason().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "HTTP/1.1 {} {reason}\r\ndate: {date}\r\n", self.status.as_u16());
        for (name, value) in &self.fields {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.status != StatusCode::NO_CONTENT {
            let _ = write!(text, "content-length: {}\r\n", self.body.len());
        }
        let connection = if closes { "close" } else { "keep-alive" };
        let _ = write!(text, "connection: {connection}\r\n\r\n");
        let mut bytes = text.into_bytes();
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use doorbell_supervisor::message::Refusal;

    use super::*;

    fn head(accept: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n");
        RequestHead::parse(Bytes::from(text), 8192).unwrap()
    }

    fn content_type(accept: &str) -> String {
        let rendered = Answer::NoRoute.reply().render(Some(&head(accept)), "id");
        let (_, value) =
            rendered.fields.into_iter().find(|(name, _)| *name == "content-type").unwrap();
        value
    }

    #[test]
    fn the_client_chooses_the_kind_of_text() {
        assert_eq!(content_type("text/html,*/*;q=0.8"), "text/html; charset=utf-8");
        assert_eq!(content_type("application/json"), "application/problem+json");
        assert_eq!(content_type("*/*"), "text/plain; charset=utf-8");
        assert_eq!(content_type("image/png"), "text/plain; charset=utf-8");
    }

    #[test]
    fn retry_after_is_at_least_one_second() {
        assert_eq!(retry_after(Duration::ZERO), 1);
        assert_eq!(retry_after(Duration::from_millis(1200)), 2);
    }

    #[test]
    fn the_table_of_the_design_holds() {
        let refused = |reason| {
            let refusal = Refusal { reason, retry_after: Duration::from_secs(3) };
            Answer::Denied(Denial::Refusal(refusal)).reply()
        };
        assert_eq!(refused(RefusalReason::Disabled).status, 503);
        assert_eq!(refused(RefusalReason::BackingOff).retry_after, Some(Duration::from_secs(3)));
        assert_eq!(refused(RefusalReason::StartDeadline).status, 504);
        assert_eq!(Answer::Denied(Denial::QueueFull).reply().status, 503);
        assert_eq!(Answer::Denied(Denial::HoldDeadline).reply().status, 504);
        assert_eq!(Answer::Head(HeadError::Malformed("x")).reply().status, 400);
        assert!(Answer::Head(HeadError::Malformed("x")).reply().closes);
        assert_eq!(Answer::Body(Trouble::TooLarge).reply().status, 413);
        assert_eq!(Answer::NoRoute.reply().status, 404);
    }

    #[test]
    fn text_from_clients_is_escaped() {
        let page = Answer::NoRoute.reply().render(Some(&head("text/html")), "<script>");
        assert!(!String::from_utf8_lossy(&page.body).contains("<script>"));
    }
}
