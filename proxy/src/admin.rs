//! What operators and Prometheus reach: health, figures, and the verbs behind the command line.
//!
//! Unix sockets (mode 0600) carry everything; who may open the file may operate. TCP addresses carry
//! `/metrics`, `/healthz` and `/readyz`, and the rest for those who have a token; they answer only to hosts
//! that are addresses or `localhost`, and to no web page of another origin, so that none can read them
//! through a rebound name. What there is to ask stands in `endpoints`.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Extension, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use doorbell_config::spec::{AppSpec, ListenAddr};
use doorbell_supervisor::machine::Ability;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    house::{House, ReloadError},
    metrics::export,
};

pub mod apps;
pub mod audit;
pub mod backup;
mod caller;
mod check;
pub(crate) mod conditions;
mod databases;
pub mod definitions;
pub mod edits;
mod endpoint;
mod endpoints;
mod events;
mod examples;
mod logs;
mod observers;
mod operators;
pub mod secrets;
pub mod status;
pub mod tokens;
mod wrapped;

pub use caller::Scope;
pub(crate) use logs::GONE;
pub use operators::Strangers;

use caller::{Failures, Identity};

/// For answers to observers, when nobody is accepted any more.
const FOR_OBSERVERS: Duration = Duration::from_secs(2);

/// What handlers work with.
pub struct Admin {
    /// The configuration, and the ways to those who make it hold.
    pub house: Arc<House>,
    /// Whether requests are served.
    pub ready: AtomicBool,
    /// Who is no operator.
    pub strangers: Strangers,
    stop: CancellationToken,
    tasks: TaskTracker,
    observers: TaskTracker,
    /// What is answered on, to hand back to a supervisor that has lost its own.
    sockets: Mutex<Vec<(ListenAddr, Arc<OwnedFd>)>>,
    /// One metrics page is made at a time: of thousands of apps it is work.
    page: Semaphore,
    failures: Failures,
    /// That a token was used is noted by a few at a time; who finds none free notes it the next time.
    noting_use: Arc<Semaphore>,
}

impl Admin {
    /// Not ready yet.
    #[must_use]
    pub fn new(house: Arc<House>) -> Self {
        Self {
            house,
            ready: AtomicBool::new(false),
            strangers: Strangers::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            observers: TaskTracker::new(),
            sockets: Mutex::default(),
            page: Semaphore::new(1),
            failures: Failures::default(),
            noting_use: Arc::new(Semaphore::new(4)),
        }
    }

    /// What is answered on.
    #[must_use]
    pub fn sockets(&self) -> Vec<(ListenAddr, Arc<OwnedFd>)> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Comes when nothing is to be begun any more.
    fn stopping(&self) -> impl Future<Output = ()> + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// Takes no more requests, and waits for the answers that are under way: for those to observers, who
    /// may be anybody, a moment.
    pub async fn answered(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.observers.close();
        if timeout(FOR_OBSERVERS, self.observers.wait()).await.is_err() {
            tracing::debug!("an observer takes too long to be waited for");
        }
    }
}

/// A problem, for programs and people (RFC 9457).
#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// The status's own phrase.
    pub title: String,
    /// Status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: &dyn std::fmt::Display) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.to_string(),
        }
    }
}

impl Problem {
    /// What was sent is understood, and cannot be.
    fn unfit(detail: &dyn std::fmt::Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(self)).into_response()
    }
}

/// Answers on every admin socket; the tasks end with the runtime.
///
/// # Errors
/// If one is no socket.
pub fn serve(admin: &Arc<Admin>, sockets: Vec<(ListenAddr, OwnedFd)>) -> io::Result<()> {
    for (address, socket) in sockets {
        let kept = (address.clone(), Arc::new(socket.try_clone()?));
        admin.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        match address {
            ListenAddr::Unix(_) => {
                let listener = UnixListener::from_std(socket.into())?;
                let (stop, tasks) = (admin.stop.clone(), admin.tasks.clone());
                let app = for_operators(Arc::clone(admin));
                let strangers = admin.strangers.clone();
                admin.tasks.spawn(operators::serve(listener, app, strangers, stop, tasks));
            }
            ListenAddr::Tcp(_) => {
                let listener = TcpListener::from_std(socket.into())?;
                let (stop, tasks) = (admin.stop.clone(), admin.observers.clone());
                let app = for_observers(Arc::clone(admin));
                admin.observers.spawn(observers::serve(listener, app, stop, tasks));
            }
        }
    }
    Ok(())
}

