//! What is remembered of apps of files that have a database, beyond the files: which of the apps that have had an id
//! each is, and which database it asks for.
//!
//! A file says nothing of the first: an app that has left the files and comes back after more than [`ABSENCE`] is
//! another app. Who replaces files does so one by one, and an app may be in none of them for a moment. What happens
//! is remembered at once, and noted in the registry ([`doorbell_config::registry::Entrance`]) as soon as that
//! answers; from then on it is not asked any more.
//!
//! The second is told to no other process, so the next control process finds it here: it may be started while
//! the configuration is broken, and apps that hold are to start all the same.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    registry::Entrance,
    spec::{AppSpec, Backend, DatabaseSpec, ProcessSpec},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::House;
use crate::{backup::format::Kind, clock, difference::Difference};

mod written;

/// How long an app may be away and still be the same, in milliseconds.
const ABSENCE: u64 = 60_000;
/// Pause before what could not be noted is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is noted that we are there.
const PRESENCE: Duration = Duration::from_secs(12 * 3600);

/// All that is remembered.
type Apps = BTreeMap<AppId, FileApp>;

/// What is remembered of an app.
#[derive(Clone, Debug, PartialEq)]
struct FileApp {
    /// The database that it asks for; `None` if there were no keys to seal it with.
    database: Option<Arc<DatabaseSpec>>,
    stay: Stay,
}

/// Which of those that have had its id an app is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stay {
    /// That is still to be noted.
    New {
        /// Another one was here before.
        is_other: bool,
    },
    /// This one.
    Is(u64),
    /// It is not in the files any more.
    Left {
        /// Since then, in milliseconds since 1970.
        at: u64,
        before: Box<Stay>,
    },
}

/// What is remembered, and that it has changed.
#[derive(Default)]
pub(super) struct FileApps {
    apps: Mutex<Apps>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    /// Held while something is noted.
    noting: tokio::sync::Mutex<()>,
}

