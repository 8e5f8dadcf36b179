//! What happens, as it happens: server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), and the history of one app.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Extension, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Admin, Problem, apps,
    caller::Identity,
    wrapped::{Path, Query},
};
use crate::chronicle::{self, Listening, News, Transition};

/// Said when nothing happens, so that who is gone is noticed.
pub(super) const ALIVE: Duration = Duration::from_secs(15);
/// What is told in the place of what cannot be told any more: its name, and what it says.
const LOST: (&str, &str) = ("lost", r#"{"event":"lost"}"#);

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Wish {
    /// Of this app only.
    app: Option<String>,
}

pub(super) async fn read(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Identity>,
    Query(wish): Query<Wish>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let only = match &wish.app {
        Some(id) => Some(apps::find(&admin, id)?.id.to_string()),
        None => None,
    };
    let heard = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let Listening { missed, last, coming } = admin.house.chronicle.listen(heard);
    // Where to go on, for who is cut off before there is news.
    let first = match (&missed, heard) {
        (None, _) => Some(lost().id(last.to_string())),
        (Some(_), None) => Some(Event::default().id(last.to_string())),
        (Some(_), Some(_)) => None,
    };
    let news = stream::iter(missed.unwrap_or_default()).map(Some).chain(come(coming));
    let events = news.filter_map(move |news| {
        let event = news.map_or_else(
            || Some(lost()),
            |news| concerns(&news, only.as_deref()).then(|| event(&news)).flatten(),
        );
        std::future::ready(event.map(Ok::<_, Infallible>))
    });
    let end = over(admin, who);
    let events = stream::iter(first.map(Ok)).chain(events).take_until(Box::pin(end));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response())
}

/// Comes when there is nobody to tell: this process makes way, or who listens may not any more.
pub(super) async fn over(admin: Arc<Admin>, who: Identity) {
    tokio::select! {
        () = admin.stopping() => {}
        () = who.ends(Arc::clone(&admin)) => {}
    }
}

/// What comes; `None` in the place of what a slow listener missed.
fn come(receiver: Receiver<Arc<News>>) -> impl futures_util::Stream<Item = Option<Arc<News>>> {
    stream::unfold(receiver, |mut receiver| async {
        match receiver.recv().await {
            Ok(news) => Some((Some(news), receiver)),
            Err(RecvError::Lagged(_)) => Some((None, receiver)),
            Err(RecvError::Closed) => None,
        }
    })
}

fn concerns(news: &News, only: Option<&str>) -> bool {
    only.is_none_or(|only| news.what.apps().iter().any(|app| app.app_str() == only))
}

fn lost() -> Event {
    Event::default().event(LOST.0).data(LOST.1)
}

fn event(news: &News) -> Option<Event> {
    let event = Event::default().id(news.number.to_string()).event(news.what.name());
    event.json_data(&news.what).ok()
}

/// The last changes of an app's state, the oldest first.
pub(super) async fn history(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Vec<Transition>>, Problem> {
    let (app, replica) = apps::find_replica(&admin, &id)?;
    // Who shares an instance has its host's history.
    let of = app.shared().map_or(replica, |shared| shared.with.clone());
    let folder = admin.house.history_dir();
    let reading = tokio::task::spawn_blocking(move || chronicle::history(&folder, &of));
    let failed =
        |error: &dyn std::fmt::Display| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    match reading.await {
        Ok(Ok(history)) => Ok(Json(history)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(panic) => Err(failed(&panic)),
    }
}
