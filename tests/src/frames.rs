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

    /// Whether the server closes without sending more.
    pub fn is_closed(&mut self) -> bool {
        self.connection.is_closed()
    }

    /// How long a read may take.
    pub fn set_patience(&self, patience: Duration) {
        self.connection.set_patience(patience);
    }

    /// Reads frames until one of a kind and stream is wanted; `None` when the connection ends first.
    pub fn read_until(&mut self, wanted: impl Fn(u8, u32) -> bool) -> Option<Vec<u8>> {
        loop {
            let head = self.connection.read_bytes(9)?;
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let payload = self.connection.read_bytes(length)?;
            if wanted(head[3], stream) {
                return Some(payload);
            }
        }
    }
}
