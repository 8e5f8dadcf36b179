//! Whether the configuration could be loaded as it is on the disk now; nothing changes.

use std::sync::Arc;

use axum::{Json, extract::State};
use doorbell_config::{file::Archive, spec::Config};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Admin, Problem};
use crate::{house::House, ledger::Ledger};

/// A configuration that could be loaded.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Checked {
    /// Apps in it, those of the registry among them.
    pub(super) apps: usize,
    /// What is odd, and apps of the registry that it would go without.
    pub(super) warnings: Vec<String>,
}

pub(super) async fn check(State(admin): State<Arc<Admin>>) -> Result<Json<Checked>, Problem> {
    let (path, list) = (admin.house.config_path.clone(), admin.house.list());
    let reading = tokio::task::spawn_blocking(move || {
        House::read(&path, &mut Archive::default(), &Ledger::entries(&list))
    });
    let loaded = match reading.await {
        Ok(loaded) => loaded,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let Config { apps, warnings, .. } =
        loaded.outcome.map_err(|problems| Problem::unfit(&problems))?;
    let warnings = warnings.iter().map(ToString::to_string);
    let refused = loaded.refused.iter().map(|refused| refused.problems.to_string());
    Ok(Json(Checked { apps: apps.len(), warnings: warnings.chain(refused).collect() }))
}
