//! What instances and gates report.

use std::time::Duration;

use doorbell_config::name::AppId;
use tokio::time::Instant;

use super::Desk;
use crate::{
    driver::{Note, Report},
    lifecycle::{Event, Failure, GateEvent, InstanceEvent, State, Successor, Timer},
    message::{GateOrder, GateReport, Generation, StartPhase},
};

/// Characters of what a proxy says of an app that are kept.
const MOST_WORDS: usize = 500;

impl Desk {
    /// An instance tells something.
    pub(super) fn report(&mut self, report: Report) {
        let Report { app, generation, note } = report;
        match note {
            Note::AwaitsUpgrade { limit } => self.awaits_upgrade(&app, generation, limit),
            Note::Upgrading { pid, limit } => self.upgrading(&app, generation, pid, limit),
            Note::Spawned(pid) => self.spawned(&app, generation, pid),
            Note::Ready { endpoint, times } => {
                if let Some(instance) = self.instance_mut(&app, generation) {
                    instance.ready = Some((endpoint, times));
                }
                self.play(&app, Event::Instance(generation, InstanceEvent::Ready));
            }
            Note::Thawed => self.play(&app, Event::Instance(generation, InstanceEvent::Thawed)),
            Note::GaveBack => self.gave_back(&app, generation),
            Note::Accepts => self.play(&app, Event::Instance(generation, InstanceEvent::Accepts)),
            Note::Failed { failure, reason } => self.failed(&app, generation, failure, reason),
            Note::Elsewhere(warning) => {
                if let Some(instance) = self.instance_mut(&app, generation) {
                    instance.is_elsewhere = true;
                }
                self.report(Report { app, generation, note: Note::Warning(warning) });
            }
            Note::Warning(warning) => {
                tracing::warn!(%app, generation = generation.0, "{warning}");
                if let Some(instance) = self.instance_mut(&app, generation) {
                    instance.warnings.push(warning);
                }
                self.publish(&app);
            }
            Note::Probe(endpoint, question) => {
                self.start_is_at(&app, generation, StartPhase::Ready);
                self.order(GateOrder::Probe { app, generation, endpoint, question });
            }
            Note::Vigils(vigils, telling) => {
                self.vigils_changed(&app, generation, vigils, telling);
            }
            Note::EndProbe => self.order(GateOrder::EndProbe { app, generation }),
            Note::Gone => self.gone(&app, generation),
        }
    }

    fn instance_mut(
        &mut self,
        app: &AppId,
        generation: Generation,
    ) -> Option<&mut super::app::Instance> {
        self.apps.get_mut(app)?.instance_mut(generation)
    }

    /// Another replica or Doorbell is at it. Whoever only waits stands in nobody's way.
    fn awaits_upgrade(&mut self, app: &AppId, generation: Generation, limit: Duration) {
        self.start_is_at(app, generation, StartPhase::Upgrade);
        let Some(instance) = self.instance_mut(app, generation) else { return };
        instance.is_upgraded = true;
        self.allow(app, generation, limit);
        self.line.end(generation);
        self.settle();
    }

    /// It has a new version: what a start may take begins behind its upgrade.
    fn upgrading(&mut self, app: &AppId, generation: Generation, pid: u32, limit: Duration) {
        tracing::info!(%app, generation = generation.0, pid, "its upgrade runs");
        self.start_is_at(app, generation, StartPhase::Upgrade);
        let Some(instance) = self.instance_mut(app, generation) else { return };
        (instance.pid, instance.is_upgraded) = (Some(pid), true);
        self.allow(app, generation, limit);
        self.publish(app);
    }

    /// A start has this long, and what all starts have, from now on.
    fn allow(&mut self, id: &AppId, generation: Generation, longer: Duration) {
        let Some(app) = self.apps.get(id) else { return };
        let (Some(terms), true) = (app.terms(), is_starting(&app.life.state, generation)) else {
            return;
        };
        let until = Instant::now() + longer + terms.start_deadline;
        self.timers.set(id, Timer::StartDeadline(generation), until.into_std());
    }

    fn spawned(&mut self, app: &AppId, generation: Generation, pid: u32) {
        tracing::info!(%app, generation = generation.0, pid, "started");
        let Some(known) = self.apps.get_mut(app) else { return };
        let is_main = known.life.state.generation() == Some(generation);
        let Some(instance) = known.instance_mut(generation) else { return };
        instance.pid = Some(pid);
        if std::mem::take(&mut instance.is_upgraded) {
            // What the upgrade asked for went with it.
            instance.vigils.clear();
            self.allow(app, generation, Duration::ZERO);
        }
        self.start_is_at(app, generation, StartPhase::Listen);
        let Some(known) = self.apps.get_mut(app) else { return };
        let Some(instance) = known.instance_mut(generation) else { return };
        if is_main {
            let witness = instance.handle.witness();
            self.meter.watch(app, generation, witness);
        }
        self.publish(app);
    }

    fn failed(&mut self, app: &AppId, generation: Generation, failure: Failure, reason: String) {
        tracing::warn!(%app, generation = generation.0, reason, "ended by itself");
        if let Some(known) = self.apps.get_mut(app)
            && is_current(&known.life.state, generation)
        {
            let output = known.instance(generation).map(|i| i.handle.last_output());
            let past = known.past();
            past.reason = Some(reason);
            past.last_output = output.unwrap_or_default();
            // It yields nothing: it has failed.
            known.demotion = None;
        }
        self.play(app, Event::Instance(generation, InstanceEvent::Failed(failure)));
    }

