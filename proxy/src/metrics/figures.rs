//! Figures on their way from a proxy to whoever scrapes, and those of proxies that are gone.
//!
//! What a proxy counted is added to what others did, so that no counter falls when one takes over
//! from another.

use std::collections::BTreeMap;

use doorbell_config::name::AppId;
use serde::{Deserialize, Serialize};

use super::{METHODS, PHASES, REQUEST_BUCKETS, START_BUCKETS};

/// Statuses end before this (RFC 9110 section 15).
const MOST_STATUS: usize = 600;
/// Counts of one app: a method and a status each.
const MOST_COUNTS: usize = METHODS.len() * (MOST_STATUS - 100);
const MOST_PHASES: usize = PHASES.len();
const MOST_BUCKETS: usize = if REQUEST_BUCKETS.len() > START_BUCKETS.len() {
    REQUEST_BUCKETS.len()
} else {
    START_BUCKETS.len()
} + 1;

/// All that a proxy counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Of it as a whole.
    pub server: ServerFigures,
    /// Of requests that belong to no app.
    pub other: AppFigures,
    /// Of apps that somebody visited.
    pub apps: BTreeMap<AppId, AppFigures>,
}

/// Figures of connections and the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFigures {
    /// Client connections open.
    pub connections: i64,
    /// Client connections accepted so far.
    pub accepted: u64,
    /// Client connections turned away.
    pub crowded: u64,
    /// Access log lines lost.
    pub log_lines_dropped: u64,
}

/// Figures of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFigures {
    /// Requests waiting at its gate.
    pub held: u64,
    /// Its requests, if there were any.
    pub traffic: Option<TrafficFigures>,
    /// How long each phase of its starts took; empty if there were none.
    pub starts: Vec<HistogramFigures>,
    /// Its calls, if it is a TCP app and there were any.
    #[serde(default)]
    pub calls: Option<CallFigures>,
}

/// Figures of calls to a TCP app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFigures {
    /// Open now, those that are held included.
    pub open: i64,
    /// Joined to the app so far.
    pub joined: u64,
    /// Reset without.
    pub refused: u64,
    /// Left by the client before.
    pub left: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
}

/// Figures of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficFigures {
    /// Running now.
    pub in_flight: i64,
    /// Answered, by method and status.
    pub counts: Vec<Count>,
    /// How long they took.
    pub duration: HistogramFigures,
    /// Bytes of their bodies.
    pub received_bytes: u64,
    /// Bytes of their answers' bodies.
    pub sent_bytes: u64,
}

/// Requests with one method and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The method's place among those that are counted.
    pub method: usize,
    /// The status.
    pub status: usize,
    /// How many.
    pub count: u64,
}

/// A histogram, each bucket by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramFigures {
    /// Values in each bucket.
    pub buckets: Vec<u64>,
    /// Values in all, those beyond the last bucket included.
    pub count: u64,
    /// Their sum.
    pub sum_nanos: u64,
}

impl Figures {
    /// Adds those of another proxy.
    pub fn add(&mut self, other: &Self) {
        self.server.add(&other.server);
        self.other.add(&other.other);
        for (app, figures) in &other.apps {
            self.apps.entry(app.clone()).or_default().add(figures);
        }
    }

    /// Cuts what no proxy of ours says: it comes from a process that faces the internet.
    pub fn keep_within_bounds(&mut self) {
        for app in self.apps.values_mut().chain([&mut self.other]) {
            app.starts.truncate(MOST_PHASES);
            app.starts.iter_mut().for_each(HistogramFigures::keep_within_bounds);
            if let Some(traffic) = &mut app.traffic {
                traffic.duration.keep_within_bounds();
                traffic.counts.truncate(MOST_COUNTS);
                let is_real = |one: &Count| one.method < METHODS.len() && one.status < MOST_STATUS;
                traffic.counts.retain(is_real);
            }
        }
    }

    /// What is left of them when the proxy is gone: counts, and nothing that is now.
    pub fn settle(&mut self) {
        self.server.connections = 0;
        for figures in self.apps.values_mut().chain([&mut self.other]) {
            figures.held = 0;
            if let Some(traffic) = &mut figures.traffic {
                traffic.in_flight = 0;
            }
            if let Some(calls) = &mut figures.calls {
                calls.open = 0;
            }
        }
    }
}

impl ServerFigures {
    fn add(&mut self, other: &Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.crowded = self.crowded.saturating_add(other.crowded);
        self.log_lines_dropped = self.log_lines_dropped.saturating_add(other.log_lines_dropped);
    }
}

impl AppFigures {
    /// Requests answered so far, or calls taken.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let requests = self.traffic.as_ref().map_or(0, |traffic| traffic.duration.count);
        requests.saturating_add(self.calls.as_ref().map_or(0, CallFigures::taken))
    }

    /// Requests running now, or calls open, without those that are held.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        let requests = self.traffic.as_ref().map_or(0, |traffic| traffic.in_flight);
        requests.saturating_add(self.calls.as_ref().map_or(0, |calls| calls.in_use(self.held)))
    }

    fn add(&mut self, other: &Self) {
        self.held = self.held.saturating_add(other.held);
        if let Some(traffic) = &other.traffic {
            self.traffic.get_or_insert_default().add(traffic);
        }
        add_each(&mut self.starts, &other.starts, HistogramFigures::add);
        if let Some(calls) = &other.calls {
            self.calls.get_or_insert_default().add(calls);
        }
    }
}

