//! What an operator sees of one app, as a transfer object.

use std::{cmp::Reverse, collections::HashMap};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, ListenAddr},
};
use doorbell_supervisor::message::{Snapshot, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    house::House,
    metrics::figures::{AppFigures, Figures},
};

/// One app's status.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AppStatus {
    /// Id; of a further replica, that of its app with `:2`, `:3` ... behind it.
    pub id: String,
    /// Which of the app's replicas it is, if not the first. Requests are the app's: they stand with the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u8>,
    /// Display name.
    pub name: String,
    /// Whether it stands before the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where its definition is.
    #[serde(default)]
    pub source: Source,
    /// Where its visitors find it, as far as Doorbell can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where its clients connect, if it is a TCP app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<String>,
    /// Whose instance it shares, if it has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_with: Option<String>,
    /// Its lifecycle, or that of the app whose instance it shares.
    #[serde(flatten)]
    pub snapshot: Option<Snapshot>,
    /// Memory and CPU of its process tree, while it runs.
    pub usage: Option<Usage>,
    /// Requests answered since Doorbell started, or connections of a TCP app.
    pub requests: u64,
    /// Requests running now, or connections in use.
    pub in_flight: i64,
    /// Requests waiting at its gate.
    pub held: u64,
    /// The last start in seconds, from the first wish to ready.
    pub last_cold_start_seconds: Option<f64>,
}

/// Where an app's definition comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The configuration file, or one that it includes.
    #[default]
    File,
    /// The registry.
    Registry,
}

impl AppStatus {
    /// The status of each replica of an app, the first one first.
    pub fn all(
        app: &AppSpec,
        house: &House,
        figures: &Figures,
        usages: &HashMap<AppId, Usage>,
    ) -> Vec<Self> {
        let ids = [app.id.clone()].into_iter().chain(app.further_replicas());
        ids.map(|id| Self::of(app, &id, house, figures, usages)).collect()
    }

    /// Where it stands among others: who is pinned first, and replicas behind their apps, in order.
    pub(super) fn place(&self) -> (Reverse<bool>, &str, u8) {
        let app = self.id.split_once(':').map_or(&*self.id, |(app, _)| app);
        (Reverse(self.pinned), app, self.replica.unwrap_or_default())
    }

    /// The status of an app now, or of one of its replicas.
    #[must_use]
    pub fn of(
        app: &AppSpec,
        id: &AppId,
        house: &House,
        figures: &Figures,
        usages: &HashMap<AppId, Usage>,
    ) -> Self {
        let snapshot = house.link.lifecycle(app, id);
        let figures = figures.apps.get(id);
        let last = snapshot.as_ref().and_then(|snapshot| snapshot.last_start.as_deref().copied());
        Self {
            id: id.to_string(),
            replica: id.is_further_replica().then(|| id.replica_number()),
            name: app.name.clone(),
            pinned: app.pinned,
            source: if house.list().contains_key(id.app_str()) {
                Source::Registry
            } else {
                Source::File
            },
            url: url(app, house),
            listen: app.tcp().iter().flat_map(|tcp| &tcp.listen).map(ToString::to_string).collect(),
            shared_with: app.shared().map(|shared| shared.with.to_string()),
            snapshot,
            usage: usages.get(id).copied(),
            requests: figures.map_or(0, AppFigures::requests),
            in_flight: figures.map_or(0, AppFigures::in_flight),
            held: figures.map_or(0, |figures| figures.held),
            last_cold_start_seconds: last.map(|times| times.total().as_secs_f64()),
        }
    }
}

fn url(app: &AppSpec, house: &House) -> Option<String> {
    if app.tcp().is_some() {
        return None;
    }
    let port = house.listening().iter().find_map(|address| match address {
        ListenAddr::Tcp(address) => Some(address.port()),
        ListenAddr::Unix(_) => None,
    })?;
    let port = if port == 80 { String::new() } else { format!(":{port}") };
    let path = match app.routes.paths.first() {
        Some(path) => path.to_string(),
        None if app.routes.hosts.is_empty() => format!("/apps/{}/", app.id),
        None => "/".into(),
    };
    Some(format!("http://{}{port}{path}", app.default_host()))
}

/// Figures of Doorbell as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServerStatus {
    /// Version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Client connections open now.
    pub connections: i64,
    /// Addresses listened on.
    pub listening: Vec<String>,
    /// Whether the last reload was good.
    pub last_reload_successful: bool,
    /// Why the registry does not answer, if so. Apps go on as they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_problem: Option<String>,
}

impl ServerStatus {
    /// The figures now.
    #[must_use]
    pub fn of(house: &House, figures: &Figures) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            connections: figures.server.connections,
            listening: house.listening().iter().map(ToString::to_string).collect(),
            last_reload_successful: house.reloads().good,
            registry_problem: house.registry_problem().map(|problem| problem.to_string()),
        }
    }
}

/// The answer to `status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Doorbell as a whole.
    pub server: ServerStatus,
    /// Every app, by id.
    pub apps: Vec<AppStatus>,
    /// Apps of the registry that cannot be as they are written there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
}

/// An app of the registry that cannot be as it is written there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Which.
    pub id: String,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl From<&doorbell_config::file::Refused> for Refused {
    fn from(refused: &doorbell_config::file::Refused) -> Self {
        Self { id: refused.app.to_string(), why: refused.problems.to_string() }
    }
}
