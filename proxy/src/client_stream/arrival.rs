//! A request's beginning: its head, or the preface of HTTP/2.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncReadExt;

use super::{ClientStream, Phase};
use crate::{frame_guard::FrameGuard, head::HeadError};

/// First read of a head; most heads fit.
const HEAD_READ: usize = 2048;
pub(super) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came at the start of a request.
#[derive(Debug)]
pub enum Arrival {
    /// A complete HTTP/1 head.
    Head(Bytes),
    /// The HTTP/2 connection preface, still to be read.
    Http2,
    /// The client closed, between requests or within a head.
    Closed,
    /// The head did not end in time: 408.
    Late,
    /// The head is refused.
    Refused(HeadError),
}

/// Limits on reading a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes.
    pub size: usize,
    /// Bytes of the target, to tell 414 from 431.
    pub target: usize,
    /// From the first byte to the last.
    pub total: Duration,
}

impl ClientStream {
    /// Reads the next head.
    ///
    /// # Errors
    /// The socket's errors.
    pub async fn read_head(&mut self, limits: HeadLimits) -> io::Result<Arrival> {
        match tokio::time::timeout(limits.total, self.read_whole_head(limits)).await {
            Ok(arrival) => arrival,
            // An empty line is no request yet.
            Err(_) if self.ahead.is_empty() => Ok(Arrival::Closed),
            Err(_) => Ok(Arrival::Late),
        }
    }

    async fn read_whole_head(&mut self, limits: HeadLimits) -> io::Result<Arrival> {
        let mut searched = 0;
        loop {
            self.skip_empty_lines();
            if !self.ahead.is_empty() && is_preface_so_far(&self.ahead) {
                if self.ahead.len() >= H2_PREFACE.len() {
                    self.phase = Phase::Http2(FrameGuard::new(Instant::now()));
                    return Ok(Arrival::Http2);
                }
            } else if let Some(end) = memchr::memmem::find(&self.ahead[searched..], b"\r\n\r\n") {
                let length = searched + end + 4;
                if length > limits.size {
                    return Ok(Arrival::Refused(too_large(&self.ahead, limits.target)));
                }
                return Ok(Arrival::Head(self.ahead.split_to(length).freeze()));
            } else if self.ahead.len() > limits.size {
                return Ok(Arrival::Refused(too_large(&self.ahead, limits.target)));
            }
            searched = self.ahead.len().saturating_sub(3);
            self.ahead.reserve(HEAD_READ);
            let io = self.io.as_mut().expect("the socket is there until into_parts or drop");
            if io.read_buf(&mut self.ahead).await? == 0 {
                return Ok(Arrival::Closed);
            }
        }
    }

    /// RFC 9112 section 2.2: an empty line before a request line is ignored.
    fn skip_empty_lines(&mut self) {
        while self.ahead.starts_with(b"\r\n") {
            self.ahead.advance(2);
        }
    }
}

fn is_preface_so_far(bytes: &[u8]) -> bool {
    let length = bytes.len().min(H2_PREFACE.len());
    bytes[..length] == H2_PREFACE[..length]
}

fn too_large(head: &[u8], target_limit: usize) -> HeadError {
    let line = memchr::memchr(b'\r', head).unwrap_or(head.len());
    if line > target_limit { HeadError::TargetTooLong } else { HeadError::FieldsTooLarge }
}
