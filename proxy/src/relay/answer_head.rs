//! The head of an app's answer: read, vetted, and written for the client.
//!
//! An app's output is not trusted. Whatever could be read in two ways is refused, and the framing
//! fields that go on are our own.

use std::mem::MaybeUninit;

use bytes::{BufMut, BytesMut};
use httparse::Header;

use crate::{
    head::{has_token, is_hop_by_hop},
    rewrite::Prefix,
};

/// Most header fields of an answer.
pub(super) const MAX_FIELDS: usize = 256;
/// Most bytes of an answer's head.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// What the app sent is no HTTP/1 answer, or one that can be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the app's answer is malformed: {0}")]
pub(super) struct Nonsense(&'static str);

/// Room for the fields of one head.
pub(super) type Room<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// How an answer's body is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimiter {
    /// There is none.
    None,
    Length(u64),
    Chunks,
    /// The end of the connection.
    Close,
}

/// One answer's head.
pub(super) struct AnswerHead<'b> {
    pub(super) status: u16,
    /// Bytes up to the end of the empty line.
    pub(super) length: usize,
    pub(super) body: Delimiter,
    /// Whether the app keeps its connection.
    pub(super) keeps: bool,
    reason: &'b str,
    fields: &'b [Header<'b>],
    framing: Framing,
    has_date: bool,
    nominates: bool,
}

/// The framing fields.
#[derive(Clone, Copy, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

/// What we put into an answer's head.
#[derive(Clone, Copy, Default)]
pub(super) struct Additions<'a> {
    /// Whether the connection ends behind the answer.
    pub(super) closes: bool,
    /// A `Date`, for an app that sends none (RFC 9110 section 6.6.1).
    pub(super) date: &'a str,
    /// `Server-Timing`.
    pub(super) timing: Option<&'a str>,
    /// Changes values.
    pub(super) prefix: Option<&'a Prefix<'a>>,
}

impl<'b> AnswerHead<'b> {
    /// Reads a head; `None` if it is not complete yet.
    pub(super) fn parse(
        bytes: &'b [u8],
        room: &'b mut Room<'b>,
        is_head: bool,
    ) -> Result<Option<Self>, Nonsense> {
        let mut response = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let length = match config.parse_response_with_uninit_headers(&mut response, bytes, room) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Nonsense("its head is too large"));
            }
            Err(_) => return Err(Nonsense("status line or header field")),
        };
        let status = response.code.unwrap_or_default();
        if !(100..=999).contains(&status) {
            return Err(Nonsense("status"));
        }
        let mut head = Self {
            status,
            length,
            body: Delimiter::Close,
            keeps: response.version == Some(1),
            reason: response.reason.unwrap_or_default(),
            fields: response.headers,
            framing: Framing::default(),
            has_date: false,
            nominates: false,
        };
        head.gather()?;
        head.body = head.delimiter(is_head);
        Ok(Some(head))
    }

    fn gather(&mut self) -> Result<(), Nonsense> {
        for header in self.fields {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                4 if is("date") => self.has_date = true,
                10 if is("connection") => self.take_connection(header.value),
                14 if is("content-length") => {
                    let length = content_length(header.value)?;
                    if self.framing.length.replace(length).is_some_and(|other| other != length) {
                        return Err(Nonsense("two lengths"));
                    }
                }
                17 if is("transfer-encoding") => match header.value {
                    coding if coding.eq_ignore_ascii_case(b"chunked") => {
                        if self.framing.chunked {
                            return Err(Nonsense("chunked twice"));
                        }
                        self.framing.chunked = true;
                    }
                    coding if coding.eq_ignore_ascii_case(b"identity") => {}
                    _ => return Err(Nonsense("transfer coding other than chunked")),
                },
                _ => {}
            }
        }
        if self.framing.chunked && self.framing.length.take().is_some() {
            // RFC 9112 section 6.3: chunks win, and such a connection is not used again.
            self.keeps = false;
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.keeps = false;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                // HTTP/1.0 that says so keeps its connection too; but without a length it cannot.
            } else if !token.is_empty() {
                self.nominates = true;
            }
        }
    }

    fn delimiter(&self, is_head: bool) -> Delimiter {
        match self.framing {
            _ if is_head || self.status < 200 || matches!(self.status, 204 | 304) => {
                Delimiter::None
            }
            Framing { chunked: true, .. } => Delimiter::Chunks,
            Framing { length: Some(0), .. } => Delimiter::None,
            Framing { length: Some(length), .. } => Delimiter::Length(length),
            Framing { .. } => Delimiter::Close,
        }
    }

    /// Whether it is not the answer yet (RFC 9110 section 15.2). 101 is one.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Writes it for the client.
    pub(super) fn write(&self, out: &mut BytesMut, add: Additions<'_>) {
        out.reserve(self.length + 160);
        let digit = |place: u16| b'0' + (self.status / place % 10) as u8;
        out.put_slice(b"HTTP/1.1 ");
        out.put_slice(&[digit(100), digit(10), digit(1), b' ']);
        out.put_slice(self.reason.as_bytes());
        out.put_slice(b"\r\n");
        for header in self.fields.iter().filter(|header| self.goes_on(header.name)) {
            let value = add.prefix.and_then(|prefix| prefix.field(header.name, header.value));
            let value = value.as_deref().unwrap_or(header.value);
            put(out, header.name, value);
        }
        // RFC 9110 section 8.6, RFC 9112 section 6.1: these have no framing fields.
        let is_framed = self.status >= 200 && self.status != 204;
        match self.framing {
            Framing { chunked: true, .. } if is_framed => {
                put(out, "Transfer-Encoding", b"chunked");
            }
            Framing { length: Some(length), .. } if is_framed => {
                put(out, "Content-Length", itoa::Buffer::new().format(length).as_bytes());
            }
            Framing { .. } => {}
        }
        if !self.has_date && self.status >= 200 && !add.date.is_empty() {
            put(out, "Date", add.date.as_bytes());
        }
        if let Some(timing) = add.timing {
            put(out, "Server-Timing", timing.as_bytes());
        }
        if self.status == 101 {
            put(out, "Connection", b"Upgrade");
        } else if add.closes {
            put(out, "Connection", b"close");
        }
        out.put_slice(b"\r\n");
    }

    fn goes_on(&self, name: &str) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let is_framing = match name.len() {
            14 => is("content-length"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        if self.status == 101 && is("upgrade") {
            return true;
        }
        let ends_here = is_framing || is_hop_by_hop(name.as_bytes());
        !ends_here && (!self.nominates || !self.nominated(name))
    }

    fn nominated(&self, name: &str) -> bool {
        let mut lists =
            self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        lists.any(|list| has_token(list.value, name.as_bytes()))
    }
}

