//! The logs of every app that runs: one for each, whoever writes it, and where it is to be.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use doorbell_config::{name::AppId, spec::OutputSpec};

use super::{moves::Moves, rotate::AppLog};
use crate::protocol::Lineage;

/// The logs of every app that runs. Two instances of one app share its files.
#[derive(Debug)]
pub(crate) struct Logs {
    moves: Arc<Moves>,
    open: Mutex<HashMap<AppId, Weak<AppLog>>>,
}

impl Logs {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { moves: Arc::new(Moves::within(folder)), open: Mutex::default() }
    }

    /// Files go with apps that are renamed, and are put aside where apps are no more. This only notes it: before the
    /// next file is opened, or by [`Logs::settle`], it is done.
    pub(crate) fn follow(&self, lineage: &Lineage) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let heir = |app: &AppId| {
            let (_, to) = lineage.renamed.iter().find(|(from, _)| *from == app.first())?;
            Some(to.replica(app.replica_number()))
        };
        let (mut heirs, mut leaving) = (Vec::new(), Vec::new());
        open.retain(|app, log| {
            let Some(log) = log.upgrade() else { return false };
            let heir = heir(app);
            let stays = heir.is_none() && !lineage.deleted.contains(&app.first());
            if !stays {
                leaving.push((app.clone(), Arc::clone(&log.place)));
                heirs.extend(heir.map(|heir| (heir, Arc::downgrade(&log))));
            }
            stays
        });
        open.extend(heirs);
        self.moves.note(lineage, leaving);
    }

    /// Does what is noted, and removes what was put aside long ago.
    pub(crate) fn settle(&self) {
        self.moves.settle();
    }

    /// Keeps the log of an app as `spec` says from here on, if it is being written.
    pub(crate) fn change(&self, app: &AppId, spec: OutputSpec) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = open.get(app).and_then(Weak::upgrade) {
            *log.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
        }
    }

    /// The log of an app, kept as `spec` says from here on.
    pub(crate) fn open(&self, app: &AppId, spec: OutputSpec) -> Arc<AppLog> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, log| log.strong_count() > 0);
        if let Some(log) = open.get(app).and_then(Weak::upgrade) {
            *log.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
            return log;
        }
        let log = Arc::new(AppLog::new(&self.moves, &app.file_name(), spec));
        open.insert(app.clone(), Arc::downgrade(&log));
        log
    }
}
