//! What an operator sees of one app, as a transfer object.

use std::sync::{Arc, atomic::Ordering};

use doorbell_supervisor::message::{Snapshot, Usage};
use serde::{Deserialize, Serialize};

use crate::{app::App, house::House, shared::Shared};

/// One app's status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppStatus {
    /// Id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Its lifecycle.
    #[serde(flatten)]
    pub snapshot: Option<Snapshot>,
    /// Memory and CPU of its process tree, while it runs.
    pub usage: Option<Usage>,
    /// Requests answered since Doorbell started.
    pub requests: u64,
    /// Requests running now.
    pub in_flight: i64,
    /// Requests waiting at its gate.
    pub held: usize,
    /// The last start in seconds, from the first wish to ready.
    pub last_cold_start_seconds: Option<f64>,
}

impl AppStatus {
    /// The status of an app now.
    #[must_use]
    pub fn of(app: &App, house: &House, usage: Option<Usage>) -> Self {
        let snapshot = house.supervisor.snapshot(&app.spec.id).map(Arc::unwrap_or_clone);
        let last = snapshot.as_ref().and_then(|snapshot| snapshot.last_start);
        Self {
            id: app.spec.id.to_string(),
            name: app.spec.name.clone(),
            snapshot,
            usage,
            requests: app.metrics.requests(),
            in_flight: app.metrics.in_flight(),
            held: app.gate.held(),
            last_cold_start_seconds: last.map(|times| times.total().as_secs_f64()),
        }
    }
}

/// Figures of Doorbell as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

impl ServerStatus {
    /// The figures now.
    #[must_use]
    pub fn of(shared: &Shared, listening: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            connections: shared.metrics.connections.load(Ordering::Relaxed),
            listening,
            last_reload_successful: shared.metrics.reload_good.load(Ordering::Relaxed) == 1,
        }
    }
}

/// The answer to `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Doorbell as a whole.
    pub server: ServerStatus,
    /// Every app, by id.
    pub apps: Vec<AppStatus>,
}