fn content_length(value: &[u8]) -> Result<u64, Nonsense> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| is_number)
        .and_then(|text| text.parse().ok())
        .ok_or(Nonsense("Content-Length"))
}

fn put(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, look: impl FnOnce(Result<Option<AnswerHead<'_>>, Nonsense>) -> T) -> T {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        look(AnswerHead::parse(text.as_bytes(), &mut room, false))
    }

    fn written(text: &str, add: Additions<'_>) -> String {
        read(text, |head| {
            let mut out = BytesMut::new();
            head.unwrap().expect("a whole head").write(&mut out, add);
            String::from_utf8(out.to_vec()).unwrap()
        })
    }

    fn body(text: &str) -> Delimiter {
        read(text, |head| head.unwrap().expect("a whole head").body)
    }

    #[test]
    fn what_concerns_the_apps_connection_alone_does_not_go_on() {
        let text = "HTTP/1.1 200 Fine\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, X-Own\r\nX-Own: 1\r\n\
                    Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-Other: 2\r\nDate: d\r\n\
                    Content-Length: 3\r\n\r\n";
        let expected = "HTTP/1.1 200 Fine\r\nX-Other: 2\r\nDate: d\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(written(text, Additions { date: "now", ..Additions::default() }), expected);
    }

    #[test]
    fn what_is_missing_is_added() {
        let add = Additions { closes: true, date: "now", timing: Some("hold;dur=1"), prefix: None };
        assert_eq!(
            written("HTTP/1.1 200 OK\r\n\r\n", add),
            "HTTP/1.1 200 OK\r\nDate: now\r\nServer-Timing: hold;dur=1\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn switching_keeps_its_protocol() {
        let text = "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                    Content-Length: 0\r\n\r\n";
        let expected =
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(written(text, Additions::default()), expected);
    }

    #[test]
    fn bodies_end_as_their_heads_say() {
        let with =
            |status: u16, fields: &str| body(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n"));
        assert_eq!(with(200, "Content-Length: 5\r\n"), Delimiter::Length(5));
        assert_eq!(with(200, "Content-Length: 5\r\nContent-Length: 5\r\n"), Delimiter::Length(5));
        assert_eq!(with(200, "Content-Length: 0\r\n"), Delimiter::None);
        assert_eq!(with(200, "Transfer-Encoding: chunked\r\n"), Delimiter::Chunks);
        assert_eq!(with(200, "Transfer-Encoding: identity\r\n"), Delimiter::Close);
        assert_eq!(with(200, ""), Delimiter::Close);
        assert_eq!(with(204, "Content-Length: 5\r\n"), Delimiter::None);
        assert_eq!(with(304, "Content-Length: 5\r\n"), Delimiter::None);
    }

    #[test]
    fn chunks_win_over_a_length_and_the_connection_is_not_used_again() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        read(text, |head| {
            let head = head.unwrap().expect("a whole head");
            assert_eq!((head.body, head.keeps), (Delimiter::Chunks, false));
        });
        assert!(!written(text, Additions::default()).contains("Content-Length"));
    }

    #[test]
    fn nonsense_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5,5\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": x\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(read(&text, |head| head.is_err()), "{fields:?}");
        }
        assert!(read("SSH-2.0-OpenSSH\r\n", |head| head.is_err()));
    }

    #[test]
    fn half_a_head_is_waited_for() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        for cut in 0..text.len() {
            assert!(read(&text[..cut], |head| head.unwrap().is_none()), "{cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let text = [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat();
            if let Ok(Some(head)) = AnswerHead::parse(&text, &mut room, false) {
                head.write(&mut BytesMut::new(), Additions::default());
            }
        }
    }
}
