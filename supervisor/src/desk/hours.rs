//! Hours in which apps are kept awake: looked at when the timetable rings, and when one is defined.

use doorbell_config::{
    name::AppId,
    spec::{Awake, AwakeSpec, StartMode},
};
use jiff::Timestamp;

use super::{Desk, app::App, timetable::Ring};
use crate::{
    lifecycle::{Event, Goal, Hours},
    message::{HoursName, HoursSnapshot},
};

/// The clock that people set. The desk looks at it here alone.
fn now() -> Timestamp {
    Timestamp::now()
}

impl App {
    /// Whether it is kept awake now.
    pub(super) fn hours(&self) -> Hours {
        match self.hours.as_ref().map(|hours| hours.awake) {
            Some(Awake::Until(_)) => Hours::Kept,
            Some(Awake::From(_)) | None => Hours::Free,
        }
    }

    /// Whether it is to run now, as it is to be warm.
    fn runs_by_hours(&self) -> bool {
        self.hours.as_ref().is_some_and(|hours| hours.runs)
    }

    /// What is wanted of it now, if nobody disabled it.
    pub(super) fn goal_by_definition(&self, mode: StartMode) -> Goal {
        if self.runs_by_hours() { Goal::Up } else { Goal::of(mode) }
    }

    fn awake_spec(&self) -> Option<&AwakeSpec> {
        self.process()?.awake.as_deref()
    }

    /// Its hours, for outsiders.
    pub(super) fn hours_snapshot(&self) -> Option<Box<HoursSnapshot>> {
        let hours = self.hours.as_deref()?;
        let (is, at) = match hours.awake {
            Awake::Until(at) => (HoursName::Inside, at),
            Awake::From(at) => (HoursName::Outside, at),
        };
        let until_unix_seconds = at.and_then(|at| u64::try_from(at.as_second()).ok());
        Some(Box::new(HoursSnapshot { is, until_unix_seconds, zone: hours.zone.clone() }))
    }
}

impl Desk {
    /// The alarm rang.
    pub(super) fn rung(&mut self, ring: Ring) {
        let now = now();
        let apps = match ring {
            Ring::Due => self.timetable.take_due(now),
            Ring::ClockSet => {
                tracing::info!(%now, "the clock was set: hours of apps are looked at anew");
                let kept = self.apps.iter().filter(|(_, app)| app.hours.is_some());
                kept.map(|(id, _)| id.clone()).collect()
            }
        };
        for id in apps {
            self.hours_pass(&id, now);
        }
    }

    /// Looks at an app's hours, and does what comes of a change.
    fn hours_pass(&mut self, id: &AppId, now: Timestamp) {
        let Some(app) = self.apps.get(id) else { return };
        let (kept, ran) = (app.hours(), app.runs_by_hours());
        let has_changed = self.note_hours(id, now);
        let Some(app) = self.apps.get_mut(id) else { return };
        if app.runs_by_hours() != ran
            && !app.is_disabled()
            && let Some(mode) = app.start_mode()
        {
            app.goal = app.goal_by_definition(mode);
            let runs = app.runs_by_hours();
            tracing::info!(app = %id, runs, "its hours begin or end");
            self.play(id, Event::GoalChanged);
        }
        let Some(app) = self.apps.get(id) else { return };
        if app.hours() != kept {
            self.play(id, Event::HoursChanged);
        }
        if has_changed {
            self.publish(id);
        }
    }

    /// Keeps what an app's hours mean now, and when to look again; tells whether that has changed.
    fn note_hours(&mut self, id: &AppId, now: Timestamp) -> bool {
        let Some(app) = self.apps.get_mut(id) else { return false };
        let hours = app.awake_spec().map(|spec| Box::new(spec.at(now)));
        let next = hours.as_ref().and_then(|hours| hours.next);
        let has_changed = hours != app.hours;
        app.hours = hours;
        self.timetable.enter(id, next);
        has_changed
    }

    /// An app was defined: its hours may be others. Tells whether it is to run now for another reason
    /// than before.
    pub(super) fn define_hours(&mut self, id: &AppId) -> bool {
        let ran = self.apps.get(id).is_some_and(|app| app.runs_by_hours());
        let has_hours = self.apps.get(id).is_some_and(|app| app.awake_spec().is_some());
        let had_hours = self.apps.get(id).is_some_and(|app| app.hours.is_some());
        if has_hours || had_hours {
            self.note_hours(id, now());
            self.doubt_zones(id);
        }
        self.apps.get(id).is_some_and(|app| app.runs_by_hours() != ran)
    }

    /// Zones were known where the configuration was read; here they may not be.
    fn doubt_zones(&self, id: &AppId) {
        let spec = self.apps.get(id).and_then(|app| app.awake_spec());
        let windows = spec.iter().flat_map(|spec| &spec.windows);
        for window in windows.filter(|window| !window.has_known_zone()) {
            tracing::error!(app = %id, %window, "no such time zone here: it is taken for UTC");
        }
    }

    /// An app is there no more, or has no program any more.
    pub(super) fn forget_hours(&mut self, id: &AppId) {
        if let Some(app) = self.apps.get_mut(id) {
            app.hours = None;
        }
        self.timetable.enter(id, None);
    }
}
