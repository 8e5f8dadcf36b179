//! Where a lease leads, and what a failed connect means for it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use doorbell_config::spec::UpstreamServer;
use doorbell_supervisor::message::Endpoint;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorType};
use rustix::io::Errno;

use crate::{
    answer::Answer,
    app::App,
    exchange::{Exchange, Passing},
    front,
    head::BodyKind,
    upstreams::Upstreams,
};

/// Concurrent requests on one HTTP/2 connection to an app.
const H2_STREAMS: usize = 100;

/// What to connect to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Where it listens.
    pub address: Address,
    /// What a connection must have in common with a request to be used for it.
    pub key: PoolKey,
}

/// Where an app listens.
#[derive(Clone, Debug, Hash)]
pub enum Address {
    /// A port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A port behind TLS, with the name its certificate must have.
    Tls(SocketAddr, String),
}

/// Connections to one run of an app, and to one address, are never used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    run: u64,
    /// Hash of the address.
    place: u64,
}

impl PoolKey {
    fn new(run: u64, address: &Address) -> Self {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        Self { run, place: hasher.finish() }
    }
}

/// Where to send an exchange that has a lease.
///
/// # Errors
/// Our own answer, where there is no such place.
pub async fn destination(exchange: &mut Exchange) -> Result<Destination, Answer> {
    let (Some(lease), Some(matched)) = (&exchange.lease, &exchange.matched) else {
        return Err(Answer::Internal);
    };
    let run = lease.instance().pool_key;
    let address = match &lease.instance().endpoint {
        Endpoint::Tcp(address) => Address::Tcp(*address),
        Endpoint::Unix(path) => Address::Unix(path.clone()),
        Endpoint::Upstream => {
            let (address, server) = {
                let upstreams = exchange.upstreams()?;
                upstream(&matched.app, &upstreams, &exchange.passing).await?
            };
            exchange.passing.server = Some(server);
            exchange.passing.address = address.tcp();
            address
        }
    };
    Ok(Destination { key: PoolKey::new(run, &address), address })
}

impl Address {
    fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address, _) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// The server in use, or the next one that is well and whose name resolves.
async fn upstream(
    app: &App,
    upstreams: &Arc<Upstreams>,
    passing: &Passing,
) -> Result<(Address, usize), Answer> {
    let patience = app.spec.timeouts.connect;
    let mut tried = passing.tried;
    let mut in_use = passing.server;
    loop {
        let index = in_use.take().or_else(|| upstreams.pick(tried)).ok_or(Answer::BadGateway)?;
        // The servers may have changed since.
        let Some(server) = upstreams.servers().get(index) else { continue };
        let resolve = async {
            let address = tokio::time::timeout(patience, upstreams.resolve(index)).await;
            address.ok().and_then(Result::ok)
        };
        let resolved = match &server.address {
            UpstreamServer::Unix(path) => Some(Address::Unix(path.clone())),
            UpstreamServer::Http { .. } => resolve.await.map(Address::Tcp),
            UpstreamServer::Https { host, .. } => {
                resolve.await.map(|address| Address::Tls(address, host.clone()))
            }
        };
        if let Some(address) = resolved {
            return Ok((address, index));
        }
        upstreams.failed(index);
        if index >= 64 {
            return Err(Answer::BadGateway);
        }
        tried |= 1 << index;
    }
}

/// The destination in Pingora's terms.
///
/// # Errors
/// Our own answer, where the exchange has no app, or its socket's path is no text.
pub fn http_peer(destination: &Destination, exchange: &Exchange) -> Result<HttpPeer, Answer> {
    let app = &exchange.matched.as_ref().ok_or(Answer::Internal)?.app;
    let mut peer = match &destination.address {
        Address::Tcp(address) => HttpPeer::new(address, false, String::new()),
        Address::Tls(address, name) => HttpPeer::new(address, true, name.clone()),
        Address::Unix(path) => {
            let path = path.to_str().ok_or(Answer::Internal)?;
            HttpPeer::new_uds(path, false, String::new()).map_err(|_| Answer::Internal)?
        }
    };
    peer.group_key = destination.key.run;
    let times_silence = front::times_silence_itself(exchange);
    let has_body = exchange.head.body != BodyKind::None;
    set_options(&mut peer, app, times_silence, has_body);
    Ok(peer)
}