impl FileApps {
    fn lock(&self) -> MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration has changed. `is_of_file` says whose apps are not the registry's.
    pub(super) fn change(
        &self,
        difference: &Difference,
        is_whole: bool,
        is_of_file: impl Fn(&AppId) -> bool,
    ) {
        let now = clock::unix_millis();
        let is_other = change(&mut self.lock(), difference, is_whole, now, is_of_file);
        if is_other {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// Addresses are sealed with another key from here on: all is written anew.
    pub(super) fn are_sealed_anew(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Which of those that have had its id an app of the files is; `None` if it is none of them.
    fn stay(&self, app: &AppId) -> Option<Stay> {
        self.lock().get(app).map(|app| app.stay.clone())
    }

    /// Apps that are to be noted: who comes, and who left long enough ago; and when the next is due.
    fn due(&self, now: u64) -> (Vec<Entrance>, Vec<AppId>, Option<u64>) {
        let (mut coming, mut gone, mut next) = (Vec::new(), Vec::new(), None::<u64>);
        for (id, app) in &*self.lock() {
            match app.stay {
                Stay::New { is_other } if app.is_made_for_it() => {
                    coming.push(Entrance { app: id.clone(), is_other });
                }
                Stay::Left { at, .. } if is_away(at, now) => gone.push(id.clone()),
                Stay::Left { at, .. } => {
                    let left = (at + ABSENCE).saturating_sub(now);
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
                Stay::New { .. } | Stay::Is(_) => {}
            }
        }
        (coming, gone, next)
    }

    /// It is noted; what has changed meanwhile is not.
    fn noted(&self, coming: &[Entrance], incarnations: &[u64], gone: &[AppId], now: u64) {
        let mut apps = self.lock();
        for (Entrance { app, is_other }, incarnation) in coming.iter().zip(incarnations) {
            let new = Stay::New { is_other: *is_other };
            if let Some(app) = apps.get_mut(app).filter(|app| app.stay == new) {
                app.stay = Stay::Is(*incarnation);
            }
        }
        for app in gone {
            let is_gone =
                |app: &FileApp| matches!(app.stay, Stay::Left { at, .. } if is_away(at, now));
            if apps.get(app).is_some_and(is_gone) {
                apps.remove(app);
            }
        }
        drop(apps);
        self.changed.send_modify(|changes| *changes += 1);
    }
}

impl FileApp {
    fn is_made_for_it(&self) -> bool {
        self.database.as_ref().is_none_or(|spec| Kind::from(&**spec).is_own())
    }
}

/// Takes in what a configuration changes; tells whether that is anything.
fn change(
    apps: &mut Apps,
    difference: &Difference,
    is_whole: bool,
    now: u64,
    is_of_file: impl Fn(&AppId) -> bool,
) -> bool {
    let before = apps.clone();
    let mut there: HashSet<&AppId> = HashSet::new();
    for spec in difference.put.iter().filter(|spec| is_of_file(&spec.id)) {
        let known = apps.get_mut(&spec.id);
        there.insert(&spec.id);
        match (known, database(spec)) {
            (None, Some(database)) => {
                let stay = Stay::New { is_other: false };
                let app = FileApp { database: Some(Arc::clone(database)), stay };
                apps.insert(spec.id.clone(), app);
            }
            (Some(app), database) => {
                app.database = database.cloned().or(app.database.take());
                app.stay = back(&app.stay, now);
            }
            (None, None) => {}
        }
    }
    let elsewhere = difference.put.iter().map(|spec| &spec.id);
    let gone: Vec<AppId> = if is_whole {
        apps.keys().filter(|id| !there.contains(id)).cloned().collect()
    } else {
        difference.gone.iter().chain(elsewhere.filter(|id| !there.contains(id))).cloned().collect()
    };
    for id in gone {
        match apps.get_mut(&id) {
            Some(FileApp { stay, .. }) if !matches!(stay, Stay::Left { .. }) => {
                *stay = Stay::Left { at: now, before: Box::new(stay.clone()) };
            }
            Some(_) | None => {}
        }
    }
    *apps != before
}

/// What an app is that is in the files now.
fn back(stay: &Stay, now: u64) -> Stay {
    match stay {
        Stay::Left { at, .. } if is_away(*at, now) => Stay::New { is_other: true },
        Stay::Left { before, .. } => Stay::clone(before),
        Stay::New { .. } | Stay::Is(_) => stay.clone(),
    }
}

fn is_away(since: u64, now: u64) -> bool {
    now.saturating_sub(since) >= ABSENCE
}

impl House {
    /// The database that an app asks for.
    pub async fn database_spec(&self, app: &AppId) -> Option<Arc<DatabaseSpec>> {
        let spec = self.latest(app).await?;
        let process = process(&spec)?;
        if process.database.is_some() {
            return process.database.clone();
        }
        // A definition that was held before this process was says only that there is one.
        process.given.as_ref().filter(|given| given.database)?;
        let of_file = self.file_apps.lock().get(app).and_then(|app| app.database.clone());
        let of_registry = || Kind::asked_by(&self.list().get(app)?.entry.keys());
        of_file.or_else(|| of_registry().map(Arc::new))
    }

    /// Which of those that have had its id an app of a file is; `None` if no file has it.
    ///
    /// # Errors
    /// Why that cannot be told, for operators.
    pub(super) async fn stay(&self, app: &AppId) -> Result<Option<u64>, String> {
        let known = self.file_apps.stay(app);
        let stay = match known {
            Some(Stay::New { .. }) => {
                self.note_file_apps().await?;
                self.file_apps.stay(app)
            }
            known => known,
        };
        match stay {
            None => Ok(None),
            Some(Stay::Is(incarnation)) => Ok(Some(incarnation)),
            Some(Stay::New { .. } | Stay::Left { .. }) => {
                Err("it has left the files, or come back, just now: try again".into())
            }
        }
    }

    /// Notes who came and who left in the registry; tells when there is more to be noted, if that is known.
    async fn note_file_apps(&self) -> Result<Option<Duration>, String> {
        let _turn = self.file_apps.noting.lock().await;
        let now = clock::unix_millis();
        let (coming, gone, next) = self.file_apps.due(now);
        if !coming.is_empty() || !gone.is_empty() {
            let doorbell = self.id()?;
            let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
            let entered = registry.enter(&coming, &doorbell).await;
            let incarnations = entered.map_err(|error| error.to_string())?;
            registry.leave(&gone, &doorbell).await.map_err(|error| error.to_string())?;
            self.file_apps.noted(&coming, &incarnations, &gone, now);
        }
        Ok(next.map(|millis| Duration::from_millis(millis + 1)))
    }

    /// Notes what is to be noted as it comes up, until the task is dropped.
    pub async fn notes_file_apps(self: Arc<Self>) {
        let mut changed = self.file_apps.changed.subscribe();
        let mut presence = tokio::time::interval(PRESENCE);
        loop {
            changed.borrow_and_update();
            let pause = match self.note_file_apps().await {
                Ok(next) => next.unwrap_or(Duration::MAX),
                Err(error) => {
                    tracing::debug!(error, "who is in the files cannot be noted yet");
                    PAUSE
                }
            };
            tokio::select! {
                // It is not gone while we are here.
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause) => {}
                _ = presence.tick() => self.is_present().await,
            }
        }
    }

    async fn is_present(&self) {
        if self.file_apps.lock().is_empty() {
            return;
        }
        let noted = async {
            let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
            registry.note_presence(&self.id()?).await.map_err(|error| error.to_string())
        };
        if let Err(error) = noted.await {
            tracing::debug!(error, "that we are there cannot be noted");
        }
    }
}

/// What runs an app, if it is a program of its own.
pub(super) fn process(app: &Arc<AppSpec>) -> Option<&ProcessSpec> {
    match &app.backend {
        Backend::Process(process) => Some(process),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

fn database(app: &Arc<AppSpec>) -> Option<&Arc<DatabaseSpec>> {
    process(app)?.database.as_ref()
}

#[cfg(test)]
mod tests {
    use doorbell_config::spec::RouteSpec;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    #[test]
    fn who_is_in_no_file_has_left_whoever_has_its_id_now() {
        let spec = |id: &str| {
            let mut process = ProcessSpec::new(Vec::new(), "/".into());
            let url = "postgres://me@db.test/".parse().unwrap();
            process.database = Some(Arc::new(DatabaseSpec::NewDatabase(url)));
            let routes = RouteSpec::new(Vec::new(), Vec::new());
            let backend = Backend::Process(process.into());
            Arc::new(AppSpec::new(AppId::parse(id).unwrap(), routes, backend))
        };
        let [a, b, c] = ["a", "b", "c"].map(spec);
        let mut apps = Apps::new();
        let mut after = |put: &[&Arc<AppSpec>], gone: &[&Arc<AppSpec>], is_whole, now, of_file| {
            let put = put.iter().map(|app| Arc::clone(app)).collect();
            let gone = gone.iter().map(|app| app.id.clone()).collect();
            let is_of_file = |id: &AppId| of_file || *id != b.id;
            change(&mut apps, &Difference { put, gone }, is_whole, now, is_of_file);
            let stays: Vec<_> = apps.values().map(|app| app.stay.clone()).collect();
            stays
        };
        let new = Stay::New { is_other: false };
        let left = |at| Stay::Left { at, before: Box::new(Stay::New { is_other: false }) };
        assert_eq!(after(&[&a, &b, &c], &[], true, NOW, true), [&new, &new, &new].map(Stay::clone));
        assert_eq!(
            after(&[&b], &[&c], false, NOW, false),
            [new.clone(), left(NOW), left(NOW)],
            "one is of the registry now, and one is gone"
        );
        assert_eq!(
            after(&[&b, &c], &[], false, NOW + ABSENCE - 1, false),
            [new.clone(), left(NOW), new]
        );
        // A start that finds them all anew.
        assert_eq!(
            after(&[&b], &[], true, NOW + ABSENCE, true),
            [left(NOW + ABSENCE), Stay::New { is_other: true }, left(NOW + ABSENCE)]
        );
    }

    #[test]
    fn who_is_away_for_a_moment_is_the_same() {
        let left = |at, before| Stay::Left { at, before: Box::new(before) };
        for before in [Stay::Is(7), Stay::New { is_other: true }, Stay::New { is_other: false }] {
            assert_eq!(back(&before, NOW), before);
            assert_eq!(back(&left(NOW - ABSENCE + 1, before.clone()), NOW), before);
            assert_eq!(back(&left(NOW - ABSENCE, before), NOW), Stay::New { is_other: true });
        }
    }

    #[test]
    fn what_changes_while_it_is_noted_is_noted_again() {
        let file_apps = FileApps::default();
        let id = AppId::parse("blog").unwrap();
        let set = |stay: Stay| {
            file_apps.lock().insert(id.clone(), FileApp { database: None, stay });
        };
        set(Stay::New { is_other: false });
        let (coming, gone, next) = file_apps.due(NOW);
        assert_eq!((coming.len(), gone.len(), next), (1, 0, None));
        set(Stay::New { is_other: true });
        file_apps.noted(&coming, &[3], &gone, NOW);
        assert_eq!(file_apps.stay(&id), Some(Stay::New { is_other: true }));
        let (coming, ..) = file_apps.due(NOW);
        file_apps.noted(&coming, &[4], &[], NOW);
        assert_eq!(file_apps.stay(&id), Some(Stay::Is(4)));
        set(Stay::Left { at: NOW - 1000, before: Box::new(Stay::Is(4)) });
        assert_eq!(file_apps.due(NOW), (vec![], vec![], Some(ABSENCE - 1000)));
        let (_, gone, _) = file_apps.due(NOW + ABSENCE);
        assert_eq!(gone, std::slice::from_ref(&id));
        set(Stay::Is(4));
        file_apps.noted(&[], &[], &gone, NOW + ABSENCE);
        assert_eq!(file_apps.stay(&id), Some(Stay::Is(4)), "it is back");
    }
}
