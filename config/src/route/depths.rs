//! How many of a set have each depth: bounds what a lookup tries to depths that exist.

use std::sync::Arc;

/// Counts by depth, below `N`. Shared by clones until changed.
#[derive(Clone, Debug)]
pub(super) struct Depths<const N: usize> {
    counts: Arc<[u32; N]>,
    /// The largest depth that one has; 0 if none has any.
    deepest: usize,
}

impl<const N: usize> Depths<N> {
    pub(super) fn new() -> Self {
        Self { counts: Arc::new([0; N]), deepest: 0 }
    }

    /// Adds or takes back one of this depth.
    pub(super) fn count(&mut self, depth: usize, is_added: bool) {
        let counts = Arc::make_mut(&mut self.counts);
        if let Some(count) = counts.get_mut(depth) {
            *count = if is_added { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
        self.deepest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    }

    pub(super) fn contains(&self, depth: usize) -> bool {
        self.counts.get(depth).is_some_and(|&count| count > 0)
    }

    pub(super) fn deepest(&self) -> usize {
        self.deepest
    }
}
