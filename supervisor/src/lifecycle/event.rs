//! What happened.

use std::time::Duration;

use super::effect::Timer;
use crate::message::Generation;

/// Something that happened to an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request waits and no instance is open.
    Wanted,
    /// Start now, forgetting failures.
    Start,
    /// Stop now; a second one does not wait for running requests.
    Stop,
    /// Stop at once: no request is waited for, and no grace is given.
    StopNow,
    /// A new instance in place of the old one.
    Restart,
    /// The definition changed.
    Redefined(Launch),
    /// The goal changed.
    GoalChanged,
    /// What keeps the instance awake changed.
    Vigils(Generation),
    /// Whether the apps that it needs are ready has changed.
    NeedsChanged,
    /// Whether other apps need it has changed.
    NeededChanged,
    /// Whether it is kept awake has changed.
    HoursChanged,
    /// The front of the line is reached: the instance may be spawned.
    Admitted(Generation),
    /// Something about an instance.
    Instance(Generation, InstanceEvent),
    /// Something about an instance's gate.
    Gate(Generation, GateEvent),
    /// A timer went off.
    Timer(Timer),
}

impl Event {
    /// The instance that this is about, which may be long gone.
    pub(super) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Instance(generation, _)
            | Self::Vigils(generation)
            | Self::Gate(generation, _)
            | Self::Timer(
                Timer::StartDeadline(generation)
                | Timer::Idle(generation)
                | Timer::Drain(generation)
                | Timer::Vigil(generation),
            ) => Some(*generation),
            Self::Wanted
            | Self::Start
            | Self::Stop
            | Self::StopNow
            | Self::Restart
            | Self::Redefined(_)
            | Self::GoalChanged
            | Self::NeedsChanged
            | Self::NeededChanged
            | Self::HoursChanged
            | Self::Admitted(_)
            | Self::Timer(Timer::BackOff) => None,
        }
    }
}

/// Whether a new definition runs a program in the same way as the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launch {
    /// Running instances are as good as new ones.
    Same,
    /// Running instances are to be replaced.
    Changed,
}

/// What happened to an instance. After `Failed` it clears away its own processes; `Gone` is always
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceEvent {
    /// It can answer.
    Ready,
    /// It can answer again, after it was frozen.
    Thawed,
    /// It was looked at, as a connection was refused, and accepts some.
    Accepts,
    /// It ended, or never began.
    Failed(Failure),
    /// No process of it is left.
    Gone,
}

/// How an instance failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It ended with status 0: when ready, no failure for an app that may sleep.
    Finished,
    /// It could not be spawned, ended otherwise, or stopped listening.
    Crashed,
    /// It was not begun, as its upgrade failed.
    Upgrade,
}

/// What the gate says of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateEvent {
    /// It has no lease and gets no more.
    Retired,
    /// It is in use, or was until so long ago.
    Busy(Duration),
    /// Its last lease is back.
    Drained,
    /// It refused a connection.
    Unreachable,
}
