//! The logs of every app that runs: one for each, whoever writes it, and where it is to be.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use doorbell_config::{name::AppId, spec::OutputSpec};

use super::{moves::Moves, rotate::AppLog, whereabouts};
use crate::protocol::Lineage;

/// The logs of every app that runs. Two instances of one app share its files.
#[derive(Debug)]
pub(crate) struct Logs {
    moves: Arc<Moves>,
    /// By the folder that they are in, or are going to.
    open: Mutex<HashMap<PathBuf, Weak<AppLog>>>,
}

impl Logs {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { moves: Arc::new(Moves::within(folder)), open: Mutex::default() }
    }

    /// Files go with apps that are renamed, and are put aside where apps are no more. This only notes it: before the
    /// next file is opened, or by [`Logs::settle`], it is done.
    pub(crate) fn follow(&self, lineage: &Lineage) {
        let mut open = self.lock();
        let heir = |app: &AppId| {
            let (_, to) = lineage.renamed.iter().find(|(from, _)| *from == app.first())?;
            Some(to.replica(app.replica_number()))
        };
        let (mut heirs, mut leaving) = (Vec::new(), Vec::new());
        open.retain(|folder, log| {
            let Some(log) = log.upgrade() else { return false };
            let Some(app) = self.moves.owner_of(folder) else { return true };
            let heir = heir(&app);
            let stays = heir.is_none() && !lineage.deleted.contains(&app.first());
            if !stays {
                let heir = heir.map(|heir| (self.moves.folder_of(&heir), Arc::downgrade(&log)));
                leaving.push((app, Arc::clone(&log.place)));
                heirs.extend(heir);
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
        if let Some(log) = self.lock().get(&self.moves.folder_of(app)).and_then(Weak::upgrade) {
            log.keep_as(spec);
        }
    }

    /// The log of an app, kept as `spec` says from here on.
    pub(crate) fn open(&self, app: &AppId, spec: OutputSpec) -> Arc<AppLog> {
        let log = self.find_or(self.moves.folder_of(app), spec);
        log.keep_as(spec);
        log
    }

    /// The log of an instance of an app, of which an earlier Doorbell wrote the beginning: where that has moved, and
    /// kept as it is there.
    pub(crate) fn reopen(&self, app: &AppId, spec: OutputSpec, pipe: &Path) -> Arc<AppLog> {
        match whereabouts::pointed_at(pipe) {
            Some(folder) => self.find_or(folder, spec),
            None => self.open(app, spec),
        }
    }

    /// Whether the log that a pipe of an app leads to is another one's: the app that it was is deleted or renamed.
    pub(crate) fn is_elsewhere(&self, app: &AppId, pipe: &Path) -> bool {
        whereabouts::pointed_at(pipe).is_some_and(|folder| folder != self.moves.folder_of(app))
    }

    fn find_or(&self, folder: PathBuf, spec: OutputSpec) -> Arc<AppLog> {
        let mut open = self.lock();
        open.retain(|_, log| log.strong_count() > 0);
        if let Some(log) = open.get(&folder).and_then(Weak::upgrade) {
            return log;
        }
        let log = Arc::new(AppLog::new(&self.moves, folder.clone(), spec));
        open.insert(folder, Arc::downgrade(&log));
        log
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Weak<AppLog>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
