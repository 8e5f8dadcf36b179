//! How far starts are, for those who wait for them.
//!
//! Visitors are told by the gates, and only of starts that somebody waits for: a phase costs a
//! message, beside the app's own work. Operators see the phase in which a start failed.

use doorbell_config::name::AppId;
use tokio::time::Instant;

use super::{Desk, app::Start};
use crate::message::{GateOrder, Generation, StartPhase, StartProgress, UsualStart, WaitsFor};

impl Desk {
    /// Gives an app that was just defined what is known of its starts.
    pub(super) fn recall_starts(&mut self, id: &AppId) {
        let Some(times) = self.start_times.remove(id) else { return };
        if let Some(app) = self.apps.get_mut(id)
            && app.past.as_ref().is_none_or(|past| past.start_times.is_empty())
        {
            app.past().start_times = times;
        }
    }

    /// Keeps how long starts took, for the next Doorbell. It is the last thing that is done.
    pub(super) fn keep_start_times(&self) {
        let known = self.apps.iter().filter_map(|(id, app)| {
            let times = &app.past.as_ref()?.start_times;
            (!times.is_empty()).then(|| (id.clone(), times.clone()))
        });
        self.state_dir.keep_start_times(&known.collect());
    }

    /// An app joined the line. That it waits there is told only if it has to.
    pub(super) fn start_queued(&mut self, id: &AppId) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let (phase, waits_for) = (StartPhase::Queued, WaitsFor::Turn);
        let start = Start { phase, waits_for, since: Instant::now(), generation: None };
        app.start = Some(Box::new(start));
        if self.line.is_busy(|id| self.is_its_turn(id)) {
            self.tell_progress(id);
        }
    }

    /// An instance's start has come this far.
    pub(super) fn start_is_at(&mut self, id: &AppId, generation: Generation, phase: StartPhase) {
        let start = self.apps.get_mut(id).and_then(|app| app.start.as_mut());
        let Some(start) = start.filter(|start| start.generation == Some(generation)) else {
            return;
        };
        start.phase = phase;
        self.tell_progress(id);
    }

    /// Tells whoever waits how far the start is, if one is under way.
    pub(super) fn tell_progress(&mut self, id: &AppId) {
        let Some(app) = self.apps.get(id).filter(|app| app.is_visited) else { return };
        let Some(start) = app.start.as_deref() else { return };
        let progress = StartProgress {
            phase: start.phase,
            waits_for: start.waits_for,
            elapsed: start.since.elapsed(),
            usual: app.past.as_ref().and_then(|past| UsualStart::of(&past.start_times)),
        };
        self.order(GateOrder::Progress { app: id.clone(), progress });
    }
}
