//! Active health checks of upstream servers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use doorbell_config::{
    name::AppId,
    spec::{HealthSpec, HttpProbe, UpstreamServer},
};
use futures_util::future::join_all;
use pingora_core::{connectors::TransportConnector, protocols::Stream, upstreams::peer::HttpPeer};
use tokio::task::JoinHandle;

use crate::{
    app::{App, Table},
    difference::Difference,
    look::{Asked, HttpVersion, look},
    upstreams::{Server, Upstreams},
};

/// The checks that run.
#[derive(Default)]
pub struct HealthChecks {
    running: HashMap<AppId, Check>,
    connector: SharedConnector,
}

/// One for all checks, made for the first: it holds two stores of trusted certificates.
type SharedConnector = Arc<OnceLock<TransportConnector>>;

struct Check {
    app: Arc<App>,
    upstreams: Arc<Upstreams>,
    /// The `Host` it asks for.
    host: String,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthChecks {
    /// Checks the servers of apps that changed as this table has them, and of those that are gone
    /// no more.
    pub fn change(&mut self, table: &Table, difference: &Difference) {
        for id in &difference.gone {
            self.running.remove(id);
        }
        for spec in &difference.put {
            let before = self.running.remove(&spec.id);
            let Some(app) = table.routes.app(spec.id.as_str()) else { continue };
            let Some(upstreams) = &app.upstreams else { continue };
            let Some(health) = upstreams.spec().health.clone() else { continue };
            let host = health.probe.host.clone();
            let host = host.unwrap_or_else(|| app.spec.default_host().to_owned());
            let same = before.filter(|check| {
                Arc::ptr_eq(&check.upstreams, upstreams)
                    && check.app.spec.http2 == app.spec.http2
                    && check.host == host
            });
            let check = same.unwrap_or_else(|| Check {
                app: Arc::clone(app),
                upstreams: Arc::clone(upstreams),
                host: host.clone(),
                task: tokio::spawn(check_all(
                    Arc::clone(app),
                    Arc::clone(upstreams),
                    health,
                    host,
                    Arc::clone(&self.connector),
                )),
            });
            self.running.insert(spec.id.clone(), check);
        }
    }
}

async fn check_all(
    app: Arc<App>,
    upstreams: Arc<Upstreams>,
    health: HealthSpec,
    host: String,
    connector: SharedConnector,
) {
    let connector = connector.get_or_init(|| TransportConnector::new(None));
    let mut ticks = tokio::time::interval(health.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let checks = upstreams.servers().iter().enumerate().map(|(index, server)| {
            let (upstreams, probe, host) = (&upstreams, &health.probe, &host);
            let app = &app;
            async move {
                let check = check(connector, upstreams, index, app.spec.http2, probe, host);
                let outcome = match tokio::time::timeout(health.timeout, check).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(format!("no answer within {:?}", health.timeout)),
                };
                tell(app, server, outcome);
            }
        });
        join_all(checks).await;
    }
}

fn tell(app: &App, server: &Server, outcome: Result<(), String>) {
    let changed = server.checked(outcome.is_ok());
    match outcome {
        Ok(()) if changed => {
            tracing::info!(app = %app.spec.id, server = %server.address, "upstream is well again");
        }
        Err(reason) if changed => {
            tracing::warn!(app = %app.spec.id, server = %server.address, %reason, "upstream is unwell");
        }
        _ => {}
    }
}

/// Looks at one server.
async fn check(
    connector: &TransportConnector,
    upstreams: &Arc<Upstreams>,
    index: usize,
    http2: bool,
    probe: &HttpProbe,
    host: &str,
) -> Result<(), String> {
    let tls = matches!(upstreams.servers()[index].address, UpstreamServer::Https { .. });
    let stream = connect(connector, upstreams, index, http2).await?;
    let question = Asked { probe, host, app: None };
    let looked = look(stream, HttpVersion::of(http2, tls), question).await;
    looked.map_err(|problem| problem.to_string())
}

/// A connection to a server, at any of its addresses.
async fn connect(
    connector: &TransportConnector,
    upstreams: &Arc<Upstreams>,
    index: usize,
    http2: bool,
) -> Result<Stream, String> {
    let server = &upstreams.servers()[index];
    let mut tried = 0;
    loop {
        let address = match &server.address {
            UpstreamServer::Unix(_) => None,
            UpstreamServer::Http { .. } | UpstreamServer::Https { .. } => {
                Some(upstreams.resolve(index).await.map_err(|error| error.to_string())?)
            }
        };
        let mut peer = peer(&server.address, address)?;
        if http2 {
            peer.options.set_http_version(2, 2);
        }
        match connector.new_stream(&peer).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                tried += 1;
                let has_more = server.addresses() > tried;
                if !has_more || !address.is_some_and(|address| server.turn_away(address)) {
                    return Err(error.to_string());
                }
            }
        }
    }
}

fn peer(server: &UpstreamServer, address: Option<SocketAddr>) -> Result<HttpPeer, String> {
    match (server, address) {
        (UpstreamServer::Https { host, .. }, Some(address)) => {
            Ok(HttpPeer::new(address, true, host.clone()))
        }
        (UpstreamServer::Http { .. }, Some(address)) => {
            Ok(HttpPeer::new(address, false, String::new()))
        }
        (UpstreamServer::Unix(path), _) => {
            HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())
                .map_err(|error| error.to_string())
        }
        (_, None) => Err("no address".to_owned()),
    }
}
