//! HTTP/2 connections: Pingora's, with a clock for each stream.
//!
//! Pingora times neither a client that stops in the middle of a request's body nor an app that says
//! nothing once it has one. Here each stream is served beside a `Clock` that the phases set; when it
//! runs out the stream is reset, and its exchange, lease included, ends.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    server::ShutdownWatch,
};
use pingora_proxy::HttpProxy;
use tokio::{sync::Notify, time::Instant};

use crate::front::Front;

tokio::task_local! {
    static CLOCK: Arc<Clock>;
}

/// What serves HTTP/2 connections.
pub struct Http2 {
    /// Pingora, with our phases and its options for HTTP/2.
    pub proxy: Arc<HttpProxy<Front>>,
}

/// Who owes the next sign of life on a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nobody in particular.
    #[default]
    Nobodys,
    /// The client, the rest of its body.
    Clients(Duration),
    /// The app, its answer.
    Apps(Duration),
}

impl Turn {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Nobodys => None,
            Self::Clients(limit) | Self::Apps(limit) => Some(limit),
        }
    }
}

/// How long somebody may be silent in the present phase of a stream.
struct Clock {
    began: Instant,
    turn: Mutex<Turn>,
    changed: Notify,
    /// Milliseconds from `began` to the last sign of life.
    last_sign: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            turn: Mutex::default(),
            changed: Notify::new(),
            last_sign: AtomicU64::new(0),
        }
    }

    fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_sign.store(now, Ordering::Relaxed);
    }

    fn expect(&self, turn: Turn) {
        self.heard();
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        self.changed.notify_one();
    }

    fn turn(&self) -> Turn {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it runs out, if nothing is heard before.
    fn end(&self) -> Option<Instant> {
        let last = Duration::from_millis(self.last_sign.load(Ordering::Relaxed));
        self.turn().limit().map(|limit| self.began + last + limit)
    }

    /// Resolves when there was no sign of life for the limit of the present phase.
    async fn run_out(&self) {
        loop {
            let Some(end) = self.end() else {
                self.changed.notified().await;
                continue;
            };
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// The stream enters a phase in which somebody owes a sign of life. Does nothing for HTTP/1, whose
/// stream has its own timers.
pub fn expect(turn: Turn) {
    // No clock is no stream.
    let _ = CLOCK.try_with(|clock| clock.expect(turn));
}

/// The status to log for a stream whose clock ran out; `None` for one that ended otherwise.
#[must_use]
pub fn status_when_run_out() -> Option<u16> {
    let run_out = |clock: &Arc<Clock>| {
        let is_over = clock.end().is_some_and(|end| end <= Instant::now());
        match clock.turn() {
            Turn::Clients(_) if is_over => Some(408),
            Turn::Apps(_) if is_over => Some(504),
            Turn::Nobodys | Turn::Clients(_) | Turn::Apps(_) => None,
        }
    };
    CLOCK.try_with(run_out).ok().flatten()
}

/// There was a sign of life.
pub fn heard() {
    let _ = CLOCK.try_with(|clock| clock.heard());
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let clock = Arc::new(Clock::new());
        let serve = self.proxy.process_new_http(session, shutdown);
        tokio::select! {
            done = CLOCK.scope(Arc::clone(&clock), serve) => done,
            () = clock.run_out() => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_without_limit_waits_for_ever_and_one_with_it_runs_out() {
        let clock = Arc::new(Clock::new());
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, clock.run_out()).await.is_err());
        clock.expect(Turn::Apps(Duration::from_secs(5)));
        let before = Instant::now();
        clock.run_out().await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        let status = CLOCK.scope(clock, async { status_when_run_out() }).await;
        assert_eq!(status, Some(504));
    }
}
