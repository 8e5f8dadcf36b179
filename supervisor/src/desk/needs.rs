//! Apps that need others: told of each other when something changes, started together, stopped in
//! order.
//!
//! Nobody starts what an app needs but its own lifecycle, which is told that it is needed. What is kept
//! here besides is who goes down behind whom: an app that is to stop waits (its *descent*) until no app
//! that needs it has an instance.

use std::collections::HashSet;

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend},
};
use tokio::time::Instant;

use super::{
    Desk,
    app::{App, Start},
    bonds::Bonds,
};
use crate::{
    lifecycle::{BackingOff, Because, Event, Goal, Hold, Needs, Off, State, Terms},
    message::{StartPhase, WaitsFor},
};

/// Apps between one and what it fails for that are named.
const MOST_NAMED: usize = 10;
/// Apps that are named as those that one waits for.
const MOST_AWAITED: usize = 20;

/// How an app goes down that has to wait for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descent {
    /// An operator stopped it, or what it needs.
    Stop,
    /// The same, at once.
    StopNow,
    /// Its goal forbids it to run.
    Forbidden,
}

impl Descent {
    /// What the app is told when it is its turn.
    fn event(self) -> Event {
        match self {
            Self::Stop => Event::Stop,
            Self::StopNow => Event::StopNow,
            Self::Forbidden => Event::GoalChanged,
        }
    }
}

/// What a definition needs.
fn needs_of(spec: &AppSpec) -> &[AppId] {
    match &spec.backend {
        Backend::Process(process) => &process.needs,
        Backend::Upstream(_) | Backend::Shared(_) => &[],
    }
}

/// How an app is for those that need it, without what it needs itself.
fn standing(app: &App) -> Needs {
    match (app.goal, app.descent, &app.life.state) {
        (Goal::Disabled(_), _, _) | (_, None, State::Failed) => Needs::Off,
        (Goal::Up | Goal::Down, Some(_), _) => Needs::Coming,
        (Goal::Up | Goal::Down, None, _) if app.upstream.is_some() => Needs::Met,
        (Goal::Up | Goal::Down, None, State::Ready(_)) => Needs::Met,
        (Goal::Up | Goal::Down, None, State::BackingOff(BackingOff { until, because })) => {
            match because {
                Because::Itself => Needs::Failed(*until),
                // What it needs stands for itself.
                Because::Needs => Needs::Coming,
            }
        }
        (
            Goal::Up | Goal::Down,
            None,
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::Stopping(_),
        ) => Needs::Coming,
    }
}

impl Desk {
    /// What an app's lifecycle goes by.
    pub(super) fn terms(&self, id: &AppId) -> Option<Terms> {
        let app = self.apps.get(id)?;
        let terms = app.terms()?;
        // While apps are being defined nobody knows yet what there is.
        let needs = match self.is_defining && !needs_of(&app.spec).is_empty() {
            true => Needs::Coming,
            false => self.bonds.needs(id),
        };
        Some(Terms { needs, needed: self.bonds.needed(id), ..terms })
    }

    /// An app is defined, or defined no more.
    pub(super) fn note_definition(&mut self, id: &AppId, spec: Option<&AppSpec>) {
        let has_some = spec.is_some_and(|spec| !needs_of(spec).is_empty() || spec.instances() > 1);
        self.bonds_changed |= has_some || self.bonds.knows(id);
    }

    /// Apps were defined: tells them what has changed about those that they need, or that need them.
    pub(super) fn end_defining(&mut self) {
        self.is_defining = false;
        if std::mem::take(&mut self.bonds_changed) {
            self.bind_anew();
        }
        for id in std::mem::take(&mut self.forbidden) {
            self.stop_dependants(&id, Descent::Stop);
            self.descend(&id, Descent::Forbidden);
        }
        self.settle();
    }

