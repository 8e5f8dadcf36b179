//! A request's head as plain data, vetted: what every decision works on.
//!
//! HTTP/1 heads are read from the raw bytes here, before any framework sees them, because smuggling
//! lives in what two parsers read differently (RFC 9112 section 11.2). What is ambiguous is refused,
//! never repaired. HTTP/2 heads come from decoded fields and end up in the same shape.
//!
//! Not here: bodies ([`crate::framing`]), routing ([`crate::verdict`]), what is forwarded
//! ([`crate::forward`]).

use std::{borrow::Cow, mem::MaybeUninit, net::SocketAddr, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use doorbell_config::{name::Hostname, path};
use http::{HeaderMap, Method, Uri};

use crate::forward::Passage;

mod facts;
mod target;

use facts::{Facts, content_length};
use target::split_target;

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

/// Who reads a head that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Pingora, which has to know whether the client keeps its connection.
    Framework,
    /// The app.
    App,
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
    /// Whether the client keeps the connection after the answer.
    pub keeps: bool,
    /// Whether `Connection` names fields that concern the client's connection alone.
    nominates: bool,
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
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(&bytes, &mut headers) {
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
            keeps: facts.connection.keeps(version),
            nominates: facts.connection.nominates,
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
            keeps: true,
            nominates: false,
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
            keeps: parts.keeps,
            nominates: parts.nominates,
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

    /// The query is another one, with its `?`, or none.
    pub fn set_query(&mut self, query: &str) {
        self.target.truncate(self.path_len);
        self.target.push_str(query);
    }

    /// The target as the client sent it, for the access log.
    #[must_use]
    pub fn raw_target(&self) -> &[u8] {
        &self.bytes[self.raw_target.clone()]
    }

    /// The head as it is passed on: the target in origin form and normal, one `Host` that agrees with
    /// it, the client's own fields, and what the app is told beyond them.
    #[must_use]
    pub fn forwarded_bytes(&self, target: &str, passage: &Passage, reader: Reader) -> BytesMut {
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
            let stays = name.eq_ignore_ascii_case(b"host")
                || passage.takes_out(name)
                || self.ends_here(name);
            if !stays {
                put(name, value);
            }
        }
        for (name, value) in passage.set() {
            put(name.as_bytes(), value.as_bytes());
        }
        match reader {
            Reader::App if self.upgrade => put(b"Connection", b"Upgrade"),
            Reader::App => {}
            Reader::Framework if self.keeps => put(b"Connection", b"keep-alive"),
            Reader::Framework => put(b"Connection", b"close"),
        }
        head.put_slice(b"\r\n\r\n");
        head
    }

    /// Whether a field is about the client's connection alone (RFC 9110 section 7.6.1).
    fn ends_here(&self, name: &[u8]) -> bool {
        if self.upgrade && name.eq_ignore_ascii_case(b"upgrade") {
            return false;
        }
        let nominated = || self.all_fields("connection").any(|list| has_token(list, name));
        is_hop_by_hop(name) || (self.nominates && nominated())
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
    keeps: bool,
    nominates: bool,
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

/// Whether an app that reads `_` as `-` would take `name` for `wanted` (lower case).
#[must_use]
pub fn same_name(name: &[u8], wanted: &str) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted.bytes()).all(|(have, want)| {
            have.to_ascii_lowercase() == want || (*have == b'_' && want == b'-')
        })
}

/// Whether a field concerns one connection and is not passed on. `Transfer-Encoding` and `Trailer` are
/// not among them where the body goes on with its framing untouched.
#[must_use]
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    let is = |hop: &str| name.eq_ignore_ascii_case(hop.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        14 => is("http2-settings"),
        16 => is("proxy-connection"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// Whether a comma-separated list has a token, whatever its case.
#[must_use]
pub fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests;
