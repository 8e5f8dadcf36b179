//! Who listens on a TCP port: the kernel's listeners (`sock_diag`), matched with the sockets that
//! processes hold (proc(5), `/proc/[pid]/fd`).
//!
//! Used to tell our app from a stranger on its port, and to find an app that listens beyond
//! loopback.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    procfs::{self, Pid, ProcessTable},
    sock_diag,
};

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) inode: u64,
    /// Whose it is.
    pub(crate) user: u32,
}

impl Listener {
    /// Whether it may be this one that answers at an address.
    pub(crate) fn answers_at(&self, address: SocketAddr) -> bool {
        let (own, asked) = (self.address.to_canonical(), address.ip().to_canonical());
        let takes_all = match self.address {
            IpAddr::V4(all) => all.is_unspecified() && asked.is_ipv4(),
            // It may take IPv4 too.
            IpAddr::V6(all) => all.is_unspecified(),
        };
        self.port == address.port() && (own == asked || takes_all)
    }
}

/// Every TCP listener of the system.
pub(crate) fn all() -> io::Result<Vec<Listener>> {
    // Where netlink sockets are forbidden, files may do.
    sock_diag::listeners().or_else(|_| read_proc())
}

/// As `/proc` tells it: listeners first, then connections.
pub(super) fn read_proc() -> io::Result<Vec<Listener>> {
    let mut found = read("/proc/net/tcp")?;
    match read("/proc/net/tcp6") {
        Ok(more) => found.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// The listeners that may answer at an address.
pub(crate) fn at(address: SocketAddr) -> io::Result<Vec<Listener>> {
    Ok(all()?.into_iter().filter(|listener| listener.answers_at(address)).collect())
}

/// The listeners on one port.
pub(crate) fn on_port(port: u16) -> io::Result<Vec<Listener>> {
    Ok(all()?.into_iter().filter(|listener| listener.port == port).collect())
}

fn read(path: &str) -> io::Result<Vec<Listener>> {
    const LISTEN: &str = "0A";
    let mut found = Vec::new();
    for line in BufReader::with_capacity(64 * 1024, File::open(path)?).lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1);
        if fields.nth(1) != Some(LISTEN) {
            break;
        }
        let user = fields.nth(3).and_then(|user| user.parse().ok());
        let inode = fields.nth(1).and_then(|inode| inode.parse().ok());
        let address = local.and_then(parse_address);
        if let (Some((address, port)), Some(user), Some(inode)) = (address, user, inode) {
            found.push(Listener { address, port, inode, user });
        }
    }
    Ok(found)
}

/// `0100007F:1F90`: each 32-bit word in the machine's byte order.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: Option<&str>| Some(u32::from_str_radix(text?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(Some(address))?)),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip((0..32).step_by(8)) {
                part.copy_from_slice(&word(address.get(at..at + 8))?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address, port))
}

/// The sockets a process holds; `None` if we may not look.
fn sockets_of(pid: Pid) -> Option<Vec<u64>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inode = |link: std::path::PathBuf| {
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(links.filter_map(inode).collect())
}

/// Whether one of these processes holds one of these listeners.
pub(crate) fn is_held_by(listeners: &[Listener], pids: impl IntoIterator<Item = Pid>) -> bool {
    let holds = |pid| {
        let sockets = sockets_of(pid).unwrap_or_default();
        listeners.iter().any(|listener| sockets.contains(&listener.inode))
    };
    pids.into_iter().any(holds)
}

/// The processes that hold these listeners, as far as we may look.
pub(crate) fn holders(listeners: &[Listener], table: &ProcessTable) -> Vec<Pid> {
    let inodes: HashMap<u64, ()> = listeners.iter().map(|l| (l.inode, ())).collect();
    let holds = |pid: Pid| {
        sockets_of(pid).is_some_and(|sockets| sockets.iter().any(|s| inodes.contains_key(s)))
    };
    table.all().map(|process| process.pid).filter(|pid| holds(*pid)).collect()
}

/// A process for people: `pid 42 (nginx)`, or what we know instead.
pub(crate) fn describe(holders: &[Pid]) -> String {
    holders.first().map_or_else(
        || "a process of another user".into(),
        |pid| format!("pid {pid} ({})", procfs::name(*pid)),
    )
}

/// The listeners of these processes.
pub(crate) fn held_by(
    listeners: &[Listener],
    pids: impl IntoIterator<Item = Pid>,
) -> Vec<Listener> {
    let held: Vec<u64> = pids.into_iter().filter_map(sockets_of).flatten().collect();
    listeners.iter().filter(|listener| held.contains(&listener.inode)).copied().collect()
}

/// The listeners of these processes that are reachable from other machines.
pub(crate) fn beyond_loopback(
    listeners: &[Listener],
    pids: impl IntoIterator<Item = Pid>,
) -> Vec<Listener> {
    let mut found = held_by(listeners, pids);
    found.retain(|listener| !is_loopback(listener.address));
    found.sort_by_key(|listener| (listener.port, listener.address));
    found
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn finds_who_listens() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listeners = on_port(port).unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(listeners[0].user, rustix::process::geteuid().as_raw());
        assert!(is_held_by(&listeners, [std::process::id()]));
        assert!(!is_held_by(&listeners, [1]));
        assert!(beyond_loopback(&listeners, [std::process::id()]).is_empty());
        let table = ProcessTable::read().unwrap();
        assert_eq!(holders(&listeners, &table), [std::process::id()]);
    }

    #[test]
    fn who_listens_on_another_address_does_not_answer_at_this_one() {
        let listener = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            Listener { address: address.ip(), port: address.port(), inode: 1, user: 0 }
        };
        let answers = |one: &str, at: &str| listener(one).answers_at(at.parse().unwrap());
        for (one, at) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert!(answers(one, at), "{one} {at}");
        }
        for (one, at) in [
            ("127.0.0.1:81", "127.0.0.1:80"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("[::1]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "[::1]:80"),
            ("0.0.0.0:80", "[::1]:80"),
        ] {
            assert!(!answers(one, at), "{one} {at}");
        }
    }

    #[test]
    fn finds_listeners_beyond_loopback() {
        let sockets =
            [TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("[::]:0").unwrap()];
        for socket in sockets {
            let port = socket.local_addr().unwrap().port();
            let listeners = on_port(port).unwrap();
            assert_eq!(beyond_loopback(&listeners, [std::process::id()]).len(), 1, "{socket:?}");
        }
    }

    #[test]
    fn reads_addresses_as_the_kernel_writes_them() {
        let address = parse_address("0100007F:1F90");
        assert_eq!(address, Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)));
        let address = parse_address("00000000000000000000000001000000:0050");
        assert_eq!(address, Some((IpAddr::V6(Ipv6Addr::LOCALHOST), 80)));
        assert_eq!(parse_address("zz"), None);
    }
}
