//! Apps that are being deleted together with their database: the database goes first, and whoever dies between
//! leaves an app that would get a new, empty one at its next start. So that is noted before, and until the app is
//! gone, or somebody decides to keep what is left, nothing changes it.

use super::{
    Registry, advance,
    error::{RegistryError, WriteError},
    expect::{Expect, Found},
    now_ms,
    store::{Value, stored},
};
use crate::name::AppId;

/// A deletion that was begun: one of perhaps several of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its time, which no other deletion of the app has.
    since: u64,
    /// Whether one was begun before, of which nobody knows how far it came.
    pub is_again: bool,
}

impl Registry {
    /// Notes that an app is being deleted: from here on no Doorbell makes a database for it, and it cannot be changed.
    /// What is returned is durable.
    ///
    /// # Errors
    /// When the app is not as expected, or when the registry fails.
    pub async fn begin_ending(&self, app: &AppId, expect: Expect) -> Result<Ending, WriteError> {
        const NOTE: &str = "UPDATE app SET ending_since = $2 WHERE id = $1";
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            let Some(Found { ending_since, .. }) = expect.check(transaction, app).await? else {
                return Err(WriteError::Conflict { app: app.clone(), found: None });
            };
            let after_it = ending_since.map_or(0, |since| since + 1);
            let ending = Ending { since: now_ms().max(after_it), is_again: ending_since.is_some() };
            let values = [Value::Text(app.as_str()), Value::Number(stored(ending.since))];
            transaction.rows(NOTE, &values).await?;
            Ok(ending)
        })
        .await
    }

    /// Notes that a deletion was given up, unless another one was begun since.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn give_up_ending(&self, app: &AppId, ending: Ending) -> Result<(), RegistryError> {
        const CLEAR: &str =
            "UPDATE app SET ending_since = NULL WHERE id = $1 AND ending_since = $2";
        let values = [Value::Text(app.as_str()), Value::Number(stored(ending.since))];
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(CLEAR, &values).await.map(drop)
        })
        .await
    }

    /// Notes that an app is to be kept with what is left of it, whoever began to delete it.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn keep(&self, app: &AppId) -> Result<(), RegistryError> {
        const CLEAR: &str = "UPDATE app SET ending_since = NULL WHERE id = $1";
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(CLEAR, &[Value::Text(app.as_str())]).await.map(drop)
        })
        .await
    }

    /// Whether an app is being deleted, or was about to be.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn is_ending(&self, app: &AppId) -> Result<bool, RegistryError> {
        const FIND: &str = "SELECT ending_since FROM app WHERE id = $1";
        let rows = self.store.rows(FIND, &[Value::Text(app.as_str())]).await?;
        let since = rows.first().map(|row| row.maybe_number(0)).transpose()?;
        Ok(since.flatten().is_some())
    }
}
