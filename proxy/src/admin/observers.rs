//! Observers over TCP, who may be anybody: few at a time, and none for long.
//!
//! One request a connection and one deadline for all of it, so that neither a head that never ends
//! nor an answer that nobody takes keeps a place. Who shows a token is no stranger any more: it may follow
//! a log for ever, and its place is free for others.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::caller::{Caller, Origin};
use crate::listener;

/// Connections at once; more wait to be accepted.
const PLACES: usize = 64;
/// From a connection's beginning to its end; Prometheus itself waits ten seconds unless told.
const DEADLINE: Duration = Duration::from_secs(30);

/// Answers until it is told to stop; connections go on as tasks.
pub(super) async fn serve(
    tcp: TcpListener,
    app: Router,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            // Dropping this loses nobody: whoever is accepted is accepted at once.
            accepted = async { Ok::<_, io::Error>((place.await, tcp.accept().await?)) } => accepted,
        };
        match accepted {
            Ok((place, (stream, address))) => {
                let caller = Caller::new(Origin::Address(address.ip().to_canonical()));
                let app = app.clone().layer(Extension(caller.clone()));
                connections.spawn(async move {
                    answer(stream, app, &caller.is_trusted, place).await;
                });
            }
            Err(error) => listener::accept_failed(&error).await,
        }
    }
}

async fn answer<P>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    app: Router,
    is_trusted: &AtomicBool,
    place: P,
) {
    let service = TowerToHyperService::new(app);
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = match timeout(DEADLINE, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if is_trusted.load(Ordering::Relaxed) => {
            drop(place);
            connection.await
        }
        Err(_) => {
            tracing::debug!("an observer was too slow");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an observer's connection broke");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        net::TcpStream,
        time::Instant,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn app() -> Router {
        Router::new().route("/healthz", get(|| async { "x".repeat(100_000) }))
    }

    /// An observer who says this and then waits; tells how long the connection stayed.
    async fn stay(said: &[u8], read: impl AsyncFnOnce(&mut DuplexStream)) -> Duration {
        let (mut client, server) = duplex(1024);
        let since = Instant::now();
        client.write_all(said).await.unwrap();
        let talk = async {
            read(&mut client).await;
            std::future::pending::<()>().await;
        };
        let is_trusted = AtomicBool::new(false);
        tokio::select! {
            () = answer(server, app(), &is_trusted, ()) => since.elapsed(),
            () = talk => unreachable!("it never ends"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_observer_who_neither_asks_nor_reads_is_cut_off() {
        for said in [&b""[..], b"GET /healthz HT", REQUEST] {
            assert_eq!(stay(said, async |_| {}).await, DEADLINE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_observer_who_was_answered_is_let_go_at_once() {
        let stayed = stay(REQUEST, async |client| {
            let mut page = Vec::new();
            client.read_to_end(&mut page).await.unwrap();
            assert!(page.starts_with(b"HTTP/1.1 200 OK\r\n") && page.ends_with(b"xxx"));
        });
        assert_eq!(stayed.await, Duration::ZERO);
    }

    #[tokio::test]
    async fn observers_beyond_the_places_wait_for_one() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let server = tokio::spawn(serve(tcp, app(), CancellationToken::new(), TaskTracker::new()));
        let mut idle = Vec::new();
        for _ in 0..PLACES {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(REQUEST).await.unwrap();
        let mut page = Vec::new();
        let waited = timeout(Duration::from_millis(100), late.read_to_end(&mut page)).await;
        assert!(waited.is_err() && page.is_empty(), "it has no place yet");
        idle.pop();
        late.read_to_end(&mut page).await.unwrap();
        assert!(page.starts_with(b"HTTP/1.1 200 OK\r\n"));
        server.abort();
    }
}
