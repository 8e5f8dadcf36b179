//! The stream that a client is read through, by the relay or by Pingora.
//!
//! Doorbell reads and vets each request's head itself; who carries the request is then given exactly
//! its body (Pingora the head as well), and nothing of what follows. In between this stream counts,
//! limits and buffers: small reads ahead, small writes gathered into one, no buffer kept while idle.
//!
//! Invariant: bytes behind a request's body stay here until the next [`ClientStream::read_head`]
//! (test `a_pipelined_request_stays_out_of_the_body`).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::{
    frame_guard::FrameGuard,
    framing::{BodyError, BodyTracker},
    head::BodyKind,
    patience::{Pace, PaceLimits, Silence},
    transport::{ConnFacts, Transport, Trouble},
};

mod arrival;
mod goodbye;
mod pingora_io;

pub use arrival::{Arrival, HeadLimits};
pub use goodbye::close_gently;

/// Most bytes read ahead while a response is awaited.
const MAX_AHEAD: usize = 16 * 1024;
/// Writes smaller than this are gathered.
const GATHER: usize = 16 * 1024;

/// A client's connection with what was read ahead of it.
pub struct ClientStream {
    /// There until [`ClientStream::into_parts`] or drop.
    io: Option<Transport>,
    facts: Arc<ConnFacts>,
    digest: pingora_io::Digests,
    /// Head bytes still to be given to Pingora.
    head: Bytes,
    /// Bytes from the socket that nobody has been given yet.
    ahead: BytesMut,
    phase: Phase,
    gathered: BytesMut,
    pace: Pace,
    /// Bytes sent to the client on this connection.
    sent: u64,
    silence: Option<Silence>,
    /// Watches the time between two requests.
    idle: Option<Silence>,
    /// Watches a body that does not come; there only while one does not.
    late: Option<Silence>,
    owes: Owes,
    /// Watches a write that does not go on; there only while one does not.
    stuck: Option<Silence>,
    write_idle: Duration,
}

/// Whether a client should send its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owes {
    /// It should, and not too slowly.
    Now,
    /// It waits for us to ask, or nobody wants the rest.
    NotNow,
}

enum Phase {
    Request(BodyTracker),
    Http2(FrameGuard),
}

/// What a request may do while it is read and answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyLimits {
    /// Most content bytes.
    pub size: Option<u64>,
    /// Least pace.
    pub pace: PaceLimits,
    /// Longest silence of the app once it has the whole body.
    pub silence: Option<Duration>,
}

impl ClientStream {
    /// A stream over a fresh connection, whose client must take something of what is sent at least
    /// every `write_idle`.
    #[must_use]
    pub fn new(io: Transport, facts: Arc<ConnFacts>, write_idle: Duration) -> Self {
        Self {
            digest: pingora_io::Digests::new(&io, &facts),
            io: Some(io),
            facts,
            head: Bytes::new(),
            ahead: BytesMut::new(),
            phase: Phase::Request(BodyTracker::new(BodyKind::None, None)),
            gathered: BytesMut::new(),
            pace: Pace::default(),
            sent: 0,
            silence: None,
            idle: None,
            late: None,
            owes: Owes::Now,
            stuck: None,
            write_idle,
        }
    }

    fn io(&self) -> &Transport {
        self.io.as_ref().expect("the socket is there until into_parts or drop")
    }

    fn io_mut(&mut self) -> Pin<&mut Transport> {
        Pin::new(self.io.as_mut().expect("the socket is there until into_parts or drop"))
    }

    /// Facts about the connection.
    #[must_use]
    pub fn facts(&self) -> &Arc<ConnFacts> {
        &self.facts
    }

    /// Resolves when the client has left.
    pub async fn left(&self) {
        if let Err(error) = self.io().left().await {
            // Out of descriptors, say: then the client is taken to stay until its deadline.
            tracing::debug!(%error, "cannot watch a client for leaving");
            std::future::pending::<()>().await;
        }
    }

    /// Makes the end to come a reset, so that nobody takes what was sent for all there is.
    pub fn break_off(&self) {
        self.io().reset();
    }