fn for_observers(admin: Arc<Admin>) -> Router {
    everything(&admin).layer(middleware::from_fn(local_names_only)).with_state(admin)
}

fn for_operators(admin: Arc<Admin>) -> Router {
    everything(&admin).with_state(admin)
}

fn everything(admin: &Arc<Admin>) -> Router<Arc<Admin>> {
    open_routes()
        .merge(endpoint::router(endpoints::all(), admin))
        .route("/v1/openapi.json", get(openapi))
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, &"this page has no such method")
        })
}

/// What there is to ask, for programs. Nothing of it is secret.
async fn openapi() -> Json<&'static serde_json::Value> {
    static DOCUMENT: LazyLock<serde_json::Value> =
        LazyLock::new(|| endpoint::document(&endpoints::all()));
    Json(&DOCUMENT)
}

async fn machine(State(admin): State<Arc<Admin>>) -> Json<Vec<Ability>> {
    Json(admin.house.link.abilities())
}

fn open_routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, &"no such page") })
}

async fn local_names_only(headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    if name != "localhost" && name.parse::<std::net::IpAddr>().is_err() {
        return Problem::new(
            StatusCode::FORBIDDEN,
            &"ask by address or as `localhost`: other names are refused, so that web pages cannot read \
             this",
        )
        .into_response();
    }
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    if origin.is_some_and(|origin| origin.split_once("://").is_none_or(|(_, at)| at != host)) {
        let why = "web pages of other origins are refused";
        return Problem::new(StatusCode::FORBIDDEN, &why).into_response();
    }
    next.run(request).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, &"starting or shutting down").into_response()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    // Invariant: the semaphore is never closed.
    let _turn = admin.page.acquire().await;
    let house = &admin.house;
    let (figures, usages) = tokio::join!(house.scraper.figures(), house.link.usages());
    let routes = house.routes.load_full();
    let with_replicas =
        |app: &Arc<AppSpec>| [app.id.clone()].into_iter().chain(app.further_replicas());
    let mut apps: Vec<_> = routes.targets().flat_map(with_replicas).collect();
    apps.sort();
    let snapshots: Vec<_> = apps.iter().map(|id| house.link.snapshot(id)).collect();
    let reloads = house.reloads();
    let encoding = tokio::task::spawn_blocking(move || {
        let views = apps.iter().zip(&snapshots).map(|(id, snapshot)| export::AppView {
            id: id.app_str(),
            replica: id.is_further_replica().then(|| id.replica_number().to_string()),
            figures: figures.apps.get(id),
            snapshot: snapshot.as_deref(),
            usage: usages.get(id).copied(),
        });
        let views: Vec<_> = views.collect();
        export::encode(&views, &figures.other, &figures.server, reloads)
    });
    match encoding.await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, export::CONTENT_TYPE)], page).into_response(),
        Ok(Err(error)) => cannot_encode(&error),
        Err(error) => cannot_encode(&error),
    }
}

fn cannot_encode(error: &dyn std::fmt::Display) -> Response {
    tracing::error!(%error, "cannot encode the metrics");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response()
}

async fn reload(State(admin): State<Arc<Admin>>, Extension(who): Extension<Identity>) -> Response {
    audit::note(&admin, &who, "reload", None);
    match admin.house.reload().await {
        Ok(report) => Json(report).into_response(),
        Err(ReloadError::Supervisor(error)) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, &error).into_response()
        }
        Err(error) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &error).into_response(),
    }
}

/// What an upgrade did.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Upgraded {
    /// The version before.
    pub from: String,
    /// The version that serves.
    pub to: String,
}

async fn upgrade(State(admin): State<Arc<Admin>>, Extension(who): Extension<Identity>) -> Response {
    audit::note(&admin, &who, "upgrade", None);
    let from = env!("CARGO_PKG_VERSION").to_owned();
    match admin.house.upgrade().await {
        Ok(to) => Json(Upgraded { from, to }).into_response(),
        Err(why) => Problem::new(StatusCode::CONFLICT, &why).into_response(),
    }
}
