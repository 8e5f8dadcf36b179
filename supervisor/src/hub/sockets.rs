//! Listening sockets: opened here, where the rights for it are, and handed to whoever accepts.
//!
//! We keep a descriptor of each: a proxy that dies or is replaced takes no socket with it, and who
//! waits in its backlog is accepted by the next one. A TCP address gets one socket per worker
//! (SO_REUSEPORT, socket(7)); a Unix socket is one that all workers accept from.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use doorbell_config::spec::ListenAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::socket_file::{self, Replaces};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// EAFNOSUPPORT, errno(3).
const NO_IPV6: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
/// Mode of a Unix socket's file: a web server of our group may connect.
const FILE_MODE: u32 = 0o660;

/// Opens sockets on an address, one for each worker. `ours` are the addresses listened on already.
/// Gives the address too: of port 0, which means any, with the port that it became.
///
/// # Errors
/// What the system says.
pub(super) fn open<'a>(
    address: &ListenAddr,
    ours: impl IntoIterator<Item = &'a ListenAddr>,
    workers: usize,
) -> io::Result<(ListenAddr, Vec<Arc<OwnedFd>>)> {
    match address {
        ListenAddr::Tcp(address) => {
            let is_ours = ours.into_iter().any(|other| shares_port(other, *address));
            let (address, listeners) = open_shared(*address, is_ours, workers)?;
            let sockets = listeners.into_iter().map(|socket| Arc::new(OwnedFd::from(socket)));
            Ok((ListenAddr::Tcp(address), sockets.collect()))
        }
        ListenAddr::Unix(path) => {
            let is_ours = ours.into_iter().any(|other| other == address);
            let replaces = if is_ours { Replaces::Ours } else { Replaces::Nobody };
            let socket = Arc::new(OwnedFd::from(socket_file::listen(path, FILE_MODE, replaces)?));
            Ok((address.clone(), vec![socket; workers]))
        }
    }
}

/// Opens the socket of an admin address. Who may open the file of a Unix socket may operate.
///
/// # Errors
/// What the system says.
pub(super) fn open_admin(address: &ListenAddr) -> io::Result<Arc<OwnedFd>> {
    let socket: OwnedFd = match address {
        ListenAddr::Tcp(address) => TcpListener::bind(address)?.into(),
        ListenAddr::Unix(path) => socket_file::listen(path, 0o600, Replaces::Nobody)?.into(),
    };
    SockRef::from(&socket).set_nonblocking(true)?;
    Ok(Arc::new(socket))
}

/// Whether this is a socket that listens on this address: one that another process brings is not
/// taken for it unseen.
pub(super) fn listens_on(socket: &OwnedFd, address: &ListenAddr) -> bool {
    let socket = SockRef::from(socket);
    if !socket.is_listener().unwrap_or(false) {
        return false;
    }
    match (socket.local_addr(), address) {
        (Ok(found), ListenAddr::Tcp(address)) => {
            let same = |found: SocketAddr| {
                found.port() == address.port()
                    && (found.ip() == address.ip()
                        // On a machine without IPv6 the one stands for the other.
                        || found.ip().is_unspecified() && address.ip().is_unspecified())
            };
            found.as_socket().is_some_and(same)
        }
        // It was bound under another name, and renamed.
        (Ok(found), ListenAddr::Unix(_)) => found.is_unix(),
        (Err(_), _) => false,
    }
}

/// Puts fresh sockets in the place of those that somebody who had them has shut down (shutdown(2)),
/// which a descriptor of our own does not prevent. Tells whether there was need.
///
/// # Errors
/// What the system says.
pub(super) fn revive(address: &ListenAddr, sockets: &mut [Arc<OwnedFd>]) -> io::Result<bool> {
    if sockets.iter().all(accepts) {
        return Ok(false);
    }
    match address {
        ListenAddr::Tcp(address) => {
            for socket in sockets.iter_mut().filter(|socket| !accepts(socket)) {
                *socket = Arc::new(open_tcp(*address, Sharing::AmongWorkers)?.into());
            }
        }
        ListenAddr::Unix(path) => {
            let socket = socket_file::listen(path, FILE_MODE, Replaces::Nobody)?;
            sockets.fill(Arc::new(OwnedFd::from(socket)));
        }
    }
    Ok(true)
}

