//! Databases of apps: adopted from an earlier app of the id, and removed with their app.

use std::sync::Arc;

use axum::{
    extract::{Extension, State},
    http::StatusCode,
};
use doorbell_config::{name::AppId, spec::DatabaseSpec};

use super::{
    Admin, Problem, apps, audit,
    caller::Identity,
    conditions::Condition,
    edits::{self, Changed},
    wrapped::Path,
};
use crate::house::{DatabaseError, Edited, EndError};

/// Lets an app have what an earlier app of its id had.
pub(super) async fn adopt(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = apps::find(&admin, &id)?.id.clone();
    if admin.house.database_spec(&id).await.is_none() {
        let why = format!("app \"{id}\" asks for no database: give it `database` first");
        return Err(Problem::new(StatusCode::CONFLICT, &why));
    }
    audit::note(&admin, &who, "adopt database", Some(&id));
    let adopted = admin.house.adopt_database(&id).await;
    adopted.map_err(|why| Problem::new(StatusCode::BAD_GATEWAY, &why))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes an app, and what was made for it.
pub(super) async fn end(
    admin: &Admin,
    who: &Identity,
    id: &AppId,
    condition: Condition,
) -> Result<Changed, Problem> {
    audit::note(admin, who, "remove database", Some(id));
    let ended = admin.house.delete_with_database(id, condition.expect, who.actor.clone()).await;
    let Edited { revision, report, .. } = ended.map_err(|error| explain(&error, condition))?;
    let (id, revision, warnings) = (id.to_string(), revision.number(), report.warnings);
    Ok(Changed { id, revision, warnings, same: false })
}

/// Whether something was made for an app of the registry, to be removed with it.
pub(super) async fn has_own(admin: &Admin, id: &AppId) -> Result<bool, Problem> {
    if is_named(admin, id) {
        own(admin, id).await?;
        if admin.house.database_spec(id).await.is_none() {
            return Err(not_in_force(id));
        }
        return Ok(true);
    }
    Ok(!admin.house.is_of_another(id).await && admin.house.database_spec(id).await.is_some())
}

fn explain(error: &EndError, condition: Condition) -> Problem {
    let problem = match error {
        EndError::Refused(error) => return edits::explain(error, condition.is_said),
        EndError::Unfinished(error) => edits::explain(error, false),
        EndError::Database(DatabaseError::Unknown(why)) => {
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        EndError::Database(error) => return Problem::new(StatusCode::BAD_GATEWAY, error),
    };
    Problem { detail: error.to_string(), ..problem }
}

/// Whether an app's definition names a database, whether it is in force or not.
pub(super) fn is_named(admin: &Admin, id: &AppId) -> bool {
    admin.house.list().get(id).is_some_and(|listed| listed.entry.keys().contains_key("database"))
}

pub(super) fn not_in_force(id: &AppId) -> Problem {
    let why = format!(
        "the definition of app \"{id}\" is not in force, nor is its database known: mend it first"
    );
    Problem::new(StatusCode::CONFLICT, &why)
}

/// Refuses what is about an app of the registry where another app has its id: what that one has is not told, given
/// or removed in its place.
pub(super) async fn own(admin: &Admin, id: &AppId) -> Result<(), Problem> {
    if !admin.house.is_of_another(id).await {
        return Ok(());
    }
    let why = format!(
        "app \"{id}\" of the registry is left out, and its id is another app's, whose database, secrets and folder \
         are not its own: give that one another id in its file first, or delete this one without its database"
    );
    Err(Problem::new(StatusCode::CONFLICT, &why))
}

/// Refuses what would part an app from its database, which is named after it.
pub(super) async fn stays_with(admin: &Admin, id: &AppId) -> Result<(), Problem> {
    if admin.house.is_of_another(id).await {
        return if is_named(admin, id) { Err(not_in_force(id)) } else { Ok(()) };
    }
    match admin.house.database_spec(id).await.as_deref() {
        Some(DatabaseSpec::NewDatabase(_) | DatabaseSpec::NewSchema(_)) => {
            let why = format!(
                "app \"{id}\" has a database that is named after it: give it `new_connection` to that one \
                 first, or another `name` instead of another id"
            );
            Err(Problem::new(StatusCode::CONFLICT, &why))
        }
        None if is_named(admin, id) => Err(not_in_force(id)),
        Some(DatabaseSpec::NewConnection(_)) | None => Ok(()),
    }
}
