//! Apps that are being deleted together with their database: the database goes first, and whoever dies between
//! leaves an app that would get a new, empty one at its next start. So that is noted before.

use super::{
    Registry, advance,
    error::RegistryError,
    now_ms,
    store::{Value, stored},
};
use crate::name::AppId;

impl Registry {
    /// Notes whether an app is being deleted: from here on no Doorbell makes a database for it. A change of its
    /// definition ends that too.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn note_ending(&self, app: &AppId, is_ending: bool) -> Result<(), RegistryError> {
        const NOTE: &str = "UPDATE app SET ending_since = $2 WHERE id = $1";
        let since = is_ending.then(|| stored(now_ms()));
        let values = [Value::Text(app.as_str()), Value::MaybeNumber(since)];
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(NOTE, &values).await.map(drop)
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
