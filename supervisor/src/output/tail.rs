//! The last lines of one instance, kept in memory to tell why it died.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Lines kept.
const LINES: usize = 20;
/// Characters kept of each.
const WIDTH: usize = 500;

/// The last lines of one instance.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: Mutex<VecDeque<String>>,
}

impl Tail {
    pub(super) fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().chars().take(WIDTH).collect();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// Oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
