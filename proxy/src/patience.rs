//! How long a client is waited for, and how long an app.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Least pace of a request body.
#[derive(Clone, Copy, Debug, Default)]
pub struct PaceLimits {
    /// Bytes a second on average, counted only while we wait for the client; zero is no limit.
    pub rate: u64,
    /// Waiting that is not yet judged, and the longest time without a byte; zero is no limit.
    pub grace: Duration,
}

/// Follows a body that should come at a least pace.
#[derive(Debug, Default)]
pub struct Pace {
    limits: PaceLimits,
    waited: Duration,
    waiting_since: Option<Instant>,
    received: u64,
}

impl Pace {
    pub(crate) fn of(limits: PaceLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(crate) fn limits(&self) -> PaceLimits {
        self.limits
    }

    pub(crate) fn wait_begins(&mut self) {
        if self.limits.rate > 0 && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
    }

    /// The wait of now was not for the client.
    pub(crate) fn forgive(&mut self) {
        self.waiting_since = None;
    }

    pub(crate) fn keeps_up(&mut self, came: usize) -> bool {
        if self.limits.rate == 0 {
            return true;
        }
        self.received += came as u64;
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        let judged = self.waited.saturating_sub(self.limits.grace).as_secs_f64();
        self.received as f64 >= judged * self.limits.rate as f64
    }
}

/// Watches for somebody who says nothing: an app that has a whole request, a client that owes us the
/// rest of one, or either of them taking nothing.
pub(crate) struct Silence {
    limit: Duration,
    last_sign: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    pub(crate) fn of(limit: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, last_sign: Instant::now(), timer }
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// There was a sign of life.
    pub(crate) fn heard(&mut self) {
        self.last_sign = Instant::now();
    }

    /// Ready when there has been none for the limit.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let end = self.last_sign + self.limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_too_slow_and_a_slow_app_is_not_blamed_on_the_client() {
        let limits = PaceLimits { rate: 100, grace: Duration::from_secs(10) };
        let mut pace = Pace { waited: Duration::from_secs(10), ..Pace::of(limits) };
        assert!(pace.keeps_up(1));
        pace.waited = Duration::from_secs(20);
        assert!(!pace.keeps_up(1));
        assert!(pace.keeps_up(1000));
    }
}
