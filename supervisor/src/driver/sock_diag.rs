//! The system's TCP listeners, asked of the kernel: sock_diag(7).
//!
//! `/proc/net/tcp` tells the same, but walks the table of all connections for it: tens of
//! milliseconds on a large machine, against a tenth of one here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::listener::Listener;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`, of which the last 48 bytes are a socket's id.
const REQUEST: usize = 56;
/// Enough for many messages at once.
const BUFFER: usize = 32 * 1024;

/// Every TCP listener.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let mut found = ask(AddressFamily::INET)?;
    found.extend(ask(AddressFamily::INET6)?);
    Ok(found)
}

fn ask(family: AddressFamily) -> io::Result<Vec<Listener>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, &request(family), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut messages = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, rest)) = split_message(messages) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(io::Error::other("the kernel refused sock_diag")),
                SOCK_DIAG_BY_FAMILY => found.extend(parse(body)),
                _ => {}
            }
            messages = rest;
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn request(family: AddressFamily) -> Vec<u8> {
    let length = u32::try_from(HEADER + REQUEST).unwrap_or_default();
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence and sender, which a socket with one question does not need.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[u8::try_from(family.as_raw()).unwrap_or(0), IPPROTO_TCP, 0, 0]);
    request.extend_from_slice(&(1_u32 << TCP_LISTEN).to_ne_bytes());
    request.resize(HEADER + REQUEST, 0);
    request
}

/// The first message's kind and body, and the messages behind it.
fn split_message(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*messages.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
    let body = messages.get(HEADER..length)?;
    let rest = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, rest))
}

/// `struct inet_diag_msg`: family, state, ..., then the id: ports, addresses; user and
/// inode are last.
fn parse(message: &[u8]) -> Option<Listener> {
    let family = u16::from(*message.first()?);
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address = message.get(8..)?;
    let address = if family == AddressFamily::INET.as_raw() {
        IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?))
    };
    let user = u32::from_ne_bytes(*message.get(64..)?.first_chunk()?);
    let inode = u64::from(u32::from_ne_bytes(*message.get(68..)?.first_chunk()?));
    Some(Listener { address, port, inode, user })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn tells_what_proc_tells() {
        let sockets = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"]
            .map(|address| TcpListener::bind(address).unwrap());
        let (asked, read) = (listeners().unwrap(), super::super::listener::read_proc().unwrap());
        for socket in sockets {
            let address = socket.local_addr().unwrap();
            let is_it = |listener: &&Listener| {
                (listener.address, listener.port) == (address.ip(), address.port())
            };
            let told = asked.iter().find(is_it).expect("the kernel tells");
            assert_eq!(read.iter().find(is_it), Some(told));
        }
    }

    #[test]
    fn nonsense_is_no_listener() {
        assert_eq!(parse(&[2; 20]), None);
        assert_eq!(split_message(&[255; 12]), None);
        assert_eq!(split_message(&[]), None);
    }
}
