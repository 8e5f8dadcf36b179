//! How decisions are carried out.

use std::time::Duration;

use doorbell_config::{name::AppId, spec::StopSpec};
use tokio::time::Instant;

use super::{
    Desk,
    app::{Instance, Start, unix_seconds},
    fingerprint::fingerprint,
};
use crate::{
    driver::{Job, Work},
    lifecycle::{Effect, Event, StartOutcome, step},
    message::{GateOrder, Generation, StartPhase, WaitsFor},
};

impl Desk {
    /// Plays what is to be played, and admits whom there is room for, until nothing is left.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some((app, event)) = self.events.pop_front() {
                self.play_one(&app, event);
            }
            self.see_descended();
            if !self.events.is_empty() {
                continue;
            }
            // While apps are being defined, the next one may be about to change.
            let next = self.next_in_line().filter(|_| !self.is_defining).cloned();
            let Some(next) = next else { return };
            if !self.has_room_for(&next) {
                return;
            }
            let generation = self.generations.next();
            self.line.admit(&next, generation);
            self.events.push_back((next, Event::Admitted(generation)));
        }
    }

    /// Who starts next, if anybody may now.
    pub(super) fn next_in_line(&self) -> Option<&AppId> {
        self.line.next(|id| self.is_its_turn(id))
    }

    fn play_one(&mut self, id: &AppId, event: Event) {
        let terms = self.terms(id);
        let Some(app) = self.apps.get_mut(id) else { return self.play_for_nobody(id, &event) };
        let Some(terms) = terms else { return self.note_bonds(id) };
        let before = (app.life.state.name(), app.life.state.generation());
        let life = std::mem::take(&mut app.life);
        let (life, effects) = step(life, &terms, event, Instant::now().into_std());
        app.life = life;
        if before != (app.life.state.name(), app.life.state.generation()) {
            app.since_unix_seconds = unix_seconds();
        }
        if matches!(event, Event::Stop | Event::StopNow) {
            self.call_off_withheld(id);
        }
        for effect in effects {
            self.perform(id, effect);
        }
        self.note_bonds(id);
        self.weigh_refusal(id);
        if event == Event::NeededChanged {
            self.descend_if_free(id);
            self.follow_first(id);
        }
    }

    /// The app was forgotten while it stood in the line, or others need it that is not there.
    fn play_for_nobody(&mut self, id: &AppId, event: &Event) {
        if let Event::Admitted(generation) = event {
            self.line.end(*generation);
        }
        self.note_bonds(id);
    }

    pub(super) fn perform(&mut self, id: &AppId, effect: Effect) {
        match effect {
            Effect::Enqueue => {
                if let Some(app) = self.apps.get_mut(id) {
                    app.queued_since.get_or_insert_with(Instant::now);
                }
                self.line.join(id.clone());
                self.start_queued(id);
            }
            Effect::Withdraw => {
                self.line.leave(id);
                self.give_up_line(id);
            }
            Effect::StepBack => self.line.leave(id),
            Effect::AwaitNeeds => self.await_needs(id),
            Effect::ForgoNeeds => self.give_up_line(id),
            Effect::BlameNeeds => self.blame_needs(id),
            Effect::Spawn(generation) => self.spawn(id, generation),
            Effect::EndStart(generation, outcome) => self.end_start(id, generation, outcome),
            Effect::Signal(generation) => self.signal(id, generation),
            Effect::Kill(generation) => {
                if let Some(instance) = self.apps.get(id).and_then(|a| a.instance(generation)) {
                    instance.handle.kill();
                }
            }
            Effect::Check(generation) => {
                if let Some(instance) = self.apps.get(id).and_then(|a| a.instance(generation)) {
                    instance.handle.check();
                }
            }
            Effect::Freeze(generation) => {
                self.gives_back(id, generation, true);
                self.stand_still(id, generation, true);
            }
            Effect::Thaw(generation) => self.stand_still(id, generation, false),
            Effect::OpenGate(generation) => self.open_gate(id, generation, Opening::First),
            Effect::ReopenGate(generation) => self.open_gate(id, generation, Opening::Again),
            Effect::OpenGateAgain(generation) => self.open_gate_again(id, generation),
            Effect::ShutGate(generation) => {
                self.order(GateOrder::Shut { app: id.clone(), generation });
            }
            Effect::AskRetire(generation) => {
                let idle_at_least = self.idle_at_least(id);
                self.order(GateOrder::AskRetire { app: id.clone(), generation, idle_at_least });
            }
            // While static servers answer, what becomes of the program concerns no visitor.
            Effect::Refuse(_) | Effect::Hold if self.has_upstream(id) => {}
            Effect::Refuse(refusal) if self.withholds(id, refusal.reason) => {}
            Effect::Refuse(refusal) => self.order(GateOrder::Refuse { app: id.clone(), refusal }),
            Effect::Hold => self.order(GateOrder::Hold { app: id.clone() }),
            Effect::SetTimer(timer, at) => self.timers.set(id, timer, at),
            Effect::CancelTimer(timer) => self.timers.cancel(id, timer),
            Effect::Publish => self.publish(id),
        }
    }

    fn give_up_line(&mut self, id: &AppId) {
        if let Some(app) = self.apps.get_mut(id) {
            app.is_visited = false;
            app.stands_in_no_line();
        }
    }

    /// How long an instance stands idle before it is frozen or stopped; it is only asked for where
    /// that is set.
    fn idle_at_least(&self, id: &AppId) -> Duration {
        self.terms(id).and_then(|terms| terms.idle()).unwrap_or(Duration::MAX)
    }

    fn stand_still(&self, id: &AppId, generation: Generation, is_to: bool) {
        if let Some(instance) = self.apps.get(id).and_then(|app| app.instance(generation)) {
            instance.handle.stand_still(is_to);
        }
    }

    fn gives_back(&mut self, id: &AppId, generation: Generation, gives_back: bool) {
        if let Some(instance) = self.apps.get_mut(id).and_then(|app| app.instance_mut(generation)) {
            instance.gives_back = gives_back;
        }
    }

    /// A frozen instance has no memory left that it could give back.
    pub(super) fn gave_back(&mut self, id: &AppId, generation: Generation) {
        self.gives_back(id, generation, false);
        self.yielded(id, generation);
    }

    fn open_gate_again(&mut self, id: &AppId, generation: Generation) {
        let Some(app) = self.apps.get_mut(id) else { return };
        // Who woke it from light sleep did not wait for a start.
        app.is_visited = false;
        app.stands_in_no_line();
        app.stays_for_now();
        self.gives_back(id, generation, false);
        // It was to yield, perhaps, and is needed.
        self.yielded(id, generation);
        let Some(app) = self.apps.get(id) else { return };
        let instance = app.instance(generation);
        if let Some((endpoint, _)) = instance.and_then(|instance| instance.ready.clone()) {
            self.order(GateOrder::Reopen { app: id.clone(), generation, endpoint });
        }
    }

    fn has_upstream(&self, id: &AppId) -> bool {
        self.apps.get(id).is_some_and(|app| app.start_mode().is_none())
    }

    fn spawn(&mut self, id: &AppId, generation: Generation) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let Some(spec) = app.program.clone() else { return };
        let admitted = Instant::now();
        let queued = app.queued_since.take().map(|since| admitted - since).unwrap_or_default();
        let fingerprint = fingerprint(&spec);
        let work = Work::Serve;
        let job = Job { app: spec, generation, fingerprint, queued, admitted, work };
        let (handle, task) = self.driver.instance(job, self.reports.0.clone());
        let (phase, waits_for) = (StartPhase::Spawn, WaitsFor::Turn);
        let start = Start { phase, waits_for, since: admitted, generation: Some(generation) };
        app.start = Some(Box::new(start));
        app.instances.push(Instance::new(generation, handle));
        let task = self.tasks.spawn(task);
        self.instances.insert(task.id(), (id.clone(), generation));
    }

    fn end_start(&mut self, id: &AppId, generation: Generation, outcome: StartOutcome) {
        self.line.end(generation);
        let is_another_expected = self.is_another_expected(id);
        let Some(app) = self.apps.get_mut(id) else { return };
        let start = app.start.take_if(|start| start.generation == Some(generation));
        match outcome {
            StartOutcome::Ready => self.start_succeeded(id, generation),
            StartOutcome::Failed => {
                app.start_failed(is_another_expected);
                app.past().failed_step = start.map(|start| start.phase);
            }
            StartOutcome::TooLate => {
                app.start_failed(is_another_expected);
                let deadline = app.terms().map(|terms| terms.start_deadline).unwrap_or_default();
                let handle = app.instance(generation).map(|instance| &instance.handle);
                let look = handle.and_then(|handle| handle.last_look()).unwrap_or_default();
                let output = handle.map(|handle| handle.last_output()).unwrap_or_default();
                let reason = format!("not ready within {deadline:?}: {look}");
                tracing::warn!(app = %id, generation = generation.0, reason, "start failed");
                let past = app.past();
                past.reason = Some(reason);
                past.last_output = output;
                past.failed_step = start.map(|start| start.phase);
            }
            StartOutcome::Abandoned => app.is_visited = false,
        }
    }

    fn start_succeeded(&mut self, id: &AppId, generation: Generation) {
        let Some(app) = self.apps.get_mut(id) else { return };
        app.starts.ready += 1;
        let Some(instance) = app.instance(generation) else { return };
        let witness = instance.handle.witness();
        let times = instance.ready.as_ref().map(|(_, times)| *times);
        let past = app.past();
        past.last_start = times;
        past.reason = None;
        past.last_output = Vec::new();
        past.failed_step = None;
        times.iter().for_each(|times| past.started_in(times));
        let (total, times) = (times.map(|times| times.total()), times.unwrap_or_default());
        tracing::info!(app = %id, generation = generation.0, ?total, ?times, "ready");
        self.meter.watch(id, generation, witness);
    }

    fn signal(&mut self, id: &AppId, generation: Generation) {
        let Some(app) = self.apps.get(id) else { return };
        let stop = app.process().map_or_else(StopSpec::default, |process| *process.stop);
        if let Some(instance) = app.instance(generation) {
            instance.handle.stop(stop);
        }
    }

    fn open_gate(&mut self, id: &AppId, generation: Generation, opening: Opening) {
        let ready = self
            .apps
            .get(id)
            .and_then(|app| app.instance(generation))
            .and_then(|instance| instance.ready.clone());
        let Some((endpoint, times)) = ready else { return };
        let started = match opening {
            Opening::First => self.end_cold_start(id).then_some(times),
            Opening::Again => None,
        };
        self.order(GateOrder::Open { app: id.clone(), generation, endpoint, started });
    }

    /// Counts a start as a cold one if somebody waited for it: at the first replica, whichever is ready first.
    fn end_cold_start(&mut self, id: &AppId) -> bool {
        let first = id.is_further_replica().then(|| id.first());
        let visited = self.apps.get_mut(first.as_ref().unwrap_or(id));
        let is_cold = visited.is_some_and(|app| std::mem::take(&mut app.is_visited));
        let Some(app) = self.apps.get_mut(id) else { return false };
        app.starts.cold_ready += u64::from(is_cold);
        is_cold
    }

    /// Shows outsiders what is now, and tells those who wait for it.
    pub(super) fn publish(&mut self, id: &AppId) {
        let awaits = self.awaited(id);
        if let Some(app) = self.apps.get_mut(id) {
            self.channels.snapshots.publish(app.snapshot(awaits));
            app.answer_waiters();
        }
    }
}

/// Whether a gate learns of an instance for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    First,
    Again,
}