    /// Whether the client has left, asked without waiting.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.io().has_left()
    }

    /// Waits for a request's first byte, without any buffer; false when none came in time.
    ///
    /// # Errors
    /// The socket's errors.
    pub async fn wait(&mut self, limit: Duration) -> io::Result<bool> {
        if !self.ahead.is_empty() {
            return Ok(true);
        }
        self.ahead = BytesMut::new();
        // One timer per connection, left alone while requests come in time: arming one anew for
        // each request costs more than asking it late whether it is still due.
        let idle = match &mut self.idle {
            Some(idle) if idle.limit() == limit => idle,
            other => other.insert(Silence::of(limit)),
        };
        idle.heard();
        let io = self.io.as_ref().expect("the socket is there until into_parts or drop");
        poll_fn(|cx| {
            let readable = match io {
                Transport::Tcp(tcp) => tcp.poll_read_ready(cx),
                Transport::Unix(unix) => unix.poll_read_ready(cx),
            };
            match readable {
                Poll::Ready(ready) => Poll::Ready(ready.map(|()| true)),
                Poll::Pending => idle.poll_passed(cx).map(|()| Ok(false)),
            }
        })
        .await
    }

    /// Gives whoever reads from here on this head, if any, and the body behind it.
    pub fn begin(&mut self, head: Bytes, kind: BodyKind, limits: BodyLimits) {
        self.head = head;
        self.phase = Phase::Request(BodyTracker::new(kind, limits.size));
        self.pace = Pace::of(limits.pace);
        self.silence = limits.silence.map(Silence::of);
        self.late = None;
        self.owes = Owes::Now;
        self.facts.set_trouble(Trouble::None);
    }

    /// Whether the request's body was read to its end.
    #[must_use]
    pub fn body_done(&self) -> bool {
        match &self.phase {
            Phase::Request(body) => body.is_done(),
            Phase::Http2(_) => false,
        }
    }

    /// Content bytes of the request's body so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        match &self.phase {
            Phase::Request(body) => body.content(),
            Phase::Http2(_) => 0,
        }
    }

    /// Whether bytes came that belong to no request yet.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Where an answer's head is written; [`ClientStream::poll_drain`] sends it.
    pub(crate) fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Sends what the socket takes now, gathers the rest. To be drained before more is given.
    pub(crate) fn give(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && self.gathered.len() + bytes.len() > GATHER {
            match Pin::new(&mut *self).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => bytes = &bytes[n..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the connection apart for a protocol that is not HTTP: the socket, and what the client
    /// sent ahead.
    #[must_use]
    pub fn into_parts(mut self) -> (Transport, BytesMut) {
        let io = self.io.take().expect("the socket is there until into_parts or drop");
        (io, std::mem::take(&mut self.ahead))
    }

    /// Reads the request's body without keeping it, so that the connection can be used again; false
    /// when it is more than `most` bytes, or does not come.
    pub async fn skip_body(&mut self, most: u64) -> bool {
        self.head = Bytes::new();
        let mut total = 0;
        // On the heap: an array would be part of every connection's memory.
        let mut sink = if self.body_done() { Vec::new() } else { vec![0; 4096] };
        while !self.body_done() {
            match self.read(&mut sink).await {
                Ok(n) if n > 0 => total += n as u64,
                _ => return false,
            }
            if total > most {
                return false;
            }
        }
        true
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Phase::Request(body) = &mut self.phase else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let io = self.io.as_mut().expect("the socket is there until into_parts or drop");
        if let Some(silence) = &mut self.silence {
            silence.heard();
        }
        if !self.ahead.is_empty() {
            let offered = &self.ahead[..self.ahead.len().min(buf.remaining())];
            let taken = body.advance(offered).map_err(|error| refuse(&self.facts, error))?;
            buf.put_slice(&self.ahead.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if Pin::new(io).poll_read(cx, buf)?.is_pending() {
            self.pace.wait_begins();
            if let Poll::Ready(Err(error)) = self.send_meanwhile(cx) {
                return Poll::Ready(Err(error));
            }
            return self.poll_late(cx);
        }
        self.late = None;
        let came = &buf.filled()[before..];
        if !self.pace.keeps_up(came.len()) && self.owes == Owes::Now {
            self.facts.set_trouble(Trouble::TooSlow);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "body too slow")));
        }
        let taken = body.advance(came).map_err(|error| refuse(&self.facts, error))?;
        self.ahead.extend_from_slice(&came[taken..]);
        buf.set_filled(before + taken);
        Poll::Ready(Ok(()))
    }

    /// Behind the body there is nothing to give but the news that the client left.
    ///
    /// Whoever waits here has written what there is to write for now, so it is sent: an app that
    /// answers in small pieces is not held back until they make a large one.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.send_meanwhile(cx) {
            return Poll::Ready(Err(error));
        }
        if let Some(silence) = &mut self.silence
            && silence.poll_passed(cx).is_ready()
        {
            self.facts.set_trouble(Trouble::Silent);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "app silent")));
        }
        let mut piece = [const { MaybeUninit::uninit() }; 2048];
        while self.ahead.len() < MAX_AHEAD {
            let mut buf = ReadBuf::uninit(&mut piece);
            ready!(self.io_mut().poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buf.filled());
        }
        Poll::Pending
    }

    /// Sends what was written, while there is nothing to read.
    fn send_meanwhile(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Pending;
        }
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// A client that sends nothing of a body for too long is given up.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let limit = self.pace.limits().grace;
        if limit.is_zero() || self.owes == Owes::NotNow {
            return Poll::Pending;
        }
        ready!(self.late.get_or_insert_with(|| Silence::of(limit)).poll_passed(cx));
        self.facts.set_trouble(Trouble::TooSlow);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "body stopped")))
    }

    /// A client that takes nothing for too long is given up.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stuck = self.stuck.get_or_insert_with(|| Silence::of(self.write_idle));
        ready!(stuck.poll_passed(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "client takes nothing"))
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(length));
        } else {
            ready!(self.io_mut().poll_read(cx, buf))?;
        }
        if let Phase::Http2(guard) = &mut self.phase {
            guard
                .watch(&buf.filled()[before..], Instant::now())
                .map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood))?;
        }
        Poll::Ready(Ok(()))
    }

    /// An HTTP/2 client that gets data has reasons to ask how the way is.
    fn wrote(&mut self, bytes: usize) {
        if let Phase::Http2(guard) = &mut self.phase {
            guard.wrote(bytes);
        }
    }

    /// Whether the client owes us its body now; while it does not, it is not timed.
    pub(crate) fn owes_body(&mut self, owes: Owes) {
        if owes == Owes::Now && self.owes != Owes::Now {
            self.pace.forgive();
        }
        self.owes = owes;
        self.late = None;
    }

    /// Sends what was gathered.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let io = self.io.as_mut().expect("the socket is there until into_parts or drop");
            let Poll::Ready(written) = Pin::new(io).poll_write(cx, &self.gathered) else {
                return self.poll_stuck(cx).map(Err);
            };
            self.stuck = None;
            let n = written?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n as u64;
            self.gathered.advance(n);
        }
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

