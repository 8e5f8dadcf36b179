//! Definitions: what is new is added, what changed is replaced, what is missing leaves.

use std::{collections::HashSet, sync::Arc, time::Duration};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, ProcessSpec, StartMode},
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Desk,
    app::{App, start_mode},
    fingerprint::Outset,
    needs::Descent,
    replicas,
};
use crate::{
    lifecycle::{Event, Goal, Launch, Off},
    message::{Endpoint, GateOrder},
    protocol::Lineage,
};

/// How long a disk is waited for that moves logs.
const A_MOMENT: Duration = Duration::from_secs(2);

impl Desk {
    pub(super) fn define_all(&mut self, specs: &[Arc<AppSpec>]) {
        self.settle_logs(None);
        let further: Vec<Arc<AppSpec>> = specs.iter().flat_map(replicas::further).collect();
        let all = || specs.iter().chain(&further);
        let kept: HashSet<&AppId> = all().map(|spec| &spec.id).collect();
        let gone: Vec<AppId> =
            self.apps.keys().filter(|app| !kept.contains(app)).cloned().collect();
        drop(kept);
        for app in &gone {
            self.remove(app);
        }
        for spec in all() {
            self.define(spec);
        }
    }

    pub(super) fn define(&mut self, spec: &Arc<AppSpec>) {
        let id = spec.id.clone();
        match self.apps.get(&id) {
            None => {
                self.apps.insert(id.clone(), Box::new(App::new(spec.clone())));
                self.set_up(&id, spec, None);
                self.publish(&id);
            }
            Some(app) if app.spec == *spec && app.goal != Goal::Disabled(Off::Removed) => {}
            Some(app) => {
                let old = app.spec.clone();
                self.set_up(&id, spec, Some(&old));
                self.publish(&id);
            }
        }
    }

    /// Drains and stops an app, and forgets it when nothing of it is left.
    pub(super) fn remove(&mut self, id: &AppId) {
        if !self.apps.contains_key(id) {
            return;
        }
        self.close_upstream(id, Off::Removed);
        if let Some(app) = self.apps.get_mut(id) {
            app.goal = Goal::Disabled(Off::Removed);
            app.overtake_waiters();
        }
        self.note_definition(id, None);
        self.descend(id, Descent::Forbidden);
        self.settle();
        self.forget_if_over(id);
    }

    /// Forgets an app that was removed, once nothing of it runs.
    pub(super) fn forget_if_over(&mut self, id: &AppId) {
        let is_over = self.apps.get(id).is_some_and(|app| {
            app.goal == Goal::Disabled(Off::Removed)
                && app.life.is_over()
                && app.instances.is_empty()
        });
        if is_over {
            self.apps.remove(id);
            self.forget_hours(id);
            self.note_bonds(id);
            self.order(GateOrder::Forget { app: id.clone() });
            self.channels.snapshots.forget(id);
        }
    }

    fn set_up(&mut self, id: &AppId, new: &Arc<AppSpec>, old: Option<&Arc<AppSpec>>) {
        self.note_definition(id, Some(new));
        if let Some(app) = self.apps.get_mut(id) {
            app.spec = new.clone();
        }
        match &new.backend {
            Backend::Process(process) => {
                self.close_upstream_quietly(id);
                self.set_up_process(id, new, process, old);
            }
            Backend::Upstream(upstream) => {
                self.forget_hours(id);
                let is_same = old.is_some_and(|old| match &old.backend {
                    Backend::Upstream(old) => old == upstream,
                    Backend::Process(_) | Backend::Shared(_) => false,
                });
                self.set_up_upstream(id, is_same);
            }
            // Its gate is like that of an upstream: open unless somebody disables it. What answers is
            // behind the host's gate.
            Backend::Shared(shared) => {
                self.forget_hours(id);
                let before = old.and_then(|old| old.shared());
                self.set_up_upstream(id, before == Some(shared));
            }
        }
    }

    fn set_up_process(
        &mut self,
        id: &AppId,
        new: &Arc<AppSpec>,
        process: &ProcessSpec,
        old: Option<&Arc<AppSpec>>,
    ) {
        let old_mode = old.and_then(|old| start_mode(old));
        let is_new_mode = old_mode.is_some_and(|mode| mode != process.start);
        if is_new_mode && process.start == StartMode::Disabled && self.switches.disabled_anew(id) {
            self.keep_switches();
        }
        if old.is_some() {
            self.driver.logs_are(id, *process.logs);
        }
        let Some(app) = self.apps.get_mut(id) else { return };
        let program = app.program.replace(new.clone());
        let hours_changed = self.define_hours(id);
        let goal = self.goal_of(id, process.start);
        let Some(app) = self.apps.get_mut(id) else { return };
        let was_removed = app.goal == Goal::Disabled(Off::Removed);
        // An operator's `stop` of an app that always runs outlives a change elsewhere.
        let mode_changed = was_removed || old_mode != Some(process.start);
        let goal_changed = mode_changed || hours_changed;
        if goal_changed {
            app.goal = goal;
        }
        if was_removed {
            app.descent = None;
        }
        let are_alike = old.is_some() || self.adopt(id);
        self.recall_starts(id);
        // Gates of new apps hold by themselves; one that was removed before may still refuse.
        let sleeps = old.is_none() && goal == Goal::Down;
        if sleeps && self.is_set_up {
            self.order(GateOrder::Hold { app: id.clone() });
        }
        if goal_changed && matches!(goal, Goal::Disabled(_)) && old.is_some() {
            // Behind those that need it, by the definitions to come.
            return self.forbidden.push(id.clone());
        }
        if goal_changed && !sleeps {
            self.play(id, Event::GoalChanged);
        }
        if let Some(program) = program {
            let launch = launch(&program, new);
            self.play(id, Event::Redefined(launch));
        }
        if !are_alike {
            self.play(id, Event::Redefined(Launch::Changed));
        }
        // Another version of us has started it, and it may have gone to sleep since.
        let was_started = self.took_over && !self.is_set_up;
        // Further replicas come when the first one does.
        let starts_with_us = process.start == StartMode::WithServer
            && goal == Goal::Down
            && !id.is_further_replica();
        if mode_changed && starts_with_us && !was_started {
            self.play(id, Event::Start);
        }
    }

