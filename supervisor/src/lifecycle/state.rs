//! What is: the state of one app, each variant with only what that state knows.

use std::time::Instant;

use crate::message::{Generation, StateName};

/// Everything the lifecycle remembers of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) state: State,
    /// Instances on their way down, oldest first. Each leaves by its `Gone`.
    pub(crate) leavers: Vec<Leaver>,
    /// Crashes and failed starts in a row.
    pub(crate) failures: u32,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// No process; the gate holds, or refuses if the app is disabled.
    #[default]
    Stopped,
    Provisioning(Provisioning),
    Starting(Starting),
    Ready(Ready),
    Frozen(Frozen),
    Draining(Draining),
    Stopping(Stopping),
    BackingOff(BackingOff),
    /// Its upgrade failed, and nobody tries again before an operator decides; the gate refuses.
    Failed,
}

/// A start is wanted and not admitted yet; the gate holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provisioning {
    pub(crate) line: Line,
}

/// Where a start waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// For the apps that it needs: outside of the line for a start, which they are to stand in.
    AwaitsNeeds,
    /// For the leavers: the app cannot run twice.
    AfterLeavers,
    /// In the line for a start.
    Joined,
}

/// Spawned, not ready; the gate holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Starting {
    pub(crate) generation: Generation,
}

/// Serving; the gate is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) generation: Generation,
    pub(crate) since: Instant,
    pub(crate) successor: Successor,
}

/// Nobody has visited for a while: its processes stand still, and its memory may be given back. The
/// gate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) generation: Generation,
    /// When it became ready.
    pub(crate) since: Instant,
    pub(crate) frost: Frost,
}

/// Whether a frozen instance is to stay so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frost {
    /// Until somebody comes, or its time is up.
    Lasting,
    /// Somebody has come: it is thawed when the apps that it needs are ready.
    AwaitsNeeds(Then),
    /// Somebody has come: it is being thawed.
    Thawing(Then),
}

/// What follows when a frozen instance can answer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It serves.
    Serve,
    /// It serves until a new one is ready.
    Replace,
}

/// The instance that is to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Successor {
    None,
    AwaitsNeeds,
    InLine,
    Starting(Generation),
}

/// The last instance serves what it has, and nothing new; the gate holds or refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draining {
    pub(crate) generation: Generation,
    pub(crate) next: Next,
}

/// The last instance is signalled and not gone; the gate holds or refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) generation: Generation,
    pub(crate) next: Next,
}

/// What follows when the instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Rest, as the goal wants it.
    Rest,
    /// A new start: somebody waits for it.
    Start,
}

/// Failed; the gate refuses until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackingOff {
    pub(crate) until: Instant,
    pub(crate) because: Because,
}

/// Whose failure is waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// The app's own.
    Itself,
    /// That of an app that it needs.
    Needs,
}

/// What an app takes of those that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It does not run.
    #[default]
    None,
    /// It is about to start.
    Waits,
    /// It has an instance, which is frozen.
    Asleep,
    /// It has an instance, if only on its way down.
    Awake,
}

/// An instance on its way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaver {
    pub(crate) generation: Generation,
    pub(crate) phase: LeaverPhase,
}

/// How far down it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaverPhase {
    /// Shut; waits for its last lease, or its drain deadline.
    Draining,
    /// Signalled, or ended by itself; waits for the end of its tree.
    Stopping,
}

impl State {
    /// The state's name for outsiders.
    pub(crate) fn name(&self) -> StateName {
        match self {
            Self::Stopped => StateName::Stopped,
            Self::Provisioning(_) => StateName::Provisioning,
            Self::Starting(_) => StateName::Starting,
            Self::Ready(_) => StateName::Ready,
            Self::Frozen(_) => StateName::Frozen,
            Self::Draining(_) => StateName::Draining,
            Self::Stopping(_) => StateName::Stopping,
            Self::BackingOff(_) => StateName::BackingOff,
            Self::Failed => StateName::Failed,
        }
    }

    /// The instance of this state, if it has one.
    pub(crate) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Stopped | Self::Provisioning(_) | Self::BackingOff(_) | Self::Failed => None,
            Self::Starting(Starting { generation })
            | Self::Ready(Ready { generation, .. })
            | Self::Frozen(Frozen { generation, .. })
            | Self::Draining(Draining { generation, .. })
            | Self::Stopping(Stopping { generation, .. }) => Some(*generation),
        }
    }
}

