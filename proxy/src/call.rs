//! A client's connection to a TCP app, from its accept to its end: a call.
//!
//! The story: the call takes its place among the connections, gets a lease at the app's gate (and
//! waits for it while the app starts), reaches the app, and is joined to it until both
//! sides have said all. Nothing is read from the client before the app is there: what it sends waits in
//! its socket.
//!
//! A call that cannot be joined is reset: an end without a word would be taken for the app's own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    spec::{AppTimeouts, ProxyProtocol},
};
use doorbell_supervisor::message::Endpoint;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, UnixStream},
    time::Instant,
};

use crate::{
    app::App,
    gate::{Denial, Entry, Lease, Sway},
    metrics::{AppMetrics, CallEnd},
    peer::Why,
    shared::{ConnectionPlace, Shared},
    transport::{ConnFacts, Transport},
};

mod join;

use join::{Flow, join};

/// Longest pause before an app is tried again that took no connection.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Why a call was not joined to its app.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Broken {
    /// The gate gave no lease.
    #[error("no lease: {0:?}")]
    Denied(Denial),
    /// The client left.
    #[error("the client left")]
    Left,
    /// The app took no connection.
    #[error("the app cannot be reached: {0:?}")]
    Unreachable(Why),
}

/// One call.
struct Call {
    app: Arc<App>,
    client: Transport,
    /// Where the client connects from, and to; `None` on a Unix socket.
    addresses: Option<(SocketAddr, SocketAddr)>,
    since: Instant,
    /// Whether it had to wait: then the client may have left meanwhile.
    was_held: bool,
}

/// Takes a client that has just been accepted; what becomes of it is a task of its own.
pub fn take(shared: &Arc<Shared>, id: &AppId, client: Transport, facts: &ConnFacts) {
    let app = shared.table.load().routes.app(id.as_str()).cloned();
    // One that has just been removed is let go with its last guests.
    let Some(app) = app.filter(|app| !app.speaks_http()) else { return client.reset() };
    let Some(place) = shared.connection_place() else {
        app.metrics.call_ended(CallEnd::Refused);
        return client.reset();
    };
    let to = client.local_address();
    let addresses = facts.peer.zip(to);
    let call = Call { app, client, addresses, since: Instant::now(), was_held: false };
    tokio::spawn(call.run(place));
}

impl Call {
    async fn run(mut self, place: ConnectionPlace) {
        let counted = AppMetrics::call(&self.app.metrics);
        let reached = self.reach().await;
        let id = &self.app.spec.id;
        match reached {
            Ok((lease, app)) => {
                self.app.metrics.call_ended(CallEnd::Joined);
                let flow = Flow::new(&self.app.metrics, self.app.spec.timeouts.upgraded_idle);
                if let Err(error) = join(&self.client, &app, &flow).await {
                    tracing::debug!(app = %id, %error, "a call broke");
                    self.client.reset();
                    app.reset();
                }
                drop((app, lease));
            }
            Err(broken) => {
                tracing::debug!(app = %id, %broken, "a call was not joined");
                let left = broken == Broken::Left;
                let end = if left { CallEnd::Left } else { CallEnd::Refused };
                self.app.metrics.call_ended(end);
                self.client.reset();
            }
        }
        drop((counted, place));
    }

    /// A connection to the app, and permission to use it. Tries again while the call may be held.
    async fn reach(&mut self) -> Result<(Lease, Transport), Broken> {
        let mut tried = 0;
        loop {
            let lease = self.lease().await?;
            let why = match self.connect(&lease.instance().endpoint).await {
                Ok(app) if self.was_held && self.client.is_gone() => {
                    // Nobody waits for what it would say.
                    app.reset();
                    return Err(Broken::Left);
                }
                Ok(app) => return self.announce(app).await.map(|app| (lease, app)),
                Err(why) => why,
            };
            match why {
                Why::Refused => self.app.unreachable(lease.instance()),
                Why::Busy => {}
                Why::Ours | Why::Late | Why::Other => return Err(Broken::Unreachable(why)),
            }
            drop(lease);
            self.was_held = true;
            tried += 1;
            let pause = Duration::from_millis(1 << tried.min(8)).min(LONGEST_PAUSE);
            if self.budget() <= pause {
                return Err(Broken::Unreachable(why));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.client.gone() => return Err(Broken::Left),
            }
        }
    }

