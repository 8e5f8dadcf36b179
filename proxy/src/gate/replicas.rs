//! The gates of an app that runs several times side by side: of its replicas.
//!
//! Each replica has a gate of its own with a lifecycle behind it, as if it were an app. A request gets its
//! lease from the open one with the fewest leases now, counted in this process; where several have as few,
//! they take turns. One that is not open is not chosen, whatever the reason. Only where none is open, the
//! request waits: at the first one's gate, which is the app's, and whichever opens first lets it in.
//!
//! The first replica is also what brings the others and what is asked whether the app is idle. So a gate
//! that is closed while others serve asks for itself, once ([`Replicas::lease`]).

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use doorbell_supervisor::message::GateReport;

use super::{Entry, Gate, Instance, Lease, Mode, Sway};

/// For so long an instance that could not be reached is left to the supervisor, which looks at it.
const LOOK: Duration = Duration::from_secs(1);

/// The gates of an app's replicas.
pub struct Replicas {
    /// The app's own.
    first: Arc<Gate>,
    /// All, the first included.
    gates: Box<[Arc<Gate>]>,
    /// Where the next look at them begins.
    turn: AtomicUsize,
}

impl Replicas {
    /// The first one's gate is the app's own.
    #[must_use]
    pub fn new(first: Arc<Gate>, further: impl Iterator<Item = Arc<Gate>>) -> Self {
        let gates = [Arc::clone(&first)].into_iter().chain(further).collect();
        Self { first, gates, turn: AtomicUsize::new(0) }
    }

    /// Asks for a lease on whichever has the fewest, or for a place in the app's line. No lock and no
    /// allocation where one is open.
    pub fn lease(&self, sway: Sway) -> Entry {
        let is_one_closed = Cell::new(false);
        let give = || self.try_lease(sway, &is_one_closed);
        let entry = self.first.lease_by(sway, &self.first, give, || self.is_further_coming());
        if is_one_closed.get() && sway.wakes() && matches!(entry, Entry::Leased(_)) {
            self.gates.iter().for_each(|gate| gate.want_back());
        }
        entry
    }

    /// Gives leases to the next who wait. Tells whether others wait on.
    pub fn let_in(&self) -> bool {
        let is_one_closed = Cell::new(false);
        self.first.let_in_by(|sway| self.try_lease(sway, &is_one_closed))
    }

    /// Whether one is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.gates.iter().any(|gate| gate.is_open())
    }

    /// Something happened to a further one. Who listens at the app's gate looks again; and who waits there,
    /// and may not wake the app, waits on only while one is on its way.
    pub fn look_again(&self) {
        let mut door = self.first.lock();
        door.news.look_again();
        if !self.is_further_coming() && !self.is_open() {
            self.first.want(&mut door);
        }
    }

    /// Whether a further one may be open soon, whoever comes. The first one's door may be locked meanwhile,
    /// never the other way round.
    fn is_further_coming(&self) -> bool {
        self.gates.iter().skip(1).any(|gate| gate.lock().is_on_its_way())
    }

    /// A connect to this instance of one of them was refused.
    pub fn unreachable(&self, instance: &Arc<Instance>) {
        let of_it = self.gates.iter().find(|gate| gate.app == instance.app);
        of_it.iter().for_each(|gate| gate.unreachable(instance));
    }

    /// How long none of the further ones has been kept awake, as far as they were; zero while one is.
    #[must_use]
    pub fn further_idle_for(&self) -> Option<Duration> {
        let further = self.gates.iter().skip(1);
        further.filter_map(|gate| gate.open.load().as_ref()?.unused_for()).min()
    }

    fn try_lease(&self, sway: Sway, is_one_closed: &Cell<bool>) -> Option<Lease> {
        let from = self.turn.fetch_add(1, Ordering::Relaxed) % self.gates.len().max(1);
        let in_turn = || self.gates.iter().cycle().skip(from).take(self.gates.len());
        let mut least: Option<(u64, &Arc<Gate>)> = None;
        for gate in in_turn() {
            match gate.leases() {
                None => is_one_closed.set(true),
                Some(leases) if least.is_none_or(|(least, _)| leases < least) => {
                    least = Some((leases, gate));
                }
                Some(_) => {}
            }
        }
        let (_, gate) = least?;
        // Where that has closed just now, any will do.
        gate.try_lease(sway).or_else(|| in_turn().find_map(|gate| gate.try_lease(sway)))
    }
}

impl Gate {
    /// Leases on the open instance, if there is one.
    fn leases(&self) -> Option<u64> {
        self.open.load().as_ref().and_then(|open| open.leases())
    }

    /// Others serve somebody who may wake the app, and would in its place: the first replica is wanted too,
    /// and so is one that could not be reached a while ago and may be well. Told once, until the supervisor
    /// says something, and not while it refuses.
    fn want_back(&self) {
        if self.is_told.load(Ordering::Relaxed) {
            return;
        }
        let mut door = self.lock();
        if self.open.load().is_some() {
            return;
        }
        let is_wanted = match (&door.mode, door.unreachable_since) {
            (Mode::Refuse(..), _) => false,
            (Mode::Hold, Some(since)) if since.elapsed() < LOOK => return,
            (Mode::Hold, Some(_)) => !door.wanted,
            // Further ones are brought by the first.
            (Mode::Hold, None) => !self.app.is_further_replica() && !door.is_on_its_way(),
        };
        self.is_told.store(true, Ordering::Relaxed);
        if is_wanted {
            door.wanted = true;
            (self.reports)(GateReport::Wanted { app: self.app.clone() });
            self.announce(&mut door);
        }
    }
}

#[cfg(test)]
mod tests;
