//! What Prometheus sees.
//!
//! Each app's figures are plain atomics behind an `Arc` that the route match carries, so a request
//! costs a few atomic additions and no look-up by label. They become metric families only when
//! somebody scrapes ([`export`]). An app that nobody visited has no series and takes no memory; a
//! removed app's series go with it.
//!
//! Labels are bounded: configured apps and `_other` for everyone else, known methods and `OTHER`,
//! statuses 100 to 599. Never a path, an address, or a host.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use doorbell_supervisor::message::StartTimes;
use http::Method;

use self::figures::{
    AppFigures, CallFigures, Count, HistogramFigures, ServerFigures, TrafficFigures,
};

pub mod export;
pub mod figures;

/// The label of requests that belong to no app.
pub const OTHER_APP: &str = "_other";

/// Upper bounds of the request histogram's buckets, in seconds.
pub const REQUEST_BUCKETS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Upper bounds of the start histograms' buckets, in seconds.
pub const START_BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "OTHER"];
const CODES: usize = 100;
const CLASSES: usize = 5;

/// Phases of a start, in order.
pub const PHASES: [&str; 5] = ["queued", "spawn", "listen", "ready", "first_byte"];

/// One app's figures.
#[derive(Debug, Default)]
pub struct AppMetrics {
    traffic: OnceLock<Box<Traffic>>,
    starts: OnceLock<Box<Starts>>,
    calls: OnceLock<Box<Calls>>,
}

/// Of a TCP app.
#[derive(Debug, Default)]
struct Calls {
    open: AtomicI64,
    joined: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// How a call to a TCP app fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It was joined to the app.
    Joined,
    /// It was reset: the app could not be started or reached, or too many waited.
    Refused,
    /// The client left before.
    Left,
}

