//! Who waits at a gate, and how many may over all gates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_supervisor::message::{Refusal, RefusalReason};
use tokio::sync::oneshot;

use super::{Denial, Gate, Lease, Sway};

/// How a waiter learns its outcome.
pub(super) type Pass = oneshot::Sender<Result<Lease, Denial>>;

/// One who waits, as the gate knows it.
pub(super) struct Waiter {
    pub(super) pass: Pass,
    pub(super) sway: Sway,
}

/// Requests held over all gates, and their cap.
#[derive(Debug)]
pub struct HeldTotal {
    now: AtomicUsize,
    cap: AtomicUsize,
}

impl HeldTotal {
    /// No one held yet, at most `cap`.
    #[must_use]
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { now: AtomicUsize::new(0), cap: AtomicUsize::new(cap) })
    }

    /// Changes the cap; who already waits goes on waiting.
    pub fn set_cap(&self, cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    pub(super) fn enter(&self) -> bool {
        let cap = self.cap.load(Ordering::Relaxed);
        self.now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < cap).then_some(now + 1)
            })
            .is_ok()
    }

    pub(super) fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One who is counted among those that a gate holds, wherever it waits. Dropping it ends that.
pub struct Held(Arc<Gate>);

impl Gate {
    /// Counts one more who waits; `None` if too many do, here or in all.
    #[must_use]
    pub fn count_held(self: &Arc<Self>) -> Option<Held> {
        let cap = self.held_cap.load(Ordering::Relaxed);
        let enter = |now| (now < cap).then_some(now + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        if self.total.enter() {
            return Some(Held(Arc::clone(self)));
        }
        self.held.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.total.leave();
    }
}

/// A place in the line. Dropping it frees the place at once; nothing is forwarded for it.
pub struct Place {
    gate: Arc<Gate>,
    ticket: u64,
    turn: oneshot::Receiver<Result<Lease, Denial>>,
    since: Instant,
    /// At the gate of the app that the request is for, which may share the instance of this one.
    _held: Held,
}

impl Place {
    pub(super) fn new(
        gate: &Arc<Gate>,
        ticket: u64,
        turn: oneshot::Receiver<Result<Lease, Denial>>,
        held: Held,
    ) -> Self {
        Self { gate: Arc::clone(gate), ticket, turn, since: Instant::now(), _held: held }
    }

    /// Waits for the turn, until `deadline` from the request's arrival at the gate.
    ///
    /// # Errors
    /// The refusal that answered the line, or [`Denial::HoldDeadline`].
    pub async fn lease(mut self, deadline: Duration) -> Result<Lease, Denial> {
        let until = tokio::time::Instant::from_std(self.since + deadline);
        match tokio::time::timeout_at(until, &mut self.turn).await {
            Ok(Ok(outcome)) => outcome,
            // Only a gate that is dropped drops a pass unanswered; then the app is gone.
            Ok(Err(_)) => Err(Denial::Refusal(Refusal {
                reason: RefusalReason::Removed,
                retry_after: Duration::from_secs(1),
            })),
            Err(_) => Err(Denial::HoldDeadline),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().line.remove(&self.ticket);
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({} #{})", self.gate.app, self.ticket)
    }
}