impl Life {
    /// Whether this instance is the app's, and not one of long ago.
    pub(super) fn knows(&self, generation: Generation) -> bool {
        let successor = match &self.state {
            State::Ready(Ready { successor: Successor::Starting(successor), .. }) => {
                Some(*successor)
            }
            State::Ready(_)
            | State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => None,
        };
        self.state.generation() == Some(generation)
            || successor == Some(generation)
            || self.leavers.iter().any(|leaver| leaver.generation == generation)
    }

    /// Whether this instance is told to end, or has.
    pub(crate) fn ends(&self, generation: Generation) -> bool {
        let leaver = self.leavers.iter().find(|leaver| leaver.generation == generation);
        match leaver.map(|leaver| leaver.phase) {
            Some(LeaverPhase::Draining) => false,
            Some(LeaverPhase::Stopping) => true,
            None => !self.knows(generation),
        }
    }

    /// What the app takes of those that it needs.
    pub(crate) fn hold(&self) -> Hold {
        match &self.state {
            _ if !self.leavers.is_empty() => Hold::Awake,
            State::Stopped | State::BackingOff(_) | State::Failed => Hold::None,
            State::Provisioning(_) => Hold::Waits,
            State::Frozen(Frozen { frost: Frost::Lasting, .. }) => Hold::Asleep,
            State::Frozen(Frozen { frost: Frost::AwaitsNeeds(_) | Frost::Thawing(_), .. })
            | State::Starting(_)
            | State::Ready(_)
            | State::Draining(_)
            | State::Stopping(_) => Hold::Awake,
        }
    }

    /// What the app wants of its further replicas: to run while it does, or is about to. One that is on its
    /// way down wants nothing, and a failure that is waited out is its own.
    pub(crate) fn brings(&self) -> Hold {
        match &self.state {
            State::Stopped
            | State::Failed
            | State::BackingOff(BackingOff { because: Because::Needs, .. })
            | State::Draining(Draining { next: Next::Rest, .. })
            | State::Stopping(Stopping { next: Next::Rest, .. }) => Hold::None,
            State::Provisioning(_) => Hold::Waits,
            State::Frozen(Frozen { frost: Frost::Lasting, .. }) => Hold::Asleep,
            State::Frozen(Frozen { frost: Frost::AwaitsNeeds(_) | Frost::Thawing(_), .. })
            | State::Starting(_)
            | State::Ready(_)
            | State::BackingOff(BackingOff { because: Because::Itself, .. })
            | State::Draining(Draining { next: Next::Start, .. })
            | State::Stopping(Stopping { next: Next::Start, .. }) => Hold::Awake,
        }
    }

    /// Whether it serves, or will if all goes well.
    pub(crate) fn is_expected(&self) -> bool {
        match self.brings() {
            Hold::None | Hold::Asleep => false,
            Hold::Waits | Hold::Awake => !matches!(self.state, State::BackingOff(_)),
        }
    }

    /// Whether it serves while its successor starts.
    pub(crate) fn is_being_replaced(&self) -> bool {
        matches!(self.state, State::Ready(Ready { successor: Successor::Starting(_), .. }))
    }

    /// Whether it serves, and its successor is to start when it is its turn.
    pub(crate) fn awaits_successor(&self) -> bool {
        let waits = |successor| matches!(successor, Successor::InLine | Successor::AwaitsNeeds);
        matches!(self.state, State::Ready(Ready { successor, .. }) if waits(successor))
    }

    /// Whether it waits for apps that it needs.
    pub(crate) fn awaits_needs(&self) -> bool {
        match &self.state {
            State::Provisioning(Provisioning { line }) => *line == Line::AwaitsNeeds,
            State::Ready(Ready { successor, .. }) => *successor == Successor::AwaitsNeeds,
            State::Frozen(Frozen { frost, .. }) => matches!(frost, Frost::AwaitsNeeds(_)),
            State::Stopped
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => false,
        }
    }

    /// Whether nothing of the app runs or is about to.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Stopped && self.leavers.is_empty()
    }
}
