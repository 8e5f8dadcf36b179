//! The lifecycle of one app, decided purely: no I/O, no clock, no channel.
//!
//! [`step`] takes what is ([`Life`]), what is wanted ([`Terms`]), what happened ([`Event`]) and the
//! time, and says what is now and what to do about it ([`Effect`]). `desk` carries the effects out.
//!
//! ```text
//!            Wanted, Start           Admitted             Ready
//! Stopped ------------> Provisioning ------> Starting ------------> Ready <-+ Replace: a successor
//!    ^                       ^                  | Failed, deadline  | | |   | starts beside it
//!    |                       | Next::Start      v                   | | +---+
//!    |  Next::Rest           |              BackingOff <------------+ |
//!    +------------------- Stopping <--- Draining <--------------------+ Stop, Disable, Remove
//!                            ^             Drained, deadline          |
//!                            +----------------------------------------+ Retired
//! ```
//!
//! Where an app may be frozen, `Retired` leads to `Frozen` first: from there `Wanted` leads back to
//! `Ready` (through `Thawed`), and time to `Stopping`.
//!
//! Two things live beside the state. *Leavers* are instances on their way down: a replaced instance
//! drains while its successor serves, a crashed one may leave processes to clear away. *Failures*
//! counts crashes and failed starts in a row. Beside `BackingOff` stands `Failed`, where a start ends whose
//! upgrade failed: only an operator ends it, or another definition.
//!
//! An app that needs others waits for them in `Provisioning`, and in no line; a successor and a frozen
//! instance wait likewise. What they need is told by the terms, and `NeedsChanged` when it changes. In
//! the other direction, an app that is needed by one that runs is started and thawed, and not stopped or
//! frozen for idleness (`NeededChanged`). Nobody tells an app to start what it needs: that it waits is
//! enough.
//!
//! Invariants, each guarded by `random.rs`: at most one start is in flight; no gate is open on an
//! instance that is not ready; every waiter is answered with `OpenGate` or `Refuse`; a disabled app
//! does not start, nor one whose needs are not met; every spawned instance is signalled or ends by itself, and its end is awaited.

mod back_off;
mod effect;
mod event;
mod state;
mod terms;
mod turn;

#[cfg(test)]
mod random;
#[cfg(test)]
mod table;

use std::time::Instant;

pub(crate) use effect::{Effect, StartOutcome, Timer};
pub(crate) use event::{Event, Failure, GateEvent, InstanceEvent, Launch};
pub(crate) use state::{
    BackingOff, Because, Draining, Frost, Frozen, Hold, Leaver, LeaverPhase, Life, Line, Next,
    Provisioning, Ready, Starting, State, Stopping, Successor, Then,
};
pub(crate) use terms::{Goal, Hours, Needed, Needs, Off, Tenancy, Terms};

pub(crate) use turn::{CALLED_OFF, FAILED, adopt::Adoption};

use turn::Turn;

/// What an app's life begins with when instances of it outlived an earlier supervisor, and what is to
/// be done about them.
pub(crate) fn adopt(terms: &Terms, adoption: Adoption, now: Instant) -> (Life, Vec<Effect>) {
    Turn::of(Life::default(), terms, now).adopt(adoption)
}

/// What becomes of an app when `event` happens at `now`, and what is to be done about it, in order.
///
/// `terms` are those that hold from now on: where the event is a change of terms, the new ones.
pub(crate) fn step(life: Life, terms: &Terms, event: Event, now: Instant) -> (Life, Vec<Effect>) {
    if event.generation().is_some_and(|generation| !life.knows(generation)) {
        return (life, Vec::new());
    }
    let before = life.clone();
    let (after, mut effects) = Turn::of(life, terms, now).play(event);
    if after != before {
        effects.push(Effect::Publish);
    }
    (after, effects)
}
