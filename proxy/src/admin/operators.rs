//! Operators, over Unix sockets: one request a connection.
//!
//! At the end nobody is accepted any more, and who was is answered: whoever comes later waits in the
//! socket for the next control process.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::listener;

/// Answers until it is told to stop; connections go on as tasks.
pub(super) async fn serve(
    listener: UnixListener,
    app: Router,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(app.clone());
                let serving = http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    if let Err(error) = serving.await {
                        tracing::debug!(%error, "an operator's connection broke");
                    }
                });
            }
            Err(error) => listener::accept_failed(&error).await,
        }
    }
}
