//! What becomes of the configuration when the supervisor is another: after a kill, or an upgrade.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use doorbell_config::spec::{AppSpec, ListenAddr, ServerSpec};
use doorbell_supervisor::protocol::{Answer, Lineage, Wish};

use super::{Before, House, Inner, Routes, put};
use crate::{clock, link::NoSupervisor, metrics::figures::Figures};

/// How long a new version of the supervisor may take to come back.
const NEXT_SUPERVISOR: Duration = Duration::from_secs(30);

impl House {
    /// Takes in what holds already.
    pub async fn begin(
        &self,
        server: Option<ServerSpec>,
        kept: String,
        before: Before,
        listening: Vec<ListenAddr>,
    ) {
        if let Some(server) = &server {
            self.started_with.store(Some(Arc::new(server.clone())));
            self.reload_good.store(true, Ordering::Relaxed);
            self.reload_at.store(clock::unix_seconds(), Ordering::Relaxed);
        }
        if !kept.is_empty() {
            match serde_json::from_str::<Figures>(&kept) {
                Ok(figures) => self.scraper.remember(figures),
                Err(error) => tracing::warn!(%error, "figures of earlier proxies are lost"),
            }
        }
        self.listens_on(listening);
        let Before { apps, rejected, instead } = before;
        let (rejected, apps): (Vec<_>, Vec<_>) =
            apps.into_iter().partition(|app| rejected.contains(&app.id));
        let puts = apps.iter().chain(&instead).map(put);
        let (routes, _) = Routes::new().with(puts);
        self.routes.store(Arc::new(routes));
        *self.inner.lock().await = Inner { apps, rejected, server, ..Inner::default() };
    }

    /// The next supervisor knows nothing: no change is told to it before [`House::restate`].
    pub async fn expect_stranger(&self) {
        let mut inner = self.inner.lock().await;
        inner.is_untold = inner.server.is_some();
    }

    /// Tells a supervisor that knows nothing what holds: not the file, which may have become wrong.
    pub async fn restate(&self) {
        let mut inner = self.inner.lock().await;
        let Some(server) = inner.server.clone() else { return };
        let (routes, mut apps) = (self.routes.load_full(), inner.apps.clone());
        // As they were served; their latest definitions come with the next change of the file.
        apps.extend(inner.rejected.iter().filter_map(|app| routes.app(app.id.as_str()).cloned()));
        let (gone, rejected, is_whole) = (Vec::new(), Vec::new(), true);
        let (server, is_trial, lineage) = (Box::new(server), false, Lineage::default());
        let wish = Wish::Configure { server, gone, rejected, is_whole, is_trial, lineage };
        match self.link.wish(&apps, wish).await {
            Ok(Answer::Configured(Ok(listening))) => {
                inner.is_untold = false;
                // It knows no later ones.
                let served = |app: Arc<AppSpec>| routes.app(app.id.as_str()).cloned();
                inner.rejected = inner.rejected.drain(..).filter_map(served).collect();
                self.listens_on(listening);
            }
            Ok(Answer::Configured(Err(error))) => {
                tracing::error!(%error, "the new supervisor cannot go on as before");
            }
            // It is gone again; the next one is told.
            Ok(Answer::Operated(_) | Answer::Usages(_) | Answer::Upgraded(_)) | Err(_) => {}
        }
    }

    /// Lets the binary that stands in our place take over; tells its version when it has.
    ///
    /// # Errors
    /// Why it has not; then nothing has changed.
    pub async fn upgrade(&self) -> Result<String, String> {
        let mut supervisors = self.supervisors.subscribe();
        supervisors.mark_unchanged();
        // Where it works, the supervisor becomes the new version before it can answer.
        if let Ok(Answer::Upgraded(Err(why))) = self.link.wish(&[], Wish::Upgrade).await {
            return Err(why);
        }
        let seen = supervisors.wait_for(|seen| seen.is_some());
        match tokio::time::timeout(NEXT_SUPERVISOR, seen).await {
            Ok(Ok(seen)) => seen.clone().ok_or_else(|| NoSupervisor.to_string()),
            Ok(Err(_)) | Err(_) => Err("the new version has not come back to us yet".to_owned()),
        }
    }

    /// A supervisor is back, as this version, if it came about by an upgrade.
    pub fn is_supervised(&self, upgraded_to: Option<String>) {
        self.supervisors.send_replace(upgraded_to);
    }

    /// Takes over a change that came while there was no supervisor.
    pub async fn catch_up(self: &Arc<Self>) {
        if self.is_behind.swap(false, Ordering::Relaxed) {
            // The outcome is logged and counted where it happens.
            drop(self.reload().await);
        }
    }
}
