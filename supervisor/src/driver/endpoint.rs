//! Where an instance is to listen: a free port, a fixed one, or a socket in a folder of its own.

use std::{
    collections::HashSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use doorbell_config::{
    name::AppId,
    spec::{EndpointSpec, Probe},
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chownat, fstat};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_socket_reuseaddr,
};

use super::{listener, procfs::ProcessTable};
use crate::message::{Endpoint, Generation};

/// Longest path of a Unix socket, unix(7): 108 bytes with the final NUL.
const SUN_PATH: usize = 107;
/// Connections that may wait for an app that inherits its listener: all that come while it starts.
/// The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// A socket in a folder of the app's own.
const OWN_SOCKET: &str = "app.sock";
/// Ports tried before giving up.
const TRIES: usize = 2048;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("port {port} is already in use by {holder}")]
    Taken { port: u16, holder: String },
    #[error("no free port on 127.0.0.1")]
    NoPort,
    #[error("the socket path {0} is longer than 107 bytes: choose a shorter state_dir or app id")]
    TooLong(PathBuf),
    #[error("cannot prepare {what}: {source}")]
    System { what: String, source: io::Error },
}

/// An endpoint that is this instance's until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    /// Listening already, for the instance to inherit.
    pub(crate) listener: Option<OwnedFd>,
    lease: Lease,
}

#[derive(Debug)]
enum Lease {
    Port(u16, Arc<Ports>),
    Socket(PathBuf),
    /// A socket in a folder that belongs to the app's user.
    OwnFolder(PathBuf),
}

/// Hands out ports, none to two instances, and none again soon.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    count: u16,
    state: Mutex<PortState>,
}

#[derive(Debug)]
struct PortState {
    next: u16,
    lent: HashSet<u16>,
}

impl Place {
    /// Finds a place and prepares it.
    pub(crate) fn prepare(
        spec: EndpointSpec,
        probe: &Probe,
        ports: &Arc<Ports>,
        sockets: &Path,
        generation: Generation,
        owner: Option<u32>,
    ) -> Result<Self, EndpointError> {
        let listens = *probe == Probe::SocketActivation;
        match spec {
            EndpointSpec::AnyPort => Self::any_port(ports, listens),
            EndpointSpec::FixedPort(port) => Self::fixed_port(ports, port, listens),
            EndpointSpec::Socket => Self::socket(sockets, generation, listens, owner),
        }
    }

    /// The place of an instance that is taken up.
    pub(crate) fn adopt(ports: &Arc<Ports>, endpoint: &Endpoint) -> io::Result<Self> {
        let lease = match endpoint {
            Endpoint::Tcp(address) => {
                ports.note(address.port());
                Lease::Port(address.port(), ports.clone())
            }
            Endpoint::Unix(path) if is_of_another_user(path) => Lease::OwnFolder(path.clone()),
            Endpoint::Unix(path) => Lease::Socket(path.clone()),
            Endpoint::Upstream => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Self { endpoint: endpoint.clone(), listener: None, lease })
    }

    /// The port, if it is one.
    pub(crate) fn port(&self) -> Option<u16> {
        match &self.lease {
            Lease::Port(port, _) => Some(*port),
            Lease::Socket(_) | Lease::OwnFolder(_) => None,
        }
    }

    /// The path, if it is a socket.
    pub(crate) fn socket_path(&self) -> Option<&Path> {
        match &self.lease {
            Lease::Port(..) => None,
            Lease::Socket(path) | Lease::OwnFolder(path) => Some(path),
        }
    }

    fn any_port(ports: &Arc<Ports>, listens: bool) -> Result<Self, EndpointError> {
        let (port, socket) = ports.lend()?;
        Self::on_port(ports, port, socket, listens)
    }

    fn fixed_port(ports: &Arc<Ports>, port: u16, listens: bool) -> Result<Self, EndpointError> {
        // A listener on every address would not hinder ours, but would get the app's visitors.
        let taken = listener::on_port(port).unwrap_or_default();
        if !taken.is_empty() {
            return Err(EndpointError::Taken { port, holder: holder(&taken) });
        }
        match bind(Ipv4Addr::LOCALHOST, port) {
            Ok(socket) => {
                ports.note(port);
                Self::on_port(ports, port, socket, listens)
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(EndpointError::Taken { port, holder: holder(&taken) })
            }
            Err(source) => Err(EndpointError::System { what: format!("port {port}"), source }),
        }
    }

