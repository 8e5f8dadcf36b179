//! A request's head as plain data, vetted: what every decision works on.
//!
//! HTTP/1 heads are read from the raw bytes here, before any framework sees them, because smuggling
//! lives in what two parsers read differently (RFC 9112 section 11.2). What is ambiguous is refused,
//! never repaired. HTTP/2 heads come from decoded fields and end up in the same shape.
//!
//! Not here: bodies ([`crate::framing`]), routing ([`crate::verdict`]), what is forwarded
//! ([`crate::forward`]).

use std::{borrow::Cow, net::SocketAddr, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use doorbell_config::{name::Hostname, path};
use http::{HeaderMap, Method, Uri};

use crate::forward::Passage;

/// Most header fields in one head; more is 431.
pub const MAX_FIELDS: usize = 128;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// 400: against the grammar, or readable in two ways.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// 405: TRACE and CONNECT.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// 414: the target is longer than `limits.uri`.
    #[error("request target too long")]
    TargetTooLong,
    /// 431: too many fields, or more bytes than `limits.head`.
    #[error("request header fields too large")]
    FieldsTooLarge,
    /// 505: not HTTP/1.0 or HTTP/1.1.
    #[error("HTTP version not supported")]
    Version,
}

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunked, or HTTP/2 without a length: until its end.
    UntilEnd,
}

/// The protocol version a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As in a request line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// One request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Method; never CONNECT or TRACE.
    pub method: Method,
    /// What the client speaks.
    pub version: Version,
    /// Host in normal form; `None` only for HTTP/1.0 without `Host`.
    pub host: Option<String>,
    /// Path in normal form and, behind `?`, the query as it came.
    target: String,
    path_len: usize,
    /// Authority as it came, with port; empty when there was none.
    pub authority: String,
    /// How the body is delimited.
    pub body: BodyKind,
    /// Whether this asks for another protocol on the connection (not h2c, which is ignored).
    pub upgrade: bool,
    bytes: Bytes,
    raw_target: Range<usize>,
    fields: Box<[Field]>,
}