    fn bind_anew(&mut self) {
        let before = std::mem::take(&mut self.bonds);
        self.bonds = self.bonds_now();
        let ids: HashSet<AppId> = before.ids().chain(self.bonds.ids()).cloned().collect();
        let mut open: Vec<AppId> = ids.iter().cloned().collect();
        while let Some(id) = open.pop() {
            self.note_bonds(&id);
            // What came of that is told below, to whom it is news.
            open.extend(self.events.drain(..).map(|(id, _)| id));
        }
        for id in ids {
            let awaits = self.apps.get(&id).is_some_and(|app| app.life.awaits_needs());
            if awaits || before.needs(&id) != self.bonds.needs(&id) {
                self.events.push_back((id.clone(), Event::NeedsChanged));
            }
            let is_leaving = self.apps.get(&id).is_some_and(|app| app.descent.is_some());
            if is_leaving || before.needed(&id) != self.bonds.needed(&id) {
                self.events.push_back((id, Event::NeededChanged));
            }
        }
        self.settle();
    }

    /// Who needs whom by the definitions that hold. One that is removed waits for nobody who stays.
    fn bonds_now(&self) -> Bonds {
        let is_removed = |id: &AppId| {
            self.apps.get(id).is_none_or(|app| app.goal == Goal::Disabled(Off::Removed))
        };
        let mut lacking = Vec::new();
        let mut bonded = Vec::new();
        for (id, app) in &self.apps {
            let needs = needs_of(&app.spec);
            if needs.is_empty() {
                continue;
            }
            let binds = |need: &&AppId| is_removed(id) || !is_removed(need);
            let kept: Vec<AppId> = needs.iter().filter(binds).cloned().collect();
            if kept.len() < needs.len() {
                lacking.push(id);
            }
            bonded.push((id, kept));
        }
        let mut bonds = Bonds::of(bonded.into_iter());
        lacking.into_iter().for_each(|id| bonds.lacks(id));
        for (id, app) in self.apps.iter().filter(|(id, _)| !id.is_further_replica()) {
            let kept = |replica: &AppId| is_removed(id) || !is_removed(replica);
            let kept: Vec<AppId> = app.spec.further_replicas().filter(kept).collect();
            if !kept.is_empty() {
                bonds.brings(id, kept);
            }
        }
        bonds
    }

    /// Tells the neighbours of an app how it is now, if that has changed.
    pub(super) fn note_bonds(&mut self, id: &AppId) {
        if !self.bonds.knows(id) {
            return;
        }
        let (hold, brings, standing) = match self.apps.get(id) {
            Some(app) => (app.life.hold(), app.life.brings(), standing(app)),
            None => (Hold::None, Hold::None, Needs::Off),
        };
        let before = self.bonds.standing(id);
        let events = self.bonds.note(id, hold, standing);
        self.events.extend(events);
        let events = self.bonds.bring(id, brings);
        self.events.extend(events);
        if self.bonds.standing(id) != before {
            for dependant in self.bonds.all_dependants(id) {
                if self.apps.get(&dependant).is_some_and(|app| app.life.awaits_needs()) {
                    self.publish(&dependant);
                }
            }
        }
    }

    /// Lets an app go down when no app that needs it has an instance any more.
    pub(super) fn descend(&mut self, id: &AppId, how: Descent) {
        let waits = self.bonds.has_instances_above(id);
        let Some(app) = self.apps.get_mut(id) else { return };
        app.descent = waits.then_some(how);
        if !waits {
            self.events.push_back((id.clone(), how.event()));
        }
        self.note_bonds(id);
    }

    /// Goes on with a descent that has nobody to wait for any more.
    pub(super) fn descend_if_free(&mut self, id: &AppId) {
        let is_free = !self.bonds.has_instances_above(id);
        let Some(app) = self.apps.get_mut(id) else { return };
        let Some(how) = app.descent.take_if(|_| is_free) else { return };
        self.events.push_back((id.clone(), how.event()));
        self.descended.push(id.clone());
    }

    /// Those whose descent began may have had nothing to stop.
    pub(super) fn see_descended(&mut self) {
        for id in std::mem::take(&mut self.descended) {
            self.publish(&id);
            self.forget_if_over(&id);
        }
    }

    /// Stops those that need an app, each behind those that need it itself.
    pub(super) fn stop_dependants(&mut self, id: &AppId, how: Descent) {
        for dependant in self.bonds.all_dependants(id) {
            let Some(app) = self.apps.get_mut(&dependant) else { continue };
            // Who goes down already is only hurried.
            if app.life.is_over() || app.is_disabled() && how != Descent::StopNow {
                continue;
            }
            tracing::info!(app = %dependant, need = %id, "is stopped with what it needs");
            if !app.is_disabled() {
                app.goal = Goal::Down;
            }
            self.descend(&dependant, how);
        }
    }

