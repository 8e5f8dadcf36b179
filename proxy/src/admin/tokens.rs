//! Tokens: made, listed and removed. A token is shown once, to who makes it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Extension, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::{
    name::DurationText,
    registry::{NewToken, Token, WriteError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Admin, Problem,
    caller::{Identity, Scope, hash, new_token},
    wrapped::{Path, object},
};
use crate::clock;

/// A token to be made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What it is called, such as who uses it.
    pub name: String,
    /// What it lets its user do.
    pub scope: Scope,
    /// For how long it is good, such as `90d`; for ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Made {
    /// What it is called.
    pub name: String,
    /// The token: it is not shown again.
    pub token: String,
}

/// What is known of a token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Known {
    /// What it is called.
    pub name: String,
    /// What it lets its user do.
    pub scope: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// Until when it is good, in milliseconds since the Unix epoch; `None` is for ever.
    pub expires_at_unix_ms: Option<u64>,
    /// When it was used last, to the minute, in milliseconds since the Unix epoch.
    pub used_at_unix_ms: Option<u64>,
    /// Whether its time is over.
    pub is_expired: bool,
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<Known>>, Problem> {
    let registry = admin.house.registry().map_err(unavailable)?;
    let tokens = registry.tokens().await.map_err(unavailable)?;
    Ok(Json(tokens.into_iter().map(Known::from).collect()))
}

pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    body: Body,
) -> Result<Response, Problem> {
    let wanted: Wanted = serde_json::from_value(Value::Object(object(body).await?))
        .map_err(|error| Problem::unfit(&error))?;
    let lasts = wanted.expires_in.as_deref().map(DurationText::parse).transpose();
    let lasts = lasts.map_err(|error| Problem::unfit(&error))?;
    let ends = |lasts: DurationText| {
        let lasts = u64::try_from(lasts.0.as_millis()).unwrap_or(u64::MAX);
        clock::unix_millis().saturating_add(lasts)
    };
    if wanted.name.trim() != wanted.name || wanted.name.chars().any(char::is_control) {
        let why = "the name has blanks around it, or control characters";
        return Err(Problem::unfit(&why));
    }
    let token = new_token().map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &"the system gives no random bytes")
    })?;
    let new = NewToken {
        name: wanted.name.clone(),
        scope: wanted.scope.word().into(),
        hash: hash(&token),
        expires_at: lasts.map(ends),
    };
    let registry = admin.house.registry().map_err(unavailable)?;
    registry.add_token(&new, &who.actor).await.map_err(|error| explain(&error))?;
    tracing::info!(by = %who.actor.name, token = %new.name, scope = %new.scope, "a token was made");
    let made = Made { name: wanted.name, token };
    let only_once = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, only_once, Json(made)).into_response())
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let registry = admin.house.registry().map_err(unavailable)?;
    if registry.remove_token(&name, &who.actor).await.map_err(|error| explain(&error))? {
        tracing::info!(by = %who.actor.name, token = %name, "a token was removed");
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(StatusCode::NOT_FOUND, &format!("there is no token {name:?}")))
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, &error)
}

fn explain(error: &WriteError) -> Problem {
    let status = match error {
        WriteError::TokenTaken(_)
        | WriteError::Conflict { .. }
        | WriteError::Ending(_)
        | WriteError::Changed => StatusCode::CONFLICT,
        WriteError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        WriteError::Registry(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error)
}

impl From<Token> for Known {
    fn from(token: Token) -> Self {
        Self {
            is_expired: token.is_expired(clock::unix_millis()),
            name: token.name,
            scope: token.scope,
            created_at_unix_ms: token.created_at,
            expires_at_unix_ms: token.expires_at,
            used_at_unix_ms: token.used_at,
        }
    }
}
