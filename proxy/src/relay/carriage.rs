//! One request on its way to the app, and its answer on the way back: bytes only.
//!
//! Both directions go on at once and each waits for its receiver: what one side has not taken is not
//! read from the other. A connection that waits holds no buffer; bytes pass through one that the
//! whole thread shares.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    answer_head::{Additions, AnswerHead, Delimiter, MAX_FIELDS},
    app_stream::AppStream,
};
use crate::{
    client_stream::ClientStream, clock, exchange::Exchange, framing::BodyTracker, head::BodyKind,
    patience::Silence, rewrite,
};

/// Most bytes read at once.
const PIECE: usize = 64 * 1024;
/// Most bytes of a request's body that are kept to send it again.
const MOST_KEPT: usize = 64 * 1024;
/// Most bytes for the app that are gathered before they are sent.
const GATHER: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> =
        RefCell::new(Box::new_uninit_slice(PIECE));
}

/// Why a request got no answer, or not all of it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client left, or its body is refused.
    Client,
    /// The app's connection ended too early.
    Ended,
    /// What came is no HTTP.
    Nonsense,
    /// The app said nothing for too long.
    Silent,
    /// The app took nothing for too long.
    Stuck,
}

/// A request as it is sent, and sent again.
pub(super) struct Letter {
    head: Bytes,
    /// What the app got of the body; `None` once that is too much to be kept, or of no use.
    kept: Option<BytesMut>,
}

impl Letter {
    /// A request with this head, to be kept for another try or not.
    pub(super) fn new(head: Bytes, is_kept: bool) -> Self {
        Self { head, kept: is_kept.then(BytesMut::new) }
    }

    /// Whether it can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    fn keep(&mut self, piece: &[u8]) {
        match &mut self.kept {
            Some(kept) if kept.len() + piece.len() <= MOST_KEPT => kept.extend_from_slice(piece),
            kept => *kept = None,
        }
    }
}

/// An answer whose head has gone to the client.
pub(super) struct Delivered {
    pub(super) status: u16,
    /// Whether the client was told that its connection ends.
    pub(super) closes: bool,
    /// Whether the connection is no longer HTTP.
    pub(super) switched: bool,
    body: Flow,
    app_keeps: bool,
}

enum Flow {
    Tracked(BodyTracker),
    UntilClose { bytes: u64, ended: bool },
}

impl Delivered {
    /// Content bytes so far.
    pub(super) fn content(&self) -> u64 {
        match &self.body {
            Flow::Tracked(body) => body.content(),
            Flow::UntilClose { bytes, .. } => *bytes,
        }
    }

    /// Whether only the connection's end tells the client that the answer is complete.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.body, Flow::UntilClose { .. })
    }

    fn is_complete(&self) -> bool {
        match &self.body {
            Flow::Tracked(body) => body.is_done(),
            Flow::UntilClose { ended, .. } => *ended,
        }
    }
}

/// What the answer's side of an exchange is bound by.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Longest silence of the app once it has the whole body.
    pub(super) silence: Option<Duration>,
    /// Longest time in which the app takes nothing.
    pub(super) stuck: Duration,
    /// Whether the client's connection ends behind the answer.
    pub(super) closes: bool,
}

/// One try.
pub(super) struct Carriage<'a> {
    pub(super) client: &'a mut ClientStream,
    pub(super) app: &'a mut AppStream,
    pub(super) exchange: &'a mut Exchange,
    letter: &'a mut Letter,
    terms: Terms,
    /// For the app, not taken yet.
    out: BytesMut,
    /// Watches a write that does not go on; there only while one does not.
    stuck: Option<Silence>,
    /// The app does not take the rest, but may still answer.
    broken: bool,
    /// An answer's head so far.
    partial: BytesMut,
    pub(super) answer: Option<Delivered>,
    /// Bytes behind the answer's end: of a switched connection, or nonsense.
    pub(super) surplus: BytesMut,
}

