//! Apps that run several times side by side: their replicas.
//!
//! The first replica is the app itself. Each further one is an app of its own to everything here, with an id
//! that no file can spell, its own lifecycle, gate and records. What they have in common is little: they
//! are defined together, an operator's word is for all of them, and the app *brings* the others (`bonds`):
//! they are needed while it runs, and follow when it sleeps; and who serves is replaced when it is its turn.

use std::{sync::Arc, time::Instant};

use doorbell_config::{name::AppId, spec::AppSpec};

use super::{Desk, app::App};
use crate::{
    lifecycle::{
        BackingOff, Because, CALLED_OFF, Event, FAILED, Frozen, Goal, Needed, Off, Ready, State,
        Timer,
    },
    message::{GateOrder, Refusal, RefusalReason, Verb},
    supervisor::OperateError,
};

/// The definitions of an app's further replicas.
pub(super) fn further(spec: &Arc<AppSpec>) -> impl Iterator<Item = Arc<AppSpec>> + use<> {
    let spec = Arc::clone(spec);
    spec.further_replicas().map(move |id| Arc::new(AppSpec { id, ..AppSpec::clone(&spec) }))
}

impl Desk {
    /// Defines an app with all its replicas, and removes those that are too many.
    pub(super) fn define_replicas(&mut self, spec: &Arc<AppSpec>) {
        let before = self.further_replicas(&spec.id);
        self.define(spec);
        for replica in further(spec) {
            self.define(&replica);
        }
        for replica in before.iter().filter(|id| id.replica_number() > spec.instances()) {
            self.remove(replica);
        }
    }

    /// Removes an app with all its replicas.
    pub(super) fn remove_replicas(&mut self, id: &AppId) {
        let further = self.further_replicas(id);
        self.remove(id);
        further.iter().for_each(|replica| self.remove(replica));
    }

    /// The further replicas of an app, as it is defined now.
    fn further_replicas(&self, id: &AppId) -> Vec<AppId> {
        let defined = self.apps.get(id).into_iter().flat_map(|app| app.spec.further_replicas());
        defined.filter(|id| self.is_defined(id)).collect()
    }

    fn is_defined(&self, id: &AppId) -> bool {
        self.apps.get(id).is_some_and(|app| app.goal != Goal::Disabled(Off::Removed))
    }

    /// Whom an operator means: all replicas of an app, the first one first; or one, which can only be
    /// restarted, since the others would go on without it, or bring it back.
    pub(super) fn meant(&self, id: &AppId, verb: Verb) -> Result<Vec<AppId>, OperateError> {
        match verb {
            _ if !self.is_defined(id) => Err(OperateError::Unknown(id.clone())),
            _ if !id.is_further_replica() => {
                Ok([id.clone()].into_iter().chain(self.further_replicas(id)).collect())
            }
            Verb::Restart => Ok(vec![id.clone()]),
            Verb::Start | Verb::Stop | Verb::StopNow | Verb::Enable | Verb::Disable => {
                Err(OperateError::OneReplica(id.clone()))
            }
        }
    }

    /// All replicas of an app that has several, but this one.
    fn others<'a>(&'a self, id: &'a AppId) -> impl Iterator<Item = &'a App> {
        let spec = self.apps.get(id).map(|app| &app.spec).filter(|spec| spec.instances() > 1);
        let all = spec
            .into_iter()
            .flat_map(|spec| (1..=spec.instances()).map(|number| spec.id.replica(number)));
        let others = all.filter(move |other| other != id && self.is_defined(other));
        others.filter_map(|other| self.apps.get(&other).map(|app| &**app))
    }

    /// Whether another replica of the app serves, or will if all goes well.
    pub(super) fn is_another_expected(&self, id: &AppId) -> bool {
        self.others(id).any(|app| app.life.is_expected())
    }

