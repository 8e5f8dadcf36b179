//! A WebSocket client that knows enough of RFC 6455 for tests.

use crate::{Connection, Response};

/// An open WebSocket.
pub struct WebSocket {
    connection: Connection,
}

impl WebSocket {
    /// Opens a WebSocket, or gives the answer that is no 101.
    ///
    /// # Errors
    /// The answer.
    pub fn open(port: u16, host: &str, path: &str) -> Result<Self, Box<Response>> {
        Self::open_with(port, host, path, b"")
    }

    /// Opens a WebSocket and sends `early` right behind the request, before the answer.
    ///
    /// # Errors
    /// The answer.
    pub fn open_with(
        port: u16,
        host: &str,
        path: &str,
        early: &[u8],
    ) -> Result<Self, Box<Response>> {
        let mut connection = Connection::open(port);
        let mut bytes = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(early);
        connection.send(bytes);
        let response = connection.read();
        if response.status == 101 {
            assert_eq!(
                response.field("sec-websocket-accept"),
                Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            );
            Ok(Self { connection })
        } else {
            Err(Box::new(response))
        }
    }

    /// Sends a text of up to 125 bytes.
    pub fn send(&mut self, text: &str) {
        self.connection.send(Self::frame(text));
    }

    /// A masked text frame.
    #[must_use]
    pub fn frame(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).ok().filter(|n| *n < 126).expect("a short text");
        let mut frame = vec![0x81, 0x80 | length, 1, 2, 3, 4];
        frame.extend(text.bytes().enumerate().map(|(nth, byte)| byte ^ [1, 2, 3, 4][nth % 4]));
        frame
    }

    /// Reads a text; `None` when the other side has closed.
    pub fn read(&mut self) -> Option<String> {
        let head = self.connection.read_bytes(2)?;
        let length = match head[1] {
            126 => {
                let bytes = self.connection.read_bytes(2)?;
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            length => usize::from(length),
        };
        let payload = self.connection.read_bytes(length)?;
        (head[0] == 0x81).then(|| String::from_utf8_lossy(&payload).into_owned())
    }

    /// Sends a text and expects it back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        self.send(text);
        assert_eq!(self.read().as_deref(), Some(text));
    }
}