impl<'a> Carriage<'a> {
    pub(super) fn new(
        client: &'a mut ClientStream,
        app: &'a mut AppStream,
        exchange: &'a mut Exchange,
        letter: &'a mut Letter,
        terms: Terms,
    ) -> Self {
        let kept = letter.kept.as_deref().unwrap_or_default();
        let mut out = BytesMut::with_capacity(letter.head.len() + kept.len());
        out.extend_from_slice(&letter.head);
        out.extend_from_slice(kept);
        match (&mut app.silence, terms.silence) {
            (Some(silence), Some(limit)) if silence.limit() == limit => silence.heard(),
            (silence, limit) => *silence = limit.map(Silence::of),
        }
        Self {
            client,
            app,
            exchange,
            letter,
            terms,
            out,
            stuck: None,
            broken: false,
            partial: BytesMut::new(),
            answer: None,
            surplus: BytesMut::new(),
        }
    }

    /// Whether the app's connection can carry another request.
    pub(super) fn app_is_reusable(&self) -> bool {
        let answered = self.answer.as_ref().is_some_and(|answer| {
            answer.app_keeps && !answer.switched && !answer.ends_with_connection()
        });
        answered
            && self.surplus.is_empty()
            && !self.broken
            && self.out.is_empty()
            && self.client.body_done()
    }

    /// Ready when the answer is with the client, or cannot be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.send(cx)?;
        if self.poll_answer(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_silence(cx)
    }