    fn gone(&mut self, app: &AppId, generation: Generation) {
        tracing::info!(%app, generation = generation.0, "stopped");
        self.meter.forget(app, generation);
        if let Some(known) = self.apps.get_mut(app) {
            known.instances.retain(|instance| instance.generation != generation);
        }
        self.play(app, Event::Instance(generation, InstanceEvent::Gone));
        self.tells_no_more(app, generation);
        self.yielded(app, generation);
        self.answer_waiters(app);
        self.forget_if_over(app);
    }

    fn answer_waiters(&mut self, app: &AppId) {
        if let Some(app) = self.apps.get_mut(app) {
            app.answer_waiters();
        }
    }

    /// A gate tells something.
    pub(super) fn gate(&mut self, report: GateReport) {
        let (app, generation, event) = match report {
            GateReport::Wanted { app } => {
                self.wake_by_visit(&app);
                return self.wanted(&app);
            }
            GateReport::Retired { app, generation } => (app, generation, GateEvent::Retired),
            GateReport::Busy { app, generation, idle_for } => {
                self.idle_is_told(&app, generation, idle_for);
                (app, generation, GateEvent::Busy(idle_for))
            }
            GateReport::Drained { app, generation } if self.works_on(&app, generation) => return,
            GateReport::Drained { app, generation } => (app, generation, GateEvent::Drained),
            GateReport::Unreachable { app, generation } => {
                (app, generation, GateEvent::Unreachable)
            }
            GateReport::Answered { app, generation } => {
                return self.probed(&app, generation, Ok(()));
            }
            GateReport::NotAnswered { app, generation, words } => {
                return self.probed(&app, generation, Err(words));
            }
            GateReport::Lacks { app, generation, words } => {
                return self.lacks(&app, generation, words);
            }
        };
        self.play(&app, Event::Gate(generation, event));
    }

    /// What an app that shares an instance is seen to lack there.
    fn lacks(&mut self, app: &AppId, generation: Generation, words: Option<String>) {
        // Proxies are not believed to be brief.
        let words = words.map(|words| words.chars().take(MOST_WORDS).collect::<String>());
        let Some(known) = self.apps.get_mut(app) else { return };
        let is_it = known.upstream == Some(generation) && known.spec.shared().is_some();
        let before = known.past.as_ref().and_then(|past| past.reason.as_ref());
        if !is_it || before == words.as_ref() {
            return;
        }
        match &words {
            Some(words) => tracing::warn!(%app, reason = words, "is not ready"),
            None => tracing::info!(%app, "is ready again"),
        }
        known.past().reason = words;
        self.publish(app);
    }

    /// An instance was asked whether it is ready.
    fn probed(&self, app: &AppId, generation: Generation, outcome: Result<(), String>) {
        if let Some(instance) = self.apps.get(app).and_then(|app| app.instance(generation)) {
            instance.handle.probed(outcome);
        }
    }

    /// Somebody waits at a gate that the desk may know nothing of, or think open.
    fn wanted(&mut self, id: &AppId) {
        let is_served = self.is_served_by_another(id);
        match self.apps.get_mut(id) {
            // The gate of an app that was removed outlives it for a moment.
            None => {
                self.refuse(id, crate::lifecycle::Off::Removed);
                self.order(GateOrder::Forget { app: id.clone() });
            }
            Some(app) if app.start_mode().is_none() => match app.upstream {
                Some(generation) => self.reopen_upstream(id, generation),
                None => self.refuse(id, crate::lifecycle::Off::Operator),
            },
            Some(app) => {
                // A gate that asks though an instance is ready only missed its opening; or nobody waits
                // for it, as another replica serves.
                app.is_visited |= !is_served && !matches!(app.life.state, State::Ready(_));
                // Who comes later is told how far it is; of a new start its phases tell.
                self.tell_progress(id);
                self.play(id, Event::Wanted);
            }
        }
    }

    fn reopen_upstream(&mut self, id: &AppId, generation: Generation) {
        let endpoint = crate::message::Endpoint::Upstream;
        let app = id.clone();
        self.order(GateOrder::Open { app, generation, endpoint, started: None });
    }
}

/// Whether this instance is on its way to be ready.
fn is_starting(state: &State, generation: Generation) -> bool {
    matches!(state, State::Starting(starting) if starting.generation == generation)
        || matches!(state, State::Ready(old) if old.successor == Successor::Starting(generation))
}

/// Whether the state is about this instance, or it is to take over.
fn is_current(state: &State, generation: Generation) -> bool {
    let successor = match state {
        State::Ready(ready) => match ready.successor {
            Successor::Starting(successor) => Some(successor),
            Successor::None | Successor::AwaitsNeeds | Successor::InLine => None,
        },
        State::Stopped
        | State::Provisioning(_)
        | State::Starting(_)
        | State::Frozen(_)
        | State::Draining(_)
        | State::Stopping(_)
        | State::BackingOff(_)
        | State::Failed => None,
    };
    state.generation() == Some(generation) || successor == Some(generation)
}
