//! The reload of the files: all or nothing.

use std::{path::Path, sync::Arc, time::Instant};

use doorbell_config::file::{Archive, Entry, Loaded};

use super::{House, ReloadError, ReloadReport, finished};
use crate::ledger::Ledger;

impl House {
    /// Reads the configuration file and apps of the registry, but for what the archive knows.
    #[must_use]
    pub fn read(config_path: &Path, archive: &mut Archive, entries: &[Arc<Entry>]) -> Loaded {
        archive.load(config_path, &|name| std::env::var(name).ok(), entries)
    }

    /// What was read of the files, with the apps of a ledger.
    pub async fn read_with(&self, loaded: Loaded, mut ledger: Ledger) -> (Loaded, Ledger) {
        if ledger.list.is_empty() {
            return (loaded, ledger);
        }
        let path = self.config_path.clone();
        finished(tokio::task::spawn_blocking(move || {
            let entries = Ledger::entries(&ledger.list);
            (Self::read(&path, &mut ledger.archive, &entries), ledger)
        }))
        .await
    }

    /// Takes over what was read before anything else.
    ///
    /// # Errors
    /// Says why not.
    pub async fn take_over_first(
        &self,
        loaded: Loaded,
        ledger: Ledger,
    ) -> Result<ReloadReport, ReloadError> {
        let mut kept = Arc::clone(&self.ledger).lock_owned().await;
        *kept = ledger;
        kept.refused.clone_from(&loaded.refused);
        self.publish(&kept);
        self.hold(loaded, kept).await.0
    }

    /// Reads the file again and takes it over. Whoever asks may leave: it is done to the end.
    ///
    /// # Errors
    /// Says why not; then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<ReloadReport, ReloadError> {
        let house = Arc::clone(self);
        finished(tokio::spawn(async move { house.reload_now().await })).await
    }

    async fn reload_now(&self) -> Result<ReloadReport, ReloadError> {
        let (path, ledger) = (self.config_path.clone(), Arc::clone(&self.ledger));
        // Held to the end: what is read first is taken over first.
        let mut ledger = ledger.lock_owned().await;
        let (loaded, ledger) = finished(tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            let entries = Ledger::entries(&ledger.list);
            let own_fault = ledger.own_fault(&entries);
            let mut loaded = Self::read(&path, &mut ledger.archive, &entries);
            ledger.keeps_all(&mut loaded, &own_fault);
            tracing::debug!(took = ?since.elapsed(), "configuration read");
            (loaded, ledger)
        }))
        .await;
        self.hold(loaded, ledger).await.0
    }
}
