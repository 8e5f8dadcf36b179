//! Whether an app's data is to be brought up to date before it starts: the registry knows, for all Doorbells
//! that share it.

use std::{fs, io, path::Path, sync::PoisonError, time::Duration};

use doorbell_config::{
    name::AppId,
    registry::{Actor, Turn},
    spec::{ProcessSpec, UpgradeSpec},
};
use doorbell_supervisor::protocol::Upgraded;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::House;

/// How long a start waits while another Doorbell upgrades the app; then it has failed, and is tried again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether that one is done.
const PAUSE: Duration = Duration::from_millis(500);

/// The file, in the folder of the registry, that says which Doorbell this is.
const NAME: &str = "doorbell.id";

impl House {
    /// Learns which Doorbell this is, among those that share a registry: the same after each start.
    pub fn is_called_as_in(&self, folder: &Path) {
        match name_in(folder) {
            Ok(name) => *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(name),
            Err(error) => {
                let path = folder.join(NAME);
                tracing::error!(path = %path.display(), %error, "apps with an upgrade cannot start");
            }
        }
    }

    /// The version for which the upgrade of an app is to be run before it starts, if that is to be; `upgraded` is
    /// what came of it.
    ///
    /// # Errors
    /// Why it cannot start, for operators.
    pub(super) async fn version_to_reach(
        &self,
        app: &AppId,
        process: &ProcessSpec,
        upgraded: Option<Upgraded>,
    ) -> Result<Option<String>, String> {
        if let Some(upgraded) = upgraded {
            self.has_upgraded(app, &upgraded).await?;
        }
        let (Some(version), Some(upgrade)) = (process.version.as_deref(), &process.upgrade) else {
            return Ok(None);
        };
        let until = Instant::now() + PATIENCE;
        loop {
            match self.turn_to_upgrade(app, version, upgrade).await? {
                Turn::Done => {
                    self.remember_version(app, version);
                    return Ok(None);
                }
                Turn::Yours => return Ok(Some(version.to_owned())),
                Turn::Others(_) if Instant::now() < until => sleep(PAUSE).await,
                Turn::Others(_) => {
                    let why = format!("another doorbell still upgrades it to version {version:?}");
                    return Err(why);
                }
            }
        }
    }

    async fn turn_to_upgrade(
        &self,
        app: &AppId,
        version: &str,
        upgrade: &UpgradeSpec,
    ) -> Result<Turn, String> {
        let is_known = self.known_version(app).is_some_and(|known| known == version);
        // Who is known not to answer is not waited for.
        if is_known && self.registry_problem().is_some() {
            return Ok(Turn::Done);
        }
        let name = self.own_name()?;
        let asked = match self.registry_soon().await {
            Ok(registry) => registry
                .begin_upgrade(app, version, &name, upgrade.deadline)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match asked {
            Err(_) if is_known => Ok(Turn::Done),
            Err(error) => Err(format!("whether it is to be upgraded cannot be told: {error}")),
            Ok(turn) => Ok(turn),
        }
    }

    /// Notes what came of an upgrade. One that failed fails the start.
    async fn has_upgraded(&self, app: &AppId, upgraded: &Upgraded) -> Result<(), String> {
        let Upgraded { version, outcome } = upgraded;
        let reached = outcome.is_ok().then_some(version.as_str());
        let by = Actor { name: "doorbell".into(), from: "start".into() };
        let noted = match self.registry_soon().await {
            Ok(registry) => registry
                .end_upgrade(app, reached, &self.own_name()?, &by)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match (outcome, noted) {
            (Err(why), noted) => {
                if let Err(error) = noted {
                    tracing::warn!(%app, error, "its turn to upgrade ends by itself");
                }
                Err(format!("its upgrade to version {version:?} failed: {why}"))
            }
            // Where the turn is another's by now, that one does it again.
            (Ok(()), Ok(_)) => Ok(()),
            (Ok(()), Err(error)) => Err(format!(
                "its upgrade to version {version:?} is done, and cannot be noted: {error}"
            )),
        }
    }

    fn own_name(&self) -> Result<String, String> {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        name.map(|name| name.to_string())
            .ok_or_else(|| format!("doorbell cannot read or write its {NAME}: see its log"))
    }

    fn known_version(&self, app: &AppId) -> Option<String> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn remember_version(&self, app: &AppId, version: &str) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(app.clone(), version.to_owned());
    }

    /// An app is gone: another one of its id begins anew.
    pub(super) fn forget_version(&self, app: &AppId) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
    }
}

/// What stands in the file, which is made where there is none.
fn name_in(folder: &Path) -> io::Result<Uuid> {
    let path = folder.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = Uuid::new_v4();
            let new = path.with_extension("new");
            fs::write(&new, format!("{name}\n"))?;
            fs::File::open(&new)?.sync_all()?;
            fs::rename(&new, &path)?;
            Ok(name)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doorbell_is_the_same_at_each_start() {
        let folder = tempfile::tempdir().unwrap();
        let name = name_in(folder.path()).unwrap();
        assert_eq!(name_in(folder.path()).unwrap(), name);
        fs::write(folder.path().join(NAME), "not that").unwrap();
        assert!(name_in(folder.path()).is_err());
    }
}
