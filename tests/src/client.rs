//! A client that sends what it is told, byte for byte, and reads HTTP/1.1 answers.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

/// No answer of a test takes longer; nor does a server that reads leave what is sent to it for so
/// long.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// Body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// First value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// A connection to a server on loopback.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    #[must_use]
    pub fn open(port: u16) -> Self {
        Self::try_open(port).unwrap_or_else(|error| panic!("port {port}: {error}"))
    }

    /// Connects, if somebody listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("to send");
    }

    /// Sends bytes to a server that may have closed; tells whether it took them. A server that
    /// neither reads nor closes fails the test.
    #[track_caller]
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        unless_ended(self.stream.get_mut().write_all(bytes.as_ref())).is_some()
    }

    /// Sends a GET.
    pub fn send_get(&mut self, host: &str, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }

    /// Sends a GET and reads its answer.
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.send_get(host, path);
        self.read()
    }

    /// Sends a GET and reads its answer; `None` when the server closes before its end.
    #[track_caller]
    pub fn try_get(&mut self, host: &str, path: &str) -> Option<Response> {
        self.try_send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).then_some(())?;
        self.try_read()
    }

    /// Reads one answer.
    #[track_caller]
    pub fn read(&mut self) -> Response {
        self.try_read().expect("an answer")
    }

    /// Reads one answer, if it begins in time.
    #[track_caller]
    pub fn read_within(&mut self, time: Duration) -> Option<Response> {
        self.set_patience(time);
        let begun = self.stream.fill_buf().map(<[u8]>::len);
        self.set_patience(PATIENCE);
        match begun {
            Err(error) if is_late(&error) => None,
            Ok(1..) => Some(self.read()),
            ended => panic!("no answer: {ended:?}"),
        }
    }

    /// Reads one answer; `None` when the server closes before its end. 1xx answers but 101 are passed
    /// over.
    #[track_caller]
    pub fn try_read(&mut self) -> Option<Response> {
        loop {
            let mut response = self.read_head()?;
            if response.status == 101 {
                return Some(response);
            }
            if response.status >= 200 {
                response.body = self.read_body(&response)?;
                return Some(response);
            }
        }
    }

    /// Reads the head of an answer; its body follows in pieces.
    pub fn read_head(&mut self) -> Option<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1)?.parse().ok()?;
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(Response { status, fields, body: Vec::new() });
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, response: &Response) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        if matches!(response.status, 204 | 304) {
            return Some(body);
        }
        if response.field("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            while let Some(chunk) = self.read_chunk()? {
                body.extend(chunk);
            }
            return Some(body);
        }
        match response.field("content-length") {
            Some(length) => {
                body.resize(length.parse().ok()?, 0);
                unless_ended(self.stream.read_exact(&mut body))?;
            }
            None => {
                unless_ended(self.stream.read_to_end(&mut body))?;
            }
        }
        Some(body)
    }

    /// Reads one chunk of a chunked body; `Some(None)` is its end, `None` that of the connection.
    #[allow(clippy::option_option, reason = "broken, ended, or more")]
    pub fn read_chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let size = usize::from_str_radix(self.line()?.split(';').next()?.trim(), 16).ok()?;
        let mut chunk = vec![0; size];
        unless_ended(self.stream.read_exact(&mut chunk))?;
        self.line()?;
        Some((size > 0).then_some(chunk))
    }

    /// Reads exactly this many bytes; `None` when the server closes before.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        unless_ended(self.stream.read_exact(&mut bytes))?;
        Some(bytes)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        unless_ended(self.stream.read_until(b'\n', &mut line))?;
        let line = line.strip_suffix(b"\r\n")?;
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// Whether the server closes without sending more. One that does neither fails the test.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        unless_ended(self.stream.fill_buf().map(<[u8]>::is_empty)).unwrap_or(true)
    }

    /// Closes the sending side.
    pub fn half_close(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("to close");
    }

    /// How long a read or a write may take before it fails the test.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.get_ref().set_read_timeout(Some(patience)).expect("a timeout");
        self.stream.get_ref().set_write_timeout(Some(patience)).expect("a timeout");
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

/// `None` when the other side has ended the connection; that it does nothing is no end.
#[track_caller]
fn unless_ended<T>(outcome: io::Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) if is_late(&error) => panic!("neither bytes nor an end came in time: {error}"),
        Err(error) => {
            use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            let ends = [BrokenPipe, ConnectionReset, UnexpectedEof];
            assert!(ends.contains(&error.kind()), "no end of a connection: {error}");
            None
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Asks for a path of a host on a fresh connection.
#[must_use]
pub fn get(port: u16, host: &str, path: &str) -> Response {
    Connection::open(port).get(host, path)
}

/// Posts a body to a host on a fresh connection.
#[must_use]
pub fn post(port: u16, host: &str, path: &str, body: &[u8]) -> Response {
    let mut connection = Connection::open(port);
    let length = body.len();
    connection
        .send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"));
    connection.send(body);
    connection.read()
}

/// Sends raw bytes on a fresh connection and reads one answer.
#[must_use]
pub fn request(port: u16, bytes: impl AsRef<[u8]>) -> Option<Response> {
    let mut connection = Connection::open(port);
    connection.try_send(bytes).then_some(())?;
    connection.try_read()
}
