//! One turn of an app's life: dispatch, and the moves that several events share.
//!
//! What visitors and operators cause is in `wish`, what instances, gates and timers cause in
//! `progress`. Each of their functions lists every state, so that a new state is a compile error
//! wherever it needs a thought.

use std::time::{Duration, Instant};

use super::{
    BackingOff, Because, Draining, Effect, Event, Frost, Frozen, Goal, InstanceEvent, Leaver,
    LeaverPhase, Life, Line, Needs, Next, Off, Provisioning, Ready, StartOutcome, Starting, State,
    Stopping, Successor, Tenancy, Terms, Then, Timer, back_off,
};
use crate::{
    lifecycle::terms::A_PERSON_DECIDES,
    message::{Generation, Refusal, RefusalReason},
};

#[path = "adopt.rs"]
pub(super) mod adopt;
#[path = "frost.rs"]
mod frost;
#[path = "needs.rs"]
mod needs;
#[path = "progress.rs"]
mod progress;
#[path = "vigil.rs"]
mod vigil;
#[path = "wish.rs"]
mod wish;

/// What requests are told when the start they waited for was called off.
pub(crate) const CALLED_OFF: Refusal =
    Refusal { reason: RefusalReason::StartFailed, retry_after: Duration::from_secs(1) };

/// What requests are told when an upgrade has failed.
pub(crate) const FAILED: Refusal =
    Refusal { reason: RefusalReason::Failed, retry_after: A_PERSON_DECIDES };

