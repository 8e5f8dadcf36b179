//! Databases of apps: made before their first start, removed when an operator says so.

use std::sync::{Arc, PoisonError};

use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, Secret},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::House;
use crate::backup::format::Kind;
use crate::provision::{Adopt, Connection, Marker, ProvisionError, Removed, provisioner};

/// How an app got to its database when that was made or seen last, and what was asked for then.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    spec: Arc<DatabaseSpec>,
    marker: Marker,
    connection: Connection,
}

/// An app that is about to be deleted.
pub struct Ending {
    house: Arc<House>,
    app: AppId,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut ending = self.house.ending.lock().unwrap_or_else(PoisonError::into_inner);
        // Two may delete one app.
        if let Some(count) = ending.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                ending.remove(&self.app);
            }
        }
    }
}

/// Why a database was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// In words for operators.
    #[error("{0}")]
    Unknown(String),
    /// The server is to blame, or what is there.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
}

impl House {
    /// Makes what is missing of an app's database, and tells how to get there.
    ///
    /// # Errors
    /// Why there is none, with the server's own words.
    pub(super) async fn database_of(
        &self,
        app: &AppId,
        adopt: Adopt,
    ) -> Result<Vec<(String, Secret)>, String> {
        let turn = self.turn_of(app);
        let _turn = turn.lock().await;
        // Who was made way for may have begun meanwhile.
        if self.is_ending(app) {
            return Err("it is being deleted".into());
        }
        let unknown = "its database is not known while the configuration is broken: mend it first";
        let spec = self.database_spec(app).await.ok_or(unknown)?;
        if !Kind::from(&*spec).is_own() {
            return self.given_database(app, &spec).await;
        }
        let marker = self.marker(app).await?;
        if let Some(seen) = self.seen_database(app, &spec, &marker) {
            return Ok(values(&seen.connection));
        }
        if self.was_ending(app).await? {
            return Err("its deletion was begun, and its database may be gone: delete it again, or change it \
                        (`doorbell app set`) to keep it".into());
        }
        let password = self.database_password(app).await?;
        let told = |step: crate::provision::Step| {
            tracing::debug!(%app, step = step.what, "database");
        };
        let made = provisioner(&spec).provision(&marker, &password, adopt, &told).await;
        let connection = made.map_err(|error| error.to_string())?;
        tracing::info!(%app, dialect = connection.dialect.name(), "its database is there");
        let shown = values(&connection);
        let seen = Seen { spec, marker, connection };
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.insert(app.clone(), seen);
        Ok(shown)
    }

    /// How to get to a database that is not ours to make.
    async fn given_database(
        &self,
        app: &AppId,
        spec: &DatabaseSpec,
    ) -> Result<Vec<(String, Secret)>, String> {
        let nobody = Marker { installation: Uuid::nil(), app: app.clone(), incarnation: 0 };
        let told = provisioner(spec).provision(&nobody, &Secret::new(""), Adopt::No, &|_| {}).await;
        told.map(|connection| values(&connection)).map_err(|error| error.to_string())
    }

    /// Lets an app have what an earlier app of its id had.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn adopt_database(&self, app: &AppId) -> Result<(), String> {
        self.database_of(app, Adopt::Yes).await.map(drop)
    }

    /// Removes what was made for an app, and nothing else.
    ///
    /// # Errors
    /// Why it is still there.
    pub async fn remove_database(&self, app: &AppId) -> Result<Removed, DatabaseError> {
        let turn = self.turn_of(app);
        let _turn = turn.lock().await;
        let none = || DatabaseError::Unknown(format!("app \"{app}\" has no database"));
        let spec = self.database_spec(app).await.ok_or_else(none)?;
        let marker = self.marker(app).await.map_err(DatabaseError::Unknown)?;
        let told = |step: crate::provision::Step| {
            tracing::debug!(%app, step = step.what, "database");
        };
        // Whatever is left when this fails is not what it was.
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
        let removed = provisioner(&spec).remove(&marker, &told).await?;
        tracing::info!(%app, ?removed, "its database is removed");
        Ok(removed)
    }

    /// Whether what has the id of an app of the registry now is another app, or may be: one of a file, for which
    /// that of the registry is left out.
    pub async fn is_of_another(&self, app: &AppId) -> bool {
        let Some(created) = self.list().get(app).map(|listed| listed.created) else { return false };
        let in_force = self.in_force();
        let is_it = in_force.get(app).is_some_and(|(in_force, _)| *in_force == created);
        !is_it && self.latest(app).await.is_some()
    }

    /// Whether somebody, here or elsewhere, began to delete an app of the registry with its database.
    async fn was_ending(&self, app: &AppId) -> Result<bool, String> {
        if !self.in_force().contains_key(app) {
            return Ok(false);
        }
        let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
        registry.is_ending(app).await.map_err(|error| error.to_string())
    }

    /// Notes that an app is being deleted with its database, or not any more, for whoever comes after this process
    /// and for other Doorbells.
    ///
    /// # Errors
    /// Why it cannot be noted.
    pub async fn note_ending(&self, app: &AppId, is_ending: bool) -> Result<(), String> {
        let registry = self.registry().map_err(|error| error.to_string())?;
        registry.note_ending(app, is_ending).await.map_err(|error| error.to_string())
    }

    /// From here on an app is not started, until what is returned is dropped: it is about to be deleted.
    #[must_use]
    pub fn ends(self: &Arc<Self>, app: &AppId) -> Ending {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        *ending.entry(app.clone()).or_default() += 1;
        Ending { house: Arc::clone(self), app: app.clone() }
    }

    /// Whether an app is about to be deleted.
    pub(super) fn is_ending(&self, app: &AppId) -> bool {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).contains_key(app)
    }

    /// Databases of one app are made and removed one after the other.
    fn turn_of(&self, app: &AppId) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(app.clone()).or_default())
    }

    /// Whose the database is: this registry's, and that app's of all that have had the id.
    async fn marker(&self, app: &AppId) -> Result<Marker, String> {
        let known = *self.installation.lock().unwrap_or_else(PoisonError::into_inner);
        let installation = match known {
            Some(known) => known,
            None => {
                let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
                let digits = registry.installation().await.map_err(|error| error.to_string())?;
                let read = Uuid::parse_str(&digits);
                let read =
                    read.map_err(|_| "the registry does not say which one it is".to_owned())?;
                *self.installation.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
                read
            }
        };
        let incarnation = self.incarnation(app).await?;
        Ok(Marker { installation, app: app.clone(), incarnation })
    }

    /// Which of all that have had its id an app is.
    async fn incarnation(&self, app: &AppId) -> Result<u64, String> {
        if let Some((created, _)) = self.in_force().get(app) {
            return Ok(created.number());
        }
        if let Some(stay) = self.stay(app).await? {
            return Ok(stay);
        }
        // Held before this process was, while the files are broken.
        let listed = self.list().get(app).map(|listed| listed.created.number());
        listed.ok_or_else(|| "the configuration is broken: mend it first".into())
    }

    fn seen_database(
        &self,
        app: &AppId,
        spec: &Arc<DatabaseSpec>,
        marker: &Marker,
    ) -> Option<Seen> {
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        databases.get(app).filter(|seen| seen.spec == *spec && seen.marker == *marker).cloned()
    }
}

fn values(connection: &Connection) -> Vec<(String, Secret)> {
    let values = connection.values();
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
