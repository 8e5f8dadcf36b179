//! How often an instance is looked at whether it is ready, by whoever looks.

use std::time::Duration;

/// Shortest time between two looks.
pub const STEP: Duration = Duration::from_millis(1);
/// Longest one.
pub const LONGEST_STEP: Duration = Duration::from_millis(20);

/// Time until the next look at one instance: longer when many start at once, which share the machine's
/// time.
#[must_use]
pub fn step(starts_under_way: usize) -> Duration {
    match starts_under_way {
        0..=4 => STEP,
        5..=16 => 2 * STEP,
        17..=64 => 5 * STEP,
        _ => 10 * STEP,
    }
}

/// Time until an app that answers, and not as wanted, is asked again, when that has gone on for so long. It may note
/// each question; so it is found ready later by a twentieth of its time at most.
#[must_use]
pub fn patience(asked_for: Duration) -> Duration {
    (asked_for / 20).clamp(STEP, Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_long_is_asked_seldom() {
        let asked = [0, 100, 4_000, 60_000].map(|ms| patience(Duration::from_millis(ms)));
        assert_eq!(asked, [1, 5, 200, 1000].map(Duration::from_millis));
    }
}
