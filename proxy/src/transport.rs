//! A client's socket, TCP or Unix, and the facts about it that never change.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connected socket.
#[derive(Debug)]
pub enum Transport {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// What is known about a connection as long as it lives.
#[derive(Debug)]
pub struct ConnFacts {
    /// Address of the peer; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Whether the peer is in `trusted_proxies`, so that its forwarding headers are believed. A
    /// Unix socket's peer is: who may connect is decided by the file's mode.
    pub trusted: bool,
    /// Whether the client came by TLS.
    pub tls: bool,
    /// The peer's address as text; empty on a Unix socket.
    pub peer_text: String,
    /// The same as a node identifier of `Forwarded` (RFC 7239 section 6).
    pub peer_node: String,
    /// Our own port as text; empty on a Unix socket.
    pub port_text: String,
    trouble: AtomicU8,
}

/// What went wrong with a request's body while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// Nothing.
    None = 0,
    /// Bad chunking: 400.
    Chunking = 1,
    /// Content over the limit: 413.
    TooLarge = 2,
    /// Too slow: 408.
    TooSlow = 3,
    /// Nothing wrong with it: the app said nothing for too long, 504.
    Silent = 4,
}

impl ConnFacts {
    /// Facts about a fresh connection.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>, local_port: Option<u16>, trusted: bool) -> Arc<Self> {
        let ip = peer.map(|peer| peer.ip().to_canonical());
        Arc::new(Self {
            peer,
            trusted,
            tls: false,
            peer_text: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            peer_node: match ip {
                Some(IpAddr::V4(ip)) => ip.to_string(),
                Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
                None => "unknown".to_owned(),
            },
            port_text: local_port.map(|port| port.to_string()).unwrap_or_default(),
            trouble: AtomicU8::new(0),
        })
    }

    /// The peer's address, as IPv4 where it is one mapped into IPv6.
    #[must_use]
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// Notes what went wrong with the body in progress.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.trouble.store(trouble as u8, Ordering::Relaxed);
    }

    /// What went wrong with the body in progress.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        match self.trouble.load(Ordering::Relaxed) {
            1 => Trouble::Chunking,
            2 => Trouble::TooLarge,
            3 => Trouble::TooSlow,
            4 => Trouble::Silent,
            _ => Trouble::None,
        }
    }
}

impl Transport {
    /// Resolves when the peer has closed its side or the connection is broken, whatever data waits
    /// in the socket.
    ///
    /// It looks at a duplicate of the descriptor, because clearing the readiness of the original
    /// would lose the wake-up for data that is already there.
    pub async fn left(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => {
                let watched = TcpStream::from_std(tcp.as_fd().try_clone_to_owned()?.into())?;
                while !watched.ready(Interest::READABLE).await?.is_read_closed() {
                    // "Would block" clears the readiness, so that the next change is awaited.
                    let _: io::Result<()> = watched
                        .try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                }
            }
            Self::Unix(unix) => {
                let watched = UnixStream::from_std(unix.as_fd().try_clone_to_owned()?.into())?;
                while !watched.ready(Interest::READABLE).await?.is_read_closed() {
                    // "Would block" clears the readiness, so that the next change is awaited.
                    let _: io::Result<()> = watched
                        .try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                }
            }
        }
        Ok(())
    }

    /// The same as [`Transport::left`], asked without waiting.
    #[must_use]
    pub fn has_left(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let socket = self.as_fd();
        let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
        // Out of memory, say: then the client is taken to stay.
        let _ = poll(&mut asked, Some(&NOW));
        asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Resolves when the client is gone: the connection is broken, or was closed before anything was
    /// said. One that has said something, and no more to say, may wait for the answer: nobody can tell
    /// it from one that has left.
    ///
    /// As with [`Transport::left`], nothing is taken from the socket.
    pub async fn gone(&self) {
        loop {
            if self.left().await.is_err() || self.is_gone() {
                return;
            }
            // It has said its last word; what remains to be seen is whether it breaks.
            let broken = match self {
                Self::Tcp(tcp) => tcp.ready(Interest::ERROR).await,
                Self::Unix(unix) => unix.ready(Interest::ERROR).await,
            };
            if broken.is_err() || self.is_gone() {
                return;
            }
        }
    }

    /// The same, asked without waiting.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let socket = self.as_fd();
        let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
        // Out of memory, say: then the client is taken to stay.
        let _ = poll(&mut asked, Some(&NOW));
        let seen = asked[0].revents();
        if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
            return true;
        }
        let said = rustix::io::ioctl_fionread(socket).unwrap_or(0);
        seen.intersects(PollFlags::RDHUP) && said == 0
    }

    /// Resolves when the peer is there no more, for a side that has said its last word: what it said before
    /// is not read here.
    ///
    /// # Errors
    /// The connection broke, and what the peer was told may not have arrived. A Unix socket cannot break.
    pub async fn over(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => {
                tcp.ready(Interest::ERROR).await?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Self::Unix(unix) => hung_up(unix).await,
        }
    }

    /// Resolves when something can be read, or the other side has said its last word.
    ///
    /// # Errors
    /// What the system says.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            Self::Unix(unix) => unix.readable().await,
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, else what the system says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_read(buffer),
            Self::Unix(unix) => unix.try_read(buffer),
        }
    }

    /// Writes what is taken at once.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, else what the system says.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(tcp) => tcp.writable().await?,
                    Self::Unix(unix) => unix.writable().await?,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written; the other side may.
    ///
    /// # Errors
    /// What the system says.
    pub fn end_writing(&self) -> io::Result<()> {
        let ended = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Write);
        match ended {
            // It is broken already, which is told by who reads from it.
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Where the peer connected to; `None` on a Unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }

    /// Makes the close to come a reset, so that nobody takes what was sent for all there is.
    pub fn reset(&self) {
        if let Self::Tcp(tcp) = self {
            // A socket that is broken already is as good.
            drop(socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO)));
        }
    }

    /// The descriptor's number: unique among open connections.
    #[must_use]
    pub fn number(&self) -> i32 {
        match self {
            Self::Tcp(tcp) => tcp.as_raw_fd(),
            Self::Unix(unix) => unix.as_raw_fd(),
        }
    }
}

/// Resolves when the peer has closed a Unix socket: it never breaks in another way.
async fn hung_up(unix: &UnixStream) -> io::Result<()> {
    // A duplicate, as the readiness of the original is not to be cleared.
    let watched = UnixStream::from_std(unix.as_fd().try_clone_to_owned()?.into())?;
    while !watched.ready(Interest::WRITABLE).await?.is_write_closed() {
        let _: io::Result<()> =
            watched.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
    }
    Ok(())
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
