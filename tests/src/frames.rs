//! HTTP/2 frame by frame (RFC 9113): a client that sends what it is told, right or wrong.

use std::time::Duration;

use crate::Connection;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The code of a frame or field against the rules (RFC 9113 section 7).
pub const PROTOCOL_ERROR: u32 = 1;
/// ACK, of SETTINGS and PING.
pub const ACK: u8 = 1;
/// END_STREAM.
pub const END_STREAM: u8 = 1;
/// END_HEADERS.
pub const END_HEADERS: u8 = 4;

/// A frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as HPACK literals without indexing (RFC 7541 section 6.2.2), none longer than 126 bytes.
#[must_use]
pub fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|n| *n < 127).expect("a short text"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was an answer with this status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
}

/// The status in a block of fields: the first one, as it has to be, in the forms that servers use
/// (RFC 7541 sections 6.1 and 6.2.1, appendix A).
///
/// # Panics
/// If there is none.
#[must_use]
pub fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8e, ..] => INDEXED[usize::from(index - 0x88)],
        [0x48 | 0x08, 3, digits @ ..] => {
            digits[..3].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
        }
        [0x48 | 0x08, length @ 0x82..=0x83, huffman @ ..] => {
            digits(&huffman[..usize::from(length & 0x7f)])
        }
        other => panic!("no status first: {other:x?}"),
    }
}

/// Three digits in Huffman's code: 0 to 2 are five bits, 3 to 9 are six (RFC 7541 appendix B).
fn digits(code: &[u8]) -> u16 {
    let mut bits = code.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    bits <<= 32 - code.len() * 8;
    (0..3).fold(0, |status, _| {
        let (digit, length) = match bits >> 26 {
            six @ 0x19..=0x1f => (six - 0x19 + 3, 6),
            six => (six >> 1, 5),
        };
        bits <<= length;
        status * 10 + u16::try_from(digit).expect("a digit")
    })
}

/// A connection that speaks HTTP/2.
pub struct Frames {
    connection: Connection,
}

impl Frames {
    /// Connects and says hello.
    #[must_use]
    pub fn open(port: u16) -> Self {
        let mut connection = Connection::open(port);
        connection.send(PREFACE);
        connection.send(frame(SETTINGS, 0, 0, b""));
        Self { connection }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes);
    }

    /// Sends bytes to a server that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.connection.try_send(bytes)
    }

    /// Waits for the answer's head or the reset of a stream.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.read().expect("an outcome before the connection ends") {
                (HEADERS, of, block) if of == stream => return Outcome::Status(status(&block)),
                (RST_STREAM, of, code) if of == stream => {
                    let code = code.try_into().expect("four bytes");
                    return Outcome::Reset(u32::from_be_bytes(code));
                }
                _ => {}
            }
        }
    }

    /// Whether the server closes without sending more.
    pub fn is_closed(&mut self) -> bool {
        self.connection.is_closed()
    }

    /// How long a read may take.
    pub fn set_patience(&self, patience: Duration) {
        self.connection.set_patience(patience);
    }

    /// Reads frames until one of a kind and stream is wanted; `None` when the connection ends first.
    #[track_caller]
    pub fn read_until(&mut self, wanted: impl Fn(u8, u32) -> bool) -> Option<Vec<u8>> {
        loop {
            let (kind, stream, payload) = self.read()?;
            if wanted(kind, stream) {
                return Some(payload);
            }
        }
    }

    /// Reads a frame: kind, stream, payload; `None` when the connection ends first.
    #[track_caller]
    pub fn read(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let head = self.connection.read_bytes(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, self.connection.read_bytes(length)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_each_form() {
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(b"\x08\x03405"), 405);
        // 302 is an example of RFC 7541, appendix C.6.1.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
        // 307 is one of appendix C.6.2.
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), 307);
    }
}
