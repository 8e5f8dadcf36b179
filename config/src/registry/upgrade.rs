//! With which version of its program the data of an app is up to date, and whose turn it is to bring it there.
//!
//! Several Doorbells share a registry and start the same app, so one asks for its turn first. A turn has an end,
//! as whoever has it may die; the Doorbell that has it gets it again at once, since that one sees itself that
//! it runs one upgrade of an app at a time. Times are those of whoever asks: clocks of Doorbells that share a
//! registry are to agree within [`SLACK`].

use std::time::Duration;

use super::{
    Registry, advance,
    audit::{self, Act, Actor},
    error::{RegistryError, WriteError},
    now_ms, storable,
    store::{Transaction, Value, stored},
};
use crate::name::AppId;

/// By how much a turn outlasts what is done in it.
const SLACK: Duration = Duration::from_secs(60);

/// What came of asking for the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is nothing to do: the data is up to date with that version.
    Done,
    /// Whoever asked is to do it now.
    Yours,
    /// Another Doorbell does it, until this time at most, in milliseconds since 1970.
    Others(u64),
}

impl Registry {
    /// Asks for the turn to bring the data of an app up to date with a version, which takes this long at most.
    /// `doorbell` is who asks, and the same after each of its starts. What is returned is durable.
    ///
    /// # Errors
    /// When a name cannot be stored, or the registry fails.
    pub async fn begin_upgrade(
        &self,
        app: &AppId,
        version: &str,
        doorbell: &str,
        lasts: Duration,
    ) -> Result<Turn, WriteError> {
        storable("version", version)?;
        let mut transaction = self.store.begin().await?;
        match begin(&mut transaction, app, version, doorbell, lasts).await {
            Ok(turn) => {
                transaction.commit().await?;
                Ok(turn)
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error.into())
            }
        }
    }

    /// Ends a turn: the data is up to date with this version, or as it was. Says whether it still was the turn of
    /// whoever asks; if not, nothing is written.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn end_upgrade(
        &self,
        app: &AppId,
        version: Option<&str>,
        doorbell: &str,
        by: &Actor,
    ) -> Result<bool, WriteError> {
        let mut transaction = self.store.begin().await?;
        match end(&mut transaction, app, version, doorbell, by).await {
            Ok(was_its) => {
                transaction.commit().await?;
                Ok(was_its)
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }
}

async fn begin(
    transaction: &mut Transaction,
    app: &AppId,
    version: &str,
    doorbell: &str,
    lasts: Duration,
) -> Result<Turn, RegistryError> {
    const FIND: &str = "SELECT version, doorbell, until FROM upgrade WHERE app = $1";
    const TAKE: &str = "
        INSERT INTO upgrade (app, doorbell, until) VALUES ($1, $2, $3)
        ON CONFLICT (app) DO UPDATE SET doorbell = excluded.doorbell, until = excluded.until";
    // One after the other, among all Doorbells.
    advance(transaction, 0).await?;
    let (app, now) = (Value::Text(app.as_str()), now_ms());
    if let Some(row) = transaction.rows(FIND, &[app]).await?.first() {
        let (done, whose): (Option<String>, Option<String>) = (row.column(0)?, row.column(1)?);
        if done.as_deref() == Some(version) {
            return Ok(Turn::Done);
        }
        let until = row.maybe_number(2)?.unwrap_or_default();
        if whose.is_some_and(|whose| whose != doorbell) && until > now {
            return Ok(Turn::Others(until));
        }
    }
    let until = now.saturating_add(u64::try_from((lasts + SLACK).as_millis()).unwrap_or(u64::MAX));
    let values = [app, Value::Text(doorbell), Value::Number(stored(until))];
    transaction.rows(TAKE, &values).await?;
    Ok(Turn::Yours)
}

async fn end(
    transaction: &mut Transaction,
    app: &AppId,
    version: Option<&str>,
    doorbell: &str,
    by: &Actor,
) -> Result<bool, WriteError> {
    const END: &str = "
        UPDATE upgrade SET version = COALESCE($3, version), doorbell = NULL, until = NULL
        WHERE app = $1 AND doorbell = $2 RETURNING app";
    advance(transaction, 0).await?;
    let values = [Value::Text(app.as_str()), Value::Text(doorbell), Value::MaybeText(version)];
    let was_its = !transaction.rows(END, &values).await?.is_empty();
    if let (true, Some(version)) = (was_its, version) {
        let (app, subject) = (Some(app.clone()), Some(version.to_owned()));
        let act = Act { what: "upgrade app".into(), app, subject };
        audit::note(transaction, &act, by, None, now_ms()).await?;
    }
    Ok(was_its)
}

/// An app is gone, and what it was with it.
pub(super) async fn forget(
    transaction: &mut Transaction,
    app: &AppId,
) -> Result<(), RegistryError> {
    let app = Value::Text(app.as_str());
    transaction.rows("DELETE FROM upgrade WHERE app = $1", &[app]).await.map(drop)
}

/// An app has another id.
pub(super) async fn rename(
    transaction: &mut Transaction,
    from: &AppId,
    to: &AppId,
) -> Result<(), RegistryError> {
    let values = [Value::Text(from.as_str()), Value::Text(to.as_str())];
    transaction.rows("UPDATE upgrade SET app = $2 WHERE app = $1", &values).await.map(drop)
}
