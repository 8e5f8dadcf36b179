//! Databases of apps: adopted from an earlier app of the id, and removed with their app.

use std::sync::Arc;

use axum::{
    extract::{Extension, State},
    http::StatusCode,
};
use doorbell_config::{name::AppId, spec::DatabaseSpec};
use doorbell_supervisor::message::Verb;

use super::{Admin, Problem, apps, audit, caller::Identity, wrapped::Path};
use crate::{
    house::{DatabaseError, Ending},
    provision::Removed,
};

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

/// An app whose database is removed, and which is not started as long as this lives.
pub(super) struct Ended {
    _ending: Ending,
    /// What an operator should know.
    pub(super) warning: Option<String>,
}

/// Stops an app and removes its database; until what is returned is dropped, nobody starts it. Where it fails
/// the app stays, so that it can be tried again.
pub(super) async fn end(
    admin: &Admin,
    who: &Identity,
    id: &AppId,
) -> Result<Option<Ended>, Problem> {
    if is_named(admin, id) {
        own(admin, id).await?;
    } else if admin.house.is_of_another(id).await {
        return Ok(None);
    }
    if admin.house.database_spec(id).await.is_none() {
        return if is_named(admin, id) { Err(not_in_force(id)) } else { Ok(None) };
    }
    audit::note(admin, who, "remove database", Some(id));
    let ending = admin.house.ends(id);
    let noted = admin.house.note_ending(id, true).await;
    noted.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, &why))?;
    match removed(admin, id).await {
        Ok(warning) => Ok(Some(Ended { _ending: ending, warning })),
        Err(problem) => {
            if let Err(error) = admin.house.note_ending(id, false).await {
                tracing::warn!(app = %id, error, "it is not started before it is changed");
            }
            Err(problem)
        }
    }
}

/// Stops an app and removes its database; tells what an operator should know.
async fn removed(admin: &Admin, id: &AppId) -> Result<Option<String>, Problem> {
    let stopped = admin.house.link.operate(id.clone(), Verb::Stop).await;
    let failed = |why: &dyn std::fmt::Display| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    stopped.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    match admin.house.remove_database(id).await {
        Ok(Removed::ButUser(words)) => {
            Ok(Some(format!("its user is kept, locked out, since it has something else: {words}")))
        }
        Ok(Removed::All | Removed::Nothing) => Ok(None),
        Err(DatabaseError::Unknown(why)) => Err(failed(&why)),
        Err(DatabaseError::Provision(error)) => {
            let why = format!("{error}; the app is still there");
            Err(Problem::new(StatusCode::BAD_GATEWAY, &why))
        }
    }
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
