//! Apps of the registry: made, changed, renamed and deleted.
//!
//! An app's definition has the keys of `[app.<id>]` in the configuration file, and `kind = "tcp"` makes it
//! one of `[tcp.<id>]`. Its ETag is the revision of its last change: with `If-Match` nobody overwrites what
//! they have not seen.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::{
    file::KIND,
    name::AppId,
    registry::{Edit, Expect, Revision, What, WriteError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Admin, Problem,
    caller::{Identity, Scope},
    databases,
    wrapped::{Path, Query, object},
};
use crate::house::{EditError, Edited, ReloadError, Trial};

/// What is shown in the place of a value that is not for everybody.
const HIDDEN: &str = "********";

/// The keys of an app, as in the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(pub Map<String, Value>);

impl JsonSchema for Keys {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AppKeys".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "The keys of `[app.<id>]` in the configuration file (`doorbell schema`); with \
                            `kind` \"tcp\", those of `[tcp.<id>]`.",
            "properties": { (KIND): {"enum": ["http", "tcp"], "default": "http"} },
            "additionalProperties": true,
        })
    }
}

/// A new app: its id, and its keys beside it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NewApp {
    /// Its id.
    pub id: String,
    /// Its keys.
    #[serde(flatten)]
    pub keys: Keys,
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
    /// Its keys. Values of `env` and `database` are shown to who has scope `admin`.
    pub keys: Keys,
}

/// What a change came to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The app.
    pub id: String,
    /// Its new revision; 0 if nothing was changed, for a trial.
    pub revision: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct How {
    /// Only tell what would come of it.
    #[serde(default)]
    pub dry_run: bool,
}

/// Several changes at once: all of them are made, or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Apps that should be so, by id.
    #[serde(default)]
    pub put: BTreeMap<String, Keys>,
    /// Apps that should be so, by id, and must not be there yet.
    #[serde(default)]
    pub add: BTreeMap<String, Keys>,
    /// Apps that should not be.
    #[serde(default)]
    pub delete: Vec<String>,
}

/// Another id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Rename {
    /// The new id.
    pub to: String,
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
    let mut keys = listed.entry.keys();
    if who.scope < Scope::Admin {
        // Addresses of databases have passwords in them.
        for key in ["env", "database"] {
            if let Some(Value::Object(secrets)) = keys.get_mut(key) {
                secrets.values_mut().for_each(|value| *value = HIDDEN.into());
            }
        }
    }
    let revision = listed.revision;
    let shown = Definition {
        id: id.to_string(),
        revision: revision.number(),
        created_at_unix_ms: listed.created_at,
        changed_at_unix_ms: listed.changed_at,
        keys: Keys(keys),
    };
    Ok(([(header::ETAG, tag(revision))], Json(shown)).into_response())
}

pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Query(how): Query<How>,
    body: Body,
) -> Result<Response, Problem> {
    let mut keys = object(body).await?;
    let id = match keys.remove("id") {
        Some(Value::String(id)) => parse(&id)?,
        _ => return Err(bad("`id` is missing: the app's id, a text")),
    };
    let change = Change { id, expect: Expect::Absent, what: What::Put(keys) };
    let taken = |problem: Problem| match problem.status {
        // Nobody made a condition.
        CONFLICT => Problem::new(StatusCode::CONFLICT, &"there is an app of this id already"),
        _ => problem,
    };
    let changed = change.make(&admin, &who, how).await.map_err(taken)?;
    let place = [(header::LOCATION, format!("/v1/apps/{}", changed.id))];
    let status = if how.dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, place, with_tag(changed)).into_response())
}

/// Makes the app be this, whether there was one or not; unless `If-Match` or `If-None-Match` say otherwise.
pub(super) async fn put(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (id, expect) = (of_registry(&admin, &id)?, expected(&headers, Expect::Anything)?);
    let change = Change { id, expect, what: What::Put(object(body).await?) };
    Ok(with_tag(change.make(&admin, &who, how).await?))
}