    /// Passes on what the client sends, as far as it goes.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        loop {
            let is_full = self.out.len() >= GATHER;
            let is_over = self.broken || self.client.body_done();
            let waits = !is_full && (is_over || self.poll_body(cx)?.is_pending());
            if self.poll_out(cx)?.is_pending() || waits {
                break;
            }
        }
        if self.client.body_done() {
            self.watch_client(cx)?;
        }
        Ok(())
    }

    /// Takes a piece of the request's body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::uninit(scratch);
            // What went wrong with a body is noted in the connection's facts.
            ready!(Pin::new(&mut *self.client).poll_read(cx, &mut buf))
                .map_err(|_| Failure::Client)?;
            let mut piece = buf.filled();
            if piece.is_empty() {
                return Poll::Ready(Err(Failure::Client));
            }
            self.letter.keep(piece);
            self.heard();
            if self.out.is_empty()
                && let Poll::Ready(Ok(taken)) = Pin::new(&mut *self.app).poll_write(cx, piece)
            {
                piece = &piece[taken..];
            }
            self.out.extend_from_slice(piece);
            Poll::Ready(Ok(()))
        })
    }

    /// Sends what is gathered for the app. An app that does not take it may have answered already:
    /// that is seen when its answer is read.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.out.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *self.app).poll_write(cx, &self.out) else {
                let limit = self.terms.stuck;
                let stuck = self.stuck.get_or_insert_with(|| Silence::of(limit));
                return stuck.poll_passed(cx).map(|()| Err(Failure::Stuck));
            };
            self.stuck = None;
            match written {
                Ok(taken) if taken > 0 => self.out.advance(taken),
                Ok(_) | Err(_) => {
                    self.broken = true;
                    self.out.clear();
                }
            }
        }
        if self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        // TLS keeps what it has written until it is told.
        if Pin::new(&mut *self.app).poll_flush(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Behind its body a client has nothing to say but that it leaves.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let mut nothing = [];
        let mut buf = ReadBuf::new(&mut nothing);
        match Pin::new(&mut *self.client).poll_read(cx, &mut buf) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(Failure::Client),
        }
    }

    /// Passes on what the app sends; ready when that is the whole answer.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.client.poll_drain(cx)).map_err(|_| Failure::Client)?;
            if self.answer.as_ref().is_some_and(Delivered::is_complete) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_piece(cx))?;
        }
    }

    /// Takes one piece of what the app sends.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::uninit(scratch);
            let read = ready!(Pin::new(&mut *self.app).poll_read(cx, &mut buf));
            Poll::Ready(match read {
                Ok(()) if !buf.filled().is_empty() => self.take(cx, buf.filled()),
                Ok(()) => self.app_ended(),
                Err(_) => Err(Failure::Ended),
            })
        })
    }

    /// The app closed its side.
    fn app_ended(&mut self) -> Result<(), Failure> {
        match &mut self.answer {
            Some(Delivered { body: Flow::UntilClose { ended, .. }, .. }) => {
                *ended = true;
                Ok(())
            }
            Some(_) | None => Err(Failure::Ended),
        }
    }

    /// Takes a piece of what the app sends.
    fn take(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Result<(), Failure> {
        self.heard();
        if self.answer.is_some() {
            return self.take_body(cx, piece);
        }
        if self.partial.is_empty() {
            let used = self.take_heads(piece)?;
            return self.take_rest(cx, &piece[used..]);
        }
        self.partial.extend_from_slice(piece);
        let whole = std::mem::take(&mut self.partial);
        let used = self.take_heads(&whole)?;
        self.take_rest(cx, &whole[used..])
    }

    /// What follows the heads: the body's beginning, or the beginning of another head.
    fn take_rest(&mut self, cx: &mut Context<'_>, rest: &[u8]) -> Result<(), Failure> {
        if self.answer.is_some() {
            return self.take_body(cx, rest);
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Reads interim answers and the final one's head; gives the bytes they took.
    fn take_heads(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut used = 0;
        while self.answer.is_none() {
            let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let is_head = self.exchange.head.method == http::Method::HEAD;
            let head = AnswerHead::parse(&bytes[used..], &mut room, is_head);
            let head = head.map_err(|nonsense| {
                tracing::warn!(app = self.exchange.app_id(), "{nonsense}");
                Failure::Nonsense
            })?;
            let Some(head) = head else { break };
            used += head.length;
            if head.is_interim() {
                head.write(self.client.gathered(), Additions::default());
            } else {
                self.answer = Some(self.deliver(&head)?);
            }
        }
        Ok(used)
    }

    /// Writes the final answer's head for the client.
    fn deliver(&mut self, head: &AnswerHead<'_>) -> Result<Delivered, Failure> {
        let switched = head.status == 101;
        if switched && !self.exchange.head.upgrade {
            tracing::warn!(app = self.exchange.app_id(), "the app switches protocols unasked");
            return Err(Failure::Nonsense);
        }
        self.exchange.answer_begins();
        // A body that the app did not wait for is of no use to it; what follows cannot be found.
        let closes = self.terms.closes || head.body == Delimiter::Close || !self.client.body_done();
        let timing = self.exchange.server_timing();
        let prefix = self.exchange.stripped_prefix();
        let authority = &self.exchange.head.authority;
        let rewrite = |name: &str, value: &[u8]| rewrite::field(name, value, prefix, authority);
        clock::with_second(|second| {
            let additions = Additions {
                closes,
                date: &second.http_date,
                timing: timing.as_deref(),
                rewrite: (!prefix.is_empty()).then_some(&rewrite),
            };
            head.write(self.client.gathered(), additions);
        });
        let body = match head.body {
            _ if switched => Flow::Tracked(BodyTracker::new(BodyKind::None, None)),
            Delimiter::None => Flow::Tracked(BodyTracker::new(BodyKind::None, None)),
            Delimiter::Length(length) => {
                Flow::Tracked(BodyTracker::new(BodyKind::Length(length), None))
            }
            Delimiter::Chunks => Flow::Tracked(BodyTracker::new(BodyKind::UntilEnd, None)),
            Delimiter::Close => Flow::UntilClose { bytes: 0, ended: false },
        };
        Ok(Delivered { status: head.status, closes, switched, body, app_keeps: head.keeps })
    }

    fn take_body(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Failure> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let taken = match &mut answer.body {
            Flow::Tracked(body) => body.advance(bytes).map_err(|_| Failure::Nonsense)?,
            Flow::UntilClose { bytes: so_far, .. } => {
                *so_far += bytes.len() as u64;
                bytes.len()
            }
        };
        self.surplus.extend_from_slice(&bytes[taken..]);
        self.client.give(cx, &bytes[..taken]).map_err(|_: io::Error| Failure::Client)
    }

    fn heard(&mut self) {
        if let Some(silence) = &mut self.app.silence {
            silence.heard();
        }
    }

    /// An app that has the whole request is waited for so long and no longer. While the client does
    /// not take what there is, nobody waits for the app.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let waits = (self.broken || self.client.body_done())
            && self.out.is_empty()
            && self.client.gathered().is_empty();
        match &mut self.app.silence {
            Some(silence) if waits => silence.poll_passed(cx).map(|()| Err(Failure::Silent)),
            Some(silence) => {
                silence.heard();
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}
