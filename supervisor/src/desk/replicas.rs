//! Apps that run several times side by side: their replicas.
//!
//! The first replica is the app itself. Each further one is an app of its own to everything here, with an id
//! that no file can spell, its own lifecycle, gate and records. What they have in common is little: they
//! are defined together, an operator's word is for all of them, and the app *brings* the others (`bonds`):
//! they are needed while it runs, and follow when it sleeps.

use std::sync::Arc;

use doorbell_config::{name::AppId, spec::AppSpec};

use super::Desk;
use crate::{
    lifecycle::{Event, Frozen, Goal, Needed, Off, Ready, State, Timer},
    message::Verb,
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
            Verb::Start | Verb::Stop | Verb::Enable | Verb::Disable => {
                Err(OperateError::OneReplica(id.clone()))
            }
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
            | State::BackingOff(_) => {}
        }
    }
}
