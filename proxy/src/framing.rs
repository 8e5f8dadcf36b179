//! Where a request's body ends on the wire, watched byte by byte as it passes.
//!
//! The bytes themselves go on untouched. Watching gives three things: bad chunking is refused
//! before an app sees it (RFC 9112 section 7.1), the size limit counts content and not framing, and
//! the next pipelined request never ends up in this one's body.

use crate::{
    forward::is_ours,
    head::{BodyKind, same_name},
};

/// Longest chunk-size line, extensions included.
const MAX_SIZE_LINE: u32 = 4096;
/// Most bytes of trailer fields.
const MAX_TRAILERS: u32 = 16 * 1024;

/// Longest name of a field that is refused as a trailer.
const LONGEST_NAME: usize = 24;

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The chunks do not follow the grammar: 400.
    #[error("malformed chunked body")]
    Chunking,
    /// More content than the limit: 413.
    #[error("request body over the limit")]
    TooLarge,
}

/// Follows one body to its end.
#[derive(Debug)]
pub struct BodyTracker {
    state: State,
    content: u64,
    limit: u64,
    trailers: Trailers,
}

/// Fields behind the last chunk (RFC 9110 section 6.5). An app that does not know them would read
/// what is no field as its next request, and must not read there what we took out of the head.
#[derive(Debug, Default)]
struct Trailers {
    /// Bytes so far, and bytes in this line.
    total: u32,
    line: u32,
    /// The beginning of this line, up to its colon.
    name: [u8; LONGEST_NAME],
    is_named: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    /// Content-Length: this many bytes to come.
    Length(u64),
    /// In a chunk-size line.
    Size {
        value: u64,
        digits: u8,
        length: u32,
        extension: bool,
    },
    /// The LF of a chunk-size line.
    SizeLf {
        value: u64,
    },
    /// In a chunk's data.
    Data(u64),
    /// CR, then LF, behind a chunk's data.
    DataCr,
    DataLf,
    /// In the trailer section, then behind a CR in it.
    Trailer,
    TrailerLf,
}

