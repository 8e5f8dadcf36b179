//! All that a request needs to know of its app, behind one `Arc`, and the table that finds it.
//!
//! A [`Table`] is an immutable snapshot; a request keeps the one it started with. What must live
//! longer than a definition (the gate with its leases, the figures, the health of upstream servers)
//! is carried from one table to the next.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use doorbell_config::{
    interned::Interned,
    name::AppId,
    route::{Change, Conflict, PathAccess, RouteTable},
    spec::{AppKind, AppSpec, Backend, ServerSpec, SharedSpec},
};

use doorbell_supervisor::message::GateReport;

use crate::{
    difference::Difference,
    gate::{Entry, Gate, HeldTotal, Instance, Replicas, ReportSink, Sway, View},
    metrics::AppMetrics,
    page::waiting::Waiting,
    sharing::Sharing,
    upstreams::Upstreams,
};

/// One app as requests see it.
pub struct App {
    /// Its definition.
    pub spec: Arc<AppSpec>,
    /// Where its requests wait; of an app with several replicas the first one's.
    pub gate: Arc<Gate>,
    /// The gates of all its replicas, where there are several.
    pub replicas: Option<Box<Replicas>>,
    /// Its figures.
    pub metrics: Arc<AppMetrics>,
    /// Its servers, when somebody else runs them.
    pub upstreams: Option<Arc<Upstreams>>,
    /// What it has in another app's instance, when that answers.
    pub sharing: Option<Arc<Sharing>>,
}

impl App {
    /// Whether requests can be for it. Others have addresses of their own.
    #[must_use]
    pub fn speaks_http(&self) -> bool {
        match self.spec.kind {
            AppKind::Http => true,
            AppKind::Tcp(_) => false,
        }
    }

    /// Asks for a lease: at once if an instance is open, else by a place in the line or a refusal.
    pub fn lease(&self, sway: Sway) -> Entry {
        match &self.replicas {
            None => self.gate.lease(sway),
            Some(replicas) => replicas.lease(sway),
        }
    }

    /// A connect to this instance was refused.
    pub fn unreachable(&self, instance: &Arc<Instance>) {
        match (&self.replicas, &self.sharing) {
            (Some(replicas), _) => replicas.unreachable(instance),
            (None, Some(sharing)) if instance.is_of(sharing.with()) => {
                sharing.gate.unreachable(instance);
            }
            (None, _) => self.gate.unreachable(instance),
        }
    }

    /// The gate that knows of the start that its requests wait for.
    #[must_use]
    pub fn lifecycle_gate(&self) -> &Arc<Gate> {
        match &self.sharing {
            Some(sharing) if self.gate.is_open() => &sharing.gate,
            Some(_) | None => &self.gate,
        }
    }

    /// What it is for those who wait elsewhere, as that gate knows it: open where any replica is.
    #[must_use]
    pub fn view(&self, of_gate: View) -> View {
        let replicas = self.replicas.as_ref();
        if replicas.is_some_and(|replicas| replicas.is_open()) { View::Open } else { of_gate }
    }

    /// How far its start is, for a page.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let progress = match self.view(self.lifecycle_gate().view()) {
            View::Waking(progress) => progress.map(|progress| progress.now()),
            View::Open | View::Asleep | View::Refused(_) => None,
        };
        Waiting { progress }
    }
}

/// Everything that a request is decided by.
pub struct Table {
    /// Settings of Doorbell itself.
    pub server: Arc<ServerSpec>,
    /// Which app a request is for.
    pub routes: RouteTable<Arc<App>>,
}

/// The gates of all apps, those that were removed and still drain included.
pub struct Gates {
    gates: Mutex<HashMap<AppId, Arc<Gate>>>,
    /// Apps that were removed, and whose gates are still there.
    leaving: Mutex<HashSet<AppId>>,
    total: Arc<HeldTotal>,
    reports: ReportSink,
}

impl Gates {
    /// No gates yet.
    #[must_use]
    pub fn new(held_cap: usize, reports: ReportSink) -> Self {
        Self {
            gates: Mutex::default(),
            leaving: Mutex::default(),
            total: HeldTotal::new(held_cap),
            reports,
        }
    }

