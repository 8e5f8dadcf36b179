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
