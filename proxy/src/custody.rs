//! What the control process keeps open for the supervisor: the read ends of what apps print, their
//! notify sockets, and the descriptors by which the kernel tells that they listen.
//!
//! It reads nothing of what they say. Should the supervisor be killed, that waits in the kernel until the
//! next one comes, even if the app itself is gone by then. An app that is about to listen cannot wait:
//! from the end of a supervisor on, a [`Deputy`] lets it go on, until the next one has taken the instance
//! up and says so.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use doorbell_config::name::AppId;
use doorbell_supervisor::{Advances, Deputy, message::Generation};

type Key = (AppId, Generation);

/// What is kept.
#[derive(Debug, Default)]
pub struct Custody {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    instances: HashMap<Key, Kept>,
    /// From where something comes before we are told of an instance.
    advances: Option<Advances>,
}

/// What is kept for an instance.
#[derive(Debug)]
struct Kept {
    descriptors: Vec<Arc<OwnedFd>>,
    /// While it has no supervisor.
    deputy: Option<Deputy>,
}

impl Custody {
    /// Keeps these open for an instance, which has a supervisor.
    pub fn hold(&self, app: AppId, generation: Generation, descriptors: Vec<OwnedFd>) {
        let descriptors = descriptors.into_iter().map(Arc::new).collect();
        let mut held = self.lock();
        held.collect();
        held.instances.insert((app, generation), Kept { descriptors, deputy: None });
    }

    /// Lets go of an instance's.
    pub fn release(&self, app: &AppId, generation: Generation) {
        let mut held = self.lock();
        held.collect();
        held.instances.remove(&(app.clone(), generation));
    }

    /// From here on, what comes in advance comes from there.
    pub fn take_advances(&self, socket: Option<OwnedFd>) {
        let mut held = self.lock();
        held.collect();
        held.advances = socket.map(Advances::new);
    }

    /// Lets apps listen from here on: their supervisor is gone.
    pub fn take_over(&self) {
        let mut held = self.lock();
        held.collect();
        let alone = held.instances.iter_mut().filter(|(_, kept)| kept.deputy.is_none());
        for ((app, _), kept) in alone {
            match Deputy::among(&kept.descriptors) {
                Ok(deputy) => kept.deputy = deputy,
                Err(error) => {
                    tracing::error!(%app, %error, "an app cannot listen until there is a supervisor");
                }
            }
        }
    }

    /// Everything, for a supervisor that has lost it.
    #[must_use]
    pub fn all(&self) -> Vec<(Key, Vec<Arc<OwnedFd>>)> {
        let held = self.lock();
        let all = held.instances.iter();
        all.map(|(key, kept)| (key.clone(), kept.descriptors.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes what came in advance. Who was told of already is known better.
    fn collect(&mut self) {
        while let Some((app, generation, descriptors)) =
            self.advances.as_ref().and_then(Advances::next)
        {
            let descriptors = descriptors.into_iter().map(Arc::new).collect();
            let kept = Kept { descriptors, deputy: None };
            self.instances.entry((app, generation)).or_insert(kept);
        }
    }
}
