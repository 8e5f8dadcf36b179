//! What visitors and operators cause.

use super::{
    BackingOff, Draining, Effect, Frost, Frozen, Goal, Line, Next, Off, Provisioning, Ready,
    Starting, State, Stopping, Successor, Tenancy, Then, Turn,
};
use crate::{lifecycle::Launch, message::RefusalReason};

impl Turn<'_> {
    /// A request waits.
    pub(super) fn wanted(&mut self, state: State) -> State {
        match state {
            State::Stopped => self.provision(),
            State::Provisioning(_) | State::Starting(_) => state,
            State::Ready(Ready { generation, .. }) => {
                self.emit(Effect::ReopenGate(generation));
                state
            }
            State::Frozen(frozen) => self.thaw(frozen),
            State::Draining(draining) => {
                State::Draining(Draining { next: self.wanted_after(draining.next), ..draining })
            }
            State::Stopping(stopping) => {
                State::Stopping(Stopping { next: self.wanted_after(stopping.next), ..stopping })
            }
            State::BackingOff(BackingOff { until, .. }) => {
                let left = until.saturating_duration_since(self.now);
                self.refuse(RefusalReason::BackingOff, left);
                state
            }
            State::Failed => self.fail(),
        }
    }

    fn wanted_after(&mut self, next: Next) -> Next {
        match self.terms.goal {
            Goal::Disabled(off) => {
                self.refuse_off(off);
                next
            }
            Goal::Up | Goal::Down => Next::Start,
        }
    }

    /// An operator, or the start mode, wants it up now.
    pub(super) fn start(&mut self, state: State) -> State {
        match state {
            State::Stopped => {
                self.failures = 0;
                self.provision()
            }
            State::Provisioning(_) | State::Starting(_) | State::Ready(_) => state,
            State::Frozen(frozen) => self.thaw(frozen),
            State::Draining(draining) => {
                State::Draining(Draining { next: self.wanted_after(draining.next), ..draining })
            }
            State::Stopping(stopping) => {
                State::Stopping(Stopping { next: self.wanted_after(stopping.next), ..stopping })
            }
            State::BackingOff(_) => {
                self.failures = 0;
                self.end_back_off();
                self.provision()
            }
            State::Failed => {
                self.failures = 0;
                self.emit(Effect::Hold);
                self.provision()
            }
        }
    }

    /// An operator wants a new instance. Several wishes make one start.
    pub(super) fn restart(&mut self, state: State) -> State {
        match state {
            State::Ready(ready) => self.replace(ready),
            State::Frozen(frozen) => self.replace_frozen(frozen),
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => self.start(state),
        }
    }

    /// It serves, thawed, until the new one is ready: so there is one to fall back to.
    fn replace_frozen(&mut self, frozen: Frozen) -> State {
        match self.terms.tenancy {
            Tenancy::Shared => self.thaw_to(frozen, Then::Replace),
            Tenancy::Exclusive => self.end_frozen(&frozen, Next::Start),
        }
    }

    /// An operator wants it down now.
    pub(super) fn stop(&mut self, state: State) -> State {
        self.failures = 0;
        match state {
            State::Stopped => state,
            State::Provisioning(provisioning) => {
                self.leave_line(&provisioning);
                self.turn_away();
                self.stopped()
            }
            State::Starting(Starting { generation }) => {
                self.abandon(generation);
                self.turn_away();
                State::Stopping(Stopping { generation, next: Next::Rest })
            }
            State::Ready(Ready { generation, successor, .. }) => {
                self.drop_successor(successor);
                self.drain(generation, Next::Rest)
            }
            State::Frozen(frozen) => {
                match frozen.frost {
                    Frost::AwaitsNeeds(_) | Frost::Thawing(_) => self.turn_away(),
                    Frost::Lasting => {}
                }
                self.end_frozen(&frozen, Next::Rest)
            }
            State::Draining(Draining { generation, next }) => {
                self.call_off(next);
                self.stop_draining(generation, Next::Rest)
            }
            State::Stopping(Stopping { generation, next }) => {
                self.call_off(next);
                State::Stopping(Stopping { generation, next: Next::Rest })
            }
            State::BackingOff(_) => {
                self.end_back_off();
                self.stopped()
            }
            State::Failed => {
                self.emit(Effect::Hold);
                self.stopped()
            }
        }
    }

    /// An operator wants nothing of it to run any more, whatever it is at.
    pub(super) fn stop_now(&mut self, state: State) -> State {
        let state = self.stop(state);
        self.kill_leavers();
        match state {
            State::Draining(Draining { generation, next }) => {
                State::Stopping(Stopping { generation, next })
            }
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    fn leave_line(&mut self, provisioning: &Provisioning) {
        match provisioning.line {
            Line::AwaitsNeeds => self.emit(Effect::ForgoNeeds),
            Line::Joined => self.emit(Effect::Withdraw),
            Line::AfterLeavers => {}
        }
    }

    fn call_off(&mut self, next: Next) {
        match next {
            Next::Start => self.turn_away(),
            Next::Rest => {}
        }
    }

    /// The definition changed.
    pub(super) fn redefined(&mut self, state: State, launch: Launch) -> State {
        match (launch, &state) {
            // Whatever is other about it now may be what was wrong with its upgrade.
            (Launch::Changed, _) | (_, State::Failed) => self.redefined_anew(state),
            (Launch::Same, _) => self.other_idleness(state),
        }
    }

    /// How long it may be idle is something else now, and counts from now.
    pub(super) fn other_idleness(&mut self, state: State) -> State {
        match &state {
            State::Ready(Ready { generation, .. }) => {
                self.set_idle_timer(*generation, self.terms.idle());
            }
            State::Frozen(Frozen { generation, frost: Frost::Lasting, .. }) => {
                self.set_idle_timer(*generation, self.terms.stays_frozen());
            }
            State::Frozen(Frozen { frost: Frost::AwaitsNeeds(_) | Frost::Thawing(_), .. })
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => {}
        }
        state
    }

    fn redefined_anew(&mut self, state: State) -> State {
        match state {
            State::Stopped => {
                self.failures = 0;
                state
            }
            State::Provisioning(provisioning) => {
                // The new one may have to wait for leavers that the old one did not mind.
                self.leave_line(&provisioning);
                self.provision()
            }
            State::Draining(_) | State::Stopping(_) => state,
            State::Starting(Starting { generation }) => {
                self.abandon(generation);
                self.provision()
            }
            State::Frozen(frozen) => match frozen.frost {
                Frost::AwaitsNeeds(_) | Frost::Thawing(_) => self.replace_frozen(frozen),
                // Nobody has to wait for it, and the next one is of the new definition.
                Frost::Lasting => self.end_frozen(&frozen, Next::Rest),
            },
            State::Ready(ready) => {
                let successor = match ready.successor {
                    Successor::Starting(generation) => {
                        self.abandon(generation);
                        Successor::None
                    }
                    Successor::None | Successor::AwaitsNeeds | Successor::InLine => ready.successor,
                };
                self.replace(Ready { successor, ..ready })
            }
            State::BackingOff(_) => {
                self.failures = 0;
                self.end_back_off();
                self.rest()
            }
            State::Failed => {
                self.failures = 0;
                self.emit(Effect::Hold);
                self.rest()
            }
        }
    }

    /// The goal changed.
    pub(super) fn goal_changed(&mut self, state: State) -> State {
        match self.terms.goal {
            Goal::Disabled(off) => {
                self.refuse_off(off);
                let state = self.go_down(state);
                self.hasten(state, off)
            }
            Goal::Up | Goal::Down => self.come_back(state),
        }
    }

    fn go_down(&mut self, state: State) -> State {
        match state {
            State::Stopped => state,
            State::Provisioning(provisioning) => {
                self.leave_line(&provisioning);
                State::Stopped
            }
            State::Starting(Starting { generation }) => {
                self.abandon(generation);
                State::Stopping(Stopping { generation, next: Next::Rest })
            }
            State::Ready(Ready { generation, successor, .. }) => {
                self.drop_successor(successor);
                self.drain(generation, Next::Rest)
            }
            State::Frozen(frozen) => self.end_frozen(&frozen, Next::Rest),
            State::Draining(draining) => State::Draining(Draining { next: Next::Rest, ..draining }),
            State::Stopping(stopping) => State::Stopping(Stopping { next: Next::Rest, ..stopping }),
            State::BackingOff(_) => {
                self.emit(Effect::CancelTimer(super::Timer::BackOff));
                State::Stopped
            }
            State::Failed => State::Stopped,
        }
    }

    /// At Doorbell's own shutdown requests have been waited for already.
    fn hasten(&mut self, state: State, off: Off) -> State {
        match off {
            Off::Operator | Off::Removed => return state,
            Off::Shutdown => self.hurry_leavers(),
        }
        match state {
            State::Draining(Draining { generation, next }) => self.stop_draining(generation, next),
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    fn come_back(&mut self, state: State) -> State {
        match state {
            State::Stopped => {
                self.emit(Effect::Hold);
                self.rest()
            }
            State::Provisioning(_) | State::Starting(_) | State::BackingOff(_) | State::Failed => {
                state
            }
            State::Ready(Ready { generation, .. }) => {
                self.set_idle_timer(generation, self.terms.idle());
                state
            }
            State::Frozen(frozen) => match self.terms.goal {
                Goal::Up => self.thaw(frozen),
                Goal::Down | Goal::Disabled(_) => State::Frozen(frozen),
            },
            State::Draining(_) | State::Stopping(_) => {
                self.emit(Effect::Hold);
                state
            }
        }
    }
}
