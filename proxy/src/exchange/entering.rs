//! How long a request waits, and for what.
//!
//! An app may have no instance of its own: one with static upstreams has a lease at once, one that
//! shares an instance gets one at its host's gate.
//!
//! While a request waits, a reload may make an app of another kind of its app. It is followed then: no
//! definition costs a request.

use std::{pin::Pin, sync::Arc, time::Duration};

use doorbell_supervisor::message::{Endpoint, RefusalReason};
use tokio::time::{Instant, sleep, timeout_at};

use super::Exchange;
use crate::{
    answer::Answer,
    app::App,
    gate::{Denial, Entry, Instance, Lease, Sway},
    navigation::is_navigation,
    sharing::{Sharing, Unready, selectors},
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

    /// Asks for a lease at the app's own gate. Nobody is woken at that of an app that shares an instance:
    /// there who may not wake waits as well.
    pub(super) fn knock(&self, matched: &Matched) -> Entry {
        match matched.app.lease(matched.sway) {
            Entry::Refused(Denial::Asleep) if self.shares_now(&matched.app) => {
                matched.app.lease(Sway::Wakes)
            }
            entry => entry,
        }
    }

    /// Whether by the table of now the app shares an instance.
    fn shares_now(&self, app: &App) -> bool {
        let table = self.shared.table.load();
        table.routes.app(app.spec.id.as_str()).is_some_and(|now| now.sharing.is_some())
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
        let hold = since + matched.app.spec.timeouts.hold.saturating_sub(self.passing.held);
        let (patience, shows_start) = self.patience(&matched.app);
        let patience = Patience { until: since + patience, shows_start };
        let outcome = tokio::select! {
            biased;
            // Looked at first: a lease that comes as the client leaves is given back unused.
            () = left => None,
            outcome = timeout_at(hold, self.rounds(patience)) => Some(outcome),
        };
        self.passing.held += since.elapsed();
        let late = |_| self.denied(Denial::HoldDeadline, false);
        let lease = outcome.ok_or(Answer::ClientLeft)?.map_err(late)??;
        self.lease = Some(lease);
        Ok(())
    }

    async fn rounds(&mut self, patience: Patience) -> Result<Lease, Answer> {
        loop {
            match self.round(patience).await? {
                Some(lease) => return Ok(lease),
                None => sleep(PAUSE).await,
            }
        }
    }

    /// From the app's own gate to a lease that leads to it; nothing if something has changed meanwhile.
    async fn round(&mut self, patience: Patience) -> Result<Option<Lease>, Answer> {
        self.follow_table()?;
        let Some(matched) = &self.matched else { return Err(Answer::NoRoute) };
        let (app, sway) = (Arc::clone(&matched.app), matched.sway);
        let passed = patience.pass(self.knock(matched)).await;
        let own = passed.map_err(|denial| self.denied(denial, patience.shows_start))?;
        // A gate that was opened anew belongs to a table that is there.
        if self.follow_table()? {
            return Ok(None);
        }
        if own.lease.instance().endpoint != Endpoint::Upstream {
            // It has become a program.
            return Ok(Some(self.arrived(own)));
        }
        let Some(sharing) = &app.sharing else {
            // Where the table says that it has a program, its gate is told so in a moment.
            return Ok(app.upstreams.is_some().then_some(own.lease));
        };
        let opening = own.lease.instance();
        let outcome = tokio::select! {
            biased;
            // Disabled, or another thing by now.
            () = opening.shut() => return Ok(None),
            outcome = lease_on_shared(&app, sharing, sway, opening, patience) => outcome,
        };
        match outcome {
            Ok(passed) => Ok(passed.map(|passed| self.arrived(passed))),
            Err(denial) if is_removed(&denial) && self.follow_table()? => Ok(None),
            Err(denial) => Err(self.denied(denial, patience.shows_start)),
        }
    }

    /// Has a lease with which it is answered.
    fn arrived(&mut self, passed: Passed) -> Lease {
        if passed.has_waited {
            self.passing.start = passed.lease.instance().started;
        }
        passed.lease
    }

    /// Goes by what the app is now, if that is another thing; tells whether it is.
    fn follow_table(&mut self) -> Result<bool, Answer> {
        let table = self.shared.table.load_full();
        let Some(matched) = &mut self.matched else { return Ok(false) };
        let now = table.routes.app(matched.app.spec.id.as_str());
        let Some(now) = now.filter(|now| now.speaks_http() && is_another(now, &matched.app)) else {
            return Ok(false);
        };
        if now.spec.http2 != matched.app.spec.http2 {
            // The way it takes was chosen by what the app spoke.
            return Err(matched.denied(Denial::Changed));
        }
        let path = self.head.path().get(matched.stripped..).unwrap_or_default();
        let selects = || selectors::without_selector(self.head.query()).is_some();
        if now.shares_instance() && (table.leads_elsewhere(now, path) || selects()) {
            // It was made for a program that knows one app.
            return Err(matched.denied(Denial::Changed));
        }
        matched.app = Arc::clone(now);
        self.passing.moved = true;
        let mut passage = self.passage.take();
        if let Some(passage) = &mut passage {
            passage.is_for(self.rules());
        }
        self.passage = passage;
        Ok(true)
    }
}

