//! A connection that speaks another protocol than HTTP: WebSockets and the like (RFC 9110 section
//! 7.8), behind the app's 101.
//!
//! Both sockets are joined, byte for byte, from the first byte that either side sent ahead. The
//! exchange keeps its lease to the end, so an open WebSocket counts as use.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::Instant,
};

use crate::{
    client_stream::ClientStream, exchange::Exchange, relay::AppStream, transport::Transport,
};

/// Buffer in each direction of an upgraded connection.
const BUFFER: usize = 8 * 1024;

/// How long one side may go on when the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Joins both sides until one is done, or nothing passes for too long; when all is over, with the thread.
/// `surplus` is what the app sent behind its 101.
pub async fn run(
    stream: Box<ClientStream>,
    exchange: Box<Exchange>,
    app: AppStream,
    surplus: &[u8],
) {
    let idle = exchange.matched.as_ref().and_then(|m| m.app.spec.timeouts.upgraded_idle);
    let (client, ahead) = stream.into_parts();
    let traffic = Arc::new(Traffic::new());
    let client = Watched { io: client, traffic: Arc::clone(&traffic) };
    let joined = Joined { exchange, traffic };
    tokio::select! {
        () = join(client, &ahead, app, surplus) => {}
        () = joined.traffic.idle(idle) => {
            tracing::debug!("upgraded connection was idle for too long");
        }
    }
}

/// Counts and logs the exchange however it ends: also when a proxy that is to end cuts it.
struct Joined {
    exchange: Box<Exchange>,
    traffic: Arc<Traffic>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.exchange.passing.received = self.traffic.up.load(Ordering::Relaxed);
        self.exchange.finish(101, self.traffic.down.load(Ordering::Relaxed));
    }
}

/// Joins both sockets until one side is done with both directions.
async fn join(mut client: Watched, ahead: &BytesMut, mut app: AppStream, surplus: &[u8]) {
    client.traffic.passed(&client.traffic.up, ahead.len());
    let first = async {
        app.write_all(ahead).await?;
        app.flush().await?;
        client.write_all(surplus).await
    };
    if first.await.is_ok() {
        relay(&mut client, &mut app).await;
    }
}

/// Copies both ways. When one side has said its last word, the other may answer it for a while and
/// no longer: an app that does not notice that its client left would stay awake for ever.
async fn relay(client: &mut Watched, app: &mut AppStream) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_app, to_app) = tokio::io::split(app);
    let mut up = std::pin::pin!(copy(from_client, to_app));
    let mut down = std::pin::pin!(copy(from_app, to_client));
    // Broken or ended, each direction is over either way.
    tokio::select! {
        _ = &mut up => drop(tokio::time::timeout(LAST_WORDS, down).await),
        _ = &mut down => drop(tokio::time::timeout(LAST_WORDS, up).await),
    }
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut from = tokio::io::BufReader::with_capacity(BUFFER, from);
    tokio::io::copy_buf(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Bytes that passed, and when the last ones did.
struct Traffic {
    began: Instant,
    last: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    fn passed(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Resolves when nothing has passed for `limit`.
    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.began + last + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// The client's socket, counted: what it sends is up, what it gets is down.
struct Watched {
    io: Transport,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.traffic.passed(&this.traffic.up, buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            this.traffic.passed(&this.traffic.down, *n);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
