//! What apps need of each other: some start after others, and stop before them.
//!
//! Who needs whom is no matter here: the terms say how the needed ones are, and whether somebody needs
//! this one.

use std::time::Duration;

use super::{
    BackingOff, Because, Effect, Frost, Frozen, Goal, Line, Needs, Provisioning, Ready, State,
    Successor, Tenancy, Then, Timer, Turn,
};
use crate::{
    lifecycle::{Needed, terms::A_PERSON_DECIDES},
    message::RefusalReason,
};

impl Turn<'_> {
    fn needs(&self) -> Needs {
        self.terms.needs_at(self.now)
    }

    /// Into the line for a start, or where it waits for what it needs.
    pub(super) fn line_up(&mut self) -> State {
        let line = match (self.needs(), self.terms.tenancy) {
            (Needs::Failed(_) | Needs::Off, _) => return self.lacks_needs(),
            (Needs::Coming, _) => {
                self.emit(Effect::AwaitNeeds);
                Line::AwaitsNeeds
            }
            (Needs::Met, Tenancy::Exclusive) if !self.leavers.is_empty() => {
                self.hurry_leavers();
                Line::AfterLeavers
            }
            (Needs::Met, Tenancy::Exclusive | Tenancy::Shared) => {
                self.emit(Effect::Enqueue);
                Line::Joined
            }
        };
        State::Provisioning(Provisioning { line })
    }

    /// It cannot start, for no fault of its own, and so is not counted as having failed in a row.
    fn lacks_needs(&mut self) -> State {
        let delay = self.until_needs();
        self.emit(Effect::BlameNeeds);
        self.refuse(RefusalReason::StartFailed, delay);
        self.back_off_for(delay, Because::Needs)
    }

    /// How long nothing can come of another try.
    fn until_needs(&self) -> Duration {
        match self.needs() {
            Needs::Met | Needs::Coming => Duration::ZERO,
            Needs::Failed(until) => until.saturating_duration_since(self.now),
            Needs::Off => A_PERSON_DECIDES,
        }
    }

    /// A successor joins the line, or waits for what the app needs, or is given up.
    pub(super) fn line_up_successor(&mut self) -> Successor {
        match self.needs() {
            Needs::Met => {
                self.emit(Effect::Enqueue);
                Successor::InLine
            }
            Needs::Coming => {
                self.emit(Effect::AwaitNeeds);
                Successor::AwaitsNeeds
            }
            Needs::Failed(_) | Needs::Off => {
                self.emit(Effect::BlameNeeds);
                Successor::None
            }
        }
    }

    /// Whether an instance that serves may make way for one that cannot run beside it.
    pub(super) fn may_make_way(&mut self) -> bool {
        match self.needs() {
            Needs::Met | Needs::Coming => true,
            Needs::Failed(_) | Needs::Off => {
                self.emit(Effect::BlameNeeds);
                false
            }
        }
    }

    /// A frozen instance goes on, or waits for what the app needs, or stays frozen.
    pub(super) fn begin_thaw(&mut self, frozen: Frozen, then: Then) -> State {
        let generation = frozen.generation;
        let frost = match self.needs() {
            Needs::Met => {
                self.emit(Effect::CancelTimer(Timer::Idle(generation)));
                self.emit(Effect::Thaw(generation));
                Frost::Thawing(then)
            }
            Needs::Coming => {
                self.emit(Effect::CancelTimer(Timer::Idle(generation)));
                self.emit(Effect::AwaitNeeds);
                Frost::AwaitsNeeds(then)
            }
            Needs::Failed(_) | Needs::Off => {
                let delay = self.until_needs();
                self.emit(Effect::BlameNeeds);
                self.refuse(RefusalReason::StartFailed, delay);
                if frozen.frost != Frost::Lasting {
                    self.set_idle_timer(generation, self.terms.stays_frozen());
                }
                Frost::Lasting
            }
        };
        State::Frozen(Frozen { frost, ..frozen })
    }

    /// A frozen instance ends. Whoever came while what it needs was not to be had was refused; who comes
    /// from here on asks for a start.
    pub(super) fn hold_again(&mut self) {
        match (self.needs(), self.terms.goal) {
            (Needs::Failed(_) | Needs::Off, Goal::Up | Goal::Down) => self.emit(Effect::Hold),
            (Needs::Met | Needs::Coming, _) | (_, Goal::Disabled(_)) => {}
        }
    }

    /// Whether the apps that it needs are ready has changed.
    pub(super) fn needs_changed(&mut self, state: State) -> State {
        match state {
            State::Provisioning(Provisioning { line }) => self.provision_as_needs_are(line),
            State::Ready(Ready { successor: Successor::AwaitsNeeds, .. }) => {
                self.successor_as_needs_are(state)
            }
            State::Ready(ready) if ready.successor == Successor::InLine => {
                self.successor_steps_back(ready)
            }
            State::Frozen(frozen) => self.thaw_as_needs_are(frozen),
            State::BackingOff(BackingOff { because: Because::Needs, .. }) => match self.needs() {
                Needs::Met | Needs::Coming => {
                    self.end_back_off();
                    self.rest()
                }
                Needs::Failed(_) | Needs::Off => state,
            },
            State::Ready(_)
            | State::BackingOff(_)
            | State::Failed
            | State::Stopped
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_) => state,
        }
    }

    fn provision_as_needs_are(&mut self, line: Line) -> State {
        match (line, self.needs()) {
            // They are looked at again when the leavers are gone.
            (Line::AfterLeavers, _)
            | (Line::Joined, Needs::Met)
            | (Line::AwaitsNeeds, Needs::Coming) => State::Provisioning(Provisioning { line }),
            (Line::AwaitsNeeds, Needs::Met | Needs::Failed(_) | Needs::Off) => self.line_up(),
            (Line::Joined, Needs::Coming | Needs::Failed(_) | Needs::Off) => {
                self.emit(Effect::StepBack);
                self.line_up()
            }
        }
    }

    fn successor_as_needs_are(&mut self, state: State) -> State {
        match (state, self.needs()) {
            (State::Ready(ready), Needs::Met | Needs::Failed(_) | Needs::Off) => {
                State::Ready(Ready { successor: self.line_up_successor(), ..ready })
            }
            (state, _) => state,
        }
    }

    fn successor_steps_back(&mut self, ready: Ready) -> State {
        match self.needs() {
            Needs::Met => State::Ready(ready),
            Needs::Coming | Needs::Failed(_) | Needs::Off => {
                self.emit(Effect::StepBack);
                State::Ready(Ready { successor: self.line_up_successor(), ..ready })
            }
        }
    }

    fn thaw_as_needs_are(&mut self, frozen: Frozen) -> State {
        match (frozen.frost, self.needs()) {
            (Frost::AwaitsNeeds(then), Needs::Met | Needs::Failed(_) | Needs::Off) => {
                self.begin_thaw(frozen, then)
            }
            (Frost::Lasting, Needs::Met | Needs::Coming) => {
                // Who came while they were not to be had was refused.
                self.emit(Effect::Hold);
                if self.terms.is_wanted() {
                    return self.begin_thaw(frozen, Then::Serve);
                }
                State::Frozen(frozen)
            }
            (Frost::AwaitsNeeds(_) | Frost::Lasting | Frost::Thawing(_), _) => {
                State::Frozen(frozen)
            }
        }
    }

    /// An operator wants it down; where others wait for it, it begins anew.
    pub(super) fn stopped(&mut self) -> State {
        match self.terms.needed {
            Needed::Awake => self.provision(),
            Needed::No | Needed::Asleep => State::Stopped,
        }
    }

    /// Whether other apps need it has changed.
    pub(super) fn needed_changed(&mut self, state: State) -> State {
        match state {
            State::Stopped => self.rest(),
            State::Ready(Ready { generation, .. }) => {
                self.set_idle_timer(generation, self.terms.idle());
                state
            }
            State::Frozen(frozen) => match (frozen.frost, self.terms.needed) {
                (Frost::Lasting, Needed::Awake) => self.begin_thaw(frozen, Then::Serve),
                (Frost::Lasting, Needed::No | Needed::Asleep) => {
                    self.set_idle_timer(frozen.generation, self.terms.stays_frozen());
                    state
                }
                (Frost::AwaitsNeeds(_) | Frost::Thawing(_), _) => state,
            },
            // Its own failure is waited out, whoever needs it; where that is over, it need not wait
            // for its timer.
            State::BackingOff(BackingOff { until, .. })
                if until <= self.now && self.terms.is_wanted() =>
            {
                self.end_back_off();
                self.provision()
            }
            State::BackingOff(_)
            | State::Failed
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_) => state,
        }
    }
}
