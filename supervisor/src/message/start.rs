//! How far a start is, how long it took, and how long such starts take.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long each phase of a start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartTimes {
    /// Waiting for apps that it needs, and in the line for a start, behind the cap on parallel starts.
    pub queued: Duration,
    /// From the front of the line to a running process.
    pub spawn: Duration,
    /// From there to an endpoint that accepts connections.
    pub listen: Duration,
    /// From there to ready.
    pub ready: Duration,
}

impl StartTimes {
    /// From the wish to ready.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.queued + self.spawn + self.listen + self.ready
    }
}

/// How far a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartPhase {
    /// In the line for a start, or before it for apps that it needs.
    Queued,
    /// Its upgrade runs: it has a new version.
    Upgrade,
    /// Admitted; its program is being run.
    Spawn,
    /// Its process runs, and does not listen yet, or has not said that it is ready.
    Listen,
    /// It listens, and does not answer as wanted yet.
    Ready,
}

impl StartPhase {
    /// How far it was when it failed, in words for operators.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Queued => "queued: it was in the line",
            Self::Upgrade => "upgrade: its data was not brought up to date",
            Self::Spawn => "spawn: its program did not run",
            Self::Listen => "listen: it did not listen yet",
            Self::Ready => "ready: it did not answer as wanted yet",
        }
    }
}

/// For what a start is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// For its turn in the line.
    #[default]
    Turn,
    /// For apps that it needs, in no line.
    Needs,
}

/// What visitors may know of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartProgress {
    /// How far it is.
    pub phase: StartPhase,
    /// For what it is queued, while it is; an older proxy does without.
    #[serde(default)]
    pub waits_for: WaitsFor,
    /// Time since it was admitted, or in the line.
    pub elapsed: Duration,
    /// How long such starts took before; `None` for the first one that is known.
    pub usual: Option<UsualStart>,
}

/// How long the last starts of an app took, from the front of the line to ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct UsualStart {
    /// Half of them took no longer.
    pub median: Duration,
    /// Nine of ten took no longer.
    pub most: Duration,
}

impl UsualStart {
    /// Starts that it is made of, the newest.
    pub const REMEMBERED: usize = 20;

    /// Of these times.
    #[must_use]
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut times = times.to_vec();
        times.sort_unstable();
        let rank = |tenths: usize| times.get((times.len() * tenths).div_ceil(10).checked_sub(1)?);
        Some(Self { median: *rank(5)?, most: *rank(9)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_is_what_most_starts_took() {
        assert_eq!(UsualStart::of(&[]), None);
        let times: Vec<_> = [9, 1, 2, 3, 4, 5, 6, 7, 8, 60].map(Duration::from_secs).into();
        let usual = |median, most| {
            let (median, most) = (Duration::from_secs(median), Duration::from_secs(most));
            Some(UsualStart { median, most })
        };
        assert_eq!(UsualStart::of(&times), usual(5, 9));
        assert_eq!(UsualStart::of(&times[..1]), usual(9, 9));
    }
}