    /// The gate of an app.
    #[must_use]
    pub fn find(&self, app: &AppId) -> Option<Arc<Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    /// Every gate.
    #[must_use]
    pub fn all(&self) -> Vec<(AppId, Arc<Gate>)> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().map(|(app, gate)| (app.clone(), Arc::clone(gate))).collect()
    }

    /// Answers for a gate that is gone.
    pub fn answer(&self, report: GateReport) {
        (self.reports)(report);
    }

    /// The gate of an app, or of one of its replicas, made if there is none.
    fn of(&self, id: &AppId, spec: &AppSpec) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(id.clone()).or_insert_with(|| {
            let total = Arc::clone(&self.total);
            let reports = Arc::clone(&self.reports);
            Arc::new(Gate::new(id.clone(), spec.limits.held_requests, total, reports))
        });
        gate.set_held_cap(spec.limits.held_requests);
        gate.readmit();
        Arc::clone(gate)
    }

    /// What an app has in another one's instance, of which nothing is known yet. The other's gate may
    /// be made by that: its own definition says the rest.
    fn share(&self, spec: &AppSpec, shared: &Interned<SharedSpec>) -> Sharing {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(shared.with.clone()).or_insert_with(|| {
            let (total, reports) = (Arc::clone(&self.total), Arc::clone(&self.reports));
            let cap = spec.limits.held_requests;
            Arc::new(Gate::new(shared.with.clone(), cap, total, reports))
        });
        Sharing::new(spec, shared, Arc::clone(gate), Arc::clone(&self.reports))
    }

    /// Changes the cap on waiters over all gates.
    pub fn set_held_cap(&self, cap: usize) {
        self.total.set_cap(cap);
    }

    /// Forgets the gates of apps that have gone, once nothing uses them any more: those of earlier
    /// changes too.
    pub fn prune(&self, table: &Table, gone: &[AppId]) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.extend(gone.iter().cloned());
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|app| {
            if table.has(app) {
                return false;
            }
            let Some(gate) = gates.get(app) else { return false };
            // A request that began with the old table may still line up.
            gate.remove();
            let is_in_use = gate.is_in_use();
            if !is_in_use {
                gates.remove(app);
            }
            is_in_use
        });
    }
}

impl Table {
    /// A table without apps.
    #[must_use]
    pub fn empty(server: ServerSpec) -> Self {
        Self { server: Arc::new(server), routes: RouteTable::new() }
    }

    /// Whether an app is there, with this replica.
    fn has(&self, id: &AppId) -> bool {
        let app = self.routes.app(id.app_str());
        app.is_some_and(|app| id.replica_number() <= app.spec.instances())
    }

    /// What a change takes away: apps, and replicas of those that stay. `next` is the table after it.
    #[must_use]
    pub fn lost(&self, next: &Self, difference: &Difference) -> Vec<AppId> {
        let put = difference.put.iter().map(|spec| &spec.id);
        let before =
            difference.gone.iter().chain(put).filter_map(|id| self.routes.app(id.as_str()));
        let further = before.flat_map(|app| app.spec.further_replicas());
        let lost = further.filter(|id| !next.has(id));
        difference.gone.iter().cloned().chain(lost).collect()
    }

    /// The table after a change. The work is by what changed.
    #[must_use]
    pub fn next(
        &self,
        server: &ServerSpec,
        difference: &Difference,
        gates: &Gates,
    ) -> (Self, Vec<Conflict>) {
        let access = if server.path_access { PathAccess::On } else { PathAccess::Off };
        let removals = difference.gone.iter().cloned().map(Change::Remove);
        let gone: HashSet<&AppId> = difference.gone.iter().collect();
        let puts = difference.put.iter().filter_map(|spec| {
            let before =
                self.routes.app(spec.id.as_str()).filter(|app| !gone.contains(&app.spec.id));
            put(before, spec, gates)
        });
        let (routes, conflicts) = self.routes.with(removals.chain(puts));
        let routes = routes.with_settings(access, server.default_app.clone());
        (Self { server: Arc::new(server.clone()), routes }, conflicts)
    }
}

/// An app as it is from here on; `None` if it is as before.
fn put(before: Option<&Arc<App>>, spec: &Arc<AppSpec>, gates: &Gates) -> Option<Change<Arc<App>>> {
    if before.is_some_and(|app| app.spec == *spec) {
        return None;
    }
    let metrics = before.map(|app| Arc::clone(&app.metrics)).unwrap_or_default();
    let upstreams = match &spec.backend {
        Backend::Process(_) | Backend::Shared(_) => None,
        Backend::Upstream(upstream) => Some(
            before
                .and_then(|app| app.upstreams.clone())
                .filter(|old| old.spec() == upstream)
                .unwrap_or_else(|| Arc::new(Upstreams::new(upstream))),
        ),
    };
    let sharing = spec.shared().map(|shared| {
        let known = before.and_then(|app| app.sharing.clone());
        known
            .filter(|known| known.is_as(spec, shared))
            .unwrap_or_else(|| Arc::new(gates.share(spec, shared)))
    });
    let gate = gates.of(&spec.id, spec);
    let replicas = (spec.instances() > 1).then(|| {
        let further = spec.further_replicas().map(|id| gates.of(&id, spec));
        Box::new(Replicas::new(Arc::clone(&gate), further))
    });
    let app = App { spec: Arc::clone(spec), gate, replicas, metrics, upstreams, sharing };
    Some(Change::Put { app: spec.id.clone(), routes: spec.routes.clone(), target: Arc::new(app) })
}