#[derive(Clone, Debug)]
struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl RequestHead {
    /// Reads one complete HTTP/1 head, from its request line to the empty line.
    ///
    /// # Errors
    /// What is wrong, for the status of the answer.
    pub fn parse(bytes: Bytes, uri_limit: u64) -> Result<Self, HeadError> {
        check_bytes(&bytes)?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
            Ok(_) => return Err(HeadError::Malformed("incomplete head")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::FieldsTooLarge),
            Err(httparse::Error::Version) => return Err(version_error(&bytes)),
            Err(_) => return Err(HeadError::Malformed("request line or header field")),
        }
        let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let raw_target = request.path.unwrap_or_default();
        if raw_target.len() as u64 > uri_limit {
            return Err(HeadError::TargetTooLong);
        }
        let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
            .map_err(|_| HeadError::Malformed("method"))?;
        let facts = Facts::gather(request.headers, version)?;
        let (authority, path_and_query) = split_target(raw_target, &method)?;
        let authority = authority.or(facts.host).unwrap_or_default().to_owned();
        let span = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + part.len()
        };
        let small = |range: Range<usize>| range.start as u32..range.end as u32;
        let fields = request
            .headers
            .iter()
            .map(|h| Field { name: small(span(h.name.as_bytes())), value: small(span(h.value)) })
            .collect();
        let raw_target = span(raw_target.as_bytes());
        Self::assemble(Parts {
            method,
            version,
            body: facts.body,
            upgrade: facts.upgrade && version == Version::Http11,
            path_and_query: path_and_query.to_owned(),
            authority,
            bytes,
            raw_target,
            fields,
        })
    }

    /// Takes the decoded fields of an HTTP/2 request. Cookie crumbs are joined (RFC 9113 section
    /// 8.2.3).
    ///
    /// # Errors
    /// What is wrong, for the status of the answer.
    pub fn from_h2(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        has_body: bool,
        uri_limit: u64,
    ) -> Result<Self, HeadError> {
        let raw = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        if raw.len() as u64 > uri_limit {
            return Err(HeadError::TargetTooLong);
        }
        let (_, path_and_query) = split_target(raw, method)?;
        let path_and_query = path_and_query.to_owned();
        let mut buffer = BytesMut::with_capacity(512);
        buffer.put_slice(raw.as_bytes());
        let fields = copy_fields(headers, &mut buffer)?;
        let host = headers.get(http::header::HOST).map(|h| h.to_str().unwrap_or_default());
        let authority = match (uri.authority().map(http::uri::Authority::as_str), host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                return Err(HeadError::Malformed(":authority and host differ"));
            }
            (authority, host) => authority.or(host).unwrap_or_default().to_owned(),
        };
        if authority.is_empty() {
            return Err(HeadError::Malformed("no :authority"));
        }
        let body = match content_length(headers)? {
            Some(0) | None if !has_body => BodyKind::None,
            Some(length) => BodyKind::Length(length),
            None => BodyKind::UntilEnd,
        };
        Self::assemble(Parts {
            method: method.clone(),
            version: Version::Http2,
            body,
            upgrade: false,
            path_and_query,
            authority,
            bytes: buffer.freeze(),
            raw_target: 0..raw.len(),
            fields,
        })
    }

    fn assemble(parts: Parts) -> Result<Self, HeadError> {
        let host = if parts.authority.is_empty() {
            None
        } else {
            let host = Hostname::normalize(&parts.authority).ok_or(HeadError::Malformed("host"))?;
            Some(host.into_owned())
        };
        let (path, query) = match memchr::memchr(b'?', parts.path_and_query.as_bytes()) {
            Some(at) => (&parts.path_and_query[..at], &parts.path_and_query[at..]),
            None => (parts.path_and_query.as_str(), ""),
        };
        let (target, path_len) = if path == "*" {
            (String::from("*"), 1)
        } else {
            let normal = path::normalize(path).map_err(|_| HeadError::Malformed("path"))?;
            let path_len = normal.len();
            let rewritten = match normal {
                Cow::Borrowed(_) => None,
                Cow::Owned(path) => Some(path + query),
            };
            (rewritten.unwrap_or(parts.path_and_query), path_len)
        };
        Ok(Self {
            method: parts.method,
            version: parts.version,
            host,
            target,
            path_len,
            authority: parts.authority,
            body: parts.body,
            upgrade: parts.upgrade,
            bytes: parts.bytes,
            raw_target: parts.raw_target,
            fields: parts.fields,
        })
    }

    /// Path in normal form.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// Query with its `?`, or empty.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.target[self.path_len..]
    }

    /// Path in normal form with the query: what is forwarded unless a prefix is stripped.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The target as the client sent it, for the access log.
    #[must_use]
    pub fn raw_target(&self) -> &[u8] {
        &self.bytes[self.raw_target.clone()]
    }

    /// The head as the framework is to read and send it: the target in origin form and normal, one
    /// `Host` that agrees with it, the client's own fields, and what the app is told beyond them.
    #[must_use]
    pub fn forwarded_bytes(&self, target: &str, passage: &Passage) -> Bytes {
        let mut head = BytesMut::with_capacity(self.bytes.len() + 512);
        for part in [self.method.as_str(), " ", target, " ", self.version.as_str(), "\r\nHost: "] {
            head.put_slice(part.as_bytes());
        }
        let host = if self.authority.is_empty() { "localhost" } else { &self.authority };
        head.put_slice(host.as_bytes());
        let mut put = |name: &[u8], value: &[u8]| {
            head.put_slice(b"\r\n");
            head.put_slice(name);
            head.put_slice(b": ");
            head.put_slice(value);
        };
        for (name, value) in self.fields() {
            if !name.eq_ignore_ascii_case(b"host") && !passage.takes_out(name) {
                put(name, value);
            }
        }
        for (name, value) in passage.set() {
            put(name.as_bytes(), value.as_bytes());
        }
        head.put_slice(b"\r\n\r\n");
        head.freeze()
    }

    /// First value of a header field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    /// Every value of a header field, in order.
    pub fn all_fields<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Every header field, in order.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let slice = |range: &Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        self.fields.iter().map(move |field| (slice(&field.name), slice(&field.value)))
    }

    /// The port in the authority, if the client named one.
    #[must_use]
    pub fn authority_port(&self) -> Option<u16> {
        if let Ok(address) = self.authority.parse::<SocketAddr>() {
            return Some(address.port());
        }
        self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }
}

struct Parts {
    method: Method,
    version: Version,
    body: BodyKind,
    upgrade: bool,
    path_and_query: String,
    authority: String,
    bytes: Bytes,
    raw_target: Range<usize>,
    fields: Box<[Field]>,
}

/// No NUL, no CR or LF but in pairs.
fn check_bytes(bytes: &[u8]) -> Result<(), HeadError> {
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, bytes) {
        let paired = match bytes[at] {
            b'\r' => bytes.get(at + 1) == Some(&b'\n'),
            b'\n' => at > 0 && bytes[at - 1] == b'\r',
            _ => false,
        };
        if !paired {
            return Err(HeadError::Malformed("bare CR, bare LF or NUL"));
        }
    }
    Ok(())
}

/// A well-formed version that we do not speak is 505, anything else 400.
fn version_error(bytes: &[u8]) -> HeadError {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            HeadError::Version
        }
        _ => HeadError::Malformed("HTTP version"),
    }
}

