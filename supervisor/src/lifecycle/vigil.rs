//! An instance whose own work keeps it awake is not put to sleep.

use super::{Effect, Ready, State, Turn};
use crate::message::Generation;

impl Turn<'_> {
    /// What keeps the instance awake changed: there may be more of it, or less, or nothing.
    pub(super) fn vigils_changed(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Ready(ready) if ready.generation == generation => {
                self.maybe_idle(State::Ready(ready), generation)
            }
            // It asked before it stood still, and that came late.
            State::Frozen(frozen) if frozen.generation == generation && self.is_kept_awake() => {
                self.thaw(frozen)
            }
            State::Frozen(_)
            | State::Ready(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    /// The gate has retired an instance that has asked meanwhile to be kept awake.
    pub(super) fn stay_awake(&mut self, ready: Ready) -> State {
        self.emit(Effect::OpenGateAgain(ready.generation));
        self.ask_unless_awake(ready.generation);
        State::Ready(ready)
    }

    /// Asks whether it is idle, once it is no longer kept awake.
    pub(super) fn ask_unless_awake(&mut self, generation: Generation) {
        match self.terms.kept_awake(self.now) {
            None => self.emit(Effect::AskRetire(generation)),
            Some(until) => {
                let left = until.saturating_duration_since(self.now);
                self.set_idle_timer(generation, Some(left));
            }
        }
    }

    pub(super) fn is_kept_awake(&self) -> bool {
        self.terms.kept_awake(self.now).is_some()
    }
}
