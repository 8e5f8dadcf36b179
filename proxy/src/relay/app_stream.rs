//! A connection to an app, and those that wait for their next request.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pingora_core::protocols::Stream;
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::Notify,
};

use crate::{gate, patience::Silence, peer::PoolKey};

/// How often waiting connections are looked through.
const ROUND: Duration = Duration::from_secs(1);
/// Most waiting connections of one worker.
const MOST: usize = 4096;

/// A connection to an app.
pub struct AppStream {
    io: Io,
    key: PoolKey,
    /// The run of the app it leads to: when that has ended, so has the connection's use.
    run: Weak<gate::Instance>,
    /// Whether it carried a request before.
    pub reused: bool,
    /// Watches for an app that does not answer; kept from request to request.
    pub(super) silence: Option<Silence>,
    idle_since: Instant,
    keep: Duration,
}

/// The socket.
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Stream),
}

impl AppStream {
    pub(super) fn new(io: Io, key: PoolKey, run: &Arc<gate::Instance>) -> Self {
        Self {
            io,
            key,
            run: Arc::downgrade(run),
            reused: false,
            silence: None,
            idle_since: Instant::now(),
            keep: Duration::ZERO,
        }
    }

    /// Whether the app has closed it, or has sent what nobody asked for. An event that the runtime
    /// has not seen yet is missed.
    fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let read = match &mut self.io {
            Io::Tcp(tcp) => tcp.try_read(&mut byte),
            Io::Unix(unix) => unix.try_read(&mut byte),
            Io::Tls(tls) => {
                // Nobody waits for it: whoever takes the connection asks anew.
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(tls).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready();
            }
        };
        !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asked of the kernel.
    fn is_closed(&self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match &self.io {
            Io::Tcp(tcp) => rustix::net::recv(tcp, &mut byte, flags),
            Io::Unix(unix) => rustix::net::recv(unix, &mut byte, flags),
            // What lies there may be about the connection alone.
            Io::Tls(_) => return false,
        };
        !matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Whether its run of the app takes requests.
    fn is_wanted(&self) -> bool {
        self.run.upgrade().is_some_and(|run| !run.is_shut())
    }
}

impl AsyncRead for AppStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(_) | Io::Unix(_) => Poll::Ready(Ok(())),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// How sure one must be that a waiting connection is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// The request can be sent again.
    Usual,
    /// It cannot.
    Most,
}

/// Connections of one worker that wait for their next request.
#[derive(Default)]
pub struct Pool {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    by_key: HashMap<PoolKey, Vec<AppStream>>,
    count: usize,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one is there that is still open.
    pub(super) fn take(&self, key: PoolKey, care: Care) -> Option<AppStream> {
        let mut waiting = self.lock();
        let Waiting { by_key, count } = &mut *waiting;
        let line = by_key.get_mut(&key)?;
        while let Some(mut stream) = line.pop() {
            *count -= 1;
            let is_over = stream.idle_since.elapsed() >= stream.keep
                || stream.is_stale()
                || (care == Care::Most && stream.is_closed());
            if !is_over {
                stream.reused = true;
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request, for as long as its app is said to keep it.
    pub(super) fn put(&self, mut stream: AppStream, keep: Duration) {
        if keep.is_zero() || !stream.is_wanted() {
            return;
        }
        stream.keep = keep;
        stream.idle_since = Instant::now();
        let mut waiting = self.lock();
        if waiting.count >= MOST {
            return;
        }
        waiting.count += 1;
        if waiting.count == 1 {
            self.filled.notify_one();
        }
        waiting.by_key.entry(stream.key).or_default().push(stream);
    }

    /// Closes what nobody can use any more, for ever; asleep while nothing waits. An app that is
    /// told to end may wait for its idle connections to close.
    pub async fn tend(&self) {
        loop {
            if self.lock().count == 0 {
                self.filled.notified().await;
            }
            tokio::time::sleep(ROUND).await;
            self.sweep();
        }
    }

    fn sweep(&self) {
        let mut waiting = self.lock();
        let mut count = 0;
        waiting.by_key.retain(|_, line| {
            line.retain_mut(|stream| {
                stream.is_wanted()
                    && stream.idle_since.elapsed() < stream.keep
                    && !stream.is_stale()
            });
            count += line.len();
            !line.is_empty()
        });
        waiting.count = count;
    }
}
