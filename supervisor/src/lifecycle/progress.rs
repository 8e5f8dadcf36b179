//! What instances, their gates and timers cause. Whatever is about an instance that the state does
//! not know is stale, and changes nothing.

use std::time::{Duration, Instant};

use super::{
    Draining, Effect, FAILED, Goal, Line, Next, Provisioning, Ready, StartOutcome, Starting, State,
    Stopping, Successor, Timer, Turn,
};
use crate::{
    lifecycle::{Failure, GateEvent, LeaverPhase},
    message::{Generation, RefusalReason},
};

/// Shortest time between two questions whether an instance is idle.
const SHORTEST_IDLE: Duration = Duration::from_millis(1);
/// Before it is asked again, of an instance that is idle for long enough, and used all the same: by
/// requests that do not keep it awake.
const USED_ASIDE: Duration = Duration::from_secs(10);

impl Turn<'_> {
    /// The front of the line is reached.
    pub(super) fn admitted(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Provisioning(Provisioning { line: Line::Joined }) => {
                self.spawn(generation);
                State::Starting(Starting { generation })
            }
            State::Ready(ready) if ready.successor == Successor::InLine => {
                self.spawn(generation);
                State::Ready(Ready { successor: Successor::Starting(generation), ..ready })
            }
            State::Provisioning(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopped
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => {
                self.emit(Effect::EndStart(generation, StartOutcome::Abandoned));
                state
            }
        }
    }

    fn spawn(&mut self, generation: Generation) {
        let deadline = self.after(self.terms.start_deadline);
        self.emit(Effect::SetTimer(Timer::StartDeadline(generation), deadline));
        self.emit(Effect::Spawn(generation));
    }

    /// An instance can answer.
    pub(super) fn ready(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Starting(starting) if starting.generation == generation => {
                self.end_start(generation, StartOutcome::Ready);
                self.emit(Effect::OpenGate(generation));
                self.serve(generation)
            }
            State::Ready(old) if old.successor == Successor::Starting(generation) => {
                self.end_start(generation, StartOutcome::Ready);
                self.emit(Effect::OpenGate(generation));
                self.leave(old.generation);
                self.serve(generation)
            }
            State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    /// An instance ended by itself.
    pub(super) fn failed(
        &mut self,
        state: State,
        generation: Generation,
        failure: Failure,
    ) -> State {
        match state {
            State::Starting(starting) if starting.generation == generation => {
                self.bury(generation);
                self.end_start(generation, StartOutcome::Failed);
                match failure {
                    Failure::Upgrade => self.upgrade_failed(),
                    Failure::Finished | Failure::Crashed => {
                        self.start_failed(generation, RefusalReason::StartFailed)
                    }
                }
            }
            State::Ready(ready) if ready.successor == Successor::Starting(generation) => {
                self.bury(generation);
                self.end_start(generation, StartOutcome::Failed);
                State::Ready(Ready { successor: Successor::None, ..ready })
            }
            State::Ready(ready) if ready.generation == generation => self.crashed(&ready, failure),
            State::Frozen(frozen) if frozen.generation == generation => {
                self.ended_frozen(&frozen, failure)
            }
            State::Draining(Draining { generation: draining, next }) if draining == generation => {
                self.leaver_ended(generation);
                State::Stopping(Stopping { generation, next })
            }
            State::Draining(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => {
                self.leaver_ended(generation);
                state
            }
        }
    }

    fn leaver_ended(&mut self, generation: Generation) {
        let Some(leaver) = self.leavers.iter_mut().find(|l| l.generation == generation) else {
            return;
        };
        match leaver.phase {
            LeaverPhase::Draining => leaver.phase = LeaverPhase::Stopping,
            LeaverPhase::Stopping => return,
        }
        self.emit(Effect::CancelTimer(Timer::Drain(generation)));
    }

    fn start_failed(&mut self, generation: Generation, reason: RefusalReason) -> State {
        self.failures = self.failures.saturating_add(1);
        let delay = self.delay(self.failures, generation);
        self.refuse(reason, delay);
        self.back_off(delay)
    }

    fn upgrade_failed(&mut self) -> State {
        self.failures = self.failures.saturating_add(1);
        self.refuse(RefusalReason::StartFailed, FAILED.retry_after);
        self.fail()
    }

    fn crashed(&mut self, ready: &Ready, failure: Failure) -> State {
        let generation = ready.generation;
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.emit(Effect::ShutGate(generation));
        self.bury(generation);
        self.forgive(ready.since);
        self.count(failure);
        if let Some(state) = Self::promote(ready.successor) {
            return state;
        }
        match self.failures {
            // The first failure after a healthy run costs no visitor anything.
            0 | 1 => self.rest(),
            failures => {
                let delay = self.delay(failures - 1, generation);
                self.back_off(delay)
            }
        }
    }

    pub(super) fn count(&mut self, failure: Failure) {
        match failure {
            Failure::Finished if !self.terms.is_wanted() => {}
            Failure::Finished | Failure::Crashed | Failure::Upgrade => {
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    pub(super) fn forgive(&mut self, since: Instant) {
        if self.now.saturating_duration_since(since) >= self.terms.back_off.reset_after {
            self.failures = 0;
        }
    }

    /// Nothing of an instance is left.
    pub(super) fn gone(&mut self, state: State, generation: Generation) -> State {
        // An instance that ends without a word has failed.
        let state = self.failed(state, generation, Failure::Crashed);
        self.leavers.retain(|leaver| leaver.generation != generation);
        match state {
            State::Stopping(stopping) if stopping.generation == generation => match stopping.next {
                Next::Start => self.provision(),
                Next::Rest => self.rest(),
            },
            State::Provisioning(Provisioning { line: Line::AfterLeavers }) => self.line_up(),
            State::Stopping(_)
            | State::Provisioning(_)
            | State::Stopped
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    /// A gate speaks of an instance.
    pub(super) fn gate(&mut self, state: State, generation: Generation, event: GateEvent) -> State {
        match (event, state) {
            (GateEvent::Retired, State::Ready(ready)) if ready.generation == generation => {
                self.retired(&ready)
            }
            (GateEvent::Busy(idle_for), State::Ready(ready)) if ready.generation == generation => {
                self.ask_later(generation, idle_for);
                State::Ready(ready)
            }
            (GateEvent::Unreachable, State::Ready(ready)) if ready.generation == generation => {
                self.emit(Effect::Check(generation));
                State::Ready(ready)
            }
            (GateEvent::Retired | GateEvent::Drained, state) => self.drained(state, generation),
            (GateEvent::Busy(_) | GateEvent::Unreachable, state) => state,
        }
    }

    /// It was looked at, as a gate could not reach it, and is well. Who waits there and may not wake the app
    /// learns of it by this alone.
    pub(super) fn accepts(&mut self, state: State, generation: Generation) -> State {
        if let State::Ready(ready) = &state
            && ready.generation == generation
        {
            self.emit(Effect::ReopenGate(generation));
        }
        state
    }

    fn retired(&mut self, ready: &Ready) -> State {
        let generation = ready.generation;
        self.failures = 0;
        if self.is_kept_awake() {
            return self.stay_awake(ready.clone());
        }
        if !self.terms.may_retire() {
            self.emit(Effect::OpenGateAgain(generation));
            self.set_idle_timer(generation, self.terms.idle());
            return State::Ready(ready.clone());
        }
        match self.terms.goal {
            // Gates could not tell until now: another proxy may have used it, or its own work.
            Goal::Up | Goal::Down => self.emit(Effect::Hold),
            Goal::Disabled(_) => {}
        }
        if self.terms.freezes() && ready.successor == Successor::None {
            return self.freeze(ready);
        }
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.signal(generation);
        let next = Next::Rest;
        Self::promote(ready.successor).unwrap_or(State::Stopping(Stopping { generation, next }))
    }

    fn ask_later(&mut self, generation: Generation, idle_for: Duration) {
        let after = self.terms.idle().map(|idle| match idle.saturating_sub(idle_for) {
            Duration::ZERO => idle.min(USED_ASIDE),
            left => left,
        });
        let after = after.map(|after| after.max(SHORTEST_IDLE));
        self.set_idle_timer(generation, after);
    }

    /// A leaver has no request left, or no time.
    fn drained(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Draining(Draining { generation: draining, next }) if draining == generation => {
                self.stop_draining(generation, next)
            }
            State::Draining(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => {
                self.hurry(generation);
                state
            }
        }
    }

    /// A timer went off.
    pub(super) fn timer(&mut self, state: State, timer: Timer) -> State {
        match timer {
            Timer::StartDeadline(generation) => self.start_too_late(state, generation),
            Timer::Idle(generation) => self.maybe_idle(state, generation),
            Timer::Drain(generation) | Timer::Vigil(generation) => self.drained(state, generation),
            Timer::BackOff => self.back_off_over(state),
        }
    }

    fn start_too_late(&mut self, state: State, generation: Generation) -> State {
        match state {
            State::Starting(starting) if starting.generation == generation => {
                self.end_start(generation, StartOutcome::TooLate);
                self.signal(generation);
                self.start_failed(generation, RefusalReason::StartDeadline)
            }
            State::Ready(ready) if ready.successor == Successor::Starting(generation) => {
                self.end_start(generation, StartOutcome::TooLate);
                self.signal(generation);
                State::Ready(Ready { successor: Successor::None, ..ready })
            }
            State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => state,
        }
    }

    pub(super) fn maybe_idle(&mut self, state: State, generation: Generation) -> State {
        match &state {
            State::Frozen(frozen) if frozen.generation == generation => {
                return self.frozen_long_enough(frozen);
            }
            State::Ready(ready) if ready.generation == generation => match ready.successor {
                Successor::None if self.terms.idle().is_some() => self.ask_unless_awake(generation),
                Successor::None
                | Successor::AwaitsNeeds
                | Successor::InLine
                | Successor::Starting(_) => {
                    self.set_idle_timer(generation, self.terms.idle());
                }
            },
            State::Ready(_)
            | State::Frozen(_)
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

    fn back_off_over(&mut self, state: State) -> State {
        match state {
            State::BackingOff(_) => {
                self.emit(Effect::Hold);
                self.rest()
            }
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::Failed => state,
        }
    }
}
