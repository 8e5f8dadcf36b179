//! An app's captured output: its last lines, and what comes after them.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use doorbell_supervisor::logs;
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
    let body = if wish.follow {
        let follow = logs::follow_all(&log_dir, &replicas, lines).await.map_err(failed)?;
        Body::from_stream(stream::unfold(follow, |mut follow| async {
            let mut line = follow.next_line().await.ok()?;
            line.push('\n');
            Some((Ok::<_, Infallible>(line), follow))
        }))
    } else {
        let mut text = logs::tail_all(&log_dir, &replicas, lines).await.map_err(failed)?.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        Body::from(text)
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}
