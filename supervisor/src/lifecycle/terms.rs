//! What is wanted: the goal, and the settings that decisions depend on.

use std::time::{Duration, Instant};

use doorbell_config::spec::{BackOffSpec, EndpointSpec, ProcessSpec, StartMode};

use crate::{
    memory::Demotion,
    message::{GoalName, RefusalReason},
};

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

/// The goal, and the settings that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) goal: Goal,
    pub(crate) tenancy: Tenancy,
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
        self.idle_freeze_after.filter(|_| self.goal == Goal::Down)
    }

    /// Whether an instance that nobody uses is frozen, rather than stopped.
    pub(crate) fn freezes(&self) -> bool {
        match self.demotion {
            Some(Demotion::Stop) => false,
            Some(Demotion::Freeze) | None => self.freezes_after().is_some(),
        }
    }

    /// How long a frozen one stays so before it is stopped.
    pub(crate) fn stays_frozen(&self) -> Option<Duration> {
        let frozen_after = self.idle_freeze_after.unwrap_or_default();
        self.stops_after().map(|stop| stop.saturating_sub(frozen_after))
    }

    fn stops_after(&self) -> Option<Duration> {
        self.idle_stop_after.filter(|_| self.goal == Goal::Down)
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
            Self::Operator | Self::Removed => Duration::from_secs(60),
            Self::Shutdown => Duration::from_secs(5),
        }
    }
}
