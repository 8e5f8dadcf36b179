//! Databases of apps: made before their first start, removed when an operator says so.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, Secret},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::House;
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
        let spec = self.database_spec(app).await.ok_or("its database is not known any more")?;
        let marker = self.marker(app).await?;
        if let Some(seen) = self.seen_database(app, &spec, &marker) {
            return Ok(values(&seen.connection));
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
        let listed = self.list().get(app).map(|listed| listed.created.number());
        let incarnation = match listed {
            Some(created) => created,
            None => self.stay(app).await?,
        };
        Ok(Marker { installation, app: app.clone(), incarnation })
    }

    /// Which of those that have had its id an app of a file is.
    async fn stay(&self, app: &AppId) -> Result<u64, String> {
        // Who is known not to answer is not waited for.
        if self.registry_problem().is_some()
            && let Some(known) = self.stays().get(app)
        {
            return Ok(*known);
        }
        let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
        let stay = registry.stay(app, &self.own_name()?).await;
        let stay = stay.map_err(|error| error.to_string())?;
        self.stays().insert(app.clone(), stay);
        Ok(stay)
    }

    fn stays(&self) -> MutexGuard<'_, HashMap<AppId, u64>> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An app is gone: another one of its id begins anew.
    pub(super) fn forget_stay(&self, app: &AppId) {
        self.stays().remove(app);
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
