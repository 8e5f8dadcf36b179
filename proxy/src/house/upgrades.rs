//! Whether an app's data is to be brought up to date before it starts: the registry knows, for all Doorbells
//! that share it.

use std::{fs, io, path::Path, sync::PoisonError};

use doorbell_config::{
    name::AppId,
    registry::{Actor, Ended, Registry, Turn},
    spec::UpgradeTurn,
};
use doorbell_supervisor::protocol::{Outcome, Upgraded, WantedVersion};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::House;
use crate::whole_file;

/// The file, in the folder of the registry, that says which Doorbell this is.
const NAME: &str = "doorbell.id";

/// A version that the data of an app is up to date with.
#[derive(Clone, Debug)]
pub(super) struct Known {
    reached: String,
    /// Whether the registry knows that too.
    is_noted: bool,
}

impl House {
    /// Learns which Doorbell this is, among those that share a registry: the same after each start.
    pub fn is_called_as_in(&self, folder: &Path) {
        match name_in(folder) {
            Ok(name) => *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(name),
            Err(error) => {
                let path = folder.join(NAME);
                tracing::error!(path = %path.display(), %error, "apps with an upgrade, or a new database, cannot start");
            }
        }
    }

    /// Whose turn it is to bring an app's data up to date.
    ///
    /// # Errors
    /// Why that cannot be told, for operators.
    pub(super) async fn turn_to_upgrade(
        &self,
        app: &AppId,
        wanted: &WantedVersion,
    ) -> Result<UpgradeTurn, String> {
        let WantedVersion { version, lasts } = wanted;
        let is_known = self.version_of(app).is_some_and(|known| known.reached == *version);
        // Who is known not to answer is not waited for.
        if is_known && self.registry_problem().is_some() {
            return Ok(UpgradeTurn::Nothing);
        }
        let name = self.own_name()?;
        let asked = match self.registry_soon().await {
            Ok(registry) => {
                self.note_late(&registry, app, &name).await;
                let turn = registry.begin_upgrade(&self.owner(app), version, &name, *lasts).await;
                turn.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match asked {
            Err(_) if is_known => Ok(UpgradeTurn::Nothing),
            Err(error) => Err(format!("whether it is to be upgraded cannot be told: {error}")),
            Ok(Turn::Done) => {
                self.remember(app, version, true);
                Ok(UpgradeTurn::Nothing)
            }
            Ok(Turn::Yours) => Ok(UpgradeTurn::Yours),
            Ok(Turn::Others) => Ok(UpgradeTurn::Others),
            Ok(Turn::Failed(why)) => Ok(UpgradeTurn::Failed(why)),
        }
    }

    /// Notes what came of an upgrade.
    pub(super) async fn has_upgraded(&self, app: &AppId, upgraded: &Upgraded) {
        let Upgraded { version, outcome } = upgraded;
        let ended = match outcome {
            Outcome::Reached => Ended::Reached(version),
            Outcome::Failed(why) => Ended::Failed { version, why },
            Outcome::CalledOff => Ended::CalledOff,
        };
        let noted = async {
            let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
            let noted =
                registry.end_upgrade(&self.owner(app), ended, &self.own_name()?, &by_start()).await;
            noted.map_err(|error| error.to_string())
        };
        let error = match noted.await {
            // Where the turn is another's by now, that one does it again.
            Ok(_) => return,
            Err(error) => error,
        };
        match outcome {
            Outcome::Reached => {
                tracing::warn!(%app, version, error, "it is upgraded, which cannot be noted yet");
                self.remember(app, version, false);
            }
            Outcome::Failed(_) | Outcome::CalledOff => {
                tracing::warn!(%app, error, "its turn to be upgraded ends by itself");
            }
        }
    }

    /// Somebody has decided that these apps are tried again, if their upgrade failed. A registry that fails is
    /// asked once: then they start as it says when it is back.
    pub(crate) async fn retry_upgrades(&self, apps: &[&AppId]) {
        if apps.is_empty() {
            return;
        }
        let retried = async {
            let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
            for app in apps {
                registry
                    .retry_upgrade(&self.owner(app))
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        };
        if let Err(error) = retried.await {
            tracing::warn!(error, "upgrades that failed may not be tried again");
        }
    }

    /// Notes what could not be noted when it came about.
    async fn note_late(&self, registry: &Registry, app: &AppId, name: &str) {
        let Some(known) = self.version_of(app).filter(|known| !known.is_noted) else { return };
        let reached = Ended::Reached(&known.reached);
        match registry.end_upgrade(&self.owner(app), reached, name, &by_start()).await {
            Ok(true) => self.remember(app, &known.reached, true),
            // Another Doorbell has the turn.
            Ok(false) => self.forget_version(app),
            Err(error) => tracing::warn!(%app, %error, "it is upgraded, which cannot be noted yet"),
        }
    }

    /// Who answers a question about this app's upgrade.
    pub(crate) fn answering(&self, app: &AppId) -> Option<JoinHandle<()>> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner).remove(&app.first())
    }

    /// The next question is answered behind this one.
    pub(crate) fn answers(&self, app: &AppId, answering: JoinHandle<()>) {
        let mut all = self.answering.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, task| !task.is_finished());
        all.insert(app.first(), answering);
    }

    fn own_name(&self) -> Result<String, String> {
        // Whoever copies the folder to another machine is another.
        let machine = rustix::system::uname();
        Ok(format!("{} {}", self.id()?, machine.nodename().to_string_lossy()))
    }

    /// Which Doorbell this is, whatever its machine is called.
    pub(super) fn id(&self) -> Result<String, String> {
        let name = *self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || format!("doorbell cannot read or write its {NAME}: see its log");
        name.map(|name| name.to_string()).ok_or_else(missing)
    }

    fn version_of(&self, app: &AppId) -> Option<Known> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn remember(&self, app: &AppId, version: &str, is_noted: bool) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(app.clone(), Known { reached: version.to_owned(), is_noted });
    }

    /// An app is gone: another one of its id begins anew.
    pub(super) fn forget_version(&self, app: &AppId) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
    }
}

fn by_start() -> Actor {
    Actor { name: "doorbell".into(), from: "start".into() }
}

/// What stands in the file, which is made where there is none.
fn name_in(folder: &Path) -> io::Result<Uuid> {
    let path = folder.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = Uuid::new_v4();
            whole_file::put(&path, format!("{name}\n").as_bytes())?;
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
