//! How an instance becomes ready.

use doorbell_config::{
    name::HostPattern,
    spec::{AppSpec, HttpProbe, Probe},
};
use tokio::time::Instant;

use super::{End, Instance, times};
use crate::{
    message::{Endpoint, StartTimes},
    probe::{self, HttpVersion, LastLook, Started},
};

impl Instance {
    /// Waits for readiness, for ever if need be. An error is for good.
    pub(super) async fn ready(&self) -> Result<(Endpoint, StartTimes), End> {
        let Ok(process) = self.job.process() else { return std::future::pending().await };
        // Held from the spawn until the instance is ready.
        let Some(started) = &self.started else { return std::future::pending().await };
        match &process.ready.probe {
            Probe::SocketActivation => Ok(self.ready_at(self.spawned_at, Instant::now(), None)),
            Probe::Notify => {
                self.until_notified().await?;
                let now = Instant::now();
                Ok(self.ready_at(now, now, None))
            }
            Probe::Connect => {
                let found = self.until_ours_listens(started).await?;
                let now = Instant::now();
                Ok(self.ready_at(now, now, Some(found)))
            }
            Probe::Http(http) => {
                let found = self.until_ours_listens(started).await?;
                let listens = Instant::now();
                self.until_answered(&found, http, started).await;
                Ok(self.ready_at(listens, Instant::now(), Some(found)))
            }
        }
    }

    fn ready_at(
        &self,
        listens: Instant,
        ready: Instant,
        found: Option<Endpoint>,
    ) -> (Endpoint, StartTimes) {
        let endpoint = found.unwrap_or_else(|| self.place.endpoint.clone());
        (endpoint, times(&self.job, self.spawned_at, listens, ready))
    }

    async fn until_ours_listens(&self, started: &Started) -> Result<Endpoint, End> {
        let found = probe::until_connected(&self.place.endpoint, started, self.last_look()).await;
        self.belongs_to_us(&found).await?;
        Ok(found)
    }

    async fn until_answered(&self, found: &Endpoint, http: &HttpProbe, started: &Started) {
        let app = &self.job.app;
        let host = http.host.as_deref().unwrap_or_else(|| default_host(app));
        let version = if app.http2 { HttpVersion::Two } else { HttpVersion::One };
        probe::until_answered(found, version, http, host, started, self.last_look()).await;
    }

    /// Waits for `READY=1` from one of the instance's own processes.
    async fn until_notified(&self) -> Result<(), End> {
        self.last_look().set("it has not said READY=1".into());
        let Some(socket) = &self.notify else {
            return Err(End::crashed("there is no notify socket"));
        };
        loop {
            let message = socket
                .receive()
                .await
                .map_err(|error| End::crashed(format!("the notify socket failed: {error}")))?;
            let is_ours = self.wires.witness.with_tree(|tree| tree.includes(message.sender));
            if is_ours != Some(true) {
                let (app, pid) = (&self.job.app.id, message.sender);
                tracing::warn!(%app, pid, "ignored a notification from a stranger");
                continue;
            }
            if let Some(status) = message.status {
                self.last_look().set(format!("it says: {status}"));
            }
            if let Some(pid) = message.main_pid {
                tracing::debug!(app = %self.job.app.id, pid, "the app named its main process");
            }
            if message.is_ready {
                return Ok(());
            }
        }
    }

    fn last_look(&self) -> &LastLook {
        &self.wires.witness.last_look
    }
}

/// What an app is asked for unless its probe says otherwise.
fn default_host(app: &AppSpec) -> &str {
    let exact = app.routes.hosts.iter().find_map(|host| match host {
        HostPattern::Exact(name) => Some(name.as_str()),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    });
    exact.unwrap_or("localhost")
}