    /// Whether another replica of the app serves.
    pub(super) fn is_served_by_another(&self, id: &AppId) -> bool {
        self.others(id).any(|app| matches!(app.life.state, State::Ready(_)))
    }

    /// Whether a start that stands in the line may go on: replicas that serve are replaced one after another, so
    /// that no more than one new one starts beside them.
    pub(super) fn is_its_turn(&self, id: &AppId) -> bool {
        let serves = self.apps.get(id).is_some_and(|app| matches!(app.life.state, State::Ready(_)));
        !serves || !self.others(id).any(|app| app.life.is_being_replaced())
    }

    /// What visitors would be told while the first replica waits out a failure of its own.
    fn failure_of(&self, first: &AppId) -> Option<Refusal> {
        let app = self.apps.get(first).filter(|app| app.start_mode().is_some())?;
        match app.life.state {
            State::BackingOff(BackingOff { until, because: Because::Itself }) => {
                let retry_after = until.saturating_duration_since(Instant::now());
                Some(Refusal { reason: RefusalReason::BackingOff, retry_after })
            }
            State::Failed => Some(FAILED),
            State::BackingOff(BackingOff { because: Because::Needs, .. })
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::Stopping(_) => None,
        }
    }

    /// Whether this refusal is not carried out, or not now: all visitors wait at the first replica's gate,
    /// and a further one is to answer them.
    pub(super) fn withholds(&mut self, id: &AppId, reason: RefusalReason) -> bool {
        let is_withheld = !id.is_further_replica()
            && self.failure_of(id).is_some()
            && self.is_another_expected(id);
        if is_withheld {
            self.withheld.entry(id.clone()).or_insert(reason);
        }
        is_withheld
    }

    /// Something happened to this replica: visitors are refused for the first one's failure once no further
    /// one is expected, and wait again where one is.
    pub(super) fn weigh_refusal(&mut self, id: &AppId) {
        if self.apps.get(id).is_none_or(|app| app.spec.instances() == 1) && self.withheld.is_empty()
        {
            return;
        }
        let first = id.first();
        let Some(refusal) = self.failure_of(&first) else {
            self.withheld.remove(&first);
            return;
        };
        match (self.is_another_expected(&first), self.withheld.contains_key(&first)) {
            (true, true) | (false, false) => {}
            (true, false) => {
                self.withheld.insert(first.clone(), refusal.reason);
                self.order(GateOrder::Hold { app: first });
            }
            (false, true) => self.refuse_withheld(&first, refusal),
        }
    }

    /// An operator stops the app: nobody waits on for what was to come.
    pub(super) fn call_off_withheld(&mut self, id: &AppId) {
        self.refuse_withheld(id, CALLED_OFF);
    }

    /// Who waits learns what failed, who comes what is the case now.
    fn refuse_withheld(&mut self, first: &AppId, now: Refusal) {
        let Some(reason) = self.withheld.remove(first) else { return };
        if let Some(app) = self.apps.get_mut(first) {
            app.cold_start_failed();
        }
        self.publish(first);
        let then = Refusal { reason, ..now };
        for refusal in [then, now] {
            self.order(GateOrder::Refuse { app: first.clone(), refusal });
        }
    }

    /// The first replica sleeps: a further one follows at once, if it has been idle for as long itself, and
    /// does not begin to run.
    pub(super) fn follow_first(&mut self, id: &AppId) {
        let needed = self.bonds.needed(id);
        if !id.is_further_replica() || needed == Needed::Awake {
            return;
        }
        let Some(app) = self.apps.get(id) else { return };
        match app.life.state {
            State::Ready(Ready { generation, .. }) | State::Frozen(Frozen { generation, .. }) => {
                let idle = Event::Timer(Timer::Idle(generation));
                self.events.push_back((id.clone(), idle));
            }
            State::Provisioning(_) if needed == Needed::No && app.goal == Goal::Down => {
                self.events.push_back((id.clone(), Event::Stop));
            }
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => {}
        }
    }
}
