//! How apps that nobody uses yield their memory when there is too little.
//!
//! A round: the gates of all that could yield are asked how long these have been idle (`AskRetire` for a
//! time that nobody has been idle for), then it is chosen who yields ([`choose`]), and each is asked
//! to retire as for idleness: so whoever is visited meanwhile stays. When all have yielded, or stayed,
//! the round is over. Who is frozen has yielded when its memory is given back (`Note::GaveBack`), and is not
//! stopped before.

use std::{collections::HashMap, time::Duration};

use doorbell_config::name::AppId;
use tokio::time::Instant;

use super::{
    Desk,
    app::{App, Instance, unix_seconds},
    room::Entry,
};
use crate::{
    lifecycle::{Event, Frost, Frozen, Goal, Needed, Ready, State, Successor, Timer},
    memory::{Candidate, Demotion, Shortage, Sleep, choose},
    message::{GateOrder, Generation, UsualStart},
};

/// How long a look at all apps may take before starts go on without it.
const LOOKING: Duration = Duration::from_secs(5);
/// How long gates may take to tell.
const ASKING: Duration = Duration::from_secs(1);
/// How long those who were chosen are waited for; their `stop.grace` may be longer.
const YIELDING: Duration = Duration::from_secs(60);
/// An app is left alone for this long after it became ready, and for so many times what its start took:
/// those who compete would only wake each other again and again.
const LEAST_STAY: Duration = Duration::from_secs(5);
const STAY_PER_COST: u32 = 5;

/// A round under way.
#[derive(Debug)]
pub(super) struct Round {
    bytes: u64,
    /// Whether who is frozen gives memory back.
    has_swap: bool,
    /// Whose gates are asked, and what they take.
    asked: HashMap<AppId, (Generation, u64)>,
    candidates: Vec<Candidate>,
    /// Who was chosen and has not yielded yet.
    chosen: HashMap<AppId, (Generation, Demotion)>,
    deadline: Instant,
}

impl Desk {
    /// Whether the next in line may start, as far as memory goes.
    pub(super) fn has_room_for(&mut self, id: &AppId) -> bool {
        let expected = self.expected_memory(id);
        match self.room.enter(expected) {
            Entry::Admit => true,
            Entry::Wait => false,
            Entry::Look => {
                self.look_at_memory();
                false
            }
        }
    }

    fn look_at_memory(&mut self) {
        self.look_deadline = Some(Instant::now() + LOOKING);
        self.look.notify_one();
    }

    /// What an app took when it ran last.
    fn expected_memory(&self, id: &AppId) -> u64 {
        let past = self.apps.get(id).and_then(|app| app.past.as_ref());
        past.map_or(0, |past| past.memory_bytes)
    }

    /// What apps take was looked at.
    pub(super) fn looked_at_memory(&mut self, shortage: &Shortage) {
        let mut taken = 0;
        for (id, usage) in &shortage.apps {
            taken += usage.memory_bytes;
            if let Some(app) = self.apps.get_mut(id) {
                app.past().memory_bytes = usage.memory_bytes;
            }
        }
        if self.round.is_some() {
            return;
        }
        self.look_deadline = None;
        let expected = self.next_in_line().map_or(0, |id| self.expected_memory(id));
        let over = self.room.looked(taken, expected);
        let bytes = over.max(shortage.machine);
        if bytes > 0 {
            self.begin_round(bytes, shortage);
        }
        self.settle();
    }

    fn begin_round(&mut self, bytes: u64, shortage: &Shortage) {
        let deadline = Instant::now() + ASKING;
        let (asked, candidates, chosen) = (HashMap::new(), Vec::new(), HashMap::new());
        let has_swap = shortage.has_swap;
        let mut round = Round { bytes, has_swap, asked, candidates, chosen, deadline };
        for (id, usage) in &shortage.apps {
            let Some(app) = self.apps.get(id).filter(|app| app.may_yield()) else { continue };
            if self.bonds.needed(id) == Needed::Awake {
                continue;
            }
            match &app.life.state {
                State::Ready(Ready { generation, .. }) => {
                    round.asked.insert(id.clone(), (*generation, usage.memory_bytes));
                }
                State::Frozen(Frozen { generation, .. }) => {
                    let since = unix_seconds().saturating_sub(app.since_unix_seconds);
                    let idle = Duration::from_secs(since);
                    let bytes = usage.memory_bytes;
                    let candidate = self.candidate(id, *generation, idle, bytes, has_swap);
                    round.candidates.extend(candidate);
                }
                State::Stopped
                | State::Provisioning(_)
                | State::Starting(_)
                | State::Draining(_)
                | State::Stopping(_)
                | State::BackingOff(_)
                | State::Failed => {}
            }
        }
        for (app, (generation, _)) in &round.asked {
            // Nobody has been idle for that long: it is told how long it was.
            let (app, generation) = (app.clone(), *generation);
            let idle_at_least = Duration::MAX;
            self.order(GateOrder::AskRetire { app, generation, idle_at_least });
        }
        self.round = Some(round);
        self.choose_if_told();
    }

