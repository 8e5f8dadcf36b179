//! How one line looks.

use std::{
    io::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use doorbell_config::spec::AccessLogFormat;

use super::user;
use crate::clock;

/// What one line tells.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The client, behind trusted proxies; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// `Authorization`, of which only the user's name is told.
    pub authorization: Option<&'a [u8]>,
    /// Method; empty where a request line was refused that has none.
    pub method: &'a str,
    /// Target as the client sent it; without a method the request line, as far as it was read.
    pub target: &'a [u8],
    /// `HTTP/1.1`.
    pub version: &'a str,
    /// Authority as the client sent it.
    pub host: &'a str,
    /// Status, 499 for a client that left.
    pub status: u16,
    /// Bytes of the answer's body.
    pub sent_bytes: u64,
    /// Bytes of the request's body.
    pub received_bytes: u64,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// From the head's end to the answer's end.
    pub took: Duration,
    /// Of it, at the gate.
    pub held: Duration,
    /// The app, if one was found.
    pub app: Option<&'a str>,
    /// Request id.
    pub request_id: &'a str,
}

impl AccessRecord<'_> {
    pub(super) fn write(&self, format: AccessLogFormat, out: &mut Vec<u8>) {
        match format {
            AccessLogFormat::Combined => self.write_combined(out),
            AccessLogFormat::Json => self.write_json(out),
        }
    }

    /// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent
    /// "$http_referer" "$http_user_agent"`.
    fn write_combined(&self, out: &mut Vec<u8>) {
        match self.client {
            // Writing to a Vec cannot fail, here and below.
            Some(ip) => drop(write!(out, "{ip}")),
            None => out.extend_from_slice(b"unix:"),
        }
        out.extend_from_slice(b" - ");
        escape_nginx(self.user().as_deref().unwrap_or(b"-"), out);
        clock::with_second(|second| drop(write!(out, " [{}] \"", second.log_local)));
        if self.method.is_empty() {
            escape_nginx(self.target, out);
        } else {
            escape_nginx(self.method.as_bytes(), out);
            out.push(b' ');
            escape_nginx(self.target, out);
            out.push(b' ');
            escape_nginx(self.version.as_bytes(), out);
        }
        drop(write!(out, "\" {} {} \"", self.status, self.sent_bytes));
        escape_nginx(self.referer.unwrap_or(b"-"), out);
        out.extend_from_slice(b"\" \"");
        escape_nginx(self.user_agent.unwrap_or(b"-"), out);
        out.extend_from_slice(b"\"\n");
    }

    fn user(&self) -> Option<Vec<u8>> {
        user::of(self.authorization?)
    }

    /// Caddy's keys, and ours under `doorbell`.
    fn write_json(&self, out: &mut Vec<u8>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let client = self.client.map_or_else(String::new, |ip| ip.to_string());
        let mut headers = serde_json::Map::new();
        for (name, value) in [("User-Agent", self.user_agent), ("Referer", self.referer)] {
            if let Some(value) = value {
                headers.insert(name.into(), serde_json::json!([text(value)]));
            }
        }
        let line = serde_json::json!({
            "level": "info",
            "ts": now,
            "logger": "http.log.access",
            "msg": "handled request",
            "request": {
                "remote_ip": client,
                "client_ip": client,
                "proto": self.version,
                "method": self.method,
                "host": self.host,
                "uri": text(self.target),
                "headers": headers,
            },
            "user_id": self.user().map_or_else(String::new, |user| text(&user)),
            "bytes_read": self.received_bytes,
            "duration": self.took.as_secs_f64(),
            "size": self.sent_bytes,
            "status": self.status,
            "doorbell": {
                "app": self.app,
                "held": self.held.as_secs_f64(),
                "request_id": self.request_id,
            },
        });
        // A map of strings and numbers always serialises, and a Vec takes every byte.
        drop(serde_json::to_writer(&mut *out, &line));
        out.push(b'\n');
    }
}

/// Nginx's `escape=default`: quote, backslash, control characters and bytes above 126 as `\xXX`.
fn escape_nginx(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if !(b' '..=b'~').contains(&byte) || byte == b'"' || byte == b'\\' {
            drop(write!(out, "\\x{byte:02X}"));
        } else {
            out.push(byte);
        }
    }
}
