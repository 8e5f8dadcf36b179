//! An app's captured output: its last lines, and what comes after them.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_config::name::AppId;
use doorbell_supervisor::logs::{self, Line};
use futures_util::stream;

use super::{
    Admin, Problem, apps,
    wrapped::{Path, Query},
};

/// Lines unless told.
const LINES: usize = 100;
/// Most lines at once.
const MOST_LINES: usize = 100_000;

/// What to read.
#[derive(serde::Deserialize, schemars::JsonSchema)]
pub(super) struct Wish {
    /// Lines to begin with: 100 unless told.
    lines: Option<usize>,
    /// Whether to go on with what comes.
    #[serde(default)]
    follow: bool,
    /// Whether each line is JSON: `app`, whose it is (one of several as `blog:2`), and `line`.
    #[serde(default)]
    json: bool,
}

/// A line for machines.
#[derive(serde::Serialize)]
struct Told<'l> {
    app: &'l AppId,
    line: &'l str,
}

pub(super) async fn read(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Query(wish): Query<Wish>,
) -> Result<Response, Problem> {
    let (app, replica) = apps::find_replica(&admin, &id)?;
    if let Some(shared) = app.shared() {
        let with = &shared.with;
        let why = format!(
            "app \"{id}\" shares the instance of \"{with}\", whose log has its lines: doorbell logs {with}"
        );
        return Err(Problem::new(StatusCode::CONFLICT, &why));
    }
    // One of several by its id; of the app, all.
    let replicas: Vec<_> = if replica.is_further_replica() {
        vec![replica]
    } else {
        [replica].into_iter().chain(app.further_replicas()).collect()
    };
    let lines = wish.lines.unwrap_or(LINES).min(MOST_LINES);
    let log_dir = admin.house.log_dir();
    let failed = |error: std::io::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &error);
    let written = move |line: &Line| match wish.json {
        true => {
            let told = Told { app: &line.app, line: &line.text };
            serde_json::to_string(&told).unwrap_or_default() + "\n"
        }
        false => format!("{line}\n"),
    };
    let body = if wish.follow {
        let follow = logs::follow_all(&log_dir, &replicas, lines).await.map_err(failed)?;
        Body::from_stream(stream::unfold(follow, move |mut follow| async move {
            let line = follow.next_line().await.ok()?;
            Some((Ok::<_, Infallible>(written(&line)), follow))
        }))
    } else {
        let lines = logs::tail_all(&log_dir, &replicas, lines).await.map_err(failed)?;
        Body::from(lines.iter().map(written).collect::<String>())
    };
    let kind = if wish.json { "application/jsonl" } else { "text/plain; charset=utf-8" };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}
