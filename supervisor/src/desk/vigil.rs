//! Instances whose own work keeps them awake.

use std::time::Duration;

use doorbell_config::name::AppId;
use tokio::time::Instant;

use super::{
    Desk,
    app::{Instance, unix_seconds},
};
use crate::{
    driver::Vigil,
    lifecycle::{Event, GateEvent, Timer},
    message::{Generation, VigilSnapshot},
};

/// Longer than anything drains, and short enough for any timer.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Desk {
    /// An instance tells all that keeps it awake from now on. It answers its app once it is told that this
    /// holds.
    pub(super) fn vigils_changed(
        &mut self,
        id: &AppId,
        generation: Generation,
        vigils: Vec<Vigil>,
        telling: u64,
    ) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let Some(instance) = app.instance_mut(generation) else { return };
        instance.vigils = vigils;
        let is_drained = std::mem::take(&mut instance.is_drained);
        if is_drained && !self.works_on(id, generation) {
            self.play(id, Event::Gate(generation, GateEvent::Drained));
        } else {
            self.play(id, Event::Vigils(generation));
        }
        self.publish(id);
        let Some(app) = self.apps.get(id) else { return };
        if let Some(instance) = app.instance(generation).filter(|_| !app.life.ends(generation)) {
            instance.handle.grant(telling);
        }
    }

    /// Whether an instance without a lease has work of its own; then it is drained when that ends, or its
    /// time to drain is up.
    pub(super) fn works_on(&mut self, id: &AppId, generation: Generation) -> bool {
        let Some(app) = self.apps.get_mut(id) else { return false };
        let Some(instance) = app.instance_mut(generation) else { return false };
        let Some(until) = instance.awake_until() else { return false };
        instance.is_drained = true;
        let until = until.min(Instant::now() + FAR);
        self.timers.set(id, Timer::Vigil(generation), until.into_std());
        true
    }
}

impl Instance {
    /// What keeps it awake, for outsiders.
    pub(super) fn vigils_now(&self) -> Box<[VigilSnapshot]> {
        let running = self.vigils.iter().filter(|vigil| !vigil.left().is_zero());
        let seen = |vigil: &Vigil| VigilSnapshot {
            name: vigil.name.clone(),
            until_unix_seconds: unix_seconds() + vigil.left().as_secs(),
        };
        running.map(seen).collect()
    }
}