    fn on_port(
        ports: &Arc<Ports>,
        port: u16,
        socket: OwnedFd,
        listens: bool,
    ) -> Result<Self, EndpointError> {
        let lease = Lease::Port(port, ports.clone());
        let failed = |source| EndpointError::System { what: format!("port {port}"), source };
        let listener = listens.then(|| listen(socket)).transpose().map_err(failed)?;
        let endpoint = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Self { endpoint, listener, lease })
    }

    fn socket(
        folder: &Path,
        generation: Generation,
        listens: bool,
        owner: Option<u32>,
    ) -> Result<Self, EndpointError> {
        let own = base36(generation.0);
        let path = match owner {
            None => folder.join(format!("{own}.sock")),
            Some(_) => folder.join(own).join(OWN_SOCKET),
        };
        if path.as_os_str().len() > SUN_PATH {
            return Err(EndpointError::TooLong(path));
        }
        let failed = |source| EndpointError::System { what: path.display().to_string(), source };
        create_private(folder).map_err(failed)?;
        if let (Some(owner), Some(folder)) = (owner, path.parent()) {
            make_for(folder, owner).map_err(failed)?;
        }
        remove_if_there(&path).map_err(failed)?;
        let listener = listens
            .then(|| listen(UnixListener::bind(&path)?.into()))
            .transpose()
            .map_err(failed)?;
        let endpoint = Endpoint::Unix(path.clone());
        let lease = if owner.is_some() { Lease::OwnFolder(path) } else { Lease::Socket(path) };
        Ok(Self { endpoint, listener, lease })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self {
            Self::Port(port, ports) => ports.take_back(*port),
            Self::Socket(path) => {
                if let Err(error) = remove_if_there(path) {
                    tracing::warn!(path = %path.display(), %error, "a socket file stays behind");
                }
            }
            Self::OwnFolder(path) => {
                let Some(folder) = path.parent() else { return };
                if let Err(error) = fs::remove_dir_all(folder) {
                    tracing::warn!(path = %folder.display(), %error, "a folder stays behind");
                }
            }
        }
    }
}

