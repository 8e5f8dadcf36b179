//! What backups are made of and come back to: the rest is the command line's, which may run programs.
//!
//! What is told here is sealed for a key that whoever asks has made for it, and stands nowhere in the clear:
//! not on the way, and not in a file that somebody writes it to.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{
    body::Body,
    extract::{Extension, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::{
    file::written,
    name::AppId,
    spec::{Backend, Secret},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Admin, Problem, audit,
    caller::Identity,
    databases::{is_named, not_in_force, own},
    definitions::{Keys, of_registry},
    edits::{Changed, How, explain, with_tag},
    secrets::{self, check_name, check_value, known},
    wrapped::{Path, Query, object},
};
use crate::{
    backup::{
        envelope::seal_for,
        format::{Access, Secrets, Told},
    },
    house::{Arrival, SecretError},
    provision::Adopt,
};

/// Whom an answer is for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct For {
    /// A public key of age: `age1...`.
    pub recipient: String,
    /// Whether how to get to the database is told too; it is made where it is not there yet.
    #[serde(default = "yes")]
    pub database: bool,
}

fn yes() -> bool {
    true
}

/// Whose a database may have been.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct Taking {
    /// It may be that of an earlier app of the id.
    #[serde(default)]
    pub adopt: bool,
}

/// An app that comes with its secrets.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// Its id, which no app has yet.
    pub id: String,
    /// Its keys.
    pub keys: Keys,
    /// Its own secret, for `{secret}`.
    #[serde(default)]
    pub secret: Option<String>,
    /// Its secrets, by the environment variable.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// The version that the data which comes with it is up to date with: its `upgrade` is not run for that.
    #[serde(default)]
    pub upgraded_to: Option<String>,
}

pub(super) async fn export(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let (id, asked) = (known(&admin, &id)?, asked(body).await?);
    let recipient = asked.recipient;
    own(&admin, &id).await?;
    let keys = keys(&admin, &id).await?;
    // Whoever cannot be answered has not been told anything.
    seal(&recipient, &())?;
    audit::note(&admin, &who, "export app", Some(&id));
    let failed = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, &why);
    let secrets = admin.house.open_secrets(&id).await.map_err(failed)?;
    let missing = missing(&keys, &secrets);
    let database = if asked.database { access(&admin, &id, Adopt::No).await? } else { None };
    let upgraded_to = match keys.get("upgrade") {
        Some(_) => admin.house.upgraded_to(&id).await.map_err(failed)?,
        None => None,
    };
    let directory = directory(&admin, &id);
    let told = Told { keys, secrets, missing, directory, database, upgraded_to };
    sealed(&recipient, &told)
}

pub(super) async fn open_database(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(taking): Query<Taking>,
    body: Body,
) -> Result<Response, Problem> {
    let (id, recipient) = (known(&admin, &id)?, asked(body).await?.recipient);
    own(&admin, &id).await?;
    seal(&recipient, &())?;
    audit::note(&admin, &who, "open database", Some(&id));
    let adopt = if taking.adopt { Adopt::Yes } else { Adopt::No };
    let none = || {
        let why = format!("app \"{id}\" asks for no database: give it `database` first");
        Problem::new(StatusCode::CONFLICT, &why)
    };
    let access = access(&admin, &id, adopt).await?.ok_or_else(none)?;
    sealed(&recipient, &access)
}

pub(super) async fn import(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Query(how): Query<How>,
    body: Body,
) -> Result<Response, Problem> {
    // Nothing of what was sent is repeated.
    let shape = "write `id`, `keys`, and `secret`, `secrets` and `upgraded_to` if there are some";
    let read = serde_json::from_value(Value::Object(object(body).await?));
    let Imported { id, keys, secret, secrets, upgraded_to } =
        read.map_err(|_| Problem::unfit(&shape))?;
    let id = of_registry(&admin, &id)?;
    for (name, value) in &secrets {
        check_name(name)?;
        check_value(value)?;
    }
    secret.as_deref().map_or(Ok(()), check_value)?;
    let named = secrets.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
    let secrets = Secrets { own: secret.map(Secret::new), named };
    let arrival = Arrival { keys: keys.0, secrets, upgraded_to };
    let imported = admin.house.import(&id, arrival, who.actor, how.trial()).await;
    let edited = imported.map_err(|error| match error {
        SecretError::Edit(error) => explain(&error, false),
        other => secrets::explain(&other),
    })?;
    let status = if how.dry_run { StatusCode::OK } else { StatusCode::CREATED };
    let (revision, warnings) = (edited.revision.number(), edited.report.warnings);
    Ok((status, with_tag(Changed { id: id.to_string(), revision, warnings, same: false }))
        .into_response())
}

async fn asked(body: Body) -> Result<For, Problem> {
    let read = serde_json::from_value(Value::Object(object(body).await?));
    read.map_err(|error| Problem::unfit(&error))
}

/// An app's keys as the registry has them, or would.
async fn keys(admin: &Admin, id: &AppId) -> Result<Map<String, Value>, Problem> {
    if let Some(listed) = admin.house.list().get(id) {
        return Ok(listed.entry.keys());
    }
    let (path, app) = (admin.house.config_path.clone(), id.clone());
    let read = move || written(&path, &app, &|name| std::env::var(name).ok());
    let keys = tokio::task::spawn_blocking(read).await.ok().flatten();
    keys.ok_or_else(|| {
        let why = format!("app \"{id}\" is not in the files any more as they are now: reload them");
        Problem::new(StatusCode::CONFLICT, &why)
    })
}

async fn access(admin: &Admin, id: &AppId, adopt: Adopt) -> Result<Option<Access>, Problem> {
    if admin.house.database_spec(id).await.is_none() && is_named(admin, id) {
        return Err(not_in_force(id));
    }
    let access = admin.house.database_access(id, adopt).await;
    access.map_err(|why| Problem::new(StatusCode::BAD_GATEWAY, &why))
}

/// The folder that an app's program runs in.
fn directory(admin: &Admin, id: &AppId) -> Option<PathBuf> {
    let routes = admin.house.routes.load();
    match &routes.app(id.as_str())?.backend {
        Backend::Process(process) => Some(process.directory.clone()),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

/// Secrets that a definition names and nobody has stored.
fn missing(keys: &Map<String, Value>, secrets: &Secrets) -> Vec<String> {
    let names = keys.get("secrets").and_then(Value::as_array).into_iter().flatten();
    let names = names.filter_map(Value::as_str).filter(|name| !secrets.named.contains_key(*name));
    names.map(str::to_owned).collect()
}

fn seal(recipient: &str, told: &impl Serialize) -> Result<Vec<u8>, Problem> {
    let text = serde_json::to_vec(told).map_err(|error| Problem::unfit(&error))?;
    seal_for(recipient, &text).map_err(|error| Problem::unfit(&error))
}

fn sealed(recipient: &str, told: &impl Serialize) -> Result<Response, Problem> {
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, seal(recipient, told)?).into_response())
}
