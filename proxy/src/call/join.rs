//! Joins a client and its app, byte for byte.
//!
//! Each side's last word (FIN) is passed on by itself, so that the other may still answer; a side that
//! breaks breaks both. A connection that waits holds no buffer: pieces pass through one that belongs to
//! the thread, and only what the other side does not take at once is kept, before more is read.
//!
//! Copied, not spliced: splice(2) takes half the processor time for bulk, and no less for small pieces
//! (`docs/benchmarks.md`). It would have to be allowed, with pipes, to the process that faces the internet,
//! and has been a way to write into files that may only be read (CVE-2022-0847).

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::Either;
use tokio::time::Instant;

use crate::{metrics::AppMetrics, transport::Transport};

/// Bytes that pass at once.
const PIECE: usize = 64 * 1024;
/// Pieces after which others on the thread have their turn.
const TURN: u32 = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// What passes in both directions, counted.
pub(super) struct Flow {
    metrics: Arc<AppMetrics>,
    idle: Option<Duration>,
    began: Instant,
    /// Milliseconds from `began` to the last piece.
    last: AtomicU64,
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    FromClient,
    FromApp,
}

/// What came of one look at a socket.
enum Read {
    Bytes(usize),
    Nothing,
    End,
}

impl Flow {
    pub(super) fn new(metrics: &Arc<AppMetrics>, idle: Option<Duration>) -> Self {
        let (metrics, began) = (Arc::clone(metrics), Instant::now());
        Self { metrics, idle, began, last: AtomicU64::new(0) }
    }

    fn passed(&self, direction: Direction, bytes: usize) {
        match direction {
            Direction::FromClient => self.metrics.call_received(bytes as u64),
            Direction::FromApp => self.metrics.call_sent(bytes as u64),
        }
        if self.idle.is_some() {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last.store(now, Ordering::Relaxed);
        }
    }

    /// Resolves when nothing has passed for as long as it may.
    async fn is_idle(&self) {
        let Some(limit) = self.idle else { return std::future::pending().await };
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.began + last + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Joins both until each has said its last word, or one breaks.
///
/// # Errors
/// Which broke, or that nothing passed for too long.
pub(super) async fn join(client: &Transport, app: &Transport, flow: &Flow) -> io::Result<()> {
    tokio::select! {
        ended = both_ways(client, app, flow) => ended,
        () = flow.is_idle() => Err(ErrorKind::TimedOut.into()),
    }
}

/// Copies both ways. Who has said its last word may wait for the other's as long as it is there.
async fn both_ways(client: &Transport, app: &Transport, flow: &Flow) -> io::Result<()> {
    let mut up = std::pin::pin!(pump(client, app, flow, Direction::FromClient));
    let mut down = std::pin::pin!(pump(app, client, flow, Direction::FromApp));
    let (rest, said) = tokio::select! {
        ended = &mut up => (Either::Right(down), ended.map(|()| client)?),
        ended = &mut down => (Either::Left(up), ended.map(|()| app)?),
    };
    tokio::select! {
        biased;
        ended = rest => ended,
        over = said.over() => over,
    }
}

/// Copies one way to the end. Dropping it loses what the other side has not taken.
async fn pump(
    from: &Transport,
    to: &Transport,
    flow: &Flow,
    direction: Direction,
) -> io::Result<()> {
    let mut rest = Vec::new();
    let mut pieces = 0;
    loop {
        from.readable().await?;
        match pass(from, to, &mut rest)? {
            Read::Nothing => rest = Vec::new(),
            Read::End => return to.end_writing(),
            Read::Bytes(count) => {
                to.send_all(&rest).await?;
                flow.passed(direction, count);
                pieces += 1;
                if pieces % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Passes a piece on, as far as the other side takes it; the rest is kept.
fn pass(from: &Transport, to: &Transport, rest: &mut Vec<u8>) -> io::Result<Read> {
    rest.clear();
    BUFFER.with_borrow_mut(|buffer| {
        let count = match from.try_read(buffer) {
            Ok(0) => return Ok(Read::End),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Read::Nothing),
            Err(error) => return Err(error),
        };
        let read = buffer.get(..count).unwrap_or_default();
        let taken = match to.try_write(read) {
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        rest.extend_from_slice(read.get(taken..).unwrap_or_default());
        Ok(Read::Bytes(count))
    })
}