/// How long a request waits at gates. What comes behind them may take as long as it may be held: a page
/// tells of a start, and would be looked at anew for ever where the start is over.
#[derive(Clone, Copy)]
struct Patience {
    until: Instant,
    /// Whether a browser is shown the start then.
    shows_start: bool,
}

/// A lease from a gate.
struct Passed {
    lease: Lease,
    /// Whether it was waited for there.
    has_waited: bool,
}

impl Patience {
    /// Waits at a gate, if it has to be.
    async fn pass(self, entry: Entry) -> Result<Passed, Denial> {
        match entry {
            Entry::Leased(lease) => Ok(Passed { lease, has_waited: false }),
            Entry::Held(place) => {
                let left = self.until.saturating_duration_since(Instant::now());
                let lease = place.lease(left).await?;
                Ok(Passed { lease, has_waited: true })
            }
            Entry::Refused(denial) => Err(denial),
        }
    }
}

/// A lease on the host's instance, once that can answer for the app; nothing if something has changed
/// meanwhile. `own` is the opening of the app's own gate.
async fn lease_on_shared(
    app: &App,
    sharing: &Sharing,
    sway: Sway,
    own: &Instance,
    patience: Patience,
) -> Result<Option<Passed>, Denial> {
    let passed = patience.pass(sharing.gate.lease_for(sway, &app.gate)).await?;
    let instance = passed.lease.instance();
    if instance.endpoint == Endpoint::Upstream {
        // The host has no program any more, and this app is about to be told what it is.
        return Ok(None);
    }
    if let Some(readiness) = &sharing.readiness
        && !readiness.has_answered(instance.generation)
    {
        let _held = app.gate.count_held().ok_or(Denial::QueueFull)?;
        match readiness.wait(instance, own.generation, &sharing.gate).await {
            Ok(()) => {}
            Err(Unready::Moved) => return Ok(None),
            Err(Unready::Denied(denial)) => return Err(denial),
        }
    }
    // It may have been disabled meanwhile.
    Ok((!own.is_shut()).then_some(passed))
}

/// Whether requests for an app get their leases in another way than before.
fn is_another(now: &App, before: &App) -> bool {
    match (&now.sharing, &before.sharing) {
        (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
        (None, None) => now.upstreams.is_some() != before.upstreams.is_some(),
        (Some(_), None) | (None, Some(_)) => true,
    }
}

fn is_removed(denial: &Denial) -> bool {
    matches!(denial, Denial::Refusal(refusal) if refusal.reason == RefusalReason::Removed)
}
