//! An answer as a client gets it: text, JSON or a page, as bytes of its protocol.

use std::fmt::Write as _;

use bytes::Bytes;
use doorbell_config::{
    interned::Interned,
    spec::{AppSpec, OwnPages, ServerSpec},
};
use http::StatusCode;

use super::{Answer, Reply, retry_after};
use crate::{
    bulletin,
    head::RequestHead,
    page::{self, Page, Values, waiting::Waiting},
};

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

    fn content_type(self, status: StatusCode) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json if status.is_success() => "application/json",
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

/// Where an answer is given, for pages of the operator's own.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Settings that hold.
    pub server: &'a ServerSpec,
    /// The app that was asked for.
    pub app: Option<&'a AppSpec>,
}

impl Answer {
    /// Renders for this request; `None` where its head could not be read.
    #[must_use]
    pub fn render(
        &self,
        head: Option<&RequestHead>,
        request_id: &str,
        place: Option<Place<'_>>,
    ) -> Rendered {
        let reply = self.reply();
        let status =
            StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = Kind::wanted(head);
        let mut fields = Vec::with_capacity(10);
        if let Some(after) = reply.retry_after {
            fields.push(("retry-after", retry_after(after).to_string()));
        }
        if let Some(location) = &reply.location {
            fields.push(("location", location.clone()));
        }
        if let Self::Entered(cookie, _) = self {
            fields.push(("set-cookie", cookie.clone()));
        }
        if let Some(allow) = reply.allow {
            fields.push(("allow", allow.to_owned()));
        }
        fields.push(("cache-control", "no-store".to_owned()));
        if !request_id.is_empty() {
            fields.push(("x-request-id", request_id.to_owned()));
        }
        let body = if status == StatusCode::NO_CONTENT {
            Bytes::new()
        } else {
            fields.push(("content-type", kind.content_type(status).to_owned()));
            Bytes::from(match kind {
                Kind::Plain => self.text(&reply),
                Kind::Json => reply.json(request_id),
                Kind::Html => {
                    let page = self.page(&reply, request_id, place, head);
                    fields.extend(page.fields);
                    page.html
                }
            })
        };
        Rendered { status, fields, body }
    }

    fn text(&self, reply: &Reply) -> String {
        if let Self::Asleep(rules) = self
            && rules.asleep.body.is_some()
        {
            // What the operator wrote, and nothing else: a monitor may look for it.
            return format!("{}\n", reply.detail);
        }
        format!("{} {}\n{}\n", reply.status, reply.title(), reply.detail)
    }

    fn page(
        &self,
        reply: &Reply,
        request_id: &str,
        place: Option<Place<'_>>,
        head: Option<&RequestHead>,
    ) -> Page {
        let waiting = if let Self::Waiting(waiting) = self { Some(waiting) } else { None };
        let app = place.and_then(|place| place.app).map_or("", |app| app.name.as_str());
        if let Self::Why(failure, _) = self {
            return page::of_failure(app, failure, request_id);
        }
        if let Some(text) = place.and_then(|place| reply.own(place)) {
            let estimate = waiting.map(Waiting::estimate).unwrap_or_default();
            let (status, retry_after) = (reply.status, reply.retry_after.map(retry_after));
            let values = Values { app, status, retry_after, request_id, estimate: &estimate };
            let mut page = page::own(text, &values);
            page.fields
                .extend(waiting.map(|waiting| ("refresh", waiting.look_again().to_string())));
            return page;
        }
        match (waiting, head) {
            (Some(waiting), Some(head)) => waiting.page(app, &bulletin::address(head.path())),
            (Some(_), None) | (None, _) => reply.page(request_id),
        }
    }
}

impl Reply {
    fn json(&self, request_id: &str) -> String {
        serde_json::json!({
            "type": "about:blank",
            "title": self.title(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        })
        .to_string()
    }

    fn page(&self, request_id: &str) -> Page {
        // Of a sleeping app the same request would get the same answer.
        let may_try_again = self.code != "asleep"
            && (self.retry_after.is_some() || matches!(self.status, 502 | 504));
        let id = if request_id.is_empty() { "" } else { " · request " };
        let small = format!("{}{id}{request_id}", self.status);
        page::of_error(self.heading(), &self.detail, &small, may_try_again)
    }

    /// What a page says first.
    fn heading(&self) -> &'static str {
        match self.code {
            "not_found" => "Nothing here",
            "maintenance" => "Back soon",
            "asleep" => "Asleep",
            "disabled" => "Switched off",
            "start_failed" => "Not available now",
            "start_timeout" => "It takes too long to start",
            "queue_full" | "crowded" => "Too many at once",
            "shutting_down" => "Just a moment",
            "bad_gateway" => "No proper answer",
            "gateway_timeout" => "No answer in time",
            _ => self.title(),
        }
    }

    /// The status in words.
    fn title(&self) -> &'static str {
        let status = StatusCode::from_u16(self.status).ok();
        status.and_then(|status| status.canonical_reason()).unwrap_or("Error")
    }

    /// The operator's own page, the app's before the server's.
    fn own<'a>(&self, place: Place<'a>) -> Option<&'a Interned<String>> {
        let of = |pages: &'a OwnPages| match (self.code, self.status) {
            ("starting", _) => pages.waiting.as_ref(),
            ("maintenance", _) => pages.maintenance.as_ref(),
            ("asleep", _) => pages.asleep.as_ref(),
            (_, 404) => pages.not_found.as_ref(),
            (_, 502) => pages.bad_gateway.as_ref(),
            (_, 503) => pages.unavailable.as_ref(),
            (_, 504) => pages.gateway_timeout.as_ref(),
            _ => None,
        };
        place.app.and_then(|app| of(&app.pages.own)).or_else(|| of(&place.server.pages))
    }
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
    use super::*;

    fn head(accept: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n");
        RequestHead::parse(Bytes::from(text), 8192).unwrap()
    }

    fn content_type(accept: &str) -> String {
        let rendered = Answer::NoRoute.render(Some(&head(accept)), "id", None);
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
    fn text_from_clients_is_escaped() {
        let page = Answer::NoRoute.render(Some(&head("text/html")), "<script>", None);
        assert!(!String::from_utf8_lossy(&page.body).contains("<script>"));
    }
}