    /// A gate tells how long an instance has been idle, or that it is in use.
    pub(super) fn idle_is_told(&mut self, id: &AppId, generation: Generation, idle: Duration) {
        let Some(round) = &mut self.round else { return };
        let asked = round.asked.get(id).copied().filter(|(asked, _)| *asked == generation);
        if let Some((_, bytes)) = asked {
            round.asked.remove(id);
            let has_swap = round.has_swap;
            let candidate = self.candidate(id, generation, idle, bytes, has_swap);
            let candidate = candidate.filter(|candidate| !candidate.idle.is_zero());
            self.round.iter_mut().for_each(|round| round.candidates.extend(candidate.clone()));
            self.choose_if_told();
        } else {
            self.stays(id, generation, idle);
        }
    }

    /// It was chosen, and is in use: somebody came, or somebody is there who does not keep it awake. That
    /// one may stay for long, and is not asked again and again.
    fn stays(&mut self, id: &AppId, generation: Generation, idle: Duration) {
        let is_chosen = self.round.as_ref().is_some_and(|round| {
            round.chosen.get(id).is_some_and(|(chosen, _)| *chosen == generation)
        });
        if let Some(app) = self.apps.get_mut(id).filter(|_| is_chosen && !idle.is_zero()) {
            app.past().stays_until = Some(Instant::now() + LEAST_STAY);
        }
        self.yielded(id, generation);
    }

    /// An app that may yield, as far as those allow that need it: what frozen ones need may be frozen
    /// alone.
    fn candidate(
        &self,
        id: &AppId,
        generation: Generation,
        idle: Duration,
        bytes: u64,
        has_swap: bool,
    ) -> Option<Candidate> {
        let candidate = self.apps.get(id)?.candidate(generation, idle, bytes, has_swap);
        match self.bonds.needed(id) {
            Needed::No => Some(candidate),
            Needed::Asleep => Some(Candidate { may_stop: false, ..candidate }),
            Needed::Awake => None,
        }
    }

    fn choose_if_told(&mut self) {
        if self.round.as_ref().is_some_and(|round| round.asked.is_empty()) {
            self.choose_who_yields();
        }
    }

    fn choose_who_yields(&mut self) {
        let Some(round) = &mut self.round else { return };
        round.asked.clear();
        let candidates = std::mem::take(&mut round.candidates);
        let idle: HashMap<_, _> =
            candidates.iter().map(|one| (one.app.clone(), one.idle)).collect();
        let chosen = choose(candidates, round.bytes);
        let bytes = round.bytes;
        round.deadline = Instant::now() + YIELDING;
        round.chosen = chosen.iter().map(|(id, g, how)| (id.clone(), (*g, *how))).collect();
        if chosen.is_empty() {
            if self.room.is_full() {
                tracing::warn!(bytes, "memory is short, and no app can yield");
            }
            self.round = None;
            return self.settle();
        }
        for (id, generation, how) in chosen {
            tracing::info!(app = %id, generation = generation.0, ?how, "memory is short: it yields");
            let Some(app) = self.apps.get_mut(&id) else { continue };
            app.demotion = Some(how);
            if let State::Frozen(_) = app.life.state {
                self.play(&id, Event::Timer(Timer::Idle(generation)));
                self.stays_if_frozen(&id, generation);
            } else {
                // Whoever has been visited since is not idle for so long any more.
                let idle_at_least = idle.get(&id).copied().unwrap_or_default() / 2;
                self.order(GateOrder::AskRetire { app: id, generation, idle_at_least });
            }
        }
    }

    /// It is still there when it was to be stopped: somebody has just come, and it is being thawed.
    fn stays_if_frozen(&mut self, id: &AppId, generation: Generation) {
        if self.apps.get(id).is_some_and(|app| matches!(app.life.state, State::Frozen(_))) {
            self.yielded(id, generation);
        }
    }

