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
    /// Adds lines, of which only the last ones are looked at.
    pub(super) fn push(&self, lines: &[u8]) {
        let ends = lines.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let start = ends.map(|(at, _)| at + 1).nth(LINES).unwrap_or(0);
        let new = lines.get(start..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in new {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(text(line));
        }
    }

    /// Oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().chars().take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_however_they_come() {
        let numbered =
            |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
        let tail = Tail::default();
        tail.push(format!("{}\n", numbered(0..100).join("\n")).as_bytes());
        assert_eq!(tail.lines(), numbered(80..100));
        tail.push(b"100\n101\n");
        tail.push(b"102");
        assert_eq!(tail.lines(), numbered(83..103));
        tail.push(b"");
        assert_eq!(tail.lines(), numbered(83..103));
    }
}