/// Changes some keys: RFC 7396.
pub(super) async fn patch(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let id = of_registry(&admin, &id)?;
    let patch = object(body).await?;
    let wanted = expected(&headers, Expect::Present)?;
    // What is patched is what was read: another change in between is seen, and patched again.
    loop {
        let list = admin.house.list();
        let listed = list.get(&id).ok_or_else(|| not_there(&id))?;
        let mut keys = listed.entry.keys();
        merge(&mut keys, &patch);
        let seen = Expect::Revision(listed.revision);
        let expect = if wanted == Expect::Present { seen } else { wanted };
        let change = Change { id: id.clone(), expect, what: What::Put(keys) };
        match change.make(&admin, &who, how).await {
            Err(problem)
                if problem.status == CONFLICT
                    && wanted == Expect::Present
                    && admin.house.list().get(&id).map(|now| now.revision)
                        != Some(listed.revision) => {}
            other => return Ok(with_tag(other?)),
        }
    }
}

pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    Query(with): Query<With>,
    headers: HeaderMap,
) -> Result<Json<Changed>, Problem> {
    let (id, expect) = (of_registry(&admin, &id)?, expected(&headers, Expect::Present)?);
    let delete =
        |how| Change { id: id.clone(), expect, what: What::Delete }.make(&admin, &who, how);
    let mut _ending = None;
    if with.with_database && !how.dry_run {
        // Whether it may go is known before anything of it does.
        delete(How { dry_run: true }).await?;
        _ending = databases::end(&admin, &who, &id).await?;
    }
    delete(how).await.map(Json)
}

/// What goes with an app.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct With {
    /// Its database too, with all that is in it, if Doorbell made it.
    #[serde(default)]
    pub with_database: bool,
}

pub(super) async fn rename(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (id, expect) = (of_registry(&admin, &id)?, expected(&headers, Expect::Present)?);
    let to = match object(body).await?.remove("to") {
        Some(Value::String(to)) => parse(&to)?,
        _ => return Err(bad("`to` is missing: the new id, a text")),
    };
    databases::stays_with(&admin, &id)?;
    let change = Change { id, expect, what: What::Rename(to.clone()) };
    let changed = change.make(&admin, &who, how).await?;
    Ok(with_tag(Changed { id: to.to_string(), ..changed }))
}

pub(super) async fn apply(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Query(how): Query<How>,
    body: Body,
) -> Result<Json<Vec<Changed>>, Problem> {
    let Apply { put, add, delete } = serde_json::from_value(Value::Object(object(body).await?))
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &error))?;
    let gone = delete.into_iter().map(|id| (id, Expect::Anything, What::Delete));
    let put = put.into_iter().map(|(id, keys)| (id, Expect::Anything, What::Put(keys.0)));
    let add = add.into_iter().map(|(id, keys)| (id, Expect::Absent, What::Put(keys.0)));
    let edits = gone
        .chain(put)
        .chain(add)
        .map(|(id, expect, what)| Ok(Edit { app: of_registry(&admin, &id)?, expect, what }));
    let edits: Vec<_> = edits.collect::<Result<_, Problem>>()?;
    let apps: Vec<_> = edits.iter().map(|edit| edit.app.to_string()).collect();
    let Edited { revision, report } =
        admin.house.edit(edits, who.actor, how.trial()).await.map_err(|error| explain(&error))?;
    let first = (revision.number() + 1).saturating_sub(apps.len() as u64);
    let changed = apps.into_iter().zip(first..).map(|(id, number)| Changed {
        id,
        revision: if revision == Revision::ZERO { 0 } else { number },
        warnings: report.warnings.clone(),
    });
    Ok(Json(changed.collect()))
}

impl How {
    fn trial(self) -> Trial {
        if self.dry_run { Trial::Yes } else { Trial::No }
    }
}

/// A change of one app.
struct Change {
    id: AppId,
    expect: Expect,
    what: What,
}

impl Change {
    async fn make(self, admin: &Admin, who: &Identity, how: How) -> Result<Changed, Problem> {
        let Self { id, expect, what } = self;
        let edits = vec![Edit { app: id.clone(), expect, what }];
        let Edited { revision, report } = admin
            .house
            .edit(edits, who.actor.clone(), how.trial())
            .await
            .map_err(|error| explain(&error))?;
        let warnings = report.warnings;
        Ok(Changed { id: id.to_string(), revision: revision.number(), warnings })
    }
}

