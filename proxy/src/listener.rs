//! Listening sockets: opened once for all workers, added and removed while running.
//!
//! A TCP address gets one socket per worker (SO_REUSEPORT); a Unix socket is one that all workers
//! accept from. A removed socket's backlog is still accepted before it closes.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::net::UnixListener as StdUnixListener,
    sync::Arc,
    time::Duration,
};

use doorbell_config::spec::ListenAddr;
use socket2::{Domain, Protocol, Socket as RawSocket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    client_stream::ClientStream,
    connection::Service,
    shared::{ConnectionPlace, Shared},
    socket_file,
    transport::{ConnFacts, Transport},
};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// EAFNOSUPPORT, errno(3).
const NO_IPV6: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// How long those who wait to be accepted are let in when a socket is given up.
const LAST_GUESTS: Duration = Duration::from_secs(5);

/// Mode of a Unix socket's file: a web server of our group may connect.
const FILE_MODE: u32 = 0o660;

/// A listening socket for one worker.
pub struct Socket {
    /// Its number, the same for all sockets of one address.
    pub number: u64,
    kind: SocketKind,
}

enum SocketKind {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Opens sockets on an address, one for each worker. `ours` are the addresses listened on already.
/// Gives the address too: of port 0, which means any, with the port that it became.
///
/// # Errors
/// What the system says.
pub fn open<'a>(
    address: &ListenAddr,
    ours: impl IntoIterator<Item = &'a ListenAddr>,
    number: u64,
    workers: usize,
) -> io::Result<(ListenAddr, Vec<Socket>)> {
    let (address, kinds) = match address {
        ListenAddr::Tcp(address) => {
            let is_ours = ours.into_iter().any(|other| shares_port(other, *address));
            let (address, listeners) = open_shared(*address, is_ours, workers)?;
            (ListenAddr::Tcp(address), listeners.into_iter().map(SocketKind::Tcp).collect())
        }
        ListenAddr::Unix(path) => {
            let first = socket_file::listen(path, FILE_MODE)?;
            let kinds: io::Result<Vec<_>> =
                (0..workers).map(|_| first.try_clone().map(SocketKind::Unix)).collect();
            (address.clone(), kinds?)
        }
    };
    Ok((address, kinds.into_iter().map(|kind| Socket { number, kind }).collect()))
}

/// A TCP socket for each worker, all on one port.
fn open_shared(
    mut address: SocketAddr,
    is_ours: bool,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<StdTcpListener>)> {
    // A port that the system picks is nobody else's.
    if !is_ours && address.port() != 0 {
        open_tcp(address, Sharing::Alone)?;
    }
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = open_tcp(address, Sharing::AmongWorkers)?;
        address.set_port(listener.local_addr()?.port());
        listeners.push(listener);
    }
    Ok((address, listeners))
}

/// Whether others may listen on the same address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Nobody else may: with a port that is shared, the kernel would let another program of our user
    /// share it too, and give each a part of the connections.
    Alone,
    /// Each worker has a socket of its own there.
    AmongWorkers,
}

/// Whether we listen on the port of `address` ourselves, so that trying it alone says nothing.
fn shares_port(other: &ListenAddr, address: SocketAddr) -> bool {
    matches!(other, ListenAddr::Tcp(other) if other.port() == address.port())
}

/// `[::]` means every address: also those of IPv4, and only those where the machine has no IPv6.
fn open_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<StdTcpListener> {
    let every = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_tcp(address, sharing) {
        Err(error) if every && error.raw_os_error() == Some(NO_IPV6) => {
            bind_tcp((Ipv4Addr::UNSPECIFIED, address.port()).into(), sharing)
        }
        other => other,
    }
}

fn bind_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<StdTcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::AmongWorkers)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit these: no delay between two pieces of an answer, and a peer that
    // vanished is noticed after a minute and a half.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    if sharing == Sharing::AmongWorkers {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
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
        let door = match socket.kind {
            SocketKind::Tcp(listener) => TcpListener::from_std(listener).map(Door::Tcp),
            SocketKind::Unix(listener) => UnixListener::from_std(listener).map(Door::Unix),
        };
        match door {
            Ok(door) => drop(tracker.spawn(let_in(door, service, token))),
            Err(error) => tracing::error!(%error, "cannot watch a listening socket"),
        }
        self.running.insert(socket.number, (stop, tracker));
    }

    /// Stops accepting on a socket, when its backlog is served.
    pub async fn remove(&mut self, number: u64) {
        if let Some((stop, tracker)) = self.running.remove(&number) {
            stop.cancel();
            tracker.close();
            // Whoever floods us with connections is not to keep the socket open.
            if tokio::time::timeout(LAST_GUESTS, tracker.wait()).await.is_err() {
                tracing::warn!("a listening socket goes on for a while: too many connections wait");
            }
        }
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

async fn let_in(door: Door, service: Arc<Service>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = door.accept(&service.shared) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((io, facts)) => admit(&service, io, facts),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: SocketAddr) -> ListenAddr {
        ListenAddr::Tcp(address)
    }

    #[test]
    fn an_address_that_another_program_would_share_is_taken() {
        let other = bind_tcp(([127, 0, 0, 1], 0).into(), Sharing::AmongWorkers).unwrap();
        let taken = other.local_addr().unwrap();
        let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, taken.port()));
        for address in [taken, every] {
            let error = open(&tcp(address), [], 0, 2).err().expect("it is taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
        drop(other);
        assert_eq!(open(&tcp(taken), [], 0, 2).unwrap().1.len(), 2);
    }

    #[test]
    fn our_own_port_is_no_obstacle_to_a_wider_address() {
        let one = bind_tcp(([127, 0, 0, 1], 0).into(), Sharing::AmongWorkers).unwrap();
        let ours = one.local_addr().unwrap();
        let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ours.port()));
        assert_eq!(open(&tcp(every), [&tcp(ours)], 0, 2).unwrap().1.len(), 2);
    }

    #[test]
    fn all_workers_share_a_port_that_the_system_picked() {
        let any = tcp(([127, 0, 0, 1], 0).into());
        let (address, sockets) = open(&any, [], 0, 3).unwrap();
        let ports = sockets.iter().map(|socket| match &socket.kind {
            SocketKind::Tcp(listener) => tcp(listener.local_addr().unwrap()),
            SocketKind::Unix(_) => unreachable!("it is TCP"),
        });
        assert_eq!(ports.collect::<Vec<_>>(), vec![address.clone(); 3]);
        assert_ne!(address, any);
    }
}
