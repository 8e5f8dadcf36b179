//! How an instance becomes ready.
//!
//! Where the kernel tells that the app is about to listen (`ear`), the look at its endpoint waits for
//! that; the rest is as without.

use doorbell_config::spec::{HttpProbe, Probe};
use tokio::time::Instant;

use super::{End, Instance, Note, times};
use crate::{
    driver::ear::Ear,
    message::{Endpoint, Question, StartTimes},
    probe::{self, Families, LastLook, Occasions, Started},
};

impl Instance {
    /// Waits for readiness, for ever if need be. An error is for good.
    pub(super) async fn ready(&self) -> Result<(Endpoint, StartTimes), End> {
        let Ok(process) = self.job.process() else { return std::future::pending().await };
        // Held from the spawn until the instance is ready.
        let Some(started) = &self.started else { return std::future::pending().await };
        match &process.ready.probe {
            Probe::SocketActivation => {
                Ok(self.ready_at(self.place.endpoint.clone(), self.spawned_at))
            }
            Probe::Notify => {
                self.until_notified().await?;
                Ok(self.ready_at(self.place.endpoint.clone(), Instant::now()))
            }
            Probe::Connect => self.until_probed(started, None).await,
            Probe::Http(http) => self.until_probed(started, Some(http)).await,
        }
    }

    /// Ready now, and listening since then.
    fn ready_at(&self, endpoint: Endpoint, listens: Instant) -> (Endpoint, StartTimes) {
        self.driver.let_connect(&endpoint);
        (endpoint, times(&self.job, self.spawned_at, listens, Instant::now()))
    }

    async fn until_probed(
        &self,
        started: &Started,
        http: Option<&HttpProbe>,
    ) -> Result<(Endpoint, StartTimes), End> {
        // Dropping the loser loses nothing but a question, which is taken back.
        let found = tokio::select! {
            biased;
            ours = self.until_ours_listens(started) => ours?,
            elsewhere = self.until_elsewhere_answers(http) => {
                return Ok(self.ready_at(elsewhere, Instant::now()));
            }
        };
        let listens = Instant::now();
        if let Some(http) = http {
            self.until_answered(&found, http).await;
        } else if self.may_be_elsewhere() {
            self.tell(Note::EndProbe).await;
        }
        Ok(self.ready_at(found, listens))
    }

    async fn until_ours_listens(&self, started: &Started) -> Result<Endpoint, End> {
        let (asked, last) = (&self.place.endpoint, self.last_look());
        let heard = self.ear.as_ref().map(Ear::heard);
        let mut occasions = Occasions::new(started, heard);
        let found = probe::until_connected(asked, Families::Both, &mut occasions, last).await;
        if self.is_heard_at(&found) {
            tracing::debug!(app = %self.job.app.id, "the kernel told that it listens");
            return Ok(found);
        }
        match self.belongs_to_us(&found).await {
            // Where the app was not told to listen anybody may.
            Err(_) if found != *asked => {}
            ours => return ours.map(|()| found),
        }
        let found = probe::until_connected(asked, Families::Own, &mut occasions, last).await;
        self.belongs_to_us(&found).await?;
        Ok(found)
    }

    /// Has it asked by a proxy: who faces apps is not to be us.
    pub(super) async fn until_answered(&self, found: &Endpoint, http: &HttpProbe) {
        let app = &self.job.app;
        let host = http.host.as_deref().unwrap_or_else(|| app.default_host()).to_owned();
        let question = Question { probe: http.clone(), host, http2: app.http2 };
        self.last_look().set(format!("GET {}: not asked yet", http.path));
        // An answer to another question would be taken for one to this.
        tokio::select! {
            biased;
            () = self.wires.answered.notified() => {}
            () = std::future::ready(()) => {}
        }
        if self.may_be_elsewhere() {
            self.tell(Note::EndProbe).await;
        }
        self.driver.let_connect(found);
        self.tell(Note::Probe(found.clone(), Box::new(question))).await;
        self.wires.answered.notified().await;
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

    pub(super) fn last_look(&self) -> &LastLook {
        &self.wires.witness.last_look
    }
}