/// Longer than anybody waits, and short enough for any clock.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) struct Turn<'a> {
    terms: &'a Terms,
    now: Instant,
    leavers: Vec<Leaver>,
    failures: u32,
    state: State,
    effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    pub(super) fn of(life: Life, terms: &'a Terms, now: Instant) -> Self {
        let Life { state, leavers, failures } = life;
        Self { terms, now, leavers, failures, state, effects: Vec::new() }
    }

    pub(super) fn play(mut self, event: Event) -> (Life, Vec<Effect>) {
        let state = std::mem::take(&mut self.state);
        let state = match event {
            Event::Wanted => self.wanted(state),
            Event::Start => self.start(state),
            Event::Stop => self.stop(state),
            Event::StopNow => self.stop_now(state),
            Event::Restart => self.restart(state),
            Event::Redefined(launch) => self.redefined(state, launch),
            Event::GoalChanged => self.goal_changed(state),
            Event::Vigils(generation) => self.vigils_changed(state, generation),
            Event::NeedsChanged => self.needs_changed(state),
            Event::NeededChanged => self.needed_changed(state),
            Event::HoursChanged => self.other_idleness(state),
            Event::Admitted(generation) => self.admitted(state, generation),
            Event::Instance(generation, InstanceEvent::Ready) => self.ready(state, generation),
            Event::Instance(generation, InstanceEvent::Thawed) => self.thawed(state, generation),
            Event::Instance(generation, InstanceEvent::Accepts) => self.accepts(state, generation),
            Event::Instance(generation, InstanceEvent::Failed(failure)) => {
                self.failed(state, generation, failure)
            }
            Event::Instance(generation, InstanceEvent::Gone) => self.gone(state, generation),
            Event::Gate(generation, event) => self.gate(state, generation, event),
            Event::Timer(timer) => self.timer(state, timer),
        };
        (Life { state, leavers: self.leavers, failures: self.failures }, self.effects)
    }

    /// A moment from now, or one that is far enough.
    fn after(&self, wait: Duration) -> Instant {
        self.now + wait.min(FAR)
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn refuse(&mut self, reason: RefusalReason, retry_after: Duration) {
        self.emit(Effect::Refuse(Refusal { reason, retry_after }));
    }

    fn refuse_off(&mut self, off: Off) {
        self.refuse(off.refusal(), off.retry_after());
    }

    /// Answers waiters whose start was called off; later ones may wait again.
    fn turn_away(&mut self) {
        self.emit(Effect::Refuse(CALLED_OFF));
        self.emit(Effect::Hold);
    }

    /// Asks for a start, unless the app is disabled.
    fn provision(&mut self) -> State {
        match self.terms.goal {
            Goal::Disabled(off) => {
                self.refuse_off(off);
                State::Stopped
            }
            Goal::Up | Goal::Down => self.line_up(),
        }
    }

    /// Where an app goes that no visitor waits for.
    fn rest(&mut self) -> State {
        if self.terms.is_wanted() { self.provision() } else { State::Stopped }
    }

    fn serve(&mut self, generation: Generation) -> State {
        self.set_idle_timer(generation, self.terms.idle());
        State::Ready(Ready { generation, since: self.now, successor: Successor::None })
    }

    fn set_idle_timer(&mut self, generation: Generation, after: Option<Duration>) {
        let timer = Timer::Idle(generation);
        match after {
            Some(after) => self.emit(Effect::SetTimer(timer, self.after(after))),
            None => self.emit(Effect::CancelTimer(timer)),
        }
    }

    /// No new requests for this instance; it stops when the last one ends, or at the deadline.
    fn leave(&mut self, generation: Generation) {
        self.emit(Effect::CancelTimer(Timer::Idle(generation)));
        self.emit(Effect::ShutGate(generation));
        self.emit(Effect::SetTimer(Timer::Drain(generation), self.after(self.terms.drain)));
        self.leavers.push(Leaver { generation, phase: LeaverPhase::Draining });
    }

    fn drain(&mut self, generation: Generation, next: Next) -> State {
        self.leave(generation);
        State::Draining(Draining { generation, next })
    }

    /// Ends a draining leaver's wait; `None` if there is no such.
    fn hurry(&mut self, generation: Generation) -> Option<()> {
        let leaver = self.leavers.iter_mut().find(|leaver| leaver.generation == generation)?;
        match leaver.phase {
            LeaverPhase::Draining => leaver.phase = LeaverPhase::Stopping,
            LeaverPhase::Stopping => return None,
        }
        self.emit(Effect::CancelTimer(Timer::Drain(generation)));
        self.emit(Effect::CancelTimer(Timer::Vigil(generation)));
        self.emit(Effect::Signal(generation));
        Some(())
    }

    fn hurry_leavers(&mut self) {
        let waiting: Vec<_> = self.leavers.iter().map(|leaver| leaver.generation).collect();
        for generation in waiting {
            self.hurry(generation);
        }
    }

    /// Every instance that is on its way down is at its end.
    fn kill_leavers(&mut self) {
        self.hurry_leavers();
        // Who is killed is not asked before.
        self.effects.retain(|effect| !matches!(effect, Effect::Signal(_)));
        let leaving: Vec<_> = self.leavers.iter().map(|leaver| leaver.generation).collect();
        leaving.into_iter().for_each(|generation| self.emit(Effect::Kill(generation)));
    }

    fn signal(&mut self, generation: Generation) {
        self.emit(Effect::Signal(generation));
        self.leavers.push(Leaver { generation, phase: LeaverPhase::Stopping });
    }

    /// The instance ended by itself; its processes may not all be gone.
    fn bury(&mut self, generation: Generation) {
        self.leavers.push(Leaver { generation, phase: LeaverPhase::Stopping });
    }

    fn end_start(&mut self, generation: Generation, outcome: StartOutcome) {
        self.emit(Effect::CancelTimer(Timer::StartDeadline(generation)));
        self.emit(Effect::EndStart(generation, outcome));
    }

    fn abandon(&mut self, generation: Generation) {
        self.end_start(generation, StartOutcome::Abandoned);
        self.signal(generation);
    }

    fn drop_successor(&mut self, successor: Successor) {
        match successor {
            Successor::None => {}
            Successor::AwaitsNeeds => self.emit(Effect::ForgoNeeds),
            Successor::InLine => self.emit(Effect::Withdraw),
            Successor::Starting(generation) => self.abandon(generation),
        }
    }

    /// The successor is all that is left. `None` if there is none.
    fn promote(successor: Successor) -> Option<State> {
        match successor {
            Successor::None => None,
            Successor::AwaitsNeeds => {
                Some(State::Provisioning(Provisioning { line: Line::AwaitsNeeds }))
            }
            Successor::InLine => Some(State::Provisioning(Provisioning { line: Line::Joined })),
            Successor::Starting(generation) => Some(State::Starting(Starting { generation })),
        }
    }

    /// Replaces a ready instance by a new one without refusing a request.
    fn replace(&mut self, ready: Ready) -> State {
        match (self.terms.tenancy, ready.successor) {
            (Tenancy::Shared, Successor::None) => {
                State::Ready(Ready { successor: self.line_up_successor(), ..ready })
            }
            (
                Tenancy::Shared,
                Successor::AwaitsNeeds | Successor::InLine | Successor::Starting(_),
            ) => State::Ready(ready),
            (Tenancy::Exclusive, successor) => {
                self.drop_successor(successor);
                if self.may_make_way() {
                    self.drain(ready.generation, Next::Start)
                } else {
                    State::Ready(Ready { successor: Successor::None, ..ready })
                }
            }
        }
    }

    pub(super) fn back_off(&mut self, delay: Duration) -> State {
        self.back_off_for(delay, Because::Itself)
    }

    fn back_off_for(&mut self, delay: Duration, because: Because) -> State {
        self.refuse(RefusalReason::BackingOff, delay);
        let until = self.after(delay);
        self.emit(Effect::SetTimer(Timer::BackOff, until));
        State::BackingOff(BackingOff { until, because })
    }

    /// Its upgrade failed: a person decides what is next.
    pub(super) fn fail(&mut self) -> State {
        self.emit(Effect::Refuse(FAILED));
        State::Failed
    }

    fn delay(&self, failures: u32, generation: Generation) -> Duration {
        back_off::delay(&self.terms.back_off, failures, generation)
    }

    fn end_back_off(&mut self) {
        self.emit(Effect::CancelTimer(Timer::BackOff));
        self.emit(Effect::Hold);
    }

    /// The main instance's next step down, at once: the end of a drain.
    fn stop_draining(&mut self, generation: Generation, next: Next) -> State {
        self.hurry(generation);
        State::Stopping(Stopping { generation, next })
    }
}
