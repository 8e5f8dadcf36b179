//! Where requests meet the lifecycle: they wait here, or get a [`Lease`].
//!
//! A lease is permission for one request, or one WebSocket, to use one ready instance; it lives as
//! long as the exchange and is released by `Drop`. Taking one on an open gate costs one atomic
//! compare-and-swap. Everything else (waiting, opening, refusing) is the slow path and happens
//! under one lock per app.
//!
//! The gate decides nothing about lifecycles: it obeys the supervisor's orders and reports. Read
//! [`crate::gatekeeper`] for how they travel.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use doorbell_config::name::AppId;
use doorbell_supervisor::message::{
    Endpoint, GateReport, Generation, Refusal, RefusalReason, StartTimes,
};
use tokio::sync::oneshot;

mod instance;
mod line;
mod news;
mod replicas;
mod sharers;
mod sway;

pub use instance::{Instance, Lease};
pub use line::{Held, HeldTotal, Place};
use line::{Pass, Waiter};
use news::News;
pub use news::View;
pub use replicas::Replicas;
pub use sharers::Sharers;
pub use sway::Sway;

/// Where gates send their reports. Bounded by construction: a gate sends one `Wanted` per time it
/// closes, and one answer per order.
pub type ReportSink = Arc<dyn Fn(GateReport) + Send + Sync>;

/// What a request met at the gate.
#[derive(Debug)]
pub enum Entry {
    /// Go ahead.
    Leased(Lease),
    /// Wait for [`Place::lease`].
    Held(Place),
    /// Come again later.
    Refused(Denial),
}

/// Why a request gets no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The supervisor refuses for this reason.
    Refusal(Refusal),
    /// Too many requests wait for this app, or in all.
    QueueFull,
    /// The request's own deadline passed.
    HoldDeadline,
    /// The app sleeps, nobody has woken it, and this request may not.
    Asleep,
    /// The app was defined anew, and this request cannot go on to what it is now.
    Changed,
}

/// One app's gate. Lives as long as the app is configured, across its instances.
pub struct Gate {
    app: AppId,
    /// The instance that new leases are for.
    open: ArcSwapOption<Instance>,
    /// Made when somebody first comes to it, or has something to say about who will: most apps sleep for long.
    door: OnceLock<Box<Mutex<Door>>>,
    held: AtomicUsize,
    held_cap: AtomicUsize,
    /// Those who do not wait here, and want to know.
    listeners: AtomicUsize,
    /// The supervisor knows that it is wanted though others serve in its place, or need not know.
    is_told: AtomicBool,
    /// Other apps that have leases here too.
    pub sharers: Sharers,
    total: Arc<HeldTotal>,
    reports: ReportSink,
}

/// What the lock guards: the line, and what to do with whoever comes while nothing is open.
#[derive(Default)]
struct Door {
    mode: Mode,
    /// Waiters in the order they came.
    line: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    /// Somebody who may wake the app has asked for it, and the supervisor knows.
    wanted: bool,
    /// The supervisor is about to say whether the instance is opened again: it could not be reached, or
    /// was retired here, and may be in use elsewhere.
    in_doubt: bool,
    /// Since when it could not be reached, until the supervisor says something.
    unreachable_since: Option<Instant>,
    /// Instances opened and not yet drained.
    instances: Vec<Arc<Instance>>,
    /// The newest instance that was retired: an order to open it comes too late. With the moment from
    /// which on nobody kept it awake.
    retired: Option<(Generation, Instant)>,
    /// For those who do not wait here, and want to know.
    news: News,
}

#[derive(Default)]
enum Mode {
    #[default]
    Hold,
    /// Until an order ends it; the moment it began, for a `Retry-After` that shrinks.
    Refuse(Refusal, Instant),
}

/// Waiters let in at once: about what the smallest usual listen backlog takes.
const PORTION: usize = 64;

