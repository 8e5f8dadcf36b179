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
    time::{Duration, Instant},
};

use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    server::ShutdownWatch,
};
use pingora_proxy::HttpProxy;
use tokio::sync::Notify;

use crate::front::Front;

tokio::task_local! {
    static CLOCK: Arc<Clock>;
}

/// What serves HTTP/2 connections.
pub struct Http2 {
    /// Pingora, with our phases and its options for HTTP/2.
    pub proxy: Arc<HttpProxy<Front>>,
}

/// How long somebody may be silent in the present phase of a stream.
struct Clock {
    began: Instant,
    limit: Mutex<Option<Duration>>,
    changed: Notify,
    /// Milliseconds from `began` to the last sign of life.
    last_sign: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            limit: Mutex::default(),
            changed: Notify::new(),
            last_sign: AtomicU64::new(0),
        }
    }

    fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_sign.store(now, Ordering::Relaxed);
    }

    fn expect(&self, limit: Option<Duration>) {
        self.heard();
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
        self.changed.notify_one();
    }

    /// Resolves when there was no sign of life for the limit of the present phase.
    async fn run_out(&self) {
        loop {
            let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(limit) = limit else {
                self.changed.notified().await;
                continue;
            };
            let last = Duration::from_millis(self.last_sign.load(Ordering::Relaxed));
            let end = self.began + last + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end.into()) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// The stream enters a phase in which there must be a sign of life at least this often. Does nothing
/// for HTTP/1, whose stream has its own timers.
pub fn expect_signs(limit: Option<Duration>) {
    // No clock is no stream.
    let _ = CLOCK.try_with(|clock| clock.expect(limit));
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
        clock.expect(Some(Duration::ZERO));
        clock.run_out().await;
    }
}