/// Whether a socket listens, and was not shut down.
fn accepts(socket: &Arc<OwnedFd>) -> bool {
    let dead = PollFlags::HUP | PollFlags::RDHUP;
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
    SockRef::from(socket).is_listener().unwrap_or(false)
        && poll(&mut polled, now).is_ok()
        && polled.iter().all(|one| !one.revents().intersects(dead))
}

/// A TCP socket for each worker, all on one port.
fn open_shared(
    mut address: SocketAddr,
    is_ours: bool,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
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
fn open_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let every = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_tcp(address, sharing) {
        Err(error) if every && error.raw_os_error() == Some(NO_IPV6) => {
            bind_tcp((Ipv4Addr::UNSPECIFIED, address.port()).into(), sharing)
        }
        other => other,
    }
}

fn bind_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
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
            let error = open(&tcp(address), [], 2).expect_err("it is taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
        drop(other);
        assert_eq!(open(&tcp(taken), [], 2).unwrap().1.len(), 2);
    }

    #[test]
    fn our_own_port_is_no_obstacle_to_a_wider_address() {
        let one = bind_tcp(([127, 0, 0, 1], 0).into(), Sharing::AmongWorkers).unwrap();
        let ours = one.local_addr().unwrap();
        let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ours.port()));
        assert_eq!(open(&tcp(every), [&tcp(ours)], 2).unwrap().1.len(), 2);
    }

    #[test]
    fn all_workers_share_a_port_that_the_system_picked() {
        let any = tcp(([127, 0, 0, 1], 0).into());
        let (address, sockets) = open(&any, [], 3).unwrap();
        assert_ne!(address, any);
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| listens_on(socket, &address)));
    }

    #[test]
    fn sockets_that_were_shut_down_are_listened_on_again() {
        use std::{net::TcpStream, os::unix::net::UnixStream};
        let any = tcp(([127, 0, 0, 1], 0).into());
        let (address, mut sockets) = open(&any, [], 2).unwrap();
        assert!(!revive(&address, &mut sockets).unwrap());
        for socket in &sockets {
            SockRef::from(&socket.try_clone().unwrap()).shutdown(std::net::Shutdown::Both).unwrap();
        }
        let ListenAddr::Tcp(to) = address else { unreachable!("it is TCP") };
        assert!(TcpStream::connect(to).is_err());
        assert!(revive(&address, &mut sockets).unwrap());
        assert!(TcpStream::connect(to).is_ok());
        assert!(!revive(&address, &mut sockets).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = ListenAddr::Unix(path.clone());
        let (_, mut sockets) = open(&address, [], 2).unwrap();
        assert!(!revive(&address, &mut sockets).unwrap());
        SockRef::from(&sockets[0]).shutdown(std::net::Shutdown::Read).unwrap();
        assert!(UnixStream::connect(&path).is_err());
        assert!(revive(&address, &mut sockets).unwrap());
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_listens_elsewhere_or_not_at_all_is_told_from_ours() {
        let any = tcp(([127, 0, 0, 1], 0).into());
        let ((one, sockets), (other, _)) = (open(&any, [], 1).unwrap(), open(&any, [], 1).unwrap());
        assert!(listens_on(&sockets[0], &one));
        assert!(!listens_on(&sockets[0], &other));
        let folder = tempfile::tempdir().unwrap();
        assert!(!listens_on(&sockets[0], &ListenAddr::Unix(folder.path().join("s"))));
        let ListenAddr::Tcp(address) = one else { unreachable!("it is TCP") };
        let client = std::net::TcpStream::connect(address).unwrap();
        assert!(!listens_on(&client.into(), &tcp(address)));
        let file = tempfile::tempfile().unwrap();
        assert!(!listens_on(&file.into(), &tcp(address)));
    }
}
