//! Apps of the registry: made, changed, renamed and deleted.
//!
//! An app's ETag is the revision of its last change: with `If-Match` nobody overwrites what they have not
//! seen.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::{
    name::AppId,
    registry::{Edit, Expect, Revision, What, WriteError},
    schema,
    spec::Secret,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Admin, Problem,
    caller::Identity,
    conditions::{Condition, merge, tag},
    databases,
    definitions::{Keys, not_there, of_registry, parse},
    secrets::{check_name, check_value, explain as explain_secret},
    wrapped::{Path, Query, object},
};
use crate::{
    backup::format::Secrets,
    house::{EditError, Edited, ReloadError, Trial},
    ledger::Misfit,
};

/// How often a patch is tried while others change the same app.
const MOST_TRIES: u32 = 10;

/// A new app: its id, and its keys beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewApp {
    /// Its id.
    pub id: String,
    /// Its keys.
    #[serde(flatten)]
    pub keys: Keys,
}

impl JsonSchema for NewApp {
    fn schema_name() -> Cow<'static, str> {
        "NewApp".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let id = json!({"type": "string", "description": "Its id."});
        schema::app(generator, &[("id", id)])
    }
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
    /// It was just so before.
    #[serde(default)]
    pub same: bool,
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct How {
    /// Only tell what would come of it.
    #[serde(default)]
    pub dry_run: bool,
}

/// What goes with an app.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct With {
    /// Its database too, with all that is in it, if Doorbell made it.
    #[serde(default)]
    pub with_database: bool,
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
    /// Revisions that were seen of apps in `put` and `delete`: where one is another by now, nothing is changed.
    #[serde(default)]
    pub seen: BTreeMap<String, u64>,
    /// Secrets of apps in `put` and `add`, by id and environment variable: stored, sealed, with them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, String>>")]
    pub secrets: BTreeMap<String, BTreeMap<String, Secret>>,
}

/// Another id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Rename {
    /// The new id.
    pub to: String,
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
        _ => return Err(Problem::unfit(&"`id` is missing: the app's id, a text")),
    };
    let condition = Condition::unsaid(Expect::Absent);
    let changed = Change { id, condition, what: What::Put(keys) }.make(&admin, &who, how).await?;
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
    let (id, condition) = (of_registry(&admin, &id)?, Condition::read(&headers, Expect::Anything)?);
    let change = Change { id, condition, what: What::Put(object(body).await?) };
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
    let said = Condition::read(&headers, Expect::Present)?;
    // What is patched is what was read: another change in between is seen, and patched again.
    for _ in 0..MOST_TRIES {
        let list = admin.house.list();
        let listed = list.get(&id).ok_or_else(|| not_there(&id))?;
        let mut keys = listed.entry.keys();
        merge(&mut keys, &patch);
        let condition =
            if said.is_said { said } else { Condition::unsaid(Expect::Revision(listed.revision)) };
        let change = Change { id: id.clone(), condition, what: What::Put(keys) };
        match change.make(&admin, &who, how).await {
            Err(problem) if problem.status == StatusCode::CONFLICT && !said.is_said => {
                // Another Doorbell may have made it; where it cannot be seen, the next try tells.
                drop(admin.house.sync().await);
                if admin.house.list().get(&id).map(|now| now.revision) == Some(listed.revision) {
                    return Err(problem);
                }
            }
            other => return Ok(with_tag(other?)),
        }
    }
    let why = format!("app \"{id}\" changes all the time: try again");
    Err(Problem::new(StatusCode::CONFLICT, &why))
}

pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    Query(with): Query<With>,
    headers: HeaderMap,
) -> Result<Json<Changed>, Problem> {
    let (id, condition) = (of_registry(&admin, &id)?, Condition::read(&headers, Expect::Present)?);
    if with.with_database && !how.dry_run && databases::has_own(&admin, &id).await? {
        return databases::end(&admin, &who, &id, condition).await.map(Json);
    }
    let delete = Change { id, condition, what: What::Delete };
    delete.make(&admin, &who, how).await.map(Json)
}

pub(super) async fn rename(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (id, condition) = (of_registry(&admin, &id)?, Condition::read(&headers, Expect::Present)?);
    let to = match object(body).await?.remove("to") {
        Some(Value::String(to)) => parse(&to)?,
        _ => return Err(Problem::unfit(&"`to` is missing: the new id, a text")),
    };
    databases::stays_with(&admin, &id).await?;
    let change = Change { id, condition, what: What::Rename(to.clone()) };
    let changed = change.make(&admin, &who, how).await?;
    Ok(with_tag(Changed { id: to.to_string(), ..changed }))
}

