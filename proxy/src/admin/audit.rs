//! Who did what: the audit log of the registry.

use std::sync::Arc;

use axum::{Json, extract::State};
use doorbell_config::{
    name::AppId,
    registry::{Act, Entry},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Admin, Problem, caller::Identity, tokens::unavailable, wrapped::Query};

/// Entries unless told, and at most.
const ENTRIES: u32 = 100;
const MOST_ENTRIES: u32 = 1000;

/// Which entries.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Wish {
    /// Of this app only.
    app: Option<String>,
    /// Those before this entry.
    before: Option<u64>,
    /// At most so many.
    limit: Option<u32>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Noted {
    /// Its number, which rises.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// A token's name, or `unix:` and a user's number.
    pub by: String,
    /// Where they came from.
    pub from: String,
    /// What they did.
    pub act: String,
    /// To which app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// To what else, or with what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The revision that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

pub(super) async fn read(
    State(admin): State<Arc<Admin>>,
    Query(wish): Query<Wish>,
) -> Result<Json<Vec<Noted>>, Problem> {
    let app = wish.app.as_deref().map(AppId::parse).transpose();
    let app = app.map_err(|error| Problem::unfit(&error))?;
    let limit = wish.limit.unwrap_or(ENTRIES).min(MOST_ENTRIES);
    let registry = admin.house.registry().map_err(unavailable)?;
    let entries = registry.audit(app.as_ref(), wish.before, limit).await.map_err(unavailable)?;
    Ok(Json(entries.into_iter().map(Noted::from).collect()))
}

/// Notes an act that is no change of the registry. It was done: that it cannot be noted there is told in
/// the log, where it stands anyway.
pub(super) fn note(admin: &Admin, who: &Identity, what: &str, app: Option<&AppId>) {
    let (by, from) = (&who.actor.name, &who.actor.from);
    let id = app.map(AppId::as_str).unwrap_or_default();
    tracing::info!(%by, %from, app = id, "asked by an operator: {what}");
    let act = Act { what: what.into(), app: app.cloned(), subject: None };
    let (house, actor) = (Arc::clone(&admin.house), who.actor.clone());
    // A registry that does not answer holds nobody up.
    tokio::spawn(async move {
        let noted = match house.registry() {
            Ok(registry) => registry.note(&act, &actor).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, by = %actor.name, act = act.what, "not in the audit log");
        }
    });
}

impl From<Entry> for Noted {
    fn from(entry: Entry) -> Self {
        let Entry { number, at, by, act, revision } = entry;
        Self {
            number,
            at_unix_ms: at,
            by: by.name,
            from: by.from,
            act: act.what,
            app: act.app.map(String::from),
            subject: act.subject,
            revision: revision.map(|revision| revision.number()),
        }
    }
}
