//! What the control process keeps open for the supervisor: the read ends of what apps print, and their
//! notify sockets.
//!
//! It reads nothing from them. Should the supervisor be killed, what apps say until the next one comes
//! waits in the kernel, even if the app itself is gone by then.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use doorbell_config::name::AppId;
use doorbell_supervisor::message::Generation;

type Key = (AppId, Generation);

/// What is kept.
#[derive(Debug, Default)]
pub struct Custody {
    held: Mutex<HashMap<Key, Vec<Arc<OwnedFd>>>>,
}

impl Custody {
    /// Keeps these open for an instance.
    pub fn hold(&self, app: AppId, generation: Generation, descriptors: Vec<OwnedFd>) {
        let descriptors = descriptors.into_iter().map(Arc::new).collect();
        self.lock().insert((app, generation), descriptors);
    }

    /// Lets go of an instance's.
    pub fn release(&self, app: &AppId, generation: Generation) {
        self.lock().remove(&(app.clone(), generation));
    }

    /// Everything, for a supervisor that has lost it.
    #[must_use]
    pub fn all(&self) -> Vec<(Key, Vec<Arc<OwnedFd>>)> {
        self.lock().iter().map(|(key, held)| (key.clone(), held.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<OwnedFd>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
