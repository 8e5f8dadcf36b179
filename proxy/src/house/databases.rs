//! Databases of apps: made before their first start, removed when an operator says so (`ending` says when).

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, Secret},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::House;
use crate::backup::format::Kind;
use crate::provision::{
    Adopt, Connection, Cost, Marker, ProvisionError, Removed, Step, provisioner,
};

/// How an app got to its database when that was made or seen last, and what was asked for then.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    spec: Arc<DatabaseSpec>,
    marker: Marker,
    connection: Connection,
}

/// Why a database was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// In words for operators: nothing was done.
    #[error("{0}")]
    Unknown(String),
    /// The server is to blame, or what is there: nothing is lost.
    #[error("{0}; the app is still there, and so is its database")]
    Whole(ProvisionError),
    /// The same, and data may be lost.
    #[error("{0}; the app is still there, and what is left of its database: delete it again")]
    Broken(ProvisionError),
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
        // Whoever adopts it looks for it: another Doorbell may have begun to remove it.
        if adopt == Adopt::No
            && let Some(seen) = self.seen_database(app, &spec, &marker)
        {
            return Ok(values(&seen.connection));
        }
        if adopt == Adopt::No && self.was_ending(app, &marker).await? {
            return Err(format!(
                "its deletion was begun, and its database may be gone: delete it again, or keep what is left \
                 of it (`doorbell app adopt {app}`)"
            ));
        }
        let password = self.database_password(app).await?;
        let told = |step: Step| {
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

    /// Lets an app have what an earlier app of its id had, or what a deletion of its own has left.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn adopt_database(&self, app: &AppId) -> Result<(), String> {
        self.database_of(app, Adopt::Yes).await?;
        if self.is_of_another(app).await {
            return Ok(());
        }
        let registry = self.registry().map_err(|error| error.to_string())?;
        registry.keep(app).await.map_err(|error| error.to_string())
    }

    /// Removes what was made for an app, and nothing else.
    ///
    /// # Errors
    /// Why it, or a part of it, is still there.
    pub(super) async fn remove_database(&self, app: &AppId) -> Result<Removed, DatabaseError> {
        let turn = self.turn_of(app);
        let _turn = turn.lock().await;
        let none = || DatabaseError::Unknown(format!("app \"{app}\" has no database"));
        let spec = self.database_spec(app).await.ok_or_else(none)?;
        let marker = self.marker(app).await.map_err(DatabaseError::Unknown)?;
        let is_whole = AtomicBool::new(true);
        let told = |step: Step| {
            tracing::debug!(%app, step = step.what, "database");
            is_whole.fetch_and(step.cost == Cost::Nothing, Ordering::Relaxed);
        };
        // Whatever is left when this fails is not what it was.
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
        let removed = provisioner(&spec).remove(&marker, &told).await;
        let is_whole = is_whole.load(Ordering::Relaxed);
        let removed =
            removed.map_err(if is_whole { DatabaseError::Whole } else { DatabaseError::Broken })?;
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
    async fn was_ending(&self, app: &AppId, marker: &Marker) -> Result<bool, String> {
        let list = self.list();
        let created = list.get(app).map(|listed| listed.created.number());
        if !self.in_force().contains_key(app) && created != Some(marker.incarnation) {
            return Ok(false);
        }
        let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
        registry.is_ending(app).await.map_err(|error| error.to_string())
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
