//! How long to wait after a failure.

use std::time::Duration;

use doorbell_config::spec::BackOffSpec;

use crate::message::Generation;

/// The delay after `failures` failures in a row, the last one of `generation`, whose number seeds
/// the jitter: up to a fifth less than the doubled delay, so that apps which failed together do not
/// return together.
pub(super) fn delay(spec: &BackOffSpec, failures: u32, generation: Generation) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let full = spec.initial.saturating_mul(1 << doublings).min(spec.max);
    let spread = full / 5;
    full - spread.mul_f64(fraction(generation.0))
}

/// A number in `0.0..1.0` that looks random (the finalizer of splitmix64).
fn fraction(seed: u64) -> f64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or(0);
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: BackOffSpec = BackOffSpec {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
    };

    #[test]
    fn doubles_up_to_the_longest_and_never_overflows() {
        for (failures, full) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (u32::MAX, 60)] {
            let full = Duration::from_secs(full);
            let delay = delay(&SPEC, failures, Generation(7));
            assert!(delay <= full && delay >= full * 4 / 5, "{failures}: {delay:?} of {full:?}");
        }
    }

    #[test]
    fn spreads_apps_that_failed_together() {
        let delays: std::collections::BTreeSet<_> =
            (0..100).map(|generation| delay(&SPEC, 3, Generation(generation))).collect();
        assert!(delays.len() > 95);
    }
}
