//! Apps of the registry as they were written.
//!
//! An app's definition has the keys of `[app.<id>]` in the configuration file, and `kind = "tcp"` makes it
//! one of `[tcp.<id>]`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json,
    extract::{Extension, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::{name::AppId, schema, spec::HIDDEN};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Admin, Problem,
    caller::{Identity, Scope},
    conditions::tag,
    wrapped::Path,
};
use crate::ledger::{Listed, address};

/// The keys of an app, as in the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(pub Map<String, Value>);

impl JsonSchema for Keys {
    fn schema_name() -> Cow<'static, str> {
        "AppKeys".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::app(generator, &[])
    }
}

/// Keys that are to change, of either kind of app; null removes one.
pub(super) struct Patch;

impl JsonSchema for Patch {
    fn schema_name() -> Cow<'static, str> {
        "AppPatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::app_patch(generator)
    }
}

/// An app of the registry as it was written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Definition {
    /// Its id.
    pub id: String,
    /// The revision of its last change; its ETag has this in quotes.
    pub revision: u64,
    /// When it came to be, in milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub changed_at_unix_ms: u64,
    /// Its keys. Values of `env` and `database` are shown to who has scope `admin`, but for passwords of databases.
    pub keys: Keys,
}

impl Definition {
    /// What somebody with a scope may see of an app.
    fn of(id: &AppId, listed: &Listed, scope: Scope) -> Self {
        let mut keys = listed.entry.keys();
        address::hide(&mut keys);
        if scope < Scope::Admin {
            for key in ["env", "database"] {
                if let Some(Value::Object(secrets)) = keys.get_mut(key) {
                    secrets.values_mut().for_each(|value| *value = HIDDEN.into());
                }
            }
        }
        Self {
            id: id.to_string(),
            revision: listed.revision.number(),
            created_at_unix_ms: listed.created_at,
            changed_at_unix_ms: listed.changed_at,
            keys: Keys(keys),
        }
    }
}

/// Shows every app of the registry, in force or not.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
) -> Json<Vec<Definition>> {
    let list = admin.house.list();
    Json(list.iter().map(|(id, listed)| Definition::of(id, listed, who.scope)).collect())
}

/// Shows an app as it was written.
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = of_registry(&admin, &id)?;
    let list = admin.house.list();
    let listed = list.get(&id).ok_or_else(|| not_there(&id))?;
    let shown = Definition::of(&id, listed, who.scope);
    Ok(([(header::ETAG, tag(listed.revision))], Json(shown)).into_response())
}

/// The id of an app that can be changed here. One of a file is told where it is.
pub(super) fn of_registry(admin: &Admin, id: &str) -> Result<AppId, Problem> {
    let id = parse(id)?;
    let is_configured = admin.house.routes.load().app(id.as_str()).is_some();
    if is_configured && !admin.house.list().contains_key(&id) {
        let file = admin.house.config_path.display();
        let why =
            format!("app \"{id}\" stands in a file: change it there ({file} or what it includes)");
        return Err(Problem::new(StatusCode::CONFLICT, &why));
    }
    Ok(id)
}

pub(super) fn parse(id: &str) -> Result<AppId, Problem> {
    AppId::parse(id).map_err(|error| Problem::unfit(&error))
}

pub(super) fn not_there(id: &AppId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, &format!("app \"{id}\" is not in the registry"))
}
