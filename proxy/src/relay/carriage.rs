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

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    answer_head::{Additions, AnswerHead, Delimiter, MAX_FIELDS, MAX_HEAD},
    app_stream::AppStream,
    delivered::{Delivered, Flow},
    letter::Letter,
};
use crate::{
    client_stream::{ClientStream, Owes},
    clock,
    exchange::Exchange,
    framing::BodyTracker,
    head::{BodyKind, Reader},
    patience::Silence,
};

/// Most bytes read at once.
const PIECE: usize = 64 * 1024;
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
    /// The client waits to be asked for its body (RFC 9110 section 10.1.1).
    expects: bool,
    /// Something of an answer came.
    pub(super) has_begun: bool,
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
        let mut out = exchange.forwarded_bytes(Reader::App);
        out.extend_from_slice(letter.kept.as_deref().unwrap_or_default());
        match (&mut app.silence, terms.silence) {
            (Some(silence), Some(limit)) if silence.limit() == limit => silence.heard(),
            (silence, limit) => *silence = limit.map(Silence::of),
        }
        let expects = !client.body_done() && exchange.head.field("expect").is_some();
        client.owes_body(if expects { Owes::NotNow } else { Owes::Now });
        Self {
            client,
            app,
            exchange,
            letter,
            terms,
            out,
            stuck: None,
            broken: false,
            expects,
            has_begun: false,
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
            self.asked_for();
            if self.out.is_empty()
                && let Poll::Ready(Ok(taken)) = Pin::new(&mut *self.app).poll_write(cx, piece)
            {
                self.letter.has_left();
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
                return self.poll_stuck(cx);
            };
            self.stuck = None;
            match written {
                Ok(taken) if taken > 0 => {
                    self.letter.has_left();
                    self.out.advance(taken);
                }
                Ok(_) | Err(_) => self.breaks(),
            }
        }
        if self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        // TLS keeps what it has written until it is told.
        match Pin::new(&mut *self.app).poll_flush(cx) {
            Poll::Pending => return self.poll_stuck(cx),
            Poll::Ready(Ok(())) => self.stuck = None,
            Poll::Ready(Err(_)) => self.breaks(),
        }
        Poll::Ready(Ok(()))
    }

    /// The app takes no more.
    fn breaks(&mut self) {
        self.broken = true;
        self.out.clear();
    }

    /// An app that takes nothing for too long is given up, unless it waits itself for a client that
    /// does not read.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let limit = self.terms.stuck;
        let stuck = self.stuck.get_or_insert_with(|| Silence::of(limit));
        if !self.client.gathered().is_empty() {
            stuck.heard();
        }
        stuck.poll_passed(cx).map(|()| Err(Failure::Stuck))
    }

    /// The client was asked for its body, or sends it unasked.
    fn asked_for(&mut self) {
        if self.expects {
            self.expects = false;
            self.client.owes_body(Owes::Now);
        }
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
        self.has_begun = true;
        if self.answer.is_some() {
            self.heard();
            return self.take_body(cx, piece);
        }
        if self.partial.is_empty() {
            self.heard();
            let used = self.take_heads(piece)?;
            return self.take_rest(cx, &piece[used..]);
        }
        // A head that comes in drips is read when it is whole, and its drips are no signs of life.
        let searched = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(piece);
        if !ends_head(&self.partial[searched..]) && self.partial.len() < MAX_HEAD {
            return Ok(());
        }
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
                self.asked_for();
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
        // Nothing is sent again from here on, and a client need not hurry with what is left.
        self.letter.kept = None;
        self.client.owes_body(Owes::NotNow);
        let timing = self.exchange.server_timing();
        let prefix = self.exchange.prefix();
        clock::with_second(|second| {
            let additions = Additions {
                closes,
                date: &second.http_date,
                timing: timing.as_deref(),
                prefix: prefix.as_ref(),
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
        let is_apps_turn =
            self.broken || self.expects || self.answer.is_some() || self.client.body_done();
        let waits = is_apps_turn && self.out.is_empty() && self.client.gathered().is_empty();
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

/// Whether the end of a head is among these bytes.
fn ends_head(bytes: &[u8]) -> bool {
    [&b"\n\r\n"[..], b"\n\n"].iter().any(|end| memchr::memmem::find(bytes, end).is_some())
}
