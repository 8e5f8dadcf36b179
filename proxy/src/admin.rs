//! What operators and Prometheus reach: health, figures, and the verbs behind the command line.
//!
//! Unix sockets (mode 0600) carry everything; who may open the file may operate. TCP addresses
//! carry only `/metrics`, `/healthz` and `/readyz`, and answer only to hosts that are addresses or
//! `localhost`, so that no web page can read them through a rebound name.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use doorbell_config::spec::ListenAddr;
use doorbell_supervisor::message::Snapshot;
use tokio::net::{TcpListener, UnixListener};

use crate::{house::House, metrics::export, socket_file};

mod apps;
mod logs;
mod observers;
pub mod status;

/// What handlers work with.
pub struct Admin {
    /// The running Doorbell.
    pub house: Arc<House>,
    /// Whether requests are served.
    pub ready: AtomicBool,
}

/// A problem, for programs and people (RFC 9457).
#[derive(Debug, serde::Serialize, serde::Deserialize)]
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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(self)).into_response()
    }
}

/// Listens on every admin address; the tasks end with the runtime.
///
/// # Errors
/// What the system says of an address.
pub async fn serve(admin: Arc<Admin>, addresses: &[ListenAddr]) -> io::Result<()> {
    for address in addresses {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        };
        match address {
            ListenAddr::Unix(path) => {
                let listener = listen_privately(path).map_err(named)?;
                let app = for_operators(Arc::clone(&admin));
                tokio::spawn(async move { axum::serve(listener, app).await });
            }
            ListenAddr::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(named)?;
                tokio::spawn(observers::serve(listener, for_observers(Arc::clone(&admin))));
            }
        }
        tracing::info!(%address, "admin listening");
    }
    Ok(())
}

/// A socket that only we may open.
fn listen_privately(path: &std::path::Path) -> io::Result<UnixListener> {
    UnixListener::from_std(socket_file::listen(path, 0o600)?)
}

fn for_observers(admin: Arc<Admin>) -> Router {
    open_routes().layer(middleware::from_fn(local_names_only)).with_state(admin)
}

fn for_operators(admin: Arc<Admin>) -> Router {
    open_routes()
        .route("/v1/apps", get(apps::list))
        .route("/v1/apps/{id}", get(apps::show))
        .route("/v1/apps/{id}/logs", get(logs::read))
        .route("/v1/apps/{id}/{verb}", post(apps::operate))
        .route("/v1/reload", post(reload))
        .with_state(admin)
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
    if name == "localhost" || name.parse::<std::net::IpAddr>().is_ok() {
        return next.run(request).await;
    }
    Problem::new(
        StatusCode::FORBIDDEN,
        &"ask by address or as `localhost`: other names are refused, so that web pages cannot read \
         this",
    )
    .into_response()
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, &"starting or shutting down").into_response()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let house = &admin.house;
    let table = house.shared.table.load_full();
    let usages: std::collections::HashMap<_, _> =
        house.supervisor.usages().await.into_iter().collect();
    let mut apps: Vec<_> = table.routes.targets().cloned().collect();
    apps.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
    let snapshots: Vec<Option<Arc<Snapshot>>> =
        apps.iter().map(|app| house.supervisor.snapshot(&app.spec.id)).collect();
    let views: Vec<_> = apps
        .iter()
        .zip(&snapshots)
        .map(|(app, snapshot)| export::AppView {
            id: app.spec.id.as_str(),
            metrics: &app.metrics,
            held: app.gate.held(),
            snapshot: snapshot.as_deref(),
            usage: usages.get(&app.spec.id).copied(),
        })
        .collect();
    match export::encode(&views, &house.shared.other, &house.shared.metrics) {
        Ok(page) => ([(header::CONTENT_TYPE, export::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &error).into_response()
        }
    }
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    // Whoever asked may leave; half a reload must not stay behind.
    let house = Arc::clone(&admin.house);
    match tokio::spawn(async move { house.reload().await }).await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &error).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, &error).into_response(),
    }
}
