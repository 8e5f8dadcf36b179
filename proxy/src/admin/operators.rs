//! Operators, over Unix sockets: one request a connection.
//!
//! Who may open the socket's file is one; but not our own proxies, which run as the same user where
//! Doorbell was not started by root, and face the internet.
//!
//! At the end nobody is accepted any more, and who was is answered: whoever comes later waits in the
//! socket for the next control process.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::caller::{Caller, Origin};
use crate::listener;

/// The processes of proxies, each with a handle that tells its end (pidfd_open(2)): what a proxy says
/// or does not say of itself changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Strangers(Arc<Mutex<HashMap<u32, OwnedFd>>>);

impl Strangers {
    /// A proxy runs as this process.
    pub fn know(&self, pid: Option<u32>) {
        let mut proxies = self.lock();
        proxies.retain(|_, handle| !has_ended(handle));
        if let Some(pid) = pid
            && let Some(handle) = open(pid)
        {
            proxies.insert(pid, handle);
        }
    }

    /// Whether one of them connected, or somebody who has ended since and so may have been one. A proxy
    /// cannot make other processes.
    fn include(&self, caller: &UnixStream) -> bool {
        let pid = caller.peer_cred().ok().and_then(|credentials| credentials.pid());
        // In another pid namespace, where no proxy of ours is.
        let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0) else {
            return false;
        };
        let is_there = open(pid).is_some_and(|handle| !has_ended(&handle));
        !is_there || self.lock().get(&pid).is_some_and(|handle| !has_ended(handle))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// A pidfd is readable once its process has ended.
fn has_ended(handle: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
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
                let uid = stream.peer_cred().map_or(u32::MAX, |credentials| credentials.uid());
                let caller = Extension(Caller::new(Origin::User(uid)));
                let service = TowerToHyperService::new(app.clone().layer(caller));
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
        strangers.know(None);
        assert!(!strangers.include(&stream));
        strangers.know(Some(std::process::id()));
        assert!(strangers.include(&stream));
        // The word of another changes nothing.
        strangers.know(None);
        assert!(strangers.include(&stream));
    }

    #[tokio::test]
    async fn who_has_ended_may_have_been_a_proxy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let mut caller =
            std::process::Command::new("python3").args(["-c", script]).arg(&path).spawn().unwrap();
        assert!(caller.wait().unwrap().success());
        let (stream, _) = listener.accept().await.unwrap();
        assert!(Strangers::default().include(&stream));
    }
}
