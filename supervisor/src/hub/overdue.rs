//! Who does not do in time what it is to: a proxy that hangs, or that somebody else speaks through, is
//! replaced; one that does not end is ended.

use std::time::Duration;

use tokio::time::Instant;

use super::{Hub, launch::Fate, proxies::Stage};

/// How long a role may take to introduce itself, and a proxy to take over a configuration: far longer
/// than the largest takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time that a proxy has beyond the one it gives its clients: the last lines of its log.
const LAST_LINES: Duration = Duration::from_secs(8);
/// As good as for ever.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// By when a role has to have done what it was just asked for.
pub(super) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// When a proxy has to have ended that gives its clients so long.
pub(super) fn end_of(limit: Duration) -> Instant {
    Instant::now() + limit.min(LONGEST) + LAST_LINES
}

impl Hub {
    /// When the next one is overdue.
    pub(super) fn due(&self) -> Option<Instant> {
        let proxies = self.proxies.values().filter_map(|proxy| proxy.due);
        proxies.chain(self.office.due).min()
    }

    /// Does without those who are overdue.
    pub(super) fn see_overdue(&mut self) {
        let now = Instant::now();
        let is_overdue = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_overdue(self.office.due) {
            self.office.due = None;
            tracing::error!("the control process did not say who it is in time, and is replaced");
            self.office.end(Fate::Die);
        }
        let overdue = self.proxies.iter_mut().filter(|(_, proxy)| is_overdue(proxy.due));
        let mut hang = Vec::new();
        for (number, proxy) in overdue {
            proxy.due = None;
            match proxy.stage {
                Stage::Draining => {
                    tracing::error!(number, "a proxy did not end in time, and is ended");
                    proxy.peer.runner.tell(Fate::Die);
                }
                Stage::Coming
                | Stage::Leaving
                | Stage::Waiting
                | Stage::WaitingToLeave
                | Stage::Told
                | Stage::Serving => hang.push(*number),
            }
        }
        for number in hang {
            self.expel(number, "hangs");
        }
    }
}
