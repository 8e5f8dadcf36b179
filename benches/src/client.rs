//! A small HTTP/1.1 client that can be asked for single bytes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Content.
    pub body: Vec<u8>,
}

impl Answer {
    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client's connection.
pub struct Connection<S> {
    stream: BufReader<S>,
}

impl Connection<TcpStream> {
    /// Opens a connection.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl Connection<UnixStream> {
    /// Opens a connection to a Unix socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_unix(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl<S: Read + Write> Connection<S> {
    /// Sends a request without a body.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, method: &str, host: &str, path: &str) -> anyhow::Result<()> {
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n");
        Ok(self.stream.get_mut().write_all(head.as_bytes())?)
    }

    /// Waits for the first byte of an answer.
    ///
    /// # Errors
    /// If none comes.
    pub fn first_byte(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stream.fill_buf()?.is_empty(), "closed without an answer");
        Ok(())
    }

    /// Reads an answer with a `Content-Length`, or chunks.
    ///
    /// # Errors
    /// If there is none.
    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an answer: {line:?}"))?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse()?,
                Some(("transfer-encoding", _)) => is_chunked = true,
                _ => {}
            }
        }
        let body = if is_chunked { self.chunks()? } else { self.bytes(length)? };
        Ok(Answer { status, body })
    }

    /// Asks and reads the answer.
    ///
    /// # Errors
    /// If there is none.
    pub fn ask(&mut self, method: &str, host: &str, path: &str) -> anyhow::Result<Answer> {
        self.send(method, host, path)?;
        self.answer()
    }

    /// The same with a body of JSON.
    ///
    /// # Errors
    /// If there is none.
    pub fn ask_with(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        self.answer()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.stream.read_line(&mut line)? > 0, "closed within an answer");
        Ok(line.trim_end().to_owned())
    }

    fn bytes(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).context("not a chunk")?;
            body.extend(self.bytes(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
