//! Where a lease leads, in Pingora's terms, and what a failed connect means for it.

use std::{io, net::SocketAddr};

use doorbell_config::spec::UpstreamServer;
use doorbell_supervisor::message::Endpoint;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorType};
use rustix::io::Errno;

use crate::{
    answer::Answer, app::App, exchange::Exchange, front, head::BodyKind, upstreams::Upstreams,
};

/// Concurrent requests on one HTTP/2 connection to an app.
const H2_STREAMS: usize = 100;

/// The peer for an exchange that has a lease.
///
/// # Errors
/// Our own answer, where there is none.
pub async fn of(exchange: &mut Exchange) -> Result<HttpPeer, Answer> {
    let (Some(lease), Some(matched)) = (&exchange.lease, &exchange.matched) else {
        return Err(Answer::Internal);
    };
    let app = &matched.app;
    let key = lease.instance().pool_key;
    let mut peer = match &lease.instance().endpoint {
        Endpoint::Tcp(address) => tcp(*address, false, ""),
        Endpoint::Unix(path) => unix(&path.to_string_lossy())?,
        Endpoint::Upstream => {
            let (peer, server) = {
                let upstreams = exchange.upstreams()?;
                upstream(app, &upstreams, exchange.passing.tried).await?
            };
            exchange.passing.server = Some(server);
            peer
        }
    };
    peer.group_key = key;
    let times_silence = front::times_silence_itself(exchange);
    let has_body = exchange.head.body != BodyKind::None;
    set_options(&mut peer, app, times_silence, has_body);
    Ok(peer)
}

fn tcp(address: SocketAddr, tls: bool, sni: &str) -> HttpPeer {
    HttpPeer::new(address, tls, sni.to_owned())
}

fn unix(path: &str) -> Result<HttpPeer, Answer> {
    HttpPeer::new_uds(path, false, String::new()).map_err(|_| Answer::Internal)
}

/// The next server that is well and whose name resolves.
async fn upstream(
    app: &App,
    upstreams: &Upstreams,
    mut tried: u64,
) -> Result<(HttpPeer, usize), Answer> {
    let patience = app.spec.timeouts.connect;
    loop {
        let index = upstreams.pick(tried).ok_or(Answer::BadGateway)?;
        let server = &upstreams.servers()[index];
        let resolved = match &server.address {
            UpstreamServer::Unix(path) => return Ok((unix(&path.to_string_lossy())?, index)),
            UpstreamServer::Http { host, port } => {
                let address = tokio::time::timeout(patience, server.resolve(host, *port)).await;
                address.ok().and_then(Result::ok).map(|address| tcp(address, false, ""))
            }
            UpstreamServer::Https { host, port } => {
                let address = tokio::time::timeout(patience, server.resolve(host, *port)).await;
                address.ok().and_then(Result::ok).map(|address| tcp(address, true, host))
            }
        };
        if let Some(peer) = resolved {
            return Ok((peer, index));
        }
        upstreams.failed(index);
        if index >= 64 {
            return Err(Answer::BadGateway);
        }
        tried |= 1 << index;
    }
}

fn set_options(peer: &mut HttpPeer, app: &App, times_silence: bool, has_body: bool) {
    let timeouts = &app.spec.timeouts;
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = timeouts.response_idle.filter(|_| times_silence);
    // A head without body is one write into an empty socket.
    options.write_timeout = has_body.then_some(timeouts.write_idle);
    options.idle_timeout = Some(timeouts.keep_alive);
    // Upgrades go through `tunnel`; here a stray `Upgrade` would switch the connection under Pingora.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    if app.spec.http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = H2_STREAMS;
    }
}

/// Why a connect failed, as far as it matters for what to do next.
enum Why {
    /// We have no descriptors or ports left: not the app's fault.
    Ours,
    /// Nobody listens.
    Refused,
    /// The line of those who wait to be accepted is full.
    Busy,
    /// Anything else, an expired deadline among it.
    Other,
}

fn why(error: &Error) -> Why {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS) => Why::Ours,
        Some(Errno::CONNREFUSED | Errno::NOENT) => Why::Refused,
        Some(Errno::AGAIN) => Why::Busy,
        _ => match error.etype() {
            ErrorType::ConnectRefused => Why::Refused,
            ErrorType::BindError | ErrorType::SocketError | ErrorType::InternalError => Why::Ours,
            _ => Why::Other,
        },
    }
}

/// A connect failed, so nothing was sent. Tells whether another try makes sense; if not, and the
/// fault is ours, the answer says so.
pub fn connect_failed(exchange: &mut Exchange, error: &Error) -> bool {
    exchange.passing.failed_connects += 1;
    match (exchange.endpoint(), why(error)) {
        (None, _) => false,
        (_, Why::Ours) => {
            tracing::error!(%error, "cannot connect to an app: out of descriptors or ports?");
            exchange.answer = Some(Answer::Internal);
            false
        }
        (Some(Endpoint::Upstream), _) => next_server(exchange),
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Refused) => {
            exchange.unreachable();
            exchange.may_wait(std::time::Duration::ZERO)
        }
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Busy) => {
            exchange.may_wait(std::time::Duration::ZERO)
        }
        (Some(Endpoint::Tcp(_) | Endpoint::Unix(_)), Why::Other) => false,
    }
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
    if index < 64 {
        exchange.passing.tried |= 1 << index;
    }
    upstreams.servers().len() > exchange.passing.tried.count_ones() as usize
}