    /// An instance that has ended is asked for nothing any more.
    pub(super) fn tells_no_more(&mut self, id: &AppId, generation: Generation) {
        let Some(round) = &mut self.round else { return };
        if round.asked.get(id).is_some_and(|(asked, _)| *asked == generation) {
            round.asked.remove(id);
            self.choose_if_told();
        }
    }

    /// An app that was chosen has yielded, or stays because somebody came.
    pub(super) fn yielded(&mut self, id: &AppId, generation: Generation) {
        let Some(round) = &mut self.round else { return };
        let is_chosen = round.chosen.get(id).is_some_and(|(chosen, _)| *chosen == generation);
        if !is_chosen {
            return;
        }
        round.chosen.remove(id);
        if round.chosen.is_empty() {
            self.end_round();
        }
        if let Some(app) = self.apps.get_mut(id) {
            let Some(how) = app.demotion.take() else { return };
            let has_yielded = match (&app.life.state, how) {
                (State::Frozen(_), Demotion::Freeze) => Some("frozen"),
                (State::Frozen(_), Demotion::Stop) => None,
                (State::Ready(_), _) => None,
                (
                    State::Stopped
                    | State::Provisioning(_)
                    | State::Starting(_)
                    | State::Draining(_)
                    | State::Stopping(_)
                    | State::BackingOff(_)
                    | State::Failed,
                    _,
                ) => Some("stopped"),
            };
            if let Some(words) = has_yielded {
                let past = app.past();
                past.yields += 1;
                past.reason = Some(format!("{words} before its time: memory was short"));
                self.publish(id);
            }
        }
    }

    fn end_round(&mut self) {
        self.round = None;
        self.room.is_made();
        self.look_at_memory();
    }

    /// When what is under way has taken too long.
    pub(super) fn memory_deadline(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.deadline).or(self.look_deadline)
    }

    /// A gate does not tell, somebody does not end, or nobody can look.
    pub(super) fn memory_is_late(&mut self) {
        let Some(round) = &mut self.round else {
            self.look_deadline = None;
            self.room.is_unknown();
            return self.settle();
        };
        if round.chosen.is_empty() {
            return self.choose_who_yields();
        }
        for id in std::mem::take(&mut round.chosen).into_keys() {
            if let Some(app) = self.apps.get_mut(&id) {
                app.demotion = None;
            }
        }
        self.end_round();
        self.settle();
    }
}

impl App {
    /// Whether it runs, and may be put to sleep before its time if it is idle.
    fn may_yield(&self) -> bool {
        let is_vigilant =
            |generation| self.instance(generation).is_some_and(|i| i.awake_until().is_some());
        let stays = match &self.life.state {
            State::Ready(ready) => {
                ready.successor != Successor::None
                    || Instant::from_std(ready.since).elapsed() < self.least_stay()
                    || is_vigilant(ready.generation)
            }
            State::Frozen(frozen) => {
                let gives_back = |one: &Instance| one.gives_back;
                frozen.frost != Frost::Lasting
                    || self.instance(frozen.generation).is_some_and(gives_back)
            }
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => true,
        };
        let until = self.past.as_ref().and_then(|past| past.stays_until);
        let is_left_alone = until.is_some_and(|until| Instant::now() < until);
        self.goal == Goal::Down && !stays && !is_left_alone
    }

    /// It is left alone as if it had just become ready.
    pub(super) fn stays_for_now(&mut self) {
        let until = Instant::now() + self.least_stay();
        self.past().stays_until = Some(until);
    }

    fn least_stay(&self) -> Duration {
        LEAST_STAY.max(self.cost().unwrap_or_default() * STAY_PER_COST)
    }

    /// What its starts take.
    fn cost(&self) -> Option<Duration> {
        let times = &self.past.as_ref()?.start_times;
        UsualStart::of(times).map(|usual| usual.median)
    }

    fn candidate(
        &self,
        generation: Generation,
        idle: Duration,
        bytes: u64,
        has_swap: bool,
    ) -> Candidate {
        let process = self.process();
        let may_freeze = process.is_some_and(|process| process.idle_freeze_after.is_some());
        let is_frozen = matches!(self.life.state, State::Frozen(_));
        let sleep = match (is_frozen, may_freeze && has_swap) {
            (true, _) => Sleep::Frozen,
            (false, true) => Sleep::Awake,
            (false, false) => Sleep::AwakeForGood,
        };
        Candidate {
            app: self.spec.id.clone(),
            generation,
            idle,
            cost: self.cost(),
            bytes,
            sleep,
            may_stop: process.is_some_and(|process| process.idle_stop_after.is_some()),
        }
    }
}

#[cfg(test)]
mod tests;