/// What the header fields say about framing, gathered in one pass.
struct Facts<'a> {
    host: Option<&'a str>,
    body: BodyKind,
    upgrade: bool,
}

impl<'a> Facts<'a> {
    fn gather(headers: &[httparse::Header<'a>], version: Version) -> Result<Self, HeadError> {
        let (mut host, mut length, mut coding) = (None, None, None);
        let (mut upgrade, mut connection_upgrade) = (false, false);
        for header in headers {
            let once = |slot: &mut Option<&'a [u8]>, why| match slot.replace(header.value) {
                None => Ok(()),
                Some(_) => Err(HeadError::Malformed(why)),
            };
            match header.name.len() {
                4 if is(header, "host") => once(&mut host, "two Host fields")?,
                7 if is(header, "upgrade") => {
                    upgrade = !header.value.eq_ignore_ascii_case(b"h2c");
                }
                10 if is(header, "connection") => {
                    connection_upgrade |= has_token(header.value, b"upgrade");
                }
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
        let upgrade = upgrade && connection_upgrade && body == BodyKind::None;
        Ok(Self { host, body, upgrade })
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

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut values = headers.get_all(http::header::CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse_length(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(HeadError::Malformed("two Content-Length fields")),
    }
}

/// Splits a request target (RFC 9112 section 3.2) into authority, if it names one, and path with
/// query.
fn split_target<'a>(
    target: &'a str,
    method: &Method,
) -> Result<(Option<&'a str>, &'a str), HeadError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(HeadError::MethodNotAllowed);
    }
    if target.bytes().any(|b| b == b'#' || b <= b' ' || b == 0x7f) {
        return Err(HeadError::Malformed("request target"));
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    if target == "*" {
        return if *method == Method::OPTIONS {
            Ok((None, target))
        } else {
            Err(HeadError::Malformed("asterisk target for a method other than OPTIONS"))
        };
    }
    let rest = ["http://", "https://"]
        .iter()
        .find(|scheme| {
            target.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
        })
        .map(|scheme| &target[scheme.len()..])
        .ok_or(HeadError::Malformed("request target"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(HeadError::Malformed("authority in request target"));
    }
    match path {
        "" => Ok((Some(authority), "/")),
        path if path.starts_with('/') => Ok((Some(authority), path)),
        _ => Err(HeadError::Malformed("request target without path")),
    }
}

fn copy_fields(headers: &HeaderMap, buffer: &mut BytesMut) -> Result<Box<[Field]>, HeadError> {
    if headers.len() > MAX_FIELDS {
        return Err(HeadError::FieldsTooLarge);
    }
    let mut fields = Vec::with_capacity(headers.len());
    let mut put = |name: &[u8], values: &mut dyn Iterator<Item = &[u8]>| {
        let name_start = buffer.len() as u32;
        buffer.put_slice(name);
        let value_start = buffer.len() as u32;
        for (nth, value) in values.enumerate() {
            if nth > 0 {
                buffer.put_slice(b"; ");
            }
            buffer.put_slice(value);
        }
        fields
            .push(Field { name: name_start..value_start, value: value_start..buffer.len() as u32 });
    };
    for name in headers.keys() {
        let framing = ["content-length", "transfer-encoding"];
        if name.as_str().contains('_')
            && framing.iter().any(|framing| same_name(name.as_str().as_bytes(), framing))
        {
            return Err(HeadError::Malformed("framing field spelled with an underscore"));
        }
        let values = headers.get_all(name);
        if name == http::header::COOKIE {
            put(name.as_str().as_bytes(), &mut values.iter().map(http::HeaderValue::as_bytes));
        } else {
            for value in values {
                put(name.as_str().as_bytes(), &mut std::iter::once(value.as_bytes()));
            }
        }
    }
    Ok(fields.into())
}

fn is(header: &httparse::Header<'_>, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// Equal but for case, with `_` taken for `-`: some apps read it so.
fn is_like(header: &httparse::Header<'_>, name: &str) -> bool {
    same_name(header.name.as_bytes(), name)
}

/// Whether an app that reads `_` as `-` would take `name` for `wanted` (lower case).
#[must_use]
pub fn same_name(name: &[u8], wanted: &str) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted.bytes()).all(|(have, want)| {
            have.to_ascii_lowercase() == want || (*have == b'_' && want == b'-')
        })
}

fn refuse_underscore(header: &httparse::Header<'_>) -> Result<(), HeadError> {
    if header.name.contains('_') {
        Err(HeadError::Malformed("framing field spelled with an underscore"))
    } else {
        Ok(())
    }
}

/// Whether a comma-separated list has a token, whatever its case.
#[must_use]
pub fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests;
