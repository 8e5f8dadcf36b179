//! The line for a start: first come, first served, a few at once. Who is not to start yet lets others
//! pass.

use std::collections::{HashSet, VecDeque};

use doorbell_config::name::AppId;

use crate::message::Generation;

#[derive(Debug)]
pub(super) struct Line {
    /// Starts at once.
    cap: usize,
    under_way: HashSet<Generation>,
    waiting: VecDeque<AppId>,
    is_open: bool,
}

impl Line {
    /// A line that admits nobody until it is opened.
    pub(super) fn closed(cap: usize) -> Self {
        let (under_way, waiting) = (HashSet::new(), VecDeque::new());
        Self { cap: cap.max(1), under_way, waiting, is_open: false }
    }

    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    pub(super) fn set_cap(&mut self, cap: usize) {
        self.cap = cap.max(1);
    }

    pub(super) fn join(&mut self, app: AppId) {
        self.waiting.push_back(app);
    }

    pub(super) fn leave(&mut self, app: &AppId) {
        self.waiting.retain(|waiting| waiting != app);
    }

    /// Whether whoever joins has to wait for others.
    pub(super) fn is_busy(&self, is_its_turn: impl Fn(&AppId) -> bool) -> bool {
        let room = self.cap.saturating_sub(self.under_way.len());
        let waiting = self.waiting.iter().filter(|app| is_its_turn(app));
        !self.is_open || waiting.take(room + 1).count() > room
    }

    /// The first whose turn it is, if anybody may start now.
    pub(super) fn next(&self, is_its_turn: impl Fn(&AppId) -> bool) -> Option<&AppId> {
        if !self.is_open || self.under_way.len() >= self.cap {
            return None;
        }
        self.waiting.iter().find(|app| is_its_turn(app))
    }

    /// Who was next starts, as this generation.
    pub(super) fn admit(&mut self, app: &AppId, generation: Generation) {
        let at = self.waiting.iter().position(|waiting| waiting == app);
        at.and_then(|at| self.waiting.remove(at));
        self.under_way.insert(generation);
    }

    /// A start is over, well or not.
    pub(super) fn end(&mut self, generation: Generation) {
        self.under_way.remove(&generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_in_order_and_no_more_than_the_cap() {
        let app = |name| AppId::parse(name).unwrap();
        let mut line = Line::closed(2);
        for name in ["a", "b", "c", "d"] {
            line.join(app(name));
        }
        line.leave(&app("b"));
        let any = |_: &AppId| true;
        assert_eq!(line.next(any), None, "closed");
        line.open();
        let but_a = |next: &AppId| *next != app("a");
        assert_eq!(line.next(but_a), Some(&app("c")), "it is not a's turn");
        assert!(line.is_busy(any) && !line.is_busy(but_a));
        for (number, next) in (1..).zip(["a", "c"]) {
            assert_eq!(line.next(any), Some(&app(next)));
            line.admit(&app(next), Generation(number));
        }
        assert_eq!(line.next(any), None, "full");
        line.end(Generation(1));
        assert_eq!(line.next(any), Some(&app("d")));
        line.admit(&app("d"), Generation(3));
        line.set_cap(9);
        assert_eq!(line.next(any), None, "empty");
    }
}