impl CallFigures {
    /// All whose outcome is known.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.joined.saturating_add(self.refused).saturating_add(self.left)
    }

    /// Open calls but for those that are held.
    #[must_use]
    pub fn in_use(&self, held: u64) -> i64 {
        self.open.saturating_sub_unsigned(held).max(0)
    }

    fn add(&mut self, other: &Self) {
        self.open = self.open.saturating_add(other.open);
        self.joined = self.joined.saturating_add(other.joined);
        self.refused = self.refused.saturating_add(other.refused);
        self.left = self.left.saturating_add(other.left);
        self.received_bytes = self.received_bytes.saturating_add(other.received_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(other.sent_bytes);
    }
}

impl TrafficFigures {
    fn add(&mut self, other: &Self) {
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.received_bytes = self.received_bytes.saturating_add(other.received_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(other.sent_bytes);
        self.duration.add(&other.duration);
        for count in &other.counts {
            let same = |one: &&mut Count| one.method == count.method && one.status == count.status;
            match self.counts.iter_mut().find(same) {
                Some(one) => one.count = one.count.saturating_add(count.count),
                None => self.counts.push(*count),
            }
        }
    }
}

impl HistogramFigures {
    fn keep_within_bounds(&mut self) {
        self.buckets.truncate(MOST_BUCKETS);
    }

    fn add(&mut self, other: &Self) {
        add_each(&mut self.buckets, &other.buckets, |one, other| {
            *one = one.saturating_add(*other);
        });
        self.count = self.count.saturating_add(other.count);
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }
}

/// Adds what stands at the same place; what has no counterpart is taken as it is.
fn add_each<T: Default + Clone>(to: &mut Vec<T>, from: &[T], add: impl Fn(&mut T, &T)) {
    if to.len() < from.len() {
        to.resize(from.len(), T::default());
    }
    for (one, other) in to.iter_mut().zip(from) {
        add(one, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(seed: u64) -> Figures {
        let histogram =
            HistogramFigures { buckets: vec![seed, 0, 1], count: seed + 2, sum_nanos: seed };
        let traffic = TrafficFigures {
            in_flight: 3,
            counts: vec![
                Count { method: 0, status: 200, count: seed },
                Count { method: 1, status: 404, count: 1 },
            ],
            duration: histogram.clone(),
            received_bytes: seed,
            sent_bytes: 2 * seed,
        };
        let calls = CallFigures { open: 5, joined: seed, left: 1, ..CallFigures::default() };
        let starts = vec![histogram; 5];
        let app = AppFigures { held: 2, traffic: Some(traffic), starts, calls: Some(calls) };
        let server = ServerFigures { connections: 9, accepted: seed, ..ServerFigures::default() };
        let id = AppId::parse(&format!("app{}", seed % 2)).unwrap();
        Figures { server, other: app.clone(), apps: [(id, app)].into() }
    }

    #[test]
    fn sums_do_not_depend_on_the_order() {
        let (one, two, three) = (figures(1), figures(2), figures(3));
        let mut left = one.clone();
        left.add(&two);
        left.add(&three);
        let mut right = three;
        right.add(&one);
        right.add(&two);
        assert_eq!(left, right);
        assert_eq!((left.apps.len(), left.server.accepted), (2, 6));
        let traffic = left.other.traffic.as_ref().unwrap();
        assert_eq!(traffic.counts[0].count, 6);
        assert_eq!((traffic.duration.count, left.other.starts[4].buckets[0]), (12, 6));
    }

    #[test]
    fn what_was_counted_stays_and_what_is_now_goes() {
        let mut gone = figures(4);
        gone.settle();
        assert_eq!((gone.server.connections, gone.server.accepted), (0, 4));
        let app = gone.apps.values().next().unwrap();
        assert_eq!((app.held, app.in_flight(), app.requests()), (0, 0, 11));
    }

    #[test]
    fn what_no_proxy_says_is_cut() {
        let mut good = figures(4);
        good.keep_within_bounds();
        assert_eq!(good, figures(4));
        let mut bad = figures(4);
        let traffic = bad.other.traffic.as_mut().unwrap();
        traffic.counts.push(Count { method: usize::MAX, status: 200, count: 1 });
        traffic.counts.push(Count { method: 0, status: usize::MAX, count: 1 });
        traffic.counts.extend(vec![traffic.counts[0]; 1_000_000]);
        traffic.duration.buckets.resize(1_000_000, 1);
        bad.other.starts.resize(1_000_000, HistogramFigures::default());
        bad.keep_within_bounds();
        let traffic = bad.other.traffic.unwrap();
        assert!(traffic.counts.len() <= MOST_COUNTS);
        assert!(traffic.counts.iter().all(|one| one.method < 8 && one.status < 600));
        assert_eq!(traffic.duration.buckets.len(), MOST_BUCKETS);
        assert_eq!(bad.other.starts.len(), MOST_PHASES);
    }

    #[test]
    fn they_travel() {
        let figures = figures(7);
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
    }
}
