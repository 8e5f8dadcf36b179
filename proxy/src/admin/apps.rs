//! Apps: seen and operated.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Extension, State},
    http::StatusCode,
};
use doorbell_config::{
    name::AppId,
    spec::{AppSpec, ListenAddr},
};
use doorbell_supervisor::{OperateError, message::Verb};

use super::{
    Admin, Problem, audit,
    caller::Identity,
    status::{AppStatus, Refused, ServerStatus, Status},
    wrapped::{Path, Query},
};
use crate::pass::desk::FOLDER;

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<Status> {
    let house = &admin.house;
    let (figures, usages) = tokio::join!(house.scraper.figures(), house.link.usages());
    let routes = house.routes.load_full();
    let mut apps: Vec<_> =
        routes.targets().flat_map(|app| AppStatus::all(app, house, &figures, &usages)).collect();
    apps.sort_by(|a, b| a.place().cmp(&b.place()));
    let refused = house.refused().iter().map(Refused::from).collect();
    Json(Status { server: ServerStatus::of(house, &figures), apps, refused })
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<AppStatus>, Problem> {
    let (app, replica) = find_replica(&admin, &id)?;
    Ok(Json(status(&admin, &app, &replica).await))
}

async fn status(admin: &Admin, app: &AppSpec, replica: &AppId) -> AppStatus {
    let house = &admin.house;
    let (figures, usages) = tokio::join!(house.scraper.figures(), house.link.usages());
    AppStatus::of(app, replica, house, &figures, &usages)
}

/// What operators may do with an app.
pub(super) const VERBS: [&str; 6] = ["start", "stop", "restart", "enable", "disable", "drain"];

/// How an app is stopped.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
pub struct Pace {
    /// `stop` waits for no request, and gives the app no time: it is killed.
    #[serde(default)]
    pub now: bool,
}

/// Answers when the verb had its effect.
pub(super) async fn operate(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path((id, word)): Path<(String, String)>,
    Query(pace): Query<Pace>,
) -> Result<Json<AppStatus>, Problem> {
    let (app, replica) = find_replica(&admin, &id)?;
    let verb = verb(&word, pace)?;
    let act = if verb == Verb::StopNow { "stop now" } else { &word };
    audit::note(&admin, &who, act, Some(&replica));
    match verb {
        Verb::Start | Verb::Restart if app.upgrade().is_some() => {
            admin.house.retry_upgrades(&[&app.id]).await;
        }
        Verb::Start | Verb::Restart | Verb::Stop | Verb::StopNow | Verb::Enable | Verb::Disable => {
        }
    }
    match admin.house.link.operate(replica.clone(), verb).await {
        Ok(Ok(())) => Ok(Json(status(&admin, &app, &replica).await)),
        Ok(Err(error)) => Err(Problem::new(status_of(&error), &error)),
        Err(error) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, &error)),
    }
}

fn verb(word: &str, pace: Pace) -> Result<Verb, Problem> {
    Ok(match (word, pace.now) {
        ("stop", true) => Verb::StopNow,
        ("start" | "restart" | "enable" | "disable" | "drain", true) => {
            return Err(Problem::unfit(&"`now` is for `stop`"));
        }
        ("start", false) => Verb::Start,
        ("stop", false) => Verb::Stop,
        ("restart", false) => Verb::Restart,
        ("enable", false) => Verb::Enable,
        // Who is disabled gets no new request, and finishes what it has.
        ("disable" | "drain", false) => Verb::Disable,
        (other, _) => {
            let detail =
                format!("`{other}` is no verb: start, stop, restart, enable, disable or drain");
            return Err(Problem::new(StatusCode::NOT_FOUND, &detail));
        }
    })
}

/// A link for an operator's browser.
#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Link {
    /// The host that it is for.
    pub host: String,
    /// Its path.
    pub path: String,
    /// The port that Doorbell listens on there, if it is a TCP port.
    pub port: Option<u16>,
}

pub(super) async fn pass(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Json<Link>, Problem> {
    let app = find(&admin, &id)?;
    if app.tcp().is_some() {
        let why = format!("app \"{id}\" speaks no HTTP: nobody sees a page in its place");
        return Err(Problem::new(StatusCode::CONFLICT, &why));
    }
    let house = &admin.house;
    let none =
        || Problem::new(StatusCode::SERVICE_UNAVAILABLE, &"there are no passes: see the log");
    let path = format!("{FOLDER}{}", house.passes.link(&app.id).ok_or_else(none)?);
    audit::note(&admin, &who, "pass", Some(&app.id));
    let port = house.listening().iter().find_map(|address| match address {
        ListenAddr::Tcp(address) => Some(address.port()),
        ListenAddr::Unix(_) => None,
    });
    Ok(Json(Link { host: app.default_host().to_owned(), path, port }))
}

fn status_of(error: &OperateError) -> StatusCode {
    match error {
        OperateError::Unknown(_) => StatusCode::NOT_FOUND,
        OperateError::Disabled(_)
        | OperateError::NoProcess(_)
        | OperateError::OneReplica(_)
        | OperateError::Shared { .. }
        | OperateError::Overtaken(_) => StatusCode::CONFLICT,
        OperateError::StartFailed { .. } => StatusCode::BAD_GATEWAY,
        OperateError::NotKept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        OperateError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// An app, or one of its replicas by its own id.
pub(super) fn find_replica(admin: &Admin, id: &str) -> Result<(Arc<AppSpec>, AppId), Problem> {
    let missing = |why: &dyn std::fmt::Display| Problem::new(StatusCode::NOT_FOUND, why);
    let id = AppId::parse_replica(id).map_err(|error| missing(&error))?;
    let app = find(admin, id.app_str())?;
    let instances = app.instances();
    if id.replica_number() > instances {
        return Err(missing(&format!("app \"{}\" has `instances = {instances}`", app.id)));
    }
    Ok((app, id))
}

/// An app that is in force.
pub(super) fn find(admin: &Admin, id: &str) -> Result<Arc<AppSpec>, Problem> {
    let missing = |why: &dyn std::fmt::Display| Problem::new(StatusCode::NOT_FOUND, why);
    let id = AppId::parse(id).map_err(|error| missing(&error))?;
    if let Some(app) = admin.house.routes.load().app(id.as_str()) {
        return Ok(Arc::clone(app));
    }
    let refused = admin.house.refused();
    Err(match refused.iter().find(|refused| refused.app == id) {
        Some(refused) => {
            let why = format!("app \"{id}\" is left out: {}", refused.problems);
            Problem::new(StatusCode::CONFLICT, &why)
        }
        None => missing(&format!("app \"{id}\" is not configured")),
    })
}
