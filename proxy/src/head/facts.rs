//! What the fields of a head say about its host, its body and its connection.

use http::HeaderMap;

use super::{BodyKind, HeadError, Version, has_token, same_name};

/// What the header fields say about framing, gathered in one pass.
pub(super) struct Facts<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) body: BodyKind,
    pub(super) upgrade: bool,
    pub(super) connection: Connection,
}

/// The protocols that a client offers to change to.
#[derive(Default)]
struct Upgrades {
    fields: usize,
    h2c: bool,
}

impl Upgrades {
    fn push(&mut self, value: &[u8]) {
        self.fields += 1;
        self.h2c |= has_token(value, b"h2c");
    }

    /// Whether the app is asked. An app that changed to HTTP/2 would get requests that nobody has
    /// looked at; and of two lists an app may read another than we did.
    fn ask(&self) -> bool {
        self.fields == 1 && !self.h2c
    }
}

/// What `Connection` says, over all its fields (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// It names fields that concern this connection alone.
    pub(super) nominates: bool,
}

impl Connection {
    fn take(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
            match token.len() {
                0 => {}
                5 if is("close") => self.close = true,
                7 if is("upgrade") => self.upgrade = true,
                10 if is("keep-alive") => self.keep_alive = true,
                4 | 14 | 17 if is("host") || is("content-length") || is("transfer-encoding") => {
                    return Err(HeadError::Malformed("Connection names a field that must go on"));
                }
                _ => self.nominates = true,
            }
        }
        Ok(())
    }

    /// Whether the client keeps its connection after the answer.
    pub(super) fn keeps(self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 | Version::Http2 => !self.close,
        }
    }
}

impl<'a> Facts<'a> {
    pub(super) fn gather(
        headers: &[httparse::Header<'a>],
        version: Version,
    ) -> Result<Self, HeadError> {
        let (mut host, mut length, mut coding) = (None, None, None);
        let mut upgrades = Upgrades::default();
        let mut connection = Connection::default();
        for header in headers {
            let once = |slot: &mut Option<&'a [u8]>, why| match slot.replace(header.value) {
                None => Ok(()),
                Some(_) => Err(HeadError::Malformed(why)),
            };
            match header.name.len() {
                4 if is(header, "host") => once(&mut host, "two Host fields")?,
                7 if is(header, "upgrade") => upgrades.push(header.value),
                10 if is(header, "connection") => connection.take(header.value)?,
                14 if is_like(header, "content-length") => {
                    refuse_underscore(header)?;
                    once(&mut length, "two Content-Length fields")?;
                }
                17 if is_like(header, "transfer-encoding") => {
                    refuse_underscore(header)?;
                    once(&mut coding, "two Transfer-Encoding fields")?;
                }
                _ => {}
            }
        }
        let host = match host {
            Some(host) => {
                Some(std::str::from_utf8(host).map_err(|_| HeadError::Malformed("host"))?)
            }
            None if version == Version::Http11 => {
                return Err(HeadError::Malformed("no Host field"));
            }
            None => None,
        };
        if host.is_some_and(str::is_empty) {
            return Err(HeadError::Malformed("empty Host field"));
        }
        let body = body_kind(length, coding, version)?;
        let upgrade = upgrades.ask() && connection.upgrade && body == BodyKind::None;
        Ok(Self { host, body, upgrade, connection })
    }
}

fn body_kind(
    length: Option<&[u8]>,
    coding: Option<&[u8]>,
    version: Version,
) -> Result<BodyKind, HeadError> {
    match (length, coding) {
        (Some(_), Some(_)) => {
            Err(HeadError::Malformed("Content-Length together with Transfer-Encoding"))
        }
        (None, Some(_)) if version == Version::Http10 => {
            Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"))
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyKind::UntilEnd),
        (None, Some(_)) => Err(HeadError::Malformed("transfer coding other than chunked")),
        (Some(length), None) => match parse_length(length)? {
            0 => Ok(BodyKind::None),
            length => Ok(BodyKind::Length(length)),
        },
        (None, None) => Ok(BodyKind::None),
    }
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .ok_or(HeadError::Malformed("Content-Length"))
}

pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut values = headers.get_all(http::header::CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse_length(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(HeadError::Malformed("two Content-Length fields")),
    }
}

fn is(header: &httparse::Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// Equal but for case, with `_` taken for `-`: some apps read it so.
fn is_like(header: &httparse::Header<'_>, name: &str) -> bool {
    same_name(header.name.as_bytes(), name)
}

fn refuse_underscore(header: &httparse::Header<'_>) -> Result<(), HeadError> {
    if header.name.contains('_') {
        Err(HeadError::Malformed("framing field spelled with an underscore"))
    } else {
        Ok(())
    }
}
