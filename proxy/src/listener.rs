//! Listening sockets of one worker, added and removed while running.
//!
//! They are opened by the supervisor, which keeps a descriptor of each. A socket that is given up is
//! accepted from until its backlog is empty.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    sync::Arc,
    time::Duration,
};

use doorbell_config::{name::AppId, spec::ListenAddr};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    call,
    client_stream::ClientStream,
    connection::Service,
    shared::{ConnectionPlace, Shared},
    transport::{ConnFacts, Transport},
};

/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// How long those who wait to be accepted are let in when a socket is given up.
const LAST_GUESTS: Duration = Duration::from_secs(5);

/// A listening socket for one worker.
pub struct Socket {
    /// Its number, the same for all sockets of one address.
    pub number: u64,
    /// The socket.
    pub descriptor: OwnedFd,
    /// The address it listens on.
    pub address: ListenAddr,
    /// The TCP app whose clients connect there; `None` for HTTP.
    pub app: Option<AppId>,
}

impl Socket {
    /// A socket that clients are accepted from.
    fn door(self) -> io::Result<Door> {
        match self.address {
            ListenAddr::Tcp(_) => {
                let listener = StdTcpListener::from(self.descriptor);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Door::Tcp)
            }
            ListenAddr::Unix(_) => {
                let listener = StdUnixListener::from(self.descriptor);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Door::Unix)
            }
        }
    }
}

/// One worker's listeners.
pub struct ListenerSet {
    service: Arc<Service>,
    running: HashMap<u64, (CancellationToken, TaskTracker)>,
}

impl ListenerSet {
    /// Listens on nothing yet.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service, running: HashMap::new() }
    }

    /// Starts to accept on a socket.
    pub fn add(&mut self, socket: Socket) {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let service = Arc::clone(&self.service);
        let token = stop.clone();
        let (number, app) = (socket.number, socket.app.clone());
        match socket.door() {
            Ok(door) => drop(tracker.spawn(let_in(door, app, service, token))),
            Err(error) => tracing::error!(%error, "cannot watch a listening socket"),
        }
        self.running.insert(number, (stop, tracker));
    }

    /// Stops accepting on all sockets, when their backlogs are served.
    pub async fn clear(&mut self) {
        let all: Vec<_> = self.running.drain().map(|(_, running)| running).collect();
        all.iter().for_each(|(stop, _)| stop.cancel());
        for (_, tracker) in all {
            serve_last(&tracker).await;
        }
    }

    /// Stops accepting on a socket, when its backlog is served.
    pub async fn remove(&mut self, number: u64) {
        if let Some((stop, tracker)) = self.running.remove(&number) {
            stop.cancel();
            serve_last(&tracker).await;
        }
    }
}

/// Waits until nobody waits there any more. Whoever floods us with connections is not to keep the
/// socket open.
async fn serve_last(tracker: &TaskTracker) {
    tracker.close();
    if tokio::time::timeout(LAST_GUESTS, tracker.wait()).await.is_err() {
        tracing::warn!("a listening socket goes on for a while: too many connections wait");
    }
}

/// A socket that clients are accepted from.
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    /// The next client, and what is known of it. Dropping this future loses none.
    async fn accept(&self, shared: &Shared) -> io::Result<(Transport, Arc<ConnFacts>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local_port = stream.local_addr().ok().map(|address| address.port());
                let facts = ConnFacts::new(Some(peer), local_port, is_trusted(shared, peer));
                Ok((Transport::Tcp(stream), facts))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Transport::Unix(stream), ConnFacts::new(None, None, true)))
            }
        }
    }
}

async fn let_in(door: Door, app: Option<AppId>, service: Arc<Service>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = door.accept(&service.shared) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((io, facts)) => match &app {
                None => admit(&service, io, facts),
                Some(app) => call::take(&service.shared, app, io, &facts),
            },
            Err(error) => {
                accept_failed(&error).await;
                // The next try may fail as well: with full hands nobody can be let in any more.
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }
}

/// A connection that broke before it was accepted concerns nobody; running out of descriptors does,
/// and trying again at once would only spin.
pub async fn accept_failed(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::error!(%error, "cannot accept connections");
    tokio::time::sleep(PAUSE).await;
}

fn is_trusted(shared: &Shared, peer: SocketAddr) -> bool {
    let table = shared.table.load();
    let trusted = &table.server.trusted_proxies;
    !trusted.is_empty() && {
        let ip = peer.ip().to_canonical();
        trusted.iter().any(|net| net.contains(&ip))
    }
}

fn admit(service: &Arc<Service>, io: Transport, facts: Arc<ConnFacts>) {
    let write_idle = service.shared.table.load().server.timeouts.write_idle;
    let stream = ClientStream::new(io, facts, write_idle);
    let place = service.shared.connection_place();
    let service = Arc::clone(service);
    tokio::spawn(async move {
        match place {
            Some(place) => serve(&service, stream, place).await,
            None => service.turn_away(stream).await,
        }
    });
}

async fn serve(service: &Service, stream: ClientStream, place: ConnectionPlace) {
    service.serve(stream).await;
    drop(place);
}