pub(super) async fn apply(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Query(how): Query<How>,
    body: Body,
) -> Result<Json<Vec<Changed>>, Problem> {
    let Apply { put, add, delete, seen, secrets } = asked(object(body).await?)?;
    let is_edited = |app: &&String| put.contains_key(*app) || delete.contains(app);
    let unedited: Vec<_> = seen.keys().filter(|app| !is_edited(app)).map(String::as_str).collect();
    if !unedited.is_empty() {
        let why = format!(
            "`seen` has what is neither in `put` nor in `delete`, where it would change nothing: {}",
            unedited.join(", ")
        );
        return Err(Problem::unfit(&why));
    }
    let secrets = sealing(&admin, secrets, |app| put.contains_key(app) || add.contains_key(app))?;
    let expect = |id: &str| {
        seen.get(id).map_or(Expect::Anything, |seen| Expect::Revision(Revision::new(*seen)))
    };
    let gone = delete.into_iter().map(|id| (expect(&id), id, What::Delete));
    let gone = gone.map(|(expect, id, what)| (id, expect, what));
    let put = put.into_iter().map(|(id, keys)| (expect(&id), id, What::Put(keys.0)));
    let put = put.map(|(expect, id, what)| (id, expect, what));
    let add = add.into_iter().map(|(id, keys)| (id, Expect::Absent, What::Put(keys.0)));
    let edits = gone.chain(put).chain(add).map(|(id, expect, what)| {
        Ok(Edit { app: of_registry(&admin, &id)?, expect, what, is_of_file: false })
    });
    let mut edits: Vec<_> = edits.collect::<Result<_, Problem>>()?;
    let apps: Vec<_> = edits.iter().map(|edit| edit.app.to_string()).collect();
    edits.extend(secrets);
    let count = edits.len() as u64;
    let Edited { revision, report, same } = admin
        .house
        .edit(edits, who.actor, how.trial())
        .await
        .map_err(|error| explain(&error, true))?;
    let first = (revision.number() + 1).saturating_sub(count);
    let changed = apps.into_iter().zip(first..).map(|(id, number)| Changed {
        same: same.iter().any(|app| app.as_str() == id),
        id,
        revision: if revision == Revision::ZERO { 0 } else { number },
        warnings: report.warnings.clone(),
    });
    Ok(Json(changed.collect()))
}

fn asked(body: Map<String, Value>) -> Result<Apply, Problem> {
    // Nothing of a secret is repeated.
    let has_secrets = body.contains_key("secrets");
    let read = serde_json::from_value(Value::Object(body));
    read.map_err(|error| match has_secrets {
        true => Problem::unfit(
            &"write `put` and `add` (tables by id), `delete` (ids), `seen` (revisions by id) and `secrets` (by \
              id, texts by variable)",
        ),
        false => Problem::unfit(&error),
    })
}

/// The edits that store secrets of apps that are put.
fn sealing(
    admin: &Admin,
    secrets: BTreeMap<String, BTreeMap<String, Secret>>,
    is_put: impl Fn(&String) -> bool,
) -> Result<Vec<Edit>, Problem> {
    let mut edits = Vec::new();
    for (app, named) in secrets {
        if !is_put(&app) {
            let why = format!("`secrets` has app {app:?}, which is neither in `put` nor in `add`");
            return Err(Problem::unfit(&why));
        }
        for (name, value) in &named {
            check_name(name)?;
            check_value(value.reveal())?;
        }
        let secrets = Secrets { own: None, named };
        let sealed = admin.house.sealing(&parse(&app)?, &secrets);
        edits.extend(sealed.map_err(|error| explain_secret(&error))?);
    }
    Ok(edits)
}

impl How {
    pub(super) fn trial(self) -> Trial {
        if self.dry_run { Trial::Yes } else { Trial::No }
    }
}

/// A change of one app.
struct Change {
    id: AppId,
    condition: Condition,
    what: What,
}

impl Change {
    async fn make(self, admin: &Admin, who: &Identity, how: How) -> Result<Changed, Problem> {
        let Self { id, condition, what } = self;
        let edits =
            vec![Edit { app: id.clone(), expect: condition.expect, what, is_of_file: false }];
        let Edited { revision, report, same } = admin
            .house
            .edit(edits, who.actor.clone(), how.trial())
            .await
            .map_err(|error| explain(&error, condition.is_said))?;
        let warnings = report.warnings;
        let same = same.contains(&id);
        Ok(Changed { id: id.to_string(), revision: revision.number(), warnings, same })
    }
}

/// The problem that an edit met; a condition may have been said.
pub(super) fn explain(error: &EditError, is_said: bool) -> Problem {
    let unlike = if is_said { StatusCode::PRECONDITION_FAILED } else { StatusCode::CONFLICT };
    let status = match error {
        EditError::NoRegistry(_)
        | EditError::Write(WriteError::Registry(_))
        | EditError::Reload(ReloadError::Supervisor(_)) => StatusCode::SERVICE_UNAVAILABLE,
        EditError::Misfit(Misfit::Conflict { found: None, .. }) if !is_said => {
            StatusCode::NOT_FOUND
        }
        EditError::Misfit(Misfit::Conflict { .. })
        | EditError::Write(WriteError::Conflict { .. } | WriteError::TokenTaken(_)) => unlike,
        EditError::Misfit(Misfit::Keys { .. })
        | EditError::Refused(_)
        | EditError::Hidden(_)
        | EditError::Write(WriteError::Refused { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
        EditError::Address(_)
        | EditError::Files(_)
        | EditError::Write(WriteError::Ending(_) | WriteError::Changed)
        | EditError::Reload(ReloadError::Config(_) | ReloadError::Configure(_)) => {
            StatusCode::CONFLICT
        }
    };
    Problem::new(status, error)
}

pub(super) fn with_tag(changed: Changed) -> Response {
    if changed.revision == 0 {
        return Json(changed).into_response();
    }
    ([(header::ETAG, tag(Revision::new(changed.revision)))], Json(changed)).into_response()
}