    fn timeouts(&self) -> &AppTimeouts {
        &self.app.spec.timeouts
    }

    /// For how much longer it may be held.
    fn budget(&self) -> Duration {
        self.timeouts().hold.saturating_sub(self.since.elapsed())
    }

    async fn lease(&mut self) -> Result<Lease, Broken> {
        let place = match self.app.lease(Sway::Wakes) {
            Entry::Leased(lease) => return Ok(lease),
            Entry::Refused(denial) => return Err(Broken::Denied(denial)),
            Entry::Held(place) => place,
        };
        self.was_held = true;
        tokio::select! {
            biased;
            // Looked at first: a lease that comes as the client leaves is given back unused.
            () = self.client.gone() => Err(Broken::Left),
            outcome = place.lease(self.budget()) => outcome.map_err(Broken::Denied),
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Transport, Why> {
        let connecting = async {
            match endpoint {
                Endpoint::Tcp(address) => TcpStream::connect(address).await.map(Transport::Tcp),
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(Transport::Unix),
                Endpoint::Upstream => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        let connected = tokio::time::timeout(self.timeouts().connect, connecting).await;
        let app = connected.map_err(|_| Why::Late)?.map_err(|error| Why::from(&error))?;
        if let Transport::Tcp(tcp) = &app {
            prepare(tcp);
        }
        Ok(app)
    }

    /// Tells the app who calls, where it wants to know.
    async fn announce(&self, app: Transport) -> Result<Transport, Broken> {
        let protocol = self.app.spec.tcp().map(|tcp| tcp.proxy_protocol);
        match protocol {
            None | Some(ProxyProtocol::Off) => return Ok(app),
            Some(ProxyProtocol::Version1) => {}
        }
        let line = proxy_line(self.addresses);
        let told = tokio::time::timeout(self.timeouts().connect, app.send_all(line.as_bytes()));
        match told.await {
            Ok(Ok(())) => Ok(app),
            Ok(Err(error)) => Err(Broken::Unreachable(Why::from(&error))),
            Err(_) => Err(Broken::Unreachable(Why::Late)),
        }
    }
}

/// Bytes go on at once, and an app that is gone without a word is noticed. A socket that takes no options
/// still carries bytes.
fn prepare(tcp: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(3);
    drop(tcp.set_nodelay(true));
    drop(SockRef::from(tcp).set_tcp_keepalive(&keepalive));
}

/// The line of the PROXY protocol, version 1, section 2.1.
fn proxy_line(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((from, to)) = addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let ports = (from.port(), to.port());
    let (from, to) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (from @ IpAddr::V4(_), to @ IpAddr::V4(_)) => (from, to),
        // Both are written in one family.
        (from, to) => (IpAddr::V6(v6(from)), IpAddr::V6(v6(to))),
    };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1)
}

fn v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_client_and_door() {
        let line =
            |from: &str, to: &str| proxy_line(Some((from.parse().unwrap(), to.parse().unwrap())));
        assert_eq!(line("192.0.2.1:9", "127.0.0.1:5"), "PROXY TCP4 192.0.2.1 127.0.0.1 9 5\r\n");
        assert_eq!(
            line("[::ffff:192.0.2.1]:9", "[::ffff:127.0.0.1]:5"),
            "PROXY TCP4 192.0.2.1 127.0.0.1 9 5\r\n"
        );
        assert_eq!(line("[2001:db8::1]:9", "[::1]:5"), "PROXY TCP6 2001:db8::1 ::1 9 5\r\n");
        assert_eq!(proxy_line(None), "PROXY UNKNOWN\r\n");
    }
}
