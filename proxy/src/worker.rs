//! Threads that serve clients: each has its own runtime, its own listening sockets and its own pool
//! of connections to apps, and shares nothing with the others but [`Shared`].
//!
//! One runtime per thread is cheaper per request than one that moves tasks between threads; the
//! kernel spreads connections (SO_REUSEPORT, socket(7)).

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use pingora_core::{
    apps::HttpServerOptions, connectors::TransportConnector,
    protocols::http::v2::server::H2Options, server::configuration::ServerConf,
};
use pingora_proxy::HttpProxy;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    connection::Service,
    front::Front,
    http2::Http2,
    listener::{ListenerSet, Socket},
    relay::Pool,
    shared::Shared,
};

/// Connections of the framework's to apps that are kept open per thread. It has room for all of them from the start.
const POOL: usize = 512;
/// Orders that may wait for a worker.
const ORDERS: usize = 16;

/// What a worker is told.
pub enum Order {
    /// Listen on this socket too.
    Listen(Socket),
    /// Stop listening on the socket of this number; who is in its backlog is still accepted.
    Ignore(u64, oneshot::Sender<()>),
    /// Stop listening on all sockets, likewise: another proxy goes on, or nobody is to come any more.
    IgnoreAll(oneshot::Sender<()>),
}

/// What tells a worker that it is to end, each true from its moment on.
#[derive(Clone)]
pub struct Endings {
    /// Connections close behind their next answer.
    pub shutdown: watch::Receiver<bool>,
    /// Those that wait for a request are closed.
    pub hang_up: watch::Receiver<bool>,
    /// Everything is cut.
    pub end: watch::Receiver<bool>,
}

/// A worker, from outside.
pub struct Worker {
    orders: mpsc::Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts a worker.
    ///
    /// # Errors
    /// If no thread or runtime can be made, or what it serves with cannot: Pingora panics over a
    /// bundle of trusted certificates that it cannot read.
    pub fn start(number: usize, shared: Arc<Shared>, endings: Endings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (made, is_made) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let end = endings.end.clone();
                let service = runtime.block_on(async { service(shared, endings) });
                // Whoever starts workers waits for this.
                let _ = made.send(());
                runtime.block_on(work(service, inbox, end));
                // What still runs has outlived the shutdown's deadline.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })?;
        let died = |_| io::Error::other("it panicked: can the trusted certificates be read?");
        is_made.recv().map_err(died)?;
        Ok(Self { orders, thread: Mutex::new(Some(thread)) })
    }

    /// Tells the worker something; false if it has ended.
    pub async fn tell(&self, order: Order) -> bool {
        self.orders.send(order).await.is_ok()
    }

    /// Waits for the worker's end.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a worker panicked");
        }
    }
}

async fn work(
    service: Arc<Service>,
    mut inbox: mpsc::Receiver<Order>,
    mut end: watch::Receiver<bool>,
) {
    let mut listeners = ListenerSet::new(Arc::clone(&service));
    let mut tending = std::pin::pin!(service.pool.tend());
    loop {
        tokio::select! {
            () = &mut tending => {}
            order = inbox.recv() => match order {
                Some(Order::Listen(socket)) => listeners.add(socket),
                Some(Order::Ignore(number, done)) => {
                    listeners.remove(number).await;
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
                Some(Order::IgnoreAll(done)) => {
                    listeners.clear().await;
                    let _ = done.send(());
                }
                None => break,
            },
            _ = end.wait_for(|ended| *ended) => break,
        }
    }
}

fn service(shared: Arc<Shared>, endings: Endings) -> Arc<Service> {
    let conf = Arc::new(ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: POOL,
        // How often a request is sent again is decided in `front`, by its budget of time.
        max_retries: usize::MAX,
        ..ServerConf::default()
    });
    let table = shared.table.load_full();
    let mut http1 = HttpProxy::new(Front::new(Arc::clone(&shared)), Arc::clone(&conf));
    http1.handle_init_modules();
    let mut http2 = HttpProxy::new(Front::new(Arc::clone(&shared)), conf);
    http2.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(table.server.timeouts.keep_alive);
    http2.server_options = Some(options);
    http2.h2_options = Some(h2_options(table.server.limits.head.0));
    Arc::new(Service {
        shared,
        http1: Arc::new(http1),
        http2: Arc::new(Http2 { proxy: Arc::new(http2) }),
        connector: TransportConnector::new(None),
        pool: Pool::default(),
        shutdown: endings.shutdown,
        hang_up: endings.hang_up,
    })
}

/// Every limit is named: options of one's own start without Pingora's safe defaults.
fn h2_options(head_limit: u64) -> H2Options {
    let mut options = H2Options::default();
    options
        .max_header_list_size(u32::try_from(head_limit).unwrap_or(u32::MAX))
        .max_concurrent_streams(128)
        .max_concurrent_reset_streams(32)
        .max_pending_accept_reset_streams(20)
        .max_send_buffer_size(64 * 1024)
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    options
}
