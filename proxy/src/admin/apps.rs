//! Apps: seen and operated.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use doorbell_config::name::AppId;
use doorbell_supervisor::{OperateError, message::Verb};

use super::{
    Admin, Problem,
    status::{AppStatus, ServerStatus, Status},
};
use crate::app::App;

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<Status> {
    let house = &admin.house;
    let usages: HashMap<_, _> = house.supervisor.usages().await.into_iter().collect();
    let table = house.shared.table.load_full();
    let mut apps: Vec<_> = table
        .routes
        .targets()
        .map(|app| AppStatus::of(app, house, usages.get(&app.spec.id).copied()))
        .collect();
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    let listening = house.listening().await.iter().map(ToString::to_string).collect();
    Json(Status { server: ServerStatus::of(&house.shared, listening), apps })
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<AppStatus>, Problem> {
    let (id, app) = find(&admin, &id)?;
    let usage = admin.house.supervisor.usage(&id).await;
    Ok(Json(AppStatus::of(&app, &admin.house, usage)))
}

/// Answers when the verb had its effect.
pub(super) async fn operate(
    State(admin): State<Arc<Admin>>,
    Path((id, verb)): Path<(String, String)>,
) -> Result<Json<AppStatus>, Problem> {
    let (id, app) = find(&admin, &id)?;
    let verb = match verb.as_str() {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        "enable" => Verb::Enable,
        "disable" => Verb::Disable,
        other => {
            let detail = format!("`{other}` is no verb: start, stop, restart, enable or disable");
            return Err(Problem::new(StatusCode::NOT_FOUND, &detail));
        }
    };
    tracing::info!(app = %id, ?verb, "asked by an operator");
    match admin.house.supervisor.operate_and_wait(id.clone(), verb).await {
        Ok(_) => {
            let usage = admin.house.supervisor.usage(&id).await;
            Ok(Json(AppStatus::of(&app, &admin.house, usage)))
        }
        Err(error) => Err(Problem::new(status_of(&error), &error)),
    }
}

fn status_of(error: &OperateError) -> StatusCode {
    match error {
        OperateError::Unknown(_) => StatusCode::NOT_FOUND,
        OperateError::Disabled(_) | OperateError::NoProcess(_) | OperateError::Overtaken(_) => {
            StatusCode::CONFLICT
        }
        OperateError::StartFailed { .. } => StatusCode::BAD_GATEWAY,
        OperateError::NotKept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        OperateError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(super) fn find(admin: &Admin, id: &str) -> Result<(AppId, Arc<App>), Problem> {
    let missing = |why: &dyn std::fmt::Display| Problem::new(StatusCode::NOT_FOUND, why);
    let id = AppId::parse(id).map_err(|error| missing(&error))?;
    let table = admin.house.shared.table.load_full();
    let app = table.routes.app(id.as_str()).cloned();
    app.map(|app| (id.clone(), app))
        .ok_or_else(|| missing(&format!("app \"{id}\" is not configured")))
}