impl Gate {
    /// A gate that holds whoever comes.
    #[must_use]
    pub fn new(app: AppId, held_cap: usize, total: Arc<HeldTotal>, reports: ReportSink) -> Self {
        Self {
            app,
            open: ArcSwapOption::empty(),
            door: OnceLock::new(),
            held: AtomicUsize::new(0),
            held_cap: AtomicUsize::new(held_cap),
            listeners: AtomicUsize::new(0),
            is_told: AtomicBool::new(false),
            sharers: Sharers::default(),
            total,
            reports,
        }
    }

    /// Changes the cap on waiters; who already waits goes on waiting.
    pub fn set_held_cap(&self, cap: usize) {
        self.held_cap.store(cap, Ordering::Relaxed);
    }

    /// Whether somebody waits here, or uses an instance.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let Some(door) = self.lock_known() else { return self.held() > 0 };
        self.held() > 0 || !door.line.is_empty() || door.instances.iter().any(|one| !one.is_spent())
    }

    /// Requests waiting now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Asks for a lease: at once if an instance is open, else by a place in the line or a refusal.
    ///
    /// Who may not wake the app waits only if it is on its way up already.
    pub fn lease(self: &Arc<Self>, sway: Sway) -> Entry {
        self.lease_by(sway, self, || self.try_lease(sway), || false)
    }

    /// The same for a request of an app that shares the instance: it counts at that app's gate.
    pub fn lease_for(self: &Arc<Self>, sway: Sway, visitors: &Arc<Self>) -> Entry {
        self.lease_by(sway, visitors, || self.try_lease(sway), || false)
    }

    /// A lease, if an instance is open.
    #[must_use]
    pub fn try_lease(&self, sway: Sway) -> Option<Lease> {
        self.open.load().as_ref().and_then(|open| open.try_lease(sway))
    }

    /// Whether an instance is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load().is_some()
    }

    /// The same where this gives leases, of this gate or of others in its place; with whether one of those
    /// is on its way.
    fn lease_by(
        self: &Arc<Self>,
        sway: Sway,
        visitors: &Arc<Self>,
        give: impl Fn() -> Option<Lease>,
        comes: impl Fn() -> bool,
    ) -> Entry {
        if let Some(lease) = give() {
            return Entry::Leased(lease);
        }
        let mut door = self.lock();
        // Opened between the look above and the lock?
        if let Some(lease) = give() {
            return Entry::Leased(lease);
        }
        if let Mode::Refuse(refusal, since) = &door.mode {
            return Entry::Refused(Denial::Refusal(refusal.after(since.elapsed())));
        }
        if !sway.wakes() && !door.is_on_its_way() && !comes() {
            return Entry::Refused(Denial::Asleep);
        }
        let Some(held) = visitors.count_held() else {
            return Entry::Refused(Denial::QueueFull);
        };
        let (pass, turn): (Pass, _) = oneshot::channel();
        let ticket = door.next_ticket;
        door.next_ticket += 1;
        door.line.insert(ticket, Waiter { pass, sway });
        // Who may not wake the app has just seen that it is on its way.
        if sway.wakes() {
            self.want(&mut door);
        }
        drop(door);
        Entry::Held(Place::new(self, ticket, turn, held))
    }

    /// Reports that somebody waits who may wake the app. If nobody does, and nothing is to be expected
    /// any more, the others have waited for nothing.
    fn want(&self, door: &mut Door) {
        if door.wanted || door.line.is_empty() {
            return;
        }
        if door.line.values().any(|waiter| waiter.sway.wakes()) {
            door.wanted = true;
            (self.reports)(GateReport::Wanted { app: self.app.clone() });
        } else if !door.in_doubt {
            door.dismiss(&Denial::Asleep);
        }
    }

    /// Order `Open`: leases are for this instance from here on, waiters first come first served.
    ///
    /// An instance that was found unreachable and is well after all is opened again, with the leases
    /// it has; so is one that was shut because a new supervisor did not know it yet. One that was retired while the order was on its way stays closed; whoever waits is
    /// reported again.
    ///
    /// Only the first of those who wait are let in; [`Gate::let_in`] the rest in portions, so that
    /// they do not overflow the app's listen backlog.
    pub fn open(&self, generation: Generation, endpoint: Endpoint, started: Option<StartTimes>) {
        self.open_since(generation, endpoint, started, Instant::now());
    }

    /// Order `Reopen`: like [`Gate::open`], even if this gate has retired the instance. That it had
    /// nothing to do before is not forgotten: where several proxies serve, each may retire it at
    /// another time, and none would find it idle for long enough.
    pub fn reopen(&self, generation: Generation, endpoint: Endpoint) {
        let retired = self.lock().retired.take_if(|(retired, _)| *retired == generation);
        let idle_since = retired.map_or_else(Instant::now, |(_, idle_since)| idle_since);
        self.open_since(generation, endpoint, None, idle_since);
    }

    fn open_since(
        &self,
        generation: Generation,
        endpoint: Endpoint,
        started: Option<StartTimes>,
        idle_since: Instant,
    ) {
        let mut door = self.lock();
        door.mode = Mode::Hold;
        self.settle(&mut door);
        if door.retired.is_some_and(|(retired, _)| generation <= retired) {
            self.want(&mut door);
            return;
        }
        door.instances.retain(|old| !old.is_spent());
        let known = door.instances.iter().find(|one| one.generation == generation).cloned();
        let instance = known.unwrap_or_else(|| {
            let reports = Arc::clone(&self.reports);
            let mut fresh = Instance::new(self.app.clone(), generation, endpoint, started, reports);
            fresh.was_idle_since(idle_since);
            let fresh = Arc::new(fresh);
            door.instances.push(Arc::clone(&fresh));
            fresh
        });
        // A supervisor that is gone may have shut it; this one knows nothing of that.
        instance.reopen();
        self.open.store(Some(instance));
        self.announce(&mut door);
        drop(door);
        self.let_in();
    }

    /// Begins anew with a supervisor that knows nothing of this gate: only this instance may be open,
    /// and whoever waits is reported again.
    ///
    /// What is closed by that is not shut: the order to open it may be on its way.
    pub fn begin_anew(&self, open: Option<Generation>) {
        let Some(mut door) = self.lock_known() else { return };
        let now = self.open.load().as_ref().map(|instance| instance.generation);
        if now.is_some_and(|now| Some(now) != open) {
            self.open.store(None);
        }
        // Of a retirement that was not heard any more the new supervisor knows nothing either.
        door.retired = None;
        door.mode = Mode::Hold;
        self.settle(&mut door);
        self.want(&mut door);
        self.announce(&mut door);
    }

    /// Gives leases to the next of those who wait, if an instance is open. Tells whether others wait
    /// on.
    pub fn let_in(&self) -> bool {
        self.let_in_by(|sway| self.try_lease(sway))
    }

    /// The same where this gives leases.
    fn let_in_by(&self, give: impl Fn(Sway) -> Option<Lease>) -> bool {
        let mut door = self.lock();
        for _ in 0..PORTION {
            let Some((ticket, waiter)) = door.line.pop_first() else { return false };
            match give(waiter.sway) {
                // A waiter that left drops the lease with the pass.
                Some(lease) => drop(waiter.pass.send(Ok(lease))),
                None => {
                    // Closed just now: they wait for the next instance.
                    door.line.insert(ticket, waiter);
                    return false;
                }
            }
        }
        !door.line.is_empty()
    }

    /// Order `Shut`: no new leases on this instance; `Drained` is reported with the last one.
    pub fn shut(&self, generation: Generation) {
        let mut door = self.lock();
        let known = door.instances.iter().find(|one| one.generation == generation).cloned();
        match known {
            Some(instance) => {
                self.close_if_open(&mut door, &instance);
                instance.close();
            }
            None => (self.reports)(GateReport::Drained { app: self.app.clone(), generation }),
        }
        door.instances.retain(|old| !old.is_spent());
        door.in_doubt = false;
        door.unreachable_since = None;
        self.is_told.store(false, Ordering::Relaxed);
        self.want(&mut door);
    }

    /// Order `AskRetire`: close the instance if it has no lease, and none that keeps it awake for
    /// `idle_at_least`; or say for how long it has had none that does.
    pub fn retire_if_idle(&self, generation: Generation, idle_at_least: Duration) {
        self.retire_if_all_idle(generation, idle_at_least, None);
    }

    /// The same where others serve beside it, of whom the last used one has been idle for so long.
    pub fn retire_if_all_idle(
        &self,
        generation: Generation,
        idle_at_least: Duration,
        others: Option<Duration>,
    ) {
        let mut door = self.lock();
        let Some(instance) =
            door.instances.iter().find(|one| one.generation == generation).cloned()
        else {
            return;
        };
        let app = self.app.clone();
        let idle_for = instance.idle_for().min(others.unwrap_or(Duration::MAX));
        if idle_for >= idle_at_least && instance.retire() {
            self.close_if_open(&mut door, &instance);
            door.retired = Some((generation, instance.idle_since()));
            door.in_doubt = true;
            door.instances.retain(|old| !old.is_spent());
            (self.reports)(GateReport::Retired { app, generation });
            // Who still waited to be let in waits for the next instance.
            self.want(&mut door);
        } else {
            (self.reports)(GateReport::Busy { app, generation, idle_for });
        }
    }

    /// Order `Refuse`: answer waiters, and whoever comes while nothing is open, with this.
    pub fn refuse(&self, refusal: &Refusal) {
        let mut door = self.lock();
        door.mode = Mode::Refuse(refusal.clone(), Instant::now());
        self.settle(&mut door);
        door.dismiss(&Denial::Refusal(refusal.clone()));
        self.announce(&mut door);
    }

    /// Order `Hold`: let whoever comes wait, and report that somebody does.
    pub fn hold(&self) {
        // It does so from the beginning.
        let Some(mut door) = self.lock_known() else { return };
        door.mode = Mode::Hold;
        self.settle(&mut door);
        self.want(&mut door);
        self.announce(&mut door);
    }

    /// A connect to this instance was refused: give no new leases on it until the supervisor has
    /// looked, and tell the supervisor once.
    pub fn unreachable(&self, instance: &Arc<Instance>) {
        let mut door = self.lock();
        if self.close_if_open(&mut door, instance) {
            door.in_doubt = true;
            door.unreachable_since = Some(Instant::now());
            (self.reports)(GateReport::Unreachable {
                app: self.app.clone(),
                generation: instance.generation,
            });
            // Who still waited to be let in waits for what comes of it.
            self.want(&mut door);
        }
    }

    fn close_if_open(&self, door: &mut Door, instance: &Arc<Instance>) -> bool {
        let open = self.open.load().as_ref().is_some_and(|one| Arc::ptr_eq(one, instance));
        if open {
            self.open.store(None);
            door.wanted = false;
            self.is_told.store(false, Ordering::Relaxed);
        }
        open
    }

    /// The app was removed: everyone in the line is told so, running exchanges go on.
    pub fn remove(&self) {
        self.refuse(&Refusal {
            reason: RefusalReason::Removed,
            retry_after: Duration::from_secs(1),
        });
    }

    /// The app is back before its gate was forgotten: whoever comes waits again.
    pub fn readmit(&self) {
        let Some(mut door) = self.lock_known() else { return };
        let removed = matches!(&door.mode, Mode::Refuse(refusal, _) if refusal.reason == RefusalReason::Removed);
        if removed {
            door.mode = Mode::Hold;
            self.is_told.store(false, Ordering::Relaxed);
        }
    }

    /// The supervisor has said what holds from here on.
    fn settle(&self, door: &mut Door) {
        door.wanted = false;
        door.in_doubt = false;
        door.unreachable_since = None;
        self.is_told.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Door> {
        // No code path panics while holding the lock, and its data is valid at every point.
        self.door.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same where somebody has been here; else all is as at the beginning.
    fn lock_known(&self) -> Option<MutexGuard<'_, Door>> {
        Some(self.door.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Door {
    /// Whether an instance is to be expected, whoever comes.
    fn is_on_its_way(&self) -> bool {
        self.wanted || self.in_doubt
    }

    fn dismiss(&mut self, denial: &Denial) {
        for waiter in std::mem::take(&mut self.line).into_values() {
            // A waiter that left needs no answer.
            drop(waiter.pass.send(Err(denial.clone())));
        }
    }
}

#[cfg(test)]
mod tests;
