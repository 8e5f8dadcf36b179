//! Active health checks of upstream servers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use doorbell_config::{
    name::{AppId, HostPattern},
    spec::{HealthSpec, HttpProbe, UpstreamServer},
};
use futures_util::future::join_all;
use pingora_core::{
    connectors::http::Connector, protocols::http::client::HttpSession, upstreams::peer::HttpPeer,
};
use pingora_http::RequestHeader;
use tokio::task::JoinHandle;

use crate::{
    app::{App, Table},
    difference::Difference,
    upstreams::{Server, Upstreams},
};

/// Most bytes of a body that is searched.
const MOST_BODY: usize = 64 * 1024;

/// The checks that run.
#[derive(Default)]
pub struct HealthChecks {
    running: HashMap<AppId, Check>,
    connector: SharedConnector,
}

/// One for all checks, made for the first: it holds two stores of trusted certificates.
type SharedConnector = Arc<OnceLock<Connector>>;

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
            let host = health.probe.host.clone().unwrap_or_else(|| first_host(app));
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
    let connector = connector.get_or_init(|| Connector::new(None));
    let version = if app.spec.http2 { HttpVersion::Two } else { HttpVersion::One };
    let mut ticks = tokio::time::interval(health.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let checks = upstreams.servers().iter().enumerate().map(|(index, server)| {
            let (upstreams, probe, host) = (&upstreams, &health.probe, &host);
            let app = &app;
            async move {
                let check = check(connector, upstreams, index, version, probe, host);
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

fn first_host(app: &App) -> String {
    let exact = app.spec.routes.hosts.iter().find_map(|host| match host {
        HostPattern::Exact(name) => Some(name.to_string()),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    });
    exact.unwrap_or_else(|| "localhost".to_owned())
}

/// What is spoken with an app's servers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HttpVersion {
    One,
    Two,
}

async fn check(
    connector: &Connector,
    upstreams: &Arc<Upstreams>,
    index: usize,
    version: HttpVersion,
    probe: &HttpProbe,
    host: &str,
) -> Result<(), String> {
    let mut session = connect(connector, upstreams, index, version).await?;
    let (status, body) = ask(&mut session, probe, host).await.map_err(|error| error.to_string())?;
    let good = probe.status.map_or((200..400).contains(&status), |wanted| wanted == status);
    if !good {
        return Err(format!("status {status}"));
    }
    match &probe.body {
        Some(wanted) if memchr::memmem::find(&body, wanted.as_bytes()).is_none() => {
            Err("the body does not contain what it should".to_owned())
        }
        _ => Ok(()),
    }
}

/// A connection to a server, at any of its addresses.
async fn connect(
    connector: &Connector,
    upstreams: &Arc<Upstreams>,
    index: usize,
    version: HttpVersion,
) -> Result<HttpSession, String> {
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
        if version == HttpVersion::Two {
            // One stream per connection: each check makes its own.
            peer.options.set_http_version(2, 2);
        }
        match connector.get_http_session(&peer).await {
            Ok((session, _)) => return Ok(session),
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
    let mut peer = match (server, address) {
        (UpstreamServer::Https { host, .. }, Some(address)) => {
            HttpPeer::new(address, true, host.clone())
        }
        (UpstreamServer::Http { .. }, Some(address)) => {
            HttpPeer::new(address, false, String::new())
        }
        (UpstreamServer::Unix(path), _) => {
            HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())
                .map_err(|error| error.to_string())?
        }
        (_, None) => return Err("no address".to_owned()),
    };
    peer.options.idle_timeout = Some(Duration::from_secs(1));
    Ok(peer)
}

async fn ask(
    session: &mut HttpSession,
    probe: &HttpProbe,
    host: &str,
) -> pingora_error::Result<(u16, Vec<u8>)> {
    let mut request = RequestHeader::build("GET", probe.path.as_bytes(), Some(4))?;
    request.insert_header("host", host)?;
    request.insert_header("user-agent", concat!("doorbell/", env!("CARGO_PKG_VERSION")))?;
    if matches!(session, HttpSession::H1(_)) {
        request.insert_header("connection", "close")?;
    }
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |response| response.status.as_u16());
    let mut body = Vec::new();
    if probe.body.is_some() {
        while body.len() < MOST_BODY {
            let Some(bytes) = session.read_response_body().await? else { break };
            body.extend_from_slice(&bytes);
        }
    }
    session.shutdown().await;
    Ok((status, body))
}
