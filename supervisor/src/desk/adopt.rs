//! How apps come by instances that outlived an earlier supervisor.
//!
//! Each is taken up when its app is defined. When all are, what nobody took up is ended; starts wait
//! for that, so that no app ever runs twice.

use std::collections::HashMap;

use doorbell_config::name::AppId;
use tokio::time::Instant;

use super::{
    Desk,
    app::{App, Instance, Past},
    carry::Carried,
    fingerprint::fingerprint,
    sweep,
};
use crate::{
    driver::{Adoptee, Job, Phase, Work},
    lifecycle::{Adoption, Goal, adopt},
};

/// Instances by their apps, the oldest first.
pub(super) fn by_app(adoptees: Vec<(AppId, Adoptee)>) -> HashMap<AppId, Vec<Adoptee>> {
    let mut by_app: HashMap<AppId, Vec<Adoptee>> = HashMap::new();
    for (app, adoptee) in adoptees {
        by_app.entry(app).or_default().push(adoptee);
    }
    by_app
}

impl App {
    /// Goes on with what an earlier version knew.
    fn take_up(&mut self, carried: &Carried) {
        self.starts = carried.starts;
        if carried.rests && self.goal == Goal::Up {
            self.goal = Goal::Down;
        }
        if carried.since_unix_seconds > 0 {
            self.since_unix_seconds = carried.since_unix_seconds;
        }
        if carried.past != Past::default() {
            *self.past() = carried.past.clone();
        }
    }
}

impl Desk {
    /// Takes up the instances of an app that was just defined; tells whether they run as it says now, and no
    /// other was to take over.
    pub(super) fn adopt(&mut self, id: &AppId) -> bool {
        let adoptees = self.adoptees.remove(id).unwrap_or_default();
        let carried = self.carried.remove(id);
        if adoptees.is_empty() && carried.is_none() {
            return true;
        }
        let Some(app) = self.apps.get_mut(id) else { return true };
        let carried = carried.unwrap_or_default();
        app.take_up(&carried);
        let (Some(spec), Some(terms)) = (app.program.clone(), app.terms()) else { return true };
        let fingerprint = fingerprint(&spec);
        let Carried { failures, back_off, awaits_successor, .. } = carried;
        let mut adoption = Adoption { failures, back_off, ..Adoption::default() };
        let mut are_alike = !awaits_successor;
        for adoptee in adoptees {
            let (generation, pid) = (adoptee.generation(), adoptee.pid());
            let is_strange = self.driver.is_strange(id, generation);
            let list = match adoptee.phase() {
                Phase::Ready if is_strange => &mut adoption.strange,
                Phase::Upgrading | Phase::Starting | Phase::Frozen if is_strange => {
                    &mut adoption.leaving
                }
                Phase::Upgrading | Phase::Starting => &mut adoption.starting,
                Phase::Ready => &mut adoption.ready,
                Phase::Frozen => &mut adoption.frozen,
                Phase::Leaving => &mut adoption.leaving,
            };
            list.push(generation);
            are_alike = !awaits_successor && (is_strange || adoptee.fingerprint() == fingerprint);
            let (phase, ready, vigils) = (adoptee.phase(), adoptee.ready(), adoptee.vigils());
            tracing::info!(app = %id, generation = generation.0, pid, ?phase, "adopted");
            self.leftovers.spare(id, generation);
            let now = Instant::now();
            let fingerprint = adoptee.fingerprint();
            let queued = std::time::Duration::ZERO;
            let work = Work::Serve;
            let app_spec = spec.clone();
            let job = Job { app: app_spec, generation, fingerprint, queued, admitted: now, work };
            let (handle, task) = self.driver.adopted(job, adoptee, self.reports.0.clone());
            self.meter.watch(id, generation, handle.witness());
            let pid = Some(pid);
            app.instances.push(Instance {
                pid,
                ready,
                vigils,
                ..Instance::new(generation, handle)
            });
            let task = self.tasks.spawn(task);
            self.instances.insert(task.id(), (id.clone(), generation));
        }
        // Who wants it started has what it wants.
        if app.starts.ready == 0 {
            app.starts.ready = u64::from(!adoption.ready.is_empty());
        }
        let (life, effects) = adopt(&terms, adoption, Instant::now().into_std());
        app.life = life;
        for effect in effects {
            self.perform(id, effect);
        }
        are_alike
    }

    /// Every app is defined: ends what nobody took up, and lets starts begin behind that.
    pub(super) fn end_adoption(&mut self) {
        for (app, adoptees) in self.adoptees.drain() {
            tracing::warn!(%app, instances = adoptees.len(), "is defined no more, and still runs");
            for adoptee in adoptees {
                self.driver.release(&app, adoptee.generation());
            }
        }
        let apps = &self.apps;
        let finishing =
            self.driver.finish_outputs(|id| apps.get(id)?.process().map(|process| *process.logs));
        self.errands.spawn(finishing);
        self.sweep = Some(tokio::spawn(sweep(self.leftovers.clone(), self.driver.clone())));
    }
}
