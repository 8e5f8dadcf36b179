//! The memory that all apps may take together, and whether there is room for one more.
//!
//! The budget is soft: where nobody can yield, a start goes on beyond it. A visitor who is turned away is
//! worse than a machine that is fuller than it should be, and what must not be passed is `limits.memory`.

use doorbell_config::name::ByteSize;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Room {
    budget: Option<ByteSize>,
    /// By the last look.
    taken: u64,
    /// What the starts since then are expected to take.
    promised: u64,
    standing: Standing,
    /// Nobody could yield since there was room last.
    was_full: bool,
}

/// What is being done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Open,
    /// Too little by what is known: it is being looked.
    Looking,
    /// Somebody is to yield.
    Making,
    /// Nobody can.
    Full,
}

/// Whether a start may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Admit,
    /// Room is being made.
    Wait,
    /// Room is to be made: have a look first.
    Look,
}

impl Room {
    pub(super) fn set_budget(&mut self, budget: Option<ByteSize>) {
        self.budget = budget;
        self.standing = Standing::Open;
    }

    /// One more that is expected to take this much wants to start.
    pub(super) fn enter(&mut self, expected: u64) -> Entry {
        let Some(budget) = self.budget else { return Entry::Admit };
        let fits = self.taken + self.promised + expected <= budget.0;
        match self.standing {
            Standing::Open if !fits => {
                self.standing = Standing::Looking;
                Entry::Look
            }
            Standing::Open | Standing::Full => {
                self.promised += expected;
                Entry::Admit
            }
            Standing::Looking | Standing::Making => Entry::Wait,
        }
    }

    /// What apps take was looked at; tells how much too much that is, with what the next start is expected
    /// to take.
    pub(super) fn looked(&mut self, taken: u64, expected: u64) -> u64 {
        (self.taken, self.promised) = (taken, 0);
        let Some(budget) = self.budget else { return 0 };
        let over = (taken + expected).saturating_sub(budget.0);
        self.standing = if over == 0 { Standing::Open } else { Standing::Making };
        self.was_full &= over > 0;
        over
    }

    /// Nobody can tell whether there is room: starts go on.
    pub(super) fn is_unknown(&mut self) {
        self.standing = Standing::Full;
    }

    /// Nobody can yield. Tells whether that is news: the same is found at every look.
    pub(super) fn is_full(&mut self) -> bool {
        self.standing = Standing::Full;
        !std::mem::replace(&mut self.was_full, true)
    }

    /// Whoever was to yield has: have a look before anybody waits for more.
    pub(super) fn is_made(&mut self) {
        self.standing = Standing::Looking;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_waits_for_room_and_not_for_ever() {
        let mut room = Room::default();
        assert_eq!(room.enter(u64::MAX / 2), Entry::Admit, "without a budget");
        room.set_budget(Some(ByteSize(100)));
        assert_eq!(room.looked(40, 0), 0);
        assert_eq!(room.enter(30), Entry::Admit);
        assert_eq!(room.enter(30), Entry::Admit);
        assert_eq!(room.enter(1), Entry::Look);
        assert_eq!(room.enter(1), Entry::Wait);
        assert_eq!(room.looked(100, 20), 20);
        assert_eq!(room.enter(20), Entry::Wait, "somebody is to yield");
        room.is_made();
        assert_eq!(room.looked(70, 20), 0);
        assert_eq!(room.enter(20), Entry::Admit);
        assert_eq!(room.enter(20), Entry::Look);
        assert_eq!(room.looked(95, 20), 15);
        assert!(room.is_full());
        assert_eq!(room.enter(20), Entry::Admit, "nobody can yield");
        assert_eq!(room.looked(95, 20), 15);
        assert!(!room.is_full(), "it is known");
        assert_eq!(room.looked(5, 20), 0);
        assert!(room.is_full());
    }
}