fn set_options(peer: &mut HttpPeer, app: &App, times_silence: bool, has_body: bool) {
    let timeouts = &app.spec.timeouts;
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = timeouts.response_idle.filter(|_| times_silence);
    // A head without body is one write into an empty socket.
    options.write_timeout = has_body.then_some(timeouts.write_idle);
    // Pingora's timers cannot be set to nothing.
    options.idle_timeout = Some(timeouts.keep_alive.max(Duration::from_millis(1)));
    // Upgrades go through `tunnel`; here a stray `Upgrade` would switch the connection under Pingora.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    if app.spec.http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = H2_STREAMS;
    }
}

/// Why a connect failed, as far as it matters for what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// We have no descriptors or ports left: not the app's fault.
    Ours,
    /// Nobody listens.
    Refused,
    /// The line of those who wait to be accepted is full.
    Busy,
    /// Nobody answered in time.
    Late,
    /// Anything else.
    Other,
}

impl From<&io::Error> for Why {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS) => Self::Ours,
            // The second is of one that ends as we come.
            Some(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOENT) => Self::Refused,
            Some(Errno::AGAIN) => Self::Busy,
            _ => Self::Other,
        }
    }
}

impl From<&Error> for Why {
    fn from(error: &Error) -> Self {
        let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<io::Error>());
        match (cause.map_or(Self::Other, Self::from), error.etype()) {
            (Self::Other, ErrorType::ConnectRefused) => Self::Refused,
            (Self::Other, ErrorType::ConnectTimedout) => Self::Late,
            (
                Self::Other,
                ErrorType::BindError | ErrorType::SocketError | ErrorType::InternalError,
            ) => Self::Ours,
            (why, _) => why,
        }
    }
}

/// A connect failed, so nothing was sent. Tells whether another try makes sense; if not, and the
/// fault is ours, the exchange's answer says so.
pub fn connect_failed(exchange: &mut Exchange, why: Why) -> bool {
    exchange.passing.failed_connects += 1;
    match (exchange.endpoint(), why) {
        (None, _) => false,
        (_, Why::Ours) => {
            tracing::error!("cannot connect to an app: out of descriptors or ports?");
            exchange.answer = Some(Answer::Internal);
            false
        }
        (Some(Endpoint::Upstream), _) => next_address(exchange) || next_server(exchange),
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Refused) => {
            exchange.unreachable();
            exchange.may_wait(Duration::ZERO)
        }
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Busy) => {
            exchange.may_wait(Duration::ZERO)
        }
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Late | Why::Other) => false,
    }
}

/// Turns to another address of the server in use, if its name has more than were tried: `localhost`
/// is two, and most programs listen on one of them.
fn next_address(exchange: &mut Exchange) -> bool {
    let (Some(index), Ok(upstreams)) = (exchange.passing.server, exchange.upstreams()) else {
        return false;
    };
    let Some(server) = upstreams.servers().get(index) else { return false };
    let Some(failed) = exchange.passing.address else { return false };
    exchange.passing.addresses_tried += 1;
    server.addresses() > exchange.passing.addresses_tried && server.turn_away(failed)
}

/// A fresh connection did not lead to an answer. A server is marked for it; an instance is looked
/// after if it `died`, which silence is not.
pub fn failed(exchange: &mut Exchange, died: bool) {
    match exchange.endpoint() {
        Some(Endpoint::Upstream) => {
            next_server(exchange);
        }
        Some(Endpoint::Tcp(_) | Endpoint::Unix(_)) if died => exchange.unreachable(),
        Some(Endpoint::Tcp(_) | Endpoint::Unix(_)) | None => {}
    }
}

/// Marks the server in use as failed; tells whether another is left to try.
fn next_server(exchange: &mut Exchange) -> bool {
    let (Some(index), Ok(upstreams)) = (exchange.passing.server.take(), exchange.upstreams())
    else {
        return false;
    };
    upstreams.failed(index);
    exchange.passing.addresses_tried = 0;
    if index < 64 {
        exchange.passing.tried |= 1 << index;
    }
    exchange.passing.servers_failed += 1;
    let untried = upstreams.servers().len() > exchange.passing.tried.count_ones() as usize;
    untried && exchange.passing.servers_failed < upstreams.servers().len()
}
