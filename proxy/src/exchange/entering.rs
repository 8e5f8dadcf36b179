//! How long a request waits, and for what.
//!
//! An app may have no instance of its own: one with static upstreams has a lease at once, one that
//! shares an instance gets one at its host's gate.
//!
//! While a request waits, a reload may make an app of another kind of its app. It is followed then: no
//! definition costs a request.

use std::{pin::Pin, sync::Arc, time::Duration};

use doorbell_supervisor::message::{Endpoint, Refusal, RefusalReason};
use tokio::time::{Instant, sleep, timeout_at};

use super::Exchange;
use crate::{
    answer::Answer,
    app::App,
    gate::{Denial, Entry, Lease, Sway},
    navigation::is_navigation,
    sharing::Unready,
    verdict::Matched,
};

/// Before it is looked again at gates that are about to be told what their apps have become, or at an
/// instance that could not be reached.
const PAUSE: Duration = Duration::from_millis(10);

impl Exchange {
    /// How long it may wait now, of one budget for all the waiting a request does, retries included; and
    /// whether a browser is shown the start after that.
    pub(super) fn patience(&self, app: &App) -> (Duration, bool) {
        let budget = app.spec.timeouts.hold.saturating_sub(self.passing.held);
        match self.patience_of_a_browser(app).filter(|some| *some < budget) {
            Some(patience) => (patience, true),
            None => (budget, false),
        }
    }

    pub(super) fn denied(&self, denial: Denial, shows_start: bool) -> Answer {
        match (&self.matched, denial) {
            (Some(matched), Denial::HoldDeadline) if shows_start => {
                Answer::Waiting(matched.app.waiting())
            }
            (Some(matched), denial) => matched.denied(denial),
            (None, denial) => Answer::Denied(denial),
        }
    }

    /// How long a browser that goes to a page waits before it is shown that the app starts. It has left
    /// the line then; the start goes on.
    fn patience_of_a_browser(&self, app: &App) -> Option<Duration> {
        let after = app.spec.pages.waiting_after?;
        is_navigation(&self.head).then(|| after.saturating_sub(self.passing.held))
    }

    /// The app whose start was waited for.
    pub(super) fn starter<'e>(&'e self, matched: &'e Matched) -> &'e App {
        let host = matched.app.sharing.as_ref().map(|sharing| sharing.with().as_str());
        host.and_then(|host| self.table.routes.app(host)).unwrap_or(&matched.app)
    }

    /// Whether its lease leads to where it is answered. One at the gate of an app that shares an
    /// instance is exchanged for one on that, if this is possible at once.
    pub(super) fn has_arrived(&mut self) -> bool {
        let Some(matched) = &self.matched else { return true };
        let Some(sharing) = &matched.app.sharing else { return matched.app.upstreams.is_some() };
        self.lease = sharing.lease_at_once(matched.sway);
        self.lease.is_some()
    }

    /// Gets a lease step by step, within the time for which the request may be held.
    pub(super) async fn enter(
        &mut self,
        left: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Answer> {
        self.lease = None;
        let Some(matched) = &self.matched else { return Err(Answer::NoRoute) };
        let since = Instant::now();
        let (patience, shows_start) = self.patience(&matched.app);
        let outcome = tokio::select! {
            biased;
            // Looked at first: a lease that comes as the client leaves is given back unused.
            () = left => None,
            outcome = timeout_at(since + patience, self.rounds(patience)) => {
                Some(outcome.unwrap_or(Err(Denial::HoldDeadline)))
            }
        };
        self.passing.held += since.elapsed();
        match outcome {
            None => Err(Answer::ClientLeft),
            Some(Err(denial)) => Err(self.denied(denial, shows_start)),
            Some(Ok(lease)) => {
                self.passing.start = lease.instance().started;
                self.lease = Some(lease);
                Ok(())
            }
        }
    }

    async fn rounds(&mut self, patience: Duration) -> Result<Lease, Denial> {
        loop {
            match self.round(patience).await? {
                Some(lease) => return Ok(lease),
                None => sleep(PAUSE).await,
            }
        }
    }

    /// From the app's own gate to a lease that leads to it; nothing if something has changed meanwhile.
    async fn round(&mut self, patience: Duration) -> Result<Option<Lease>, Denial> {
        let Some(matched) = &self.matched else { return Err(removed()) };
        let (app, sway) = (Arc::clone(&matched.app), matched.sway);
        // Nobody is woken at the gate of an app that shares an instance.
        let own_sway = if app.sharing.is_some() { Sway::Wakes } else { sway };
        let own = pass(app.gate.lease(own_sway), patience).await?;
        if own.instance().endpoint != Endpoint::Upstream {
            // It has become a program.
            return Ok(Some(own));
        }
        let Some(sharing) = &app.sharing else {
            if app.upstreams.is_some() {
                return Ok(Some(own));
            }
            // Where the table says what it was when this gate was opened, the gate is told in a moment.
            self.follow_table();
            return Ok(None);
        };
        let lease = match pass(sharing.gate.lease_for(sway, &app.gate), patience).await {
            Ok(lease) => lease,
            Err(denial) if is_removed(&denial) && self.follow_table() => return Ok(None),
            Err(denial) => return Err(denial),
        };
        let instance = lease.instance();
        if let Some(readiness) = &sharing.readiness
            && !readiness.has_answered(instance.generation)
        {
            let _held = app.gate.count_held().ok_or(Denial::QueueFull)?;
            match readiness.wait(instance, own.instance().generation, &sharing.gate).await {
                Ok(()) => {}
                Err(Unready::Moved) => return Ok(None),
                Err(Unready::Denied(denial)) => return Err(denial),
            }
        }
        // It may have been disabled meanwhile.
        Ok((!own.instance().is_shut()).then_some(lease))
    }

    /// Goes by what the app is now; tells whether that is another thing.
    fn follow_table(&mut self) -> bool {
        let table = self.shared.table.load_full();
        let Some(matched) = &mut self.matched else { return false };
        let now = table.routes.app(matched.app.spec.id.as_str());
        let Some(now) = now.filter(|now| now.speaks_http() && !Arc::ptr_eq(now, &matched.app))
        else {
            return false;
        };
        matched.app = Arc::clone(now);
        self.passing.moved = true;
        let mut passage = self.passage.take();
        if let Some(passage) = &mut passage {
            passage.is_for(self.rules());
        }
        self.passage = passage;
        true
    }
}

/// Waits at a gate, if it has to be.
async fn pass(entry: Entry, patience: Duration) -> Result<Lease, Denial> {
    match entry {
        Entry::Leased(lease) => Ok(lease),
        Entry::Held(place) => place.lease(patience).await,
        Entry::Refused(denial) => Err(denial),
    }
}

fn is_removed(denial: &Denial) -> bool {
    matches!(denial, Denial::Refusal(refusal) if refusal.reason == RefusalReason::Removed)
}

fn removed() -> Denial {
    let reason = RefusalReason::Removed;
    Denial::Refusal(Refusal { reason, retry_after: Duration::from_secs(1) })
}
