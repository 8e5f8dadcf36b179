//! Apps that share the instance of another one, their host: what such an app has of its own.
//!
//! Its gate is like that of static upstreams: open, unless the app is disabled. Its requests get their
//! leases at the host's gate, so that a visit to either wakes both, and the lifecycle knows of one app.
//! Whether the host's instance can answer for this app too is its [`Readiness`].

use std::sync::Arc;

use doorbell_config::{
    interned::Interned,
    name::AppId,
    spec::{AppSpec, SharedSpec},
};
use doorbell_supervisor::message::Endpoint;

use crate::gate::{Gate, Lease, ReportSink, Sway};

mod inside;
mod readiness;
pub mod selectors;

pub use readiness::{Readiness, Unready};

/// What an app has in the instance of another one.
pub struct Sharing {
    shared: Interned<SharedSpec>,
    /// Where its requests get leases.
    pub gate: Arc<Gate>,
    /// Whether it is known to the instance as to a NocoBase.
    by_folders: bool,
    /// Whether a run can answer for it; `None` if that is not asked.
    pub readiness: Option<Box<Readiness>>,
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.gate.sharers.lose(self.by_folders);
    }
}

impl Sharing {
    /// A share of which nothing is known yet, with the host's gate.
    #[must_use]
    pub fn new(
        spec: &AppSpec,
        shared: &Interned<SharedSpec>,
        gate: Arc<Gate>,
        reports: ReportSink,
    ) -> Self {
        let ready = shared.ready.as_ref();
        let by_folders = ready.is_some_and(|ready| selectors::counts_in(&ready.probe.path));
        gate.sharers.gain(by_folders);
        let readiness = ready.map(|_| Box::new(Readiness::new(spec, shared.clone(), reports)));
        Self { shared: shared.clone(), gate, by_folders, readiness }
    }

    /// Whose instance it is.
    #[must_use]
    pub fn with(&self) -> &AppId {
        &self.shared.with
    }

    /// Whether it is the same by another definition, so that what is known holds on.
    #[must_use]
    pub fn is_as(&self, spec: &AppSpec, shared: &Interned<SharedSpec>) -> bool {
        self.shared == *shared && self.readiness.as_ref().is_none_or(|known| known.asks_as(spec))
    }

    /// A lease on an instance that can answer for the app, if there is one now.
    #[must_use]
    pub fn lease_at_once(&self, sway: Sway) -> Option<Lease> {
        // A host that has become static servers has nothing to share.
        let lease = self
            .gate
            .try_lease(sway)
            .filter(|lease| lease.instance().endpoint != Endpoint::Upstream)?;
        let readiness = self.readiness.as_ref();
        let is_ready =
            readiness.is_none_or(|known| known.has_answered(lease.instance().generation));
        is_ready.then_some(lease)
    }
}