    /// An operator wants an app that needs these: they are started as if they were asked for.
    pub(super) fn start_needs(&mut self, id: &AppId) {
        self.call_back(id);
        for need in self.bonds.all_needs(id) {
            self.call_back(&need);
            if self.apps.get(&need).is_some_and(|app| !app.is_disabled()) {
                self.play(&need, Event::Start);
            }
        }
    }

    /// It is not to go down after all.
    pub(super) fn call_back(&mut self, id: &AppId) {
        if let Some(app) = self.apps.get_mut(id) {
            app.descent = None;
        }
        self.note_bonds(id);
    }

    /// An app waits for those that it needs.
    pub(super) fn await_needs(&mut self, id: &AppId) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let since = *app.queued_since.get_or_insert_with(Instant::now);
        let (phase, waits_for) = (StartPhase::Queued, WaitsFor::Needs);
        app.start = Some(Box::new(Start { phase, waits_for, since, generation: None }));
        self.tell_progress(id);
    }

    /// It cannot start: counts that, and says whose fault it is.
    pub(super) fn blame_needs(&mut self, id: &AppId) {
        let reason = self.blamed(id);
        let Some(app) = self.apps.get_mut(id) else { return };
        app.stands_in_no_line();
        app.start_failed(false);
        let past = app.past();
        // Visitors of a frozen app may ask again and again.
        if past.reason.as_ref() != Some(&reason) {
            tracing::warn!(app = %id, reason, "start failed");
        }
        past.reason = Some(reason);
        past.last_output = Vec::new();
        past.failed_step = None;
        self.publish(id);
    }

    /// Which of the apps that it needs keeps an app from starting, and why.
    fn blamed(&self, id: &AppId) -> String {
        let (mut words, mut at) = (String::new(), id.clone());
        for _ in 0..MOST_NAMED {
            let needs = self.apps.get(&at).map(|app| needs_of(&app.spec)).unwrap_or_default();
            if let Some((need, why)) = needs.iter().find_map(|id| Some((id, self.fault(id)?))) {
                return format!("{words}needs \"{need}\", which {why}");
            }
            let is_bad = |need: &&AppId| self.bonds.needs(need) > Needs::Coming;
            let Some(next) = needs.iter().find(is_bad) else { break };
            words += &format!("needs \"{next}\", which ");
            at = next.clone();
        }
        format!("{words}needs an app that cannot start")
    }

    /// What is wrong with an app itself, if anything.
    fn fault(&self, id: &AppId) -> Option<String> {
        let Some(app) = self.apps.get(id) else { return Some("is not defined".to_owned()) };
        match (app.goal, &app.life.state) {
            (Goal::Disabled(Off::Operator), _) => Some("is disabled".to_owned()),
            (Goal::Disabled(Off::Removed), _) => Some("is not defined any more".to_owned()),
            (Goal::Disabled(Off::Shutdown), _) => Some("is stopped with doorbell".to_owned()),
            (
                Goal::Up | Goal::Down,
                State::BackingOff(BackingOff { because: Because::Itself, .. }) | State::Failed,
            ) => {
                let reason = app.past.as_ref().and_then(|past| past.reason.as_deref());
                Some(format!("does not run: {}", reason.unwrap_or("it failed")))
            }
            (
                Goal::Up | Goal::Down,
                State::BackingOff(BackingOff { because: Because::Needs, .. })
                | State::Stopped
                | State::Provisioning(_)
                | State::Starting(_)
                | State::Ready(_)
                | State::Frozen(_)
                | State::Draining(_)
                | State::Stopping(_),
            ) => None,
        }
    }

    /// The apps that one waits for, for operators.
    pub(super) fn awaited(&self, id: &AppId) -> Vec<AppId> {
        if !self.apps.get(id).is_some_and(|app| app.life.awaits_needs()) {
            return Vec::new();
        }
        let is_missing =
            |need: &AppId| self.apps.get(need).is_none_or(|app| standing(app) != Needs::Met);
        self.bonds.all_needs(id).into_iter().filter(is_missing).take(MOST_AWAITED).collect()
    }
}
