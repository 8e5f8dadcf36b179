//! What every connection shares.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{
    access_log::{AccessLog, AccessRecord},
    answer::Reply,
    app::{Gates, Table},
    metrics::{AppMetrics, RequestFigures, ServerMetrics},
    pass::desk::Desk,
    readiness::Probes,
    transport::ConnFacts,
};

/// Bytes of a refused head's line that are logged.
const MOST_LOGGED: usize = 1024;

/// State of the data path. The table is swapped as a whole; everything else lives as long as
/// Doorbell.
pub struct Shared {
    /// What requests are decided by.
    pub table: ArcSwap<Table>,
    /// Where they get leases.
    pub gates: Gates,
    /// Instances that are asked whether they are ready.
    pub probes: Probes,
    /// Figures of Doorbell as a whole.
    pub metrics: Arc<ServerMetrics>,
    /// Figures of requests that belong to no app.
    pub other: Arc<AppMetrics>,
    /// What operators are shown.
    pub passes: Desk,
    /// Where they are logged.
    pub access_log: ArcSwapOption<AccessLog>,
}

/// A place among the open connections; given back by `Drop`.
pub struct ConnectionPlace(Arc<ServerMetrics>);

impl Shared {
    /// Takes a place for a connection, unless `limits.connections` are open.
    #[must_use]
    pub fn connection_place(&self) -> Option<ConnectionPlace> {
        let cap = self.table.load().server.limits.connections;
        let open = self.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPlace(Arc::clone(&self.metrics));
        if usize::try_from(open).unwrap_or(0) >= cap {
            self.metrics.crowded.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.metrics.accepted.fetch_add(1, Ordering::Relaxed);
        Some(place)
    }
}

impl Shared {
    /// Counts and logs a request whose head was refused, before it became an exchange. Of the head
    /// there is what was `read`, which may be nothing.
    pub fn refused(
        &self,
        facts: Option<&ConnFacts>,
        read: &[u8],
        reply: &Reply,
        request_id: &str,
        sent: u64,
    ) {
        let head = ReadHead::of(read);
        self.other.finish(&RequestFigures {
            method: &head.method,
            status: reply.status,
            took: Duration::ZERO,
            received_bytes: 0,
            sent_bytes: sent,
        });
        let Some(log) = self.access_log.load_full() else { return };
        let (method, target, version) = head.line;
        log.record(&AccessRecord {
            client: facts.and_then(ConnFacts::peer_ip),
            authorization: None,
            method,
            target,
            version,
            host: "",
            status: reply.status,
            sent_bytes: sent,
            received_bytes: 0,
            referer: field(read, b"referer"),
            user_agent: field(read, b"user-agent"),
            took: Duration::ZERO,
            held: Duration::ZERO,
            app: None,
            request_id,
        });
    }
}

/// What can be told of a head that is not what a head should be. For the log alone.
struct ReadHead<'h> {
    method: http::Method,
    /// Method, target and version; the line alone as target where it is not made of these.
    line: (&'h str, &'h [u8], &'h str),
}

impl<'h> ReadHead<'h> {
    fn of(read: &'h [u8]) -> Self {
        let line = lines(read).next().unwrap_or_default();
        let text = |part: Option<&'h [u8]>| std::str::from_utf8(part?).ok();
        let mut parts = line.splitn(2, |byte| *byte == b' ');
        let (method, rest) = (text(parts.next()).unwrap_or_default(), parts.next());
        let mut parts = rest.unwrap_or_default().rsplitn(2, |byte| *byte == b' ');
        let version = text(parts.next()).filter(|version| version.starts_with("HTTP/"));
        let line = match (http::Method::from_bytes(method.as_bytes()), version, parts.next()) {
            (Ok(_), Some(version), Some(target)) => (method, target, version),
            _ => ("", line, ""),
        };
        // A method that is not known is counted as one that we do not serve.
        let method = http::Method::from_bytes(method.as_bytes()).unwrap_or(http::Method::TRACE);
        Self { method, line }
    }
}

/// A field's value, the first of its name.
fn field<'h>(read: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    lines(read).skip(1).find_map(|line| {
        let (have, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":").filter(|_| have.eq_ignore_ascii_case(name))?;
        Some(value.trim_ascii())
    })
}

/// The head's lines, cut where they are longer than anybody wants to read.
fn lines(read: &[u8]) -> impl Iterator<Item = &[u8]> {
    read.split(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        &line[..line.len().min(MOST_LOGGED)]
    })
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_of_a_refused_head_is_told() {
        let head = b"POST /a b HTTP/1.1\r\nUser-Agent:  x \r\nReferer: r\r\n\r\n";
        let read = ReadHead::of(head);
        assert_eq!(read.method, http::Method::POST);
        assert_eq!(read.line, ("POST", &b"/a b"[..], "HTTP/1.1"));
        assert_eq!(field(head, b"user-agent"), Some(&b"x"[..]));
        assert_eq!(field(head, b"host"), None);
    }

    #[test]
    fn a_line_that_is_none_is_told_as_it_is() {
        assert_eq!(
            ReadHead::of(b"\x16\x03\x01 junk\r\n").line,
            ("", &b"\x16\x03\x01 junk"[..], "")
        );
        assert_eq!(ReadHead::of(b"").line, ("", &b""[..], ""));
        let long = [b'a'; 5000];
        assert_eq!(ReadHead::of(&long).line.1.len(), MOST_LOGGED);
    }

    #[test]
    fn a_head_that_was_not_read_is_no_get() {
        assert_ne!(ReadHead::of(b"").method, http::Method::GET);
    }
}