const CONFLICT: u16 = 412;

/// The problem that an edit met.
fn explain(error: &EditError) -> Problem {
    let status = match error {
        EditError::NoRegistry(_) => StatusCode::SERVICE_UNAVAILABLE,
        EditError::Misfit(crate::ledger::Misfit::Conflict { found: None, .. }) => {
            StatusCode::NOT_FOUND
        }
        EditError::Misfit(crate::ledger::Misfit::Conflict { .. }) => {
            StatusCode::PRECONDITION_FAILED
        }
        EditError::Misfit(crate::ledger::Misfit::Keys { .. }) | EditError::Refused(_) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        EditError::Files(_) => StatusCode::CONFLICT,
        EditError::Write(WriteError::Conflict { .. } | WriteError::TokenTaken(_)) => {
            StatusCode::PRECONDITION_FAILED
        }
        EditError::Write(WriteError::Refused { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
        EditError::Write(WriteError::Registry(_)) => StatusCode::SERVICE_UNAVAILABLE,
        EditError::Reload(ReloadError::Supervisor(_)) => StatusCode::SERVICE_UNAVAILABLE,
        EditError::Reload(ReloadError::Config(_) | ReloadError::Configure(_)) => {
            StatusCode::CONFLICT
        }
    };
    Problem::new(status, error)
}

/// The id of an app that can be changed here. One of a file is told where it is.
fn of_registry(admin: &Admin, id: &str) -> Result<AppId, Problem> {
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

fn parse(id: &str) -> Result<AppId, Problem> {
    AppId::parse(id).map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &error))
}

fn not_there(id: &AppId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, &format!("app \"{id}\" is not in the registry"))
}

fn bad(why: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &why)
}

/// RFC 9110, section 8.8.3.
fn tag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

fn with_tag(changed: Changed) -> Response {
    if changed.revision == 0 {
        return Json(changed).into_response();
    }
    ([(header::ETAG, tag(Revision::new(changed.revision)))], Json(changed)).into_response()
}

/// What the caller expects to find: RFC 9110, sections 13.1.1 and 13.1.2.
fn expected(headers: &HeaderMap, otherwise: Expect) -> Result<Expect, Problem> {
    let field = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (field(header::IF_MATCH), field(header::IF_NONE_MATCH)) {
        (None, None) => Ok(otherwise),
        (None, Some("*")) => Ok(Expect::Absent),
        (Some("*"), None) => Ok(Expect::Present),
        (Some(tag), None) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            // A tag that we never gave fits nothing.
            let number = number.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
            Ok(Expect::Revision(Revision::new(number)))
        }
        (None, Some(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            &"`If-None-Match` can be `*` here, for an app that is not there yet",
        )),
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            &"`If-Match` and `If-None-Match` exclude each other",
        )),
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => _ = target.remove(key),
            Value::Object(patch) => {
                let inner = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            other => _ = target.insert(key.clone(), other.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_expected_is_read_from_the_head() {
        let read =
            |fields: &[_]| expected(&headers(fields), Expect::Anything).map_err(|p| p.status);
        assert_eq!(read(&[]), Ok(Expect::Anything));
        assert_eq!(read(&[("if-none-match", "*")]), Ok(Expect::Absent));
        assert_eq!(read(&[("if-match", "*")]), Ok(Expect::Present));
        assert_eq!(read(&[("if-match", "\"7\"")]), Ok(Expect::Revision(Revision::new(7))));
        for never in ["7", "W/\"7\"", "\"x\"", "\""] {
            let revision = Revision::new(u64::MAX);
            assert_eq!(read(&[("if-match", never)]), Ok(Expect::Revision(revision)), "{never}");
        }
        assert_eq!(read(&[("if-none-match", "\"7\"")]), Err(400));
        assert_eq!(read(&[("if-match", "*"), ("if-none-match", "*")]), Err(400));
    }

    #[test]
    fn a_patch_is_merged() {
        // The examples of RFC 7396, appendix A, that are objects.
        for (target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": "foo"}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ] {
            let mut result = target.as_object().unwrap().clone();
            merge(&mut result, patch.as_object().unwrap());
            assert_eq!(Value::Object(result), merged);
        }
    }
}