fn refuse(facts: &ConnFacts, error: BodyError) -> io::Error {
    facts.set_trouble(match error {
        BodyError::Chunking => Trouble::Chunking,
        BodyError::TooLarge => Trouble::TooLarge,
    });
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.head.is_empty() {
            let length = this.head.len().min(buf.remaining());
            buf.put_slice(&this.head.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match &this.phase {
            Phase::Http2(_) => this.poll_http2(cx, buf),
            Phase::Request(body) if body.is_done() => this.poll_left(cx),
            Phase::Request(_) => this.poll_body(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(silence) = &mut this.silence {
            silence.heard();
        }
        if this.gathered.len() + buf.len() <= GATHER {
            this.gathered.extend_from_slice(buf);
            this.wrote(buf.len());
            return Poll::Ready(Ok(buf.len()));
        }
        loop {
            let io = this.io.as_mut().expect("the socket is there until into_parts or drop");
            let pieces = [io::IoSlice::new(&this.gathered), io::IoSlice::new(buf)];
            let Poll::Ready(written) = Pin::new(io).poll_write_vectored(cx, &pieces) else {
                return this.poll_stuck(cx).map(Err);
            };
            this.stuck = None;
            let n = written?;
            this.sent += n as u64;
            let old = n.min(this.gathered.len());
            this.gathered.advance(old);
            if n > old || n == 0 {
                this.wrote(n - old);
                return Poll::Ready(Ok(n - old));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.io_mut().poll_shutdown(cx)
    }
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientStream({:?})", self.facts.peer)
    }
}

#[cfg(test)]
mod tests;