/// Counts a call as open while it lives.
#[derive(Debug)]
pub struct OpenCall(std::sync::Arc<AppMetrics>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls().open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Traffic {
    in_flight: AtomicI64,
    /// By method and class of status; each made when first used.
    counts: [[OnceLock<Box<[AtomicU64; CODES]>>; CLASSES]; METHODS.len()],
    duration: Histogram<{ REQUEST_BUCKETS.len() }>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Starts {
    phases: [Histogram<{ START_BUCKETS.len() }>; PHASES.len()],
}

/// A histogram with fixed bounds.
#[derive(Debug)]
struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[f64; N], value: Duration) {
        let seconds = value.as_secs_f64();
        if let Some(bucket) = bounds.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// What one finished request adds.
#[derive(Clone, Copy, Debug)]
pub struct RequestFigures<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The status that was sent, or 499.
    pub status: u16,
    /// From the head's end to the answer's end.
    pub took: Duration,
    /// Bytes of its body.
    pub received_bytes: u64,
    /// Bytes of the answer's body.
    pub sent_bytes: u64,
}

/// Counts a request as in flight while it lives.
#[derive(Debug)]
pub struct InFlight(std::sync::Arc<AppMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.traffic().in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AppMetrics {
    fn traffic(&self) -> &Traffic {
        self.traffic.get_or_init(Box::default)
    }

    /// A request has begun.
    #[must_use]
    pub fn begin(self: &std::sync::Arc<Self>) -> InFlight {
        self.traffic().in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(std::sync::Arc::clone(self))
    }

    /// A request has ended.
    pub fn finish(&self, figures: &RequestFigures<'_>) {
        let traffic = self.traffic();
        let status = usize::from(figures.status.clamp(100, 599));
        let codes = traffic.counts[method_index(figures.method)][status / 100 - 1]
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        codes[status % 100].fetch_add(1, Ordering::Relaxed);
        traffic.duration.observe(&REQUEST_BUCKETS, figures.took);
        traffic.received_bytes.fetch_add(figures.received_bytes, Ordering::Relaxed);
        traffic.sent_bytes.fetch_add(figures.sent_bytes, Ordering::Relaxed);
    }

    fn calls(&self) -> &Calls {
        self.calls.get_or_init(Box::default)
    }

    /// A call has begun.
    #[must_use]
    pub fn call(self: &std::sync::Arc<Self>) -> OpenCall {
        self.calls().open.fetch_add(1, Ordering::Relaxed);
        OpenCall(std::sync::Arc::clone(self))
    }

    /// It is known how a call fared.
    pub fn call_ended(&self, end: CallEnd) {
        let calls = self.calls();
        let counter = match end {
            CallEnd::Joined => &calls.joined,
            CallEnd::Refused => &calls.refused,
            CallEnd::Left => &calls.left,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes have passed from a client of a TCP app.
    pub fn call_received(&self, bytes: u64) {
        self.calls().received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes have passed to a client of a TCP app.
    pub fn call_sent(&self, bytes: u64) {
        self.calls().sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A start has become ready.
    pub fn started(&self, times: &StartTimes) {
        let starts = self.starts.get_or_init(Box::default);
        let phases = [times.queued, times.spawn, times.listen, times.ready];
        for (histogram, took) in starts.phases.iter().zip(phases) {
            histogram.observe(&START_BUCKETS, took);
        }
    }

    /// The first byte of the first answer after a start has come, this long after ready.
    pub fn first_byte(&self, after_ready: Duration) {
        let starts = self.starts.get_or_init(Box::default);
        starts.phases[PHASES.len() - 1].observe(&START_BUCKETS, after_ready);
    }

    /// All of them as they are now; `None` if nobody ever came.
    #[must_use]
    pub fn read(&self) -> Option<AppFigures> {
        let traffic = self.traffic.get().map(|traffic| traffic.read());
        let starts = self.starts.get().map(|starts| starts.phases.iter().map(Histogram::read));
        let starts: Vec<_> = starts.into_iter().flatten().collect();
        let calls = self.calls.get().map(|calls| calls.read());
        let is_empty = traffic.is_none() && starts.is_empty() && calls.is_none();
        (!is_empty).then_some(AppFigures { held: 0, traffic, starts, calls })
    }
}

impl Calls {
    fn read(&self) -> CallFigures {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        CallFigures {
            open: self.open.load(Ordering::Relaxed),
            joined: load(&self.joined),
            refused: load(&self.refused),
            left: load(&self.left),
            received_bytes: load(&self.received_bytes),
            sent_bytes: load(&self.sent_bytes),
        }
    }
}

impl Traffic {
    fn read(&self) -> TrafficFigures {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let mut counts = Vec::new();
        for (method, classes) in self.counts.iter().enumerate() {
            for (class, codes) in classes.iter().enumerate() {
                let codes = codes.get().into_iter().flat_map(|codes| codes.iter().enumerate());
                for (code, count) in codes.filter(|(_, count)| load(count) > 0) {
                    counts.push(Count {
                        method,
                        status: (class + 1) * 100 + code,
                        count: load(count),
                    });
                }
            }
        }
        TrafficFigures {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            counts,
            duration: self.duration.read(),
            received_bytes: load(&self.received_bytes),
            sent_bytes: load(&self.sent_bytes),
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn read(&self) -> HistogramFigures {
        let buckets: Vec<_> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        // The buckets are read first: a request that ends in between may not make them more than the
        // count.
        let count = self.count.load(Ordering::Relaxed).max(buckets.iter().sum());
        HistogramFigures { buckets, count, sum_nanos: self.sum_nanos.load(Ordering::Relaxed) }
    }
}

fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::OPTIONS => 5,
        Method::PATCH => 6,
        _ => 7,
    }
}

/// Figures of Doorbell as a whole.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    /// Client connections open now.
    pub connections: AtomicI64,
    /// Client connections accepted so far.
    pub accepted: AtomicU64,
    /// Client connections turned away by `limits.connections`.
    pub crowded: AtomicU64,
    /// Access log lines lost because the disk did not keep up.
    pub log_lines_dropped: AtomicU64,
}

impl ServerMetrics {
    /// All of them as they are now.
    #[must_use]
    pub fn read(&self) -> ServerFigures {
        ServerFigures {
            connections: self.connections.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            crowded: self.crowded.load(Ordering::Relaxed),
            log_lines_dropped: self.log_lines_dropped.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_app_without_visits_takes_no_memory() {
        let metrics = AppMetrics::default();
        assert!(metrics.read().is_none());
    }

    #[test]
    fn requests_are_counted_by_method_and_status() {
        let metrics = Arc::new(AppMetrics::default());
        let running = metrics.begin();
        assert_eq!(metrics.traffic().in_flight.load(Ordering::Relaxed), 1);
        let figures = RequestFigures {
            method: &Method::GET,
            status: 204,
            took: Duration::from_millis(3),
            received_bytes: 1,
            sent_bytes: 2,
        };
        metrics.finish(&figures);
        drop(running);
        let traffic = metrics.read().unwrap().traffic.unwrap();
        assert_eq!((traffic.duration.count, traffic.in_flight), (1, 0));
        assert_eq!(traffic.counts, [Count { method: 0, status: 204, count: 1 }]);
        assert_eq!(traffic.duration.buckets[2], 1);
    }

    #[test]
    fn odd_methods_and_statuses_stay_bounded() {
        let metrics = AppMetrics::default();
        let method = Method::from_bytes(b"BREW").unwrap();
        for status in [0, 99, 600, 999] {
            let figures = RequestFigures {
                method: &method,
                status,
                took: Duration::ZERO,
                received_bytes: 0,
                sent_bytes: 0,
            };
            metrics.finish(&figures);
        }
        assert_eq!(metrics.read().unwrap().traffic.unwrap().duration.count, 4);
    }
}
