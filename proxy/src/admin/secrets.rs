//! Secrets of apps: stored, listed by name, removed. Their values go in and never out.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Extension, State},
    http::StatusCode,
};
use doorbell_config::{name::AppId, registry::WriteError, spec::Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Admin, Problem, audit,
    caller::Identity,
    wrapped::{Path, object},
};
use crate::house::{EditError, SecretError};

/// Longest value.
const MOST_BYTES: usize = 32 * 1024;

/// A secret that is stored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// The environment variable that the app finds it in.
    pub name: String,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub changed_at_unix_ms: u64,
}

/// A secret to be stored.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewValue {
    /// Its value.
    pub value: String,
}

/// What a change of the keys did.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Rotated {
    /// Secrets that were sealed anew.
    pub secrets: usize,
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Vec<Stored>>, Problem> {
    let secrets = admin.house.secrets(&parse(&id)?).await.map_err(|error| explain(&error))?;
    let stored = secrets
        .into_iter()
        .map(|secret| Stored { name: secret.name, changed_at_unix_ms: secret.changed_at });
    Ok(Json(stored.collect()))
}

pub(super) async fn put(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path((id, name)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let app = known(&admin, &id)?;
    check_name(&name)?;
    let read = serde_json::from_value(Value::Object(object(body).await?));
    // Nothing of what was sent is repeated.
    let NewValue { value } = read.map_err(|_| Problem::unfit(&"write `{\"value\": \"...\"}`"))?;
    check_value(&value)?;
    let stored = admin.house.put_secret(&app, &name, &Secret::new(value), &who.actor).await;
    stored.map_err(|error| explain(&error))?;
    tracing::info!(by = %who.actor.name, %app, secret = %name, "a secret was stored");
    Ok(StatusCode::NO_CONTENT)
}

/// Sees that a name can be that of an environment variable.
pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > 255 || !name.chars().all(is_plain) {
        return Err(Problem::unfit(&"the name of a secret has letters, digits and `_`"));
    }
    Ok(())
}

/// Sees that a value can be that of an environment variable.
pub(crate) fn check_value(value: &str) -> Result<(), Problem> {
    if value.contains('\0') || value.len() > MOST_BYTES {
        return Err(Problem::unfit(&"a value has no NUL, and 32 KiB at most"));
    }
    Ok(())
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path((id, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let app = parse(&id)?;
    let removed = admin.house.remove_secret(&app, &name, &who.actor).await;
    if removed.map_err(|error| explain(&error))? {
        tracing::info!(by = %who.actor.name, %app, secret = %name, "a secret was removed");
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(StatusCode::NOT_FOUND, &format!("app \"{app}\" has no secret {name:?}")))
}

pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
) -> Result<Json<Rotated>, Problem> {
    audit::note(&admin, &who, "rotate keys", None);
    let secrets = admin.house.rotate_keys(&who.actor).await.map_err(|error| explain(&error))?;
    Ok(Json(Rotated { secrets }))
}

/// An app of a file or of the registry.
pub(super) fn known(admin: &Admin, id: &str) -> Result<AppId, Problem> {
    let id = parse(id)?;
    let house = &admin.house;
    if house.routes.load().app(id.as_str()).is_some() || house.list().contains_key(&id) {
        return Ok(id);
    }
    Err(Problem::new(StatusCode::NOT_FOUND, &format!("app \"{id}\" is not configured")))
}

fn parse(id: &str) -> Result<AppId, Problem> {
    AppId::parse(id).map_err(|error| Problem::unfit(&error))
}

pub(super) fn explain(error: &SecretError) -> Problem {
    let status = match error {
        SecretError::Edit(EditError::Write(WriteError::Refused { .. })) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        SecretError::Edit(_) => StatusCode::SERVICE_UNAVAILABLE,
        SecretError::Vault(_) | SecretError::NoVault => StatusCode::CONFLICT,
    };
    Problem::new(status, error)
}
