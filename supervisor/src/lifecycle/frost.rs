//! Light sleep: an idle instance stands still before it is stopped, and can be back in a moment.
//!
//! Its gate has retired it, so that no lease exists; whoever comes is held, and thaws it.

use super::{Effect, Frost, Frozen, Next, Ready, State, Stopping, Successor, Then, Timer, Turn};
use crate::{
    lifecycle::{Failure, Needed},
    message::Generation,
};

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
        let frost = match (frozen.frost, then) {
            (Frost::Lasting, then) => return self.begin_thaw(frozen, then),
            (Frost::AwaitsNeeds(_) | Frost::Thawing(_), Then::Serve) => frozen.frost,
            (Frost::AwaitsNeeds(_), Then::Replace) => Frost::AwaitsNeeds(Then::Replace),
            (Frost::Thawing(_), Then::Replace) => Frost::Thawing(Then::Replace),
        };
        State::Frozen(Frozen { frost, ..frozen })
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
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    /// It has slept lightly for so long that it may as well be stopped, or is to yield; unless others
    /// need it.
    pub(super) fn frozen_long_enough(&mut self, frozen: &Frozen) -> State {
        match (frozen.frost, self.terms.needed) {
            (Frost::Lasting, Needed::No) => self.end_frozen(frozen, Next::Rest),
            (Frost::Lasting, Needed::Asleep | Needed::Awake)
            | (Frost::AwaitsNeeds(_) | Frost::Thawing(_), _) => State::Frozen(*frozen),
        }
    }

    /// It has no lease, so nothing has to drain.
    pub(super) fn end_frozen(&mut self, frozen: &Frozen, next: Next) -> State {
        let generation = frozen.generation;
        self.forgo_needs(frozen.frost);
        self.hold_again();
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.signal(generation);
        State::Stopping(Stopping { generation, next })
    }

    fn forgo_needs(&mut self, frost: Frost) {
        match frost {
            Frost::AwaitsNeeds(_) => self.emit(Effect::ForgoNeeds),
            Frost::Lasting | Frost::Thawing(_) => {}
        }
    }

    /// It ended by itself: somebody else killed it, or it did not survive its thaw.
    pub(super) fn ended_frozen(&mut self, frozen: &Frozen, failure: Failure) -> State {
        let generation = frozen.generation;
        self.forgo_needs(frozen.frost);
        self.hold_again();
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.bury(generation);
        self.forgive(frozen.since);
        self.count(failure);
        match (frozen.frost, self.failures) {
            (Frost::Lasting, _) => self.rest(),
            (Frost::AwaitsNeeds(_) | Frost::Thawing(_), 0 | 1) => self.provision(),
            (Frost::AwaitsNeeds(_) | Frost::Thawing(_), failures) => {
                let delay = self.delay(failures - 1, generation);
                self.back_off(delay)
            }
        }
    }
}
