//! Who yields memory.

use std::{cmp::Ordering, time::Duration};

use doorbell_config::name::AppId;

use crate::message::Generation;

/// What an app costs to bring back of which nothing is known.
const UNKNOWN_COST: Duration = Duration::from_secs(1);
/// Costs are not told apart below this.
const LEAST_COST: Duration = Duration::from_millis(10);

/// An app that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    /// Time since its last lease ended.
    pub(crate) idle: Duration,
    /// What its starts take, if that is known.
    pub(crate) cost: Option<Duration>,
    /// What it takes of the memory.
    pub(crate) bytes: u64,
    pub(crate) sleep: Sleep,
    /// Whether it may be stopped before anybody asks for that.
    pub(crate) may_stop: bool,
}

/// How deep it sleeps already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Not at all, and it may be frozen, which gives its memory back.
    Awake,
    /// Not at all, and freezing it would give nothing.
    AwakeForGood,
    /// It is frozen.
    Frozen,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demotion {
    Freeze,
    Stop,
}

/// Chooses who is to yield so that this many bytes become free, if there are enough: first those that can
/// be frozen, then those that have to be stopped.
pub(crate) fn choose(
    mut candidates: Vec<Candidate>,
    bytes: u64,
) -> Vec<(AppId, Generation, Demotion)> {
    candidates.sort_by(most_dispensable_first);
    let mut chosen = Vec::new();
    let mut left = bytes;
    for demotion in [Demotion::Freeze, Demotion::Stop] {
        for candidate in candidates.iter().filter(|one| one.allows(demotion)) {
            if left == 0 {
                return chosen;
            }
            left = left.saturating_sub(candidate.bytes.max(1));
            chosen.push((candidate.app.clone(), candidate.generation, demotion));
        }
    }
    chosen
}

impl Candidate {
    fn allows(&self, demotion: Demotion) -> bool {
        match (demotion, self.sleep) {
            (Demotion::Freeze, Sleep::Awake) => true,
            (Demotion::Freeze, Sleep::AwakeForGood | Sleep::Frozen)
            | (Demotion::Stop, Sleep::Awake) => false,
            (Demotion::Stop, Sleep::AwakeForGood | Sleep::Frozen) => self.may_stop,
        }
    }

    /// Idle time per cost: how little it is missed.
    fn dispensability(&self) -> f64 {
        let cost = self.cost.unwrap_or(UNKNOWN_COST).max(LEAST_COST);
        self.idle.as_secs_f64() / cost.as_secs_f64()
    }
}

fn most_dispensable_first(one: &Candidate, other: &Candidate) -> Ordering {
    other
        .dispensability()
        .total_cmp(&one.dispensability())
        // Always in one order, and the larger one first.
        .then_with(|| other.bytes.cmp(&one.bytes))
        .then_with(|| one.app.cmp(&other.app))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn candidate(app: &str, idle: u64, cost: u64, mib: u64, sleep: Sleep) -> Candidate {
        Candidate {
            app: AppId::parse(app).unwrap(),
            generation: Generation(1),
            idle: Duration::from_secs(idle),
            cost: Some(Duration::from_secs(cost)),
            bytes: mib * MIB,
            sleep,
            may_stop: true,
        }
    }

    fn chosen(candidates: &[Candidate], mib: u64) -> Vec<String> {
        let chosen = choose(candidates.to_vec(), mib * MIB);
        chosen.iter().map(|(app, _, demotion)| format!("{demotion:?} {app}")).collect()
    }

    #[test]
    fn the_longest_idle_and_cheapest_to_bring_back_go_first() {
        let apps = [
            candidate("slow", 60, 12, 400, Sleep::AwakeForGood),
            candidate("quick", 60, 1, 100, Sleep::AwakeForGood),
            candidate("forgotten", 3600, 12, 400, Sleep::AwakeForGood),
        ];
        assert_eq!(chosen(&apps, 1), ["Stop forgotten"]);
        assert_eq!(chosen(&apps, 450), ["Stop forgotten", "Stop quick"]);
        assert_eq!(chosen(&apps, 5000), ["Stop forgotten", "Stop quick", "Stop slow"]);
        assert!(chosen(&apps, 0).is_empty() && chosen(&[], 9).is_empty());
    }

    #[test]
    fn who_can_be_frozen_is_before_anybody_is_stopped() {
        let apps = [
            candidate("frozen", 3600, 1, 100, Sleep::Frozen),
            candidate("awake", 5, 1, 100, Sleep::Awake),
        ];
        assert_eq!(chosen(&apps, 1), ["Freeze awake"]);
        assert_eq!(chosen(&apps, 150), ["Freeze awake", "Stop frozen"]);
        assert_eq!(chosen(&apps, 999), ["Freeze awake", "Stop frozen"], "not in one go");
    }

    #[test]
    fn who_is_never_to_be_stopped_is_not() {
        let apps =
            [Candidate { may_stop: false, ..candidate("a", 99, 1, 100, Sleep::AwakeForGood) }];
        assert!(chosen(&apps, 999).is_empty());
    }
}