impl BodyTracker {
    /// Follows a body of this kind; `limit` is the most content bytes allowed.
    #[must_use]
    pub fn new(kind: BodyKind, limit: Option<u64>) -> Self {
        let state = match kind {
            BodyKind::None => State::Done,
            BodyKind::Length(length) => State::Length(length),
            BodyKind::UntilEnd => State::SIZE,
        };
        Self { state, content: 0, limit: limit.unwrap_or(u64::MAX), trailers: Trailers::default() }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Content bytes so far, without framing.
    #[must_use]
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Takes bytes off the wire and tells how many of them belong to this body.
    ///
    /// # Errors
    /// Bad chunking, or content over the limit.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            at += match self.state {
                State::Length(left) | State::Data(left) => {
                    self.content_bytes(left, bytes.len() - at)?
                }
                _ => self.framing_byte(bytes[at])?,
            };
        }
        Ok(at)
    }

    fn content_bytes(&mut self, left: u64, available: usize) -> Result<usize, BodyError> {
        let taken = left.min(available as u64);
        self.content += taken;
        if self.content > self.limit {
            return Err(BodyError::TooLarge);
        }
        self.state = match (self.state, left - taken) {
            (State::Length(_), 0) => State::Done,
            (State::Length(_), left) => State::Length(left),
            (_, 0) => State::DataCr,
            (_, left) => State::Data(left),
        };
        Ok(usize::try_from(taken).unwrap_or(available))
    }

    fn framing_byte(&mut self, byte: u8) -> Result<usize, BodyError> {
        self.state = match (self.state, byte) {
            (State::Size { value, digits, length, extension }, _) => {
                size_byte(value, digits, length, extension, byte)?
            }
            (State::SizeLf { value: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { value }, b'\n') => State::Data(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SIZE,
            (State::Trailer, b'\r') => self.trailers.line_ends().map(|()| State::TrailerLf)?,
            (State::TrailerLf, b'\n') if self.trailers.are_over() => State::Done,
            (State::TrailerLf, b'\n') => {
                self.trailers.next_line();
                State::Trailer
            }
            (State::Trailer, byte) => self.trailers.take(byte).map(|()| State::Trailer)?,
            _ => return Err(BodyError::Chunking),
        };
        Ok(1)
    }
}

impl Trailers {
    fn take(&mut self, byte: u8) -> Result<(), BodyError> {
        let at = self.line as usize;
        let is_good = match byte {
            b'\n' | 0 => false,
            _ if self.is_named => true,
            b':' => {
                self.is_named = at > 0 && !is_refused(self.name.get(..at).unwrap_or_default());
                self.is_named
            }
            _ => is_token_byte(byte),
        };
        if !is_good || self.total >= MAX_TRAILERS {
            return Err(BodyError::Chunking);
        }
        if let Some(place) = self.name.get_mut(at) {
            *place = byte;
        }
        self.total += 1;
        self.line += 1;
        Ok(())
    }

    fn line_ends(&self) -> Result<(), BodyError> {
        if self.are_over() || self.is_named { Ok(()) } else { Err(BodyError::Chunking) }
    }

    /// Whether this line is empty.
    fn are_over(&self) -> bool {
        self.line == 0
    }

    fn next_line(&mut self) {
        self.line = 0;
        self.is_named = false;
    }
}

fn is_refused(name: &[u8]) -> bool {
    let framing = ["content-length", "transfer-encoding", "host", "connection"];
    is_ours(name) || framing.iter().any(|framing| same_name(name, framing))
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl State {
    const SIZE: Self = Self::Size { value: 0, digits: 0, length: 0, extension: false };
}

fn size_byte(
    value: u64,
    digits: u8,
    length: u32,
    extension: bool,
    byte: u8,
) -> Result<State, BodyError> {
    if length >= MAX_SIZE_LINE {
        return Err(BodyError::Chunking);
    }
    let length = length + 1;
    match byte {
        b'\r' if digits > 0 => Ok(State::SizeLf { value }),
        b'\n' | b'\r' | 0 => Err(BodyError::Chunking),
        _ if extension => Ok(State::Size { value, digits, length, extension }),
        b';' if digits > 0 => Ok(State::Size { value, digits, length, extension: true }),
        _ => {
            let digit = char::from(byte).to_digit(16).ok_or(BodyError::Chunking)?;
            if digits >= 15 {
                return Err(BodyError::Chunking);
            }
            let value = value * 16 + u64::from(digit);
            Ok(State::Size { value, digits: digits + 1, length, extension })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked() -> BodyTracker {
        BodyTracker::new(BodyKind::UntilEnd, None)
    }

    #[test]
    fn a_length_ends_after_its_bytes() {
        let mut body = BodyTracker::new(BodyKind::Length(5), None);
        assert_eq!(body.advance(b"abc"), Ok(3));
        assert_eq!(body.advance(b"deGET /"), Ok(2));
        assert!(body.is_done());
        assert_eq!(body.advance(b"GET /"), Ok(0));
    }

    #[test]
    fn chunks_end_after_the_trailers() {
        let wire = b"5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\nGET /";
        let mut body = chunked();
        assert_eq!(body.advance(wire), Ok(wire.len() - 5));
        assert!(body.is_done());
        assert_eq!(body.content(), 5);
    }

    #[test]
    fn any_split_reads_the_same() {
        let wire = b"A\r\n0123456789\r\n3;q\r\nabc\r\n0\r\n\r\n";
        for cut in 0..wire.len() {
            let mut body = chunked();
            assert_eq!(body.advance(&wire[..cut]), Ok(cut));
            assert!(!body.is_done());
            assert_eq!(body.advance(&wire[cut..]), Ok(wire.len() - cut));
            assert!(body.is_done());
        }
    }

    #[test]
    fn bad_chunking_is_refused() {
        for wire in [
            &b"\r\n"[..],
            b"5\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\r0\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"1000000000000000\r\n",
            b"0\r\nT: v\n\r\n",
            b";x\r\n",
            b"5\rX",
            b"0\r\nGET /admin HTTP/1.1\r\n",
            b"0\r\n: v\r\n",
            b"0\r\n folded: v\r\n",
            b"0\r\nX-Real-IP: v\r\n",
            b"0\r\nx_forwarded_for: v\r\n",
            b"0\r\nContent-Length: 5\r\n",
            b"0\r\nT: v\r\nHost: h\r\n",
        ] {
            assert_eq!(chunked().advance(wire), Err(BodyError::Chunking), "{wire:?}");
        }
    }

    #[test]
    fn content_over_the_limit_is_refused_and_framing_is_not_counted() {
        let mut body = BodyTracker::new(BodyKind::UntilEnd, Some(5));
        assert_eq!(body.advance(b"5;extension=long\r\nhello\r\n"), Ok(25));
        assert_eq!(body.advance(b"1\r\nx"), Err(BodyError::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = chunked().advance(&bytes);
        }
    }
}
