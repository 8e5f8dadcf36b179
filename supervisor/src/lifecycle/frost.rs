//! Light sleep: an idle instance stands still before it is stopped, and can be back in a moment.
//!
//! Its gate has retired it, so that no lease exists; whoever comes is held, and thaws it.

use super::{Effect, Frost, Frozen, Next, Ready, State, Stopping, Successor, Then, Timer, Turn};
use crate::{lifecycle::Failure, message::Generation};

impl Turn<'_> {
    /// Its gate has retired it.
    pub(super) fn freeze(&mut self, ready: &Ready) -> State {
        let &Ready { generation, since, .. } = ready;
        self.emit(Effect::Freeze(generation));
        self.set_idle_timer(generation, self.terms.stays_frozen());
        State::Frozen(Frozen { generation, since, frost: Frost::Lasting })
    }

    /// Somebody is there.
    pub(super) fn thaw(&mut self, frozen: Frozen) -> State {
        self.thaw_to(frozen, Then::Serve)
    }

    /// It is to serve again; a wish to replace it then outlasts visits.
    pub(super) fn thaw_to(&mut self, frozen: Frozen, then: Then) -> State {
        let then = match (frozen.frost, then) {
            (Frost::Thawing(before), Then::Serve) => before,
            (Frost::Thawing(_), Then::Replace) => Then::Replace,
            (Frost::Lasting, then) => {
                self.emit(Effect::CancelTimer(Timer::Idle(frozen.generation)));
                self.emit(Effect::Thaw(frozen.generation));
                then
            }
        };
        State::Frozen(Frozen { frost: Frost::Thawing(then), ..frozen })
    }

    /// It can answer again.
    pub(super) fn thawed(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Frozen(Frozen { generation: frozen, since, frost: Frost::Thawing(then) })
                if frozen == generation =>
            {
                self.emit(Effect::OpenGateAgain(generation));
                self.set_idle_timer(generation, self.terms.idle());
                let ready = Ready { generation, since, successor: Successor::None };
                match then {
                    Then::Serve => State::Ready(ready),
                    Then::Replace => self.replace(ready),
                }
            }
            State::Frozen(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_) => state,
        }
    }

    /// It has slept lightly for so long that it may as well be stopped.
    pub(super) fn frozen_long_enough(&mut self, frozen: &Frozen) -> State {
        match frozen.frost {
            Frost::Lasting => self.end_frozen(frozen, Next::Rest),
            Frost::Thawing(_) => State::Frozen(*frozen),
        }
    }

    /// It has no lease, so nothing has to drain.
    pub(super) fn end_frozen(&mut self, frozen: &Frozen, next: Next) -> State {
        let generation = frozen.generation;
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.signal(generation);
        State::Stopping(Stopping { generation, next })
    }

    /// It ended by itself: somebody else killed it, or it did not survive its thaw.
    pub(super) fn ended_frozen(&mut self, frozen: &Frozen, failure: Failure) -> State {
        let generation = frozen.generation;
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.bury(generation);
        self.forgive(frozen.since);
        self.count(failure);
        match (frozen.frost, self.failures) {
            (Frost::Lasting, _) => self.rest(),
            (Frost::Thawing(_), 0 | 1) => self.provision(),
            (Frost::Thawing(_), failures) => {
                let delay = self.delay(failures - 1, generation);
                self.back_off(delay)
            }
        }
    }
}