    /// What operators switched, and what they print, goes with the apps. Answered when that is so.
    pub(super) fn trace(&mut self, lineage: &Lineage, done: oneshot::Sender<()>) {
        if self.switches.follow(lineage) {
            self.keep_switches();
        }
        self.driver.logs_follow(lineage);
        self.settle_logs(Some(done));
    }

    /// Moves logs, and removes what was put aside long ago. Whoever waits for that does not wait for a disk that
    /// hangs.
    fn settle_logs(&mut self, done: Option<oneshot::Sender<()>>) {
        let driver = Arc::clone(&self.driver);
        self.errands.spawn(async move {
            let mut settling = tokio::task::spawn_blocking(move || driver.settle_logs());
            let in_time = timeout(A_MOMENT, &mut settling).await;
            // The one who asked may have left.
            let _ = done.map(|done| done.send(()));
            let settled = match in_time {
                Ok(settled) => settled,
                Err(_) => settling.await,
            };
            if let Err(error) = settled {
                tracing::error!(%error, "the output of apps cannot be moved");
            }
        });
    }

    /// Writes down what operators switched, in its own time.
    fn keep_switches(&mut self) {
        let saved = self.switch_file.save(&self.switches);
        self.errands.spawn(async move {
            if let Err(error) = saved.await {
                tracing::error!(%error, "cannot keep which apps are disabled");
            }
        });
    }

    /// Opens the gate of a static upstream; a program that served before drains and stops.
    pub(super) fn set_up_upstream(&mut self, id: &AppId, is_same: bool) {
        let is_disabled = self.switches.is_disabled(id, None);
        let Some(app) = self.apps.get_mut(id) else { return };
        let runs = app.program.is_some();
        let before = app.upstream;
        app.goal = match (runs, is_disabled) {
            (_, true) => Goal::Disabled(Off::Operator),
            (true, false) => Goal::Disabled(Off::Removed),
            (false, false) => Goal::Down,
        };
        match (is_disabled, before) {
            (true, _) => self.close_upstream(id, Off::Operator),
            (false, Some(_)) if is_same => {}
            (false, before) => {
                self.open_upstream(id);
                if let Some(generation) = before {
                    self.order(GateOrder::Shut { app: id.clone(), generation });
                }
            }
        }
        if runs {
            self.play(id, Event::GoalChanged);
        }
        if let Some(app) = self.apps.get_mut(id)
            && !is_disabled
        {
            app.goal = Goal::Down;
        }
    }

    fn open_upstream(&mut self, id: &AppId) {
        let generation = self.generations.next();
        if let Some(app) = self.apps.get_mut(id) {
            app.upstream = Some(generation);
            app.lacks_nothing();
            app.since_unix_seconds = super::app::unix_seconds();
        }
        let (app, endpoint) = (id.clone(), Endpoint::Upstream);
        self.order(GateOrder::Open { app, generation, endpoint, started: None });
    }

    /// Shuts the gate of a static upstream and refuses requests.
    pub(super) fn close_upstream(&mut self, id: &AppId, off: Off) {
        let Some(app) = self.apps.get_mut(id) else { return };
        if app.start_mode().is_some() {
            return;
        }
        let open = app.upstream.take();
        app.lacks_nothing();
        app.since_unix_seconds = super::app::unix_seconds();
        self.refuse(id, off);
        if let Some(generation) = open {
            self.order(GateOrder::Shut { app: id.clone(), generation });
        }
    }

    /// Shuts it because a program takes over: requests are held for that.
    fn close_upstream_quietly(&mut self, id: &AppId) {
        let Some(app) = self.apps.get_mut(id) else { return };
        if let Some(generation) = app.upstream.take() {
            app.lacks_nothing();
            self.order(GateOrder::Shut { app: id.clone(), generation });
        }
    }

    /// What is wanted of an app with this start mode now, if nobody disabled it.
    pub(super) fn goal_by_definition(&self, id: &AppId, mode: StartMode) -> Goal {
        self.apps.get(id).map_or(Goal::of(mode), |app| app.goal_by_definition(mode))
    }

    /// What is wanted of an app with this start mode, as far as operators agree.
    pub(super) fn goal_of(&self, id: &AppId, mode: StartMode) -> Goal {
        if self.switches.is_disabled(id, Some(mode)) {
            Goal::Disabled(Off::Operator)
        } else {
            self.goal_by_definition(id, mode)
        }
    }
}

/// Whether instances of the old definition are as good as those of the new one.
fn launch(old: &AppSpec, new: &AppSpec) -> Launch {
    match (Outset::of(old), Outset::of(new)) {
        (Some(before), Some(after)) if before == after => Launch::Same,
        _ => Launch::Changed,
    }
}
