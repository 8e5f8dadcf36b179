//! The apps of the configuration that holds, and of one that is wanted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, ListenAddr, ProcessSpec, ServerSpec},
};

use super::configure::Listener;
use crate::protocol::{Lineage, Listening, Rejected};

/// The apps of the configuration that holds.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    apps: HashMap<AppId, Entry>,
    /// Those of them that have addresses of their own: few among many.
    tcp: BTreeSet<AppId>,
}

#[derive(Debug)]
struct Entry {
    latest: Arc<AppSpec>,
    /// As proxies have it; another, or none, where the latest claims what others have.
    served: Option<Arc<AppSpec>>,
}

/// What the control process wants to hold.
pub(super) struct Wanted {
    pub(super) server: ServerSpec,
    pub(super) put: Vec<Arc<AppSpec>>,
    pub(super) gone: Vec<AppId>,
    pub(super) rejected: Vec<Rejected>,
    /// Whether that is all there is.
    pub(super) is_whole: bool,
    /// Whether it is only asked if it could hold.
    pub(super) is_trial: bool,
    /// Who is whom among the apps that change.
    pub(super) lineage: Lineage,
}

impl Wanted {
    /// Apps that claim routes of others, and whether they keep older ones.
    pub(super) fn rejected(&self) -> HashMap<&AppId, bool> {
        self.rejected.iter().map(|one| (&one.app, one.keeps_older)).collect()
    }

    /// Apps that proxies serve no more.
    pub(super) fn unserved(&self) -> Vec<AppId> {
        let out = self.rejected.iter().filter(|one| !one.keeps_older).map(|one| one.app.clone());
        self.gone.iter().cloned().chain(out).collect()
    }
}

/// An address that is to be listened on, and for whom: a TCP app, or HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) address: ListenAddr,
    pub(super) app: Option<AppId>,
}

impl Door {
    pub(super) fn is_of(&self, listener: &Listener) -> bool {
        let Listening { configured, app, .. } = &listener.listening;
        self.address == *configured && self.app == *app
    }
}

impl Catalog {
    /// What proxies are to know: nothing of how programs are run.
    pub(super) fn served(&self) -> Vec<Arc<AppSpec>> {
        self.apps.values().filter_map(|entry| entry.served.as_ref()).map(without_program).collect()
    }

    /// The latest definitions, and those served in the place of some.
    pub(super) fn latest(&self) -> impl Iterator<Item = &Arc<AppSpec>> {
        self.apps.values().map(|entry| &entry.latest)
    }

    /// Apps whose latest definition is not served.
    pub(super) fn rejected(&self) -> Vec<AppId> {
        let is_rejected = |entry: &&Entry| {
            entry.served.as_ref().is_none_or(|served| !Arc::ptr_eq(served, &entry.latest))
        };
        self.apps.values().filter(is_rejected).map(|entry| entry.latest.id.clone()).collect()
    }

    /// What these are served as.
    pub(super) fn served_instead(&self) -> Vec<Arc<AppSpec>> {
        let instead = self.apps.values().filter_map(|entry| {
            entry.served.clone().filter(|served| !Arc::ptr_eq(served, &entry.latest))
        });
        instead.collect()
    }

    /// What is to be listened on.
    pub(super) fn doors(&self, wanted: &Wanted) -> Vec<Door> {
        let http = wanted.server.listen.iter().map(|address| (address, None));
        let fresh = wanted.put.iter().filter_map(|app| Some((&app.id, app.tcp()?)));
        let is_changed = |id: &AppId| {
            wanted.is_whole
                || wanted.gone.contains(id)
                || wanted.put.iter().any(|app| app.id == *id)
        };
        let known = self.tcp.iter().filter(|id| !is_changed(id));
        let known = known.filter_map(|id| Some((id, self.apps.get(id)?.latest.tcp()?)));
        let tcp = known
            .chain(fresh)
            .flat_map(|(id, tcp)| tcp.listen.iter().map(|address| (address, Some(id.clone()))));
        http.chain(tcp).map(|(address, app)| Door { address: address.clone(), app }).collect()
    }

    pub(super) fn change(&mut self, wanted: &Wanted) {
        for app in &wanted.gone {
            self.apps.remove(app);
            self.tcp.remove(app);
        }
        let rejected = wanted.rejected();
        for spec in &wanted.put {
            let latest = Arc::clone(spec);
            match spec.tcp() {
                Some(_) => _ = self.tcp.insert(spec.id.clone()),
                None => _ = self.tcp.remove(&spec.id),
            }
            let before = self.apps.remove(&spec.id);
            let served = match rejected.get(&spec.id) {
                None => Some(Arc::clone(spec)),
                Some(true) => before.and_then(|before| before.served),
                Some(false) => None,
            };
            self.apps.insert(spec.id.clone(), Entry { latest, served });
        }
    }
}

/// An app as proxies are to know it: what runs it, with its secrets, is left out.
pub(super) fn without_program(spec: &Arc<AppSpec>) -> Arc<AppSpec> {
    let Backend::Process(process) = &spec.backend else { return Arc::clone(spec) };
    let mut spec = AppSpec::clone(spec);
    let nothing = ProcessSpec::new(Vec::new(), "/".into());
    let (start, instances) = (process.start, process.instances);
    spec.backend = Backend::Process(ProcessSpec { start, instances, ..nothing }.into());
    Arc::new(spec)
}
