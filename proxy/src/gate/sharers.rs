//! The other apps that have leases at a gate.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many there are: in the table that holds, and in earlier ones that requests still have. So what a request has
/// once found here it finds to its end.
#[derive(Default)]
pub struct Sharers {
    all: AtomicU32,
    by_folders: AtomicU32,
}

impl Sharers {
    /// One more; `by_folders` says whether the instance tells it apart as a NocoBase does (`sharing/selectors`).
    pub fn gain(&self, by_folders: bool) {
        self.by_folders.fetch_add(u32::from(by_folders), Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn lose(&self, by_folders: bool) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        self.by_folders.fetch_sub(u32::from(by_folders), Ordering::Relaxed);
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.all.load(Ordering::Relaxed) > 0
    }

    /// Whether some are told apart as those of a NocoBase are.
    #[must_use]
    pub fn are_told_by_folders(&self) -> bool {
        self.by_folders.load(Ordering::Relaxed) > 0
    }
}
