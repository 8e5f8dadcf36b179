//! What is wanted: the goal, and the settings that decisions depend on.

use std::time::{Duration, Instant};

use doorbell_config::spec::{BackOffSpec, EndpointSpec, ProcessSpec, StartMode};

use crate::{
    memory::Demotion,
    message::{GoalName, RefusalReason},
};

/// Until a person may have decided otherwise: a guess.
pub(super) const A_PERSON_DECIDES: Duration = Duration::from_secs(60);

/// What we want of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It should run, and be started again when it ends.
    Up,
    /// It may sleep: it runs when visited, and stops when idle.
    Down,
    /// It must not run.
    Disabled(Off),
}

/// Why an app must not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    /// An operator disabled it.
    Operator,
    /// It is defined no more.
    Removed,
    /// Doorbell shuts down.
    Shutdown,
}

/// Whether two instances may live at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenancy {
    /// Each has an endpoint of its own.
    Shared,
    /// They would want the same port.
    Exclusive,
}

/// How the apps are that this one needs, those that they need among them.
///
/// Ordered from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// All are ready, or it needs none.
    #[default]
    Met,
    /// Some are not ready, and nothing is known against them.
    Coming,
    /// One has failed, and is not tried before then.
    Failed(Instant),
    /// One must not run, or is not there.
    Off,
}

/// Whether other apps need this one, directly or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Needed {
    #[default]
    No,
    /// By frozen ones alone: it may be frozen too.
    Asleep,
    /// By some that run, or are about to.
    Awake,
}

/// Whether an app is within the hours in which it is kept awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hours {
    /// It may sleep.
    #[default]
    Free,
    /// Once it runs, it is neither frozen nor stopped for idleness.
    Kept,
}

/// The goal, and the settings that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) goal: Goal,
    pub(crate) tenancy: Tenancy,
    pub(crate) needs: Needs,
    pub(crate) needed: Needed,
    pub(crate) hours: Hours,
    pub(crate) idle_freeze_after: Option<Duration>,
    pub(crate) idle_stop_after: Option<Duration>,
    /// Until when the instance's own work keeps it awake, if it does.
    pub(crate) awake_until: Option<Instant>,
    /// How it is to yield its memory, if it is and nobody uses it.
    pub(crate) demotion: Option<Demotion>,
    pub(crate) start_deadline: Duration,
    pub(crate) drain: Duration,
    pub(crate) back_off: BackOffSpec,
}

impl Terms {
    pub(crate) fn of(spec: &ProcessSpec, goal: Goal) -> Self {
        Self {
            goal,
            tenancy: match spec.endpoint {
                EndpointSpec::AnyPort | EndpointSpec::Socket => Tenancy::Shared,
                EndpointSpec::FixedPort(_) => Tenancy::Exclusive,
            },
            needs: Needs::Met,
            needed: Needed::No,
            hours: Hours::Free,
            idle_freeze_after: spec.idle_freeze_after,
            idle_stop_after: spec.idle_stop_after,
            awake_until: None,
            demotion: None,
            start_deadline: spec.ready.deadline,
            drain: spec.stop.drain,
            back_off: *spec.back_off,
        }
    }

    /// How long an instance may stand idle, if it may be frozen or stopped for that.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.freezes_after().or(self.stops_after())
    }

    /// Until when it is kept awake, if it is.
    pub(crate) fn kept_awake(&self, now: Instant) -> Option<Instant> {
        self.awake_until.filter(|until| *until > now)
    }

    /// How long it may stand idle before it is frozen, if ever.
    pub(crate) fn freezes_after(&self) -> Option<Duration> {
        let is_free = match (self.needed, self.hours) {
            (Needed::No | Needed::Asleep, Hours::Free) => self.goal == Goal::Down,
            (Needed::Awake, _) | (_, Hours::Kept) => false,
        };
        self.idle_freeze_after.filter(|_| is_free)
    }

    /// Whether an instance that nobody uses is frozen, rather than stopped.
    pub(crate) fn freezes(&self) -> bool {
        match (self.demotion, self.needed) {
            // It may not be stopped.
            (Some(Demotion::Stop), Needed::Asleep) => self.freezes_after().is_some(),
            (Some(Demotion::Stop), Needed::No | Needed::Awake) => false,
            (Some(Demotion::Freeze), _) => self.idle_freeze_after.is_some(),
            (None, _) => self.freezes_after().is_some(),
        }
    }

    /// Whether an instance that nobody uses is frozen or stopped: it may be needed by now, or wanted.
    pub(crate) fn may_retire(&self) -> bool {
        match (self.needed, self.demotion) {
            (Needed::Awake, _) => false,
            (Needed::Asleep, _) => self.freezes(),
            (Needed::No, Some(_)) => self.goal != Goal::Up,
            (Needed::No, None) => self.idle().is_some(),
        }
    }

    /// How long a frozen one stays so before it is stopped.
    pub(crate) fn stays_frozen(&self) -> Option<Duration> {
        let frozen_after = self.idle_freeze_after.unwrap_or_default();
        self.stops_after().map(|stop| stop.saturating_sub(frozen_after))
    }

    fn stops_after(&self) -> Option<Duration> {
        let is_free = match (self.needed, self.hours) {
            (Needed::No, Hours::Free) => self.goal == Goal::Down,
            (Needed::Asleep | Needed::Awake, _) | (_, Hours::Kept) => false,
        };
        self.idle_stop_after.filter(|_| is_free)
    }

    /// Whether it is to run though nobody visits it.
    pub(crate) fn is_wanted(&self) -> bool {
        match (self.goal, self.needed) {
            (Goal::Disabled(_), _) => false,
            (Goal::Up, _) | (Goal::Down, Needed::Awake) => true,
            (Goal::Down, Needed::No | Needed::Asleep) => false,
        }
    }

    /// How the apps that it needs are at this moment: a failure that was waited out is none.
    pub(crate) fn needs_at(&self, now: Instant) -> Needs {
        match self.needs {
            Needs::Failed(until) if until <= now => Needs::Coming,
            Needs::Failed(_) | Needs::Met | Needs::Coming | Needs::Off => self.needs,
        }
    }
}

impl Goal {
    /// The goal of an app that nobody disabled.
    pub(crate) fn of(mode: StartMode) -> Self {
        match mode {
            StartMode::Always => Self::Up,
            StartMode::OnDemand | StartMode::WithServer | StartMode::Disabled => Self::Down,
        }
    }

    /// The goal's name for outsiders.
    pub(crate) fn name(self) -> GoalName {
        match self {
            Self::Up => GoalName::Up,
            Self::Down => GoalName::Down,
            Self::Disabled(_) => GoalName::Disabled,
        }
    }
}

impl Off {
    /// What requests are told.
    pub(crate) fn refusal(self) -> RefusalReason {
        match self {
            Self::Operator => RefusalReason::Disabled,
            Self::Removed => RefusalReason::Removed,
            Self::Shutdown => RefusalReason::ShuttingDown,
        }
    }

    /// When they may come again: a guess, since a person decides.
    pub(crate) fn retry_after(self) -> Duration {
        match self {
            Self::Operator | Self::Removed => A_PERSON_DECIDES,
            Self::Shutdown => Duration::from_secs(5),
        }
    }
}
