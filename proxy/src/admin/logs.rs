//! An app's captured output: its last lines, and what comes after them; as text, or as server-sent events,
//! of which each tells in its id where to go on.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use doorbell_config::{name::AppId, spec::AppSpec};
use doorbell_supervisor::logs::{self, FollowAll, Line};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Admin, Problem, apps,
    caller::Identity,
    events::{self, ALIVE},
    wrapped::{Path, Query},
};

/// Lines unless told.
const LINES: usize = 100;
/// Most lines at once.
const MOST_LINES: usize = 100_000;

/// The event that begins a stream, and the one that ends it when the app is no more.
const BEGINS: &str = "begins";
pub(crate) const GONE: &str = "gone";

/// What to read.
#[derive(serde::Deserialize, schemars::JsonSchema)]
pub(super) struct Wish {
    /// Lines to begin with: 100 unless told.
    lines: Option<usize>,
    /// Whether to go on with what comes; server-sent events always do.
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

/// What begins a stream of events: whose lines come.
#[derive(serde::Serialize)]
struct Begins<'a> {
    replicas: &'a [AppId],
}

/// What ends it.
#[derive(serde::Serialize)]
struct Gone<'a> {
    app: &'a AppId,
}

impl Wish {
    fn lines(&self) -> usize {
        self.lines.unwrap_or(LINES).min(MOST_LINES)
    }

    fn written(&self, line: &Line) -> String {
        if self.json {
            serde_json::to_string(&Told::from(line)).unwrap_or_default() + "\n"
        } else {
            format!("{line}\n")
        }
    }
}

impl<'l> From<&'l Line> for Told<'l> {
    fn from(line: &'l Line) -> Self {
        Self { app: &line.app, line: &line.text }
    }
}

pub(super) async fn read(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    Query(wish): Query<Wish>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (app, replica) = apps::find_replica(&admin, &id)?;
    let replicas = whose(&app, replica)?;
    let log_dir = admin.house.log_dir();
    let failed = |error: std::io::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &error);
    if wants_events(&headers) {
        let heard = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
        let follow = match heard {
            Some(marks) => logs::follow_from(&log_dir, &replicas, marks).await,
            None => logs::follow_all(&log_dir, &replicas, wish.lines()).await,
        };
        let end = events::over(Arc::clone(&admin), who);
        return Ok(as_events(&admin, &app.id, &replicas, follow.map_err(failed)?, end));
    }
    let kind = if wish.json { "application/jsonl" } else { "text/plain; charset=utf-8" };
    let body = if wish.follow {
        let follow = logs::follow_all(&log_dir, &replicas, wish.lines()).await.map_err(failed)?;
        let lines = come(follow).map(move |(line, _)| Ok::<_, Infallible>(wish.written(&line)));
        let gone = removed(Arc::clone(&admin), app.id.clone());
        let end = events::over(Arc::clone(&admin), who);
        Body::from_stream(lines.take_until(gone).take_until(Box::pin(end)))
    } else {
        let lines = logs::tail_all(&log_dir, &replicas, wish.lines()).await.map_err(failed)?;
        Body::from(lines.iter().map(|line| wish.written(line)).collect::<String>())
    };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// One of several by its id; of the app, all.
fn whose(app: &AppSpec, replica: AppId) -> Result<Vec<AppId>, Problem> {
    if let Some(shared) = app.shared() {
        let (id, with) = (&app.id, &shared.with);
        let why = format!(
            "app \"{id}\" shares the instance of \"{with}\", whose log has its lines: doorbell logs {with}"
        );
        return Err(Problem::new(StatusCode::CONFLICT, &why));
    }
    if replica.is_further_replica() {
        return Ok(vec![replica]);
    }
    Ok([replica].into_iter().chain(app.further_replicas()).collect())
}

/// Whether the asker takes server-sent events, by name.
fn wants_events(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(header::ACCEPT).iter().filter_map(|kinds| kinds.to_str().ok());
    kinds.flat_map(|kinds| kinds.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

/// Lines, and where one stands behind each.
fn come(follow: FollowAll) -> impl Stream<Item = (Line, String)> {
    stream::unfold(follow, |mut follow| async move {
        let line = follow.next_line().await.ok()?;
        let marks = follow.marks().to_string();
        Some(((line, marks), follow))
    })
}

/// Comes when an app is deleted, or has another id.
async fn removed(admin: Arc<Admin>, app: AppId) {
    let mut coming = admin.house.chronicle.listen(None).coming;
    // It may have gone before anybody listened, or be in what a slow listener missed.
    while admin.house.routes.load().app(app.as_str()).is_some() {
        loop {
            match coming.recv().await {
                Ok(news) if news.what.removes(&app) => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// The first tells where to go on before there is a line; the last one, that there is nothing to go on with.
fn as_events(
    admin: &Arc<Admin>,
    app: &AppId,
    replicas: &[AppId],
    follow: FollowAll,
    end: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let first = Event::default().id(follow.marks().to_string()).event(BEGINS);
    let first = first.json_data(Begins { replicas }).ok();
    let lines = come(follow).filter_map(|(line, id)| async move {
        Event::default().id(id).json_data(Told::from(&line)).ok()
    });
    let lines = lines.take_until(removed(Arc::clone(admin), app.clone()));
    let last = Event::default().event(GONE).json_data(Gone { app }).ok();
    let events =
        stream::iter(first).chain(lines).chain(stream::iter(last)).map(Ok::<_, Infallible>);
    Sse::new(events.take_until(Box::pin(end)))
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}
