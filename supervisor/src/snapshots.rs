//! What outsiders may see: one published [`Snapshot`] per app.
//!
//! Not the truth itself, which only the desk holds. Publishing costs by the app, reading never
//! waits for the desk.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use doorbell_config::name::AppId;
use tokio::sync::broadcast;

use crate::message::Snapshot;

/// Changes a slow reader of [`Snapshots::changes`] may lag behind before it loses some.
const CHANGES_KEPT: usize = 1024;

/// Something changed about an app.
#[derive(Clone, Debug)]
pub enum Change {
    /// Its new snapshot.
    Updated(Arc<Snapshot>),
    /// It is gone for good.
    Removed(AppId),
}

/// The published snapshots; clones read the same ones.
#[derive(Clone, Debug)]
pub struct Snapshots {
    apps: Arc<RwLock<HashMap<AppId, Arc<Snapshot>>>>,
    changes: broadcast::Sender<Change>,
}

impl Snapshots {
    pub(crate) fn new() -> Self {
        Self { apps: Arc::default(), changes: broadcast::Sender::new(CHANGES_KEPT) }
    }

    /// What is known of one app.
    #[must_use]
    pub fn one(&self, app: &AppId) -> Option<Arc<Snapshot>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    /// What is known of every app, ordered by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Snapshot>> {
        let mut all: Vec<_> = {
            let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
            apps.values().cloned().collect()
        };
        all.sort_by(|a, b| a.app.cmp(&b.app));
        all
    }

    /// Every change from here on. A reader that lags too far behind is told so and should read
    /// [`Snapshots::all`] again.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        // Nobody is woken for what he knows: somebody may be waiting for the processor.
        if apps.get(&snapshot.app) == Some(&snapshot) {
            return;
        }
        apps.insert(snapshot.app.clone(), snapshot.clone());
        drop(apps);
        self.tell(Change::Updated(snapshot));
    }

    pub(crate) fn forget(&self, app: &AppId) {
        if self.apps.write().unwrap_or_else(PoisonError::into_inner).remove(app).is_some() {
            self.tell(Change::Removed(app.clone()));
        }
    }

    fn tell(&self, change: Change) {
        // An error means that nobody listens, which is fine.
        let _ = self.changes.send(change);
    }
}
