//! One run of an app, and the permissions to use it.
//!
//! A lease keeps the instance from being retired as long as it lives. Whether it also counts as use,
//! from which idle time begins anew, is another matter ([`Sway`]).
//!
//! Invariant: an instance is never retired while a lease on it exists. [`Instance::try_lease`] and
//! [`Instance::retire`] decide on the same atomic word (test
//! `lease_and_retirement_never_both_succeed`).

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_config::name::AppId;
use doorbell_supervisor::message::{Endpoint, GateReport, Generation, StartTimes};
use tokio::sync::Notify;

use super::{ReportSink, Sway};

const CLOSED: u64 = 1 << 63;
/// A lease that keeps the instance awake, as part of the word.
const AWAKE: u64 = 1;
/// A lease that does not.
const ASIDE: u64 = 1 << 32;
/// Those that do, of the word.
const ALL_AWAKE: u64 = ASIDE - 1;

/// One run of an app as the gate sees it.
pub struct Instance {
    pub(super) app: AppId,
    /// Which run.
    pub generation: Generation,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How its start went; `None` for static upstreams.
    pub started: Option<StartTimes>,
    /// Tells connections to this run from those to any other, in the pool.
    pub pool_key: u64,
    /// Set by the first response's first byte.
    pub answered: AtomicBool,
    opened: Instant,
    /// When nobody kept it awake, before the first who did.
    idle_before: Instant,
    /// `CLOSED` bit, the number of leases that keep it awake and, from bit 32 on, of those that do not.
    word: AtomicU64,
    /// Nanoseconds from `idle_before` to the end of the last lease that kept it awake.
    last_used: AtomicU64,
    /// Rings when it is closed.
    closing: Notify,
    reports: ReportSink,
}

/// Permission for one exchange to use one instance. Dropping it gives it back.
pub struct Lease {
    pub(super) instance: Arc<Instance>,
    /// Whether it counts as use, in the time that the instance is idle.
    sway: Sway,
}

impl Instance {
    pub(super) fn new(
        app: AppId,
        generation: Generation,
        endpoint: Endpoint,
        started: Option<StartTimes>,
        reports: ReportSink,
    ) -> Self {
        // A run that was frozen may have closed what was kept to it: each opening has a key of its own.
        static OPENINGS: AtomicU64 = AtomicU64::new(0);
        let mut hasher = DefaultHasher::new();
        (&app, generation, OPENINGS.fetch_add(1, Ordering::Relaxed)).hash(&mut hasher);
        let now = Instant::now();
        Self {
            app,
            generation,
            endpoint,
            started,
            pool_key: hasher.finish(),
            answered: AtomicBool::new(false),
            opened: now,
            idle_before: now,
            word: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
            closing: Notify::new(),
            reports,
        }
    }

    /// It was idle before it was opened.
    pub(super) fn was_idle_since(&mut self, idle_since: Instant) {
        self.idle_before = idle_since;
    }

    pub(super) fn try_lease(self: &Arc<Self>, sway: Sway) -> Option<Lease> {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & CLOSED == 0).then_some(word + part(sway))
            })
            .ok()
            .map(|_| Lease { instance: Arc::clone(self), sway })
    }

    /// Closes the instance if it has no lease.
    pub(super) fn retire(&self) -> bool {
        let closed = self.word.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire);
        if closed.is_ok() {
            self.closing.notify_waiters();
        }
        closed.is_ok()
    }

    /// Closes the instance; reports `Drained` now or with the last lease.
    pub(super) fn close(&self) {
        let word = self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.closing.notify_waiters();
        if word == 0 {
            self.report_drained();
        }
    }

    /// Gives leases again, if it was closed.
    pub(super) fn reopen(&self) {
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    fn report_drained(&self) {
        (self.reports)(GateReport::Drained { app: self.app.clone(), generation: self.generation });
    }

    /// Closed, and without leases: the gate can forget it.
    pub(super) fn is_spent(&self) -> bool {
        self.word.load(Ordering::Acquire) == CLOSED
    }

    /// How long nobody has kept it awake; zero while somebody does.
    pub(super) fn idle_for(&self) -> Duration {
        if self.word.load(Ordering::Acquire) & ALL_AWAKE > 0 {
            return Duration::ZERO;
        }
        self.idle_since().elapsed()
    }

    /// The leases there are; `None` if there are no more.
    pub(super) fn leases(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        (word & CLOSED == 0).then_some((word & ALL_AWAKE) + word / ASIDE)
    }

    /// How long nobody has kept it awake since somebody did, here.
    pub(super) fn unused_for(&self) -> Option<Duration> {
        let was_used = self.last_used.load(Ordering::Acquire) > 0;
        let is_used = self.word.load(Ordering::Acquire) & ALL_AWAKE > 0;
        (was_used || is_used).then(|| self.idle_for())
    }

    /// The end of the last lease that kept it awake.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_before + Duration::from_nanos(self.last_used.load(Ordering::Acquire))
    }

    /// Whether it is a run of this app.
    #[must_use]
    pub fn is_of(&self, app: &AppId) -> bool {
        self.app == *app
    }

    /// Whether there are no more leases for this instance.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Until there are no more leases for it. It may be opened again at any time after that.
    pub async fn shut(&self) {
        // Made before the look: what rings in between is heard.
        let closing = self.closing.notified();
        if !self.is_shut() {
            closing.await;
        }
    }

    /// When the gate opened for this instance.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.opened
    }
}

/// What a lease adds to the word.
fn part(sway: Sway) -> u64 {
    if sway.keeps_awake() { AWAKE } else { ASIDE }
}

impl Lease {
    /// The instance this lease is for.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let instance = &self.instance;
        if self.sway.keeps_awake() {
            // Before the count falls, so that nobody sees an idle instance with an old time.
            let now = u64::try_from(instance.idle_before.elapsed().as_nanos()).unwrap_or(u64::MAX);
            instance.last_used.fetch_max(now, Ordering::AcqRel);
        }
        let part = part(self.sway);
        if instance.word.fetch_sub(part, Ordering::AcqRel) == CLOSED | part {
            instance.report_drained();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} {:?})", self.instance.app, self.instance.generation)
    }
}
