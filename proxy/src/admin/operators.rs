//! Operators, over Unix sockets: one request a connection.
//!
//! Who may open the socket's file is one; but not our own proxies, which run as the same user where
//! Doorbell was not started by root, and face the internet.
//!
//! At the end nobody is accepted any more, and who was is answered: whoever comes later waits in the
//! socket for the next control process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::listener;

/// Proxies, by number, and their processes.
#[derive(Clone, Debug, Default)]
pub struct Strangers(Arc<Mutex<HashMap<u32, u32>>>);

impl Strangers {
    /// A proxy runs as this process.
    pub fn know(&self, number: u32, pid: Option<u32>) {
        if let Some(pid) = pid {
            self.lock().insert(number, pid);
        }
    }

    /// It has ended.
    pub fn forget(&self, number: u32) {
        self.lock().remove(&number);
    }

    /// Whether one of them connected. A proxy cannot make other processes.
    fn include(&self, caller: &UnixStream) -> bool {
        let pid = caller.peer_cred().ok().and_then(|credentials| credentials.pid());
        let pid = pid.and_then(|pid| u32::try_from(pid).ok());
        pid.is_some_and(|pid| self.lock().values().any(|proxy| *proxy == pid))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers until it is told to stop; connections go on as tasks.
pub(super) async fn serve(
    listener: UnixListener,
    app: Router,
    strangers: Strangers,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if strangers.include(&stream) => {
                tracing::error!("a proxy wants to be an operator, and is turned away");
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_is_no_operator() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let strangers = Strangers::default();
        assert!(!strangers.include(&stream));
        strangers.know(1, None);
        strangers.know(2, Some(std::process::id()));
        assert!(strangers.include(&stream));
        strangers.forget(2);
        assert!(!strangers.include(&stream));
    }
}