/// A socket on a port that nobody listens on. It does not listen itself: a program that is started at
/// this moment may inherit it for the instant until it executes.
fn bind(address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

/// Listens, or listens again, with room for many: listen(2).
fn listen(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Where the sockets of one app stand.
pub(crate) fn socket_folder(run_dir: &Path, app: &AppId) -> PathBuf {
    run_dir.join(&*app.file_name())
}

/// Makes a folder for another user to make a socket in. Its group stays that of the folder above: of
/// whoever connects.
fn make_for(folder: &Path, owner: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o710).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    chown(folder, Some(owner), None)
}

/// Makes a folder that only its owner may enter.
pub(crate) fn create_for(folder: &Path, owner: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let owner = owner.map(rustix::fs::Uid::from_raw);
    rustix::fs::fchown(&folder, owner, None)?;
    Ok(rustix::fs::fchmod(&folder, Mode::RWXU)?)
}

/// Makes a folder that only we may enter, and those above it. One that is there already must be
/// ours, and is closed to others.
pub(crate) fn create_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::metadata(folder)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        let why = format!("it belongs to user {}: give it to ours (chown)", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    // Our own group, and whoever an app is, may get through to what they are shown.
    if found.mode() & 0o066 == 0 {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Lets a group through a folder of ours, without showing what is in it. What is made in it belongs to
/// that group.
pub(crate) fn share_folder(folder: &Path, group: u32, mode: u32) -> io::Result<()> {
    chown(folder, None, Some(group))?;
    // Changing the group clears the bit that hands it on.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o2000 | mode))
}

/// Lets a group connect to a socket that an app made. Whatever the app has put in its place is left
/// alone.
pub(crate) fn share_socket(path: &Path, group: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::open(path, flags, Mode::empty())?;
    let found = fstat(&socket)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket"));
    }
    let group = rustix::fs::Gid::from_raw(group);
    chownat(&socket, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    // chmod(2) has no way but this one for a file that is open as a path alone.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(found.st_mode & 0o777 | 0o060))
}

/// Whether this is the socket of an app that is another user.
pub(crate) fn is_of_another_user(path: &Path) -> bool {
    path.ends_with(OWN_SOCKET)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn holder(listeners: &[listener::Listener]) -> String {
    let holders =
        ProcessTable::read().map(|table| listener::holders(listeners, &table)).unwrap_or_default();
    listener::describe(&holders)
}

/// A generation in few characters, since socket paths are short.
pub(super) fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        digits.extend(char::from_digit(digit, 36));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

impl Ports {
    /// Ports below the range from which the system takes those of outgoing connections, so that
    /// none of these lands on a port between our choice and the app's `listen`.
    pub(crate) fn new() -> Self {
        const COUNT: u16 = 12_000;
        let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| range.split_ascii_whitespace().next()?.parse::<u16>().ok())
            .unwrap_or(32_768);
        let first = ephemeral.checked_sub(COUNT).filter(|first| *first >= 1024);
        let (first, count) = first.map_or((20_000, COUNT), |first| (first, COUNT));
        // Two Doorbells on one machine begin in different places.
        let next = u16::try_from(seed() % u64::from(count)).unwrap_or(0);
        Self { first, count, state: Mutex::new(PortState { next, lent: HashSet::new() }) }
    }

    fn lend(&self) -> Result<(u16, OwnedFd), EndpointError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            let port = self.first + state.next;
            state.next = (state.next + 1) % self.count;
            if state.lent.contains(&port) {
                continue;
            }
            // Every address, so that a port which somebody has on another one is not free.
            let free = bind(Ipv4Addr::UNSPECIFIED, port);
            match free.map(drop).and_then(|()| bind(Ipv4Addr::LOCALHOST, port)) {
                Ok(socket) => {
                    state.lent.insert(port);
                    return Ok((port, socket));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => {
                    let what = format!("port {port}");
                    return Err(EndpointError::System { what, source });
                }
            }
        }
        Err(EndpointError::NoPort)
    }

    fn note(&self, port: u16) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lent.insert(port);
    }

    fn take_back(&self, port: u16) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lent.remove(&port);
    }
}

/// A number that differs from process to process.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;

    #[test]
    fn no_port_is_lent_twice_or_again_soon() {
        let ports = Arc::new(Ports::new());
        let places: Vec<_> = (0..50).map(|_| Place::any_port(&ports, false).unwrap()).collect();
        let first: HashSet<_> = places.iter().map(Place::port).collect();
        assert_eq!(first.len(), 50);
        drop(places);
        let again = Place::any_port(&ports, false).unwrap();
        assert!(!first.contains(&again.port()));
        assert_eq!(ports.state.lock().unwrap().lent.len(), 1);
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let error = Place::fixed_port(&Arc::new(Ports::new()), port, false).unwrap_err();
        let pid = std::process::id();
        let expected = format!("port {port} is already in use by pid {pid} (");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    #[test]
    fn a_long_socket_path_is_refused_in_words() {
        let folder = PathBuf::from("/tmp").join("x".repeat(120));
        let error = Place::socket(&folder, Generation(1), false, None).unwrap_err();
        assert!(error.to_string().contains("longer than 107 bytes"), "{error}");
    }

    #[test]
    fn a_stale_socket_makes_way_and_ours_goes_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sock");
        drop(UnixListener::bind(&path).unwrap());
        let place = Place::socket(folder.path(), Generation(1), true, None).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn many_may_wait_at_a_listener_that_is_handed_over() {
        let place = Place::any_port(&Arc::new(Ports::new()), true).unwrap();
        let Endpoint::Tcp(address) = place.endpoint else { panic!("{place:?}") };
        let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let waiting: Vec<_> = (0..500).map(connect).collect::<Result<_, _>>().unwrap();
        assert_eq!(waiting.len(), 500);
    }

    #[test]
    fn a_folder_that_is_open_to_others_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(base36(0), "0");
        assert_eq!(base36(35), "z");
        assert_eq!(base36(1_700_000_000_000_000).len(), 10);
    }
}
