//! With which version of its program the data of an app is up to date, and whose turn it is to bring it there.
//!
//! Several Doorbells share a registry and start the same app, so one asks for its turn first. A turn has an end,
//! as whoever has it may die; the Doorbell that has it gets it again at once, since that one sees itself that
//! it runs one upgrade of an app at a time. Times are those of whoever asks: clocks of Doorbells that share a
//! registry are to agree within [`SLACK`].
//!
//! One that failed is not tried again, by none of them, until somebody decides that it is.

use std::time::Duration;

use super::{
    Registry, advance,
    audit::{self, Act, Actor},
    error::{RegistryError, WriteError},
    now_ms,
    owner::Owner,
    printable, storable,
    store::{Row, Transaction, Value, stored},
};

/// By how much a turn outlasts what is done in it.
const SLACK: Duration = Duration::from_secs(60);

/// What came of asking for the turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is nothing to do: the data is up to date with that version.
    Done,
    /// Whoever asked is to do it now.
    Yours,
    /// Another Doorbell does it.
    Others,
    /// It has failed, and is not to be tried again; why, for operators.
    Failed(String),
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<'e> {
    /// The data is up to date with this version.
    Reached(&'e str),
    /// It is as it was, or half done, and not to be tried again.
    Failed {
        /// The version that was to be reached.
        version: &'e str,
        /// For operators.
        why: &'e str,
    },
    /// Anybody may try.
    CalledOff,
}

impl Registry {
    /// The version that the data of an app is up to date with, if one was reached.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn upgraded_to(&self, owner: &Owner) -> Result<Option<String>, RegistryError> {
        let rows = self.store.rows(FIND, &[Value::Text(&owner.key())]).await?;
        rows.first().map_or(Ok(None), |row| row.column(0))
    }

    /// Asks for the turn to bring the data of an app up to date with a version, which takes this long at most.
    /// `doorbell` is who asks, and the same after each of its starts. What is returned is durable.
    ///
    /// # Errors
    /// When a name cannot be stored, or the registry fails.
    pub async fn begin_upgrade(
        &self,
        owner: &Owner,
        version: &str,
        doorbell: &str,
        lasts: Duration,
    ) -> Result<Turn, WriteError> {
        storable("version", version)?;
        // Nearly always it is done, and nothing has to be written.
        let known = self.store.rows(FIND, &[Value::Text(&owner.key())]).await?;
        if let Some(turn) =
            known.first().map(|row| known_turn(row, version, doorbell)).transpose()?
            && let Some(turn) = turn
        {
            return Ok(turn);
        }
        let begun = self.transact(async |transaction| {
            begin(transaction, owner, version, doorbell, lasts).await
        });
        Ok(begun.await?)
    }

    /// Ends a turn. Says whether it still was the turn of whoever asks; if not, nothing is written.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn end_upgrade(
        &self,
        owner: &Owner,
        ended: Ended<'_>,
        doorbell: &str,
        by: &Actor,
    ) -> Result<bool, WriteError> {
        self.transact(async |transaction| end(transaction, owner, ended, doorbell, by).await).await
    }

    /// Somebody has decided that an upgrade which failed is tried again.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn retry_upgrade(&self, owner: &Owner) -> Result<(), RegistryError> {
        let rows = self.store.rows(FIND, &[Value::Text(&owner.key())]).await?;
        let has_failed = rows.first().map(|row| row.column::<Option<String>>(3)).transpose()?;
        if has_failed.flatten().is_none() {
            return Ok(());
        }
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            forgive(transaction, owner).await
        })
        .await
    }
}

const FIND: &str = "SELECT version, doorbell, until, failed, why FROM upgrade WHERE app = $1";

/// What a row says of the turn; `None` if it can be had.
fn known_turn(row: &Row, version: &str, doorbell: &str) -> Result<Option<Turn>, RegistryError> {
    let (done, whose): (Option<String>, Option<String>) = (row.column(0)?, row.column(1)?);
    if done.as_deref() == Some(version) {
        return Ok(Some(Turn::Done));
    }
    if row.column::<Option<String>>(3)?.as_deref() == Some(version) {
        let why: Option<String> = row.column(4)?;
        return Ok(Some(Turn::Failed(why.unwrap_or_default())));
    }
    let until = row.maybe_number(2)?.unwrap_or_default();
    let is_others = whose.is_some_and(|whose| whose != doorbell) && until > now_ms();
    Ok(is_others.then_some(Turn::Others))
}

async fn begin(
    transaction: &mut Transaction,
    owner: &Owner,
    version: &str,
    doorbell: &str,
    lasts: Duration,
) -> Result<Turn, RegistryError> {
    const TAKE: &str = "
        INSERT INTO upgrade (app, doorbell, until) VALUES ($1, $2, $3)
        ON CONFLICT (app) DO UPDATE SET
            doorbell = excluded.doorbell, until = excluded.until, failed = NULL, why = NULL";
    // One after the other, among all Doorbells.
    advance(transaction, 0).await?;
    let key = owner.key();
    let app = Value::Text(&key);
    if let Some(row) = transaction.rows(FIND, &[app]).await?.first()
        && let Some(turn) = known_turn(row, version, doorbell)?
    {
        return Ok(turn);
    }
    let until =
        now_ms().saturating_add(u64::try_from((lasts + SLACK).as_millis()).unwrap_or(u64::MAX));
    let values = [app, Value::Text(doorbell), Value::Number(stored(until))];
    transaction.rows(TAKE, &values).await?;
    Ok(Turn::Yours)
}

async fn end(
    transaction: &mut Transaction,
    owner: &Owner,
    ended: Ended<'_>,
    doorbell: &str,
    by: &Actor,
) -> Result<bool, WriteError> {
    const END: &str = "
        UPDATE upgrade SET version = COALESCE($3, version), doorbell = NULL, until = NULL,
            failed = $4, why = $5
        WHERE app = $1 AND doorbell = $2 RETURNING app";
    advance(transaction, 0).await?;
    let (reached, failed, why) = match ended {
        Ended::Reached(version) => (Some(version), None, None),
        Ended::Failed { version, why } => (None, Some(version), Some(why)),
        Ended::CalledOff => (None, None, None),
    };
    let why = why.map(printable);
    let key = owner.key();
    let values = [
        Value::Text(&key),
        Value::Text(doorbell),
        Value::MaybeText(reached),
        Value::MaybeText(failed),
        Value::MaybeText(why.as_deref()),
    ];
    let was_its = !transaction.rows(END, &values).await?.is_empty();
    if let (true, Some(version)) = (was_its, reached) {
        let (app, subject) = (Some(owner.app().clone()), Some(version.to_owned()));
        let act = Act { what: "upgrade app".into(), app, subject };
        audit::note(transaction, &act, by, None, now_ms()).await?;
    }
    Ok(was_its)
}

/// Data that came with an app is up to date with this version.
pub(super) async fn reach(
    transaction: &mut Transaction,
    owner: &Owner,
    version: &str,
) -> Result<(), RegistryError> {
    const REACH: &str = "
        INSERT INTO upgrade (app, version) VALUES ($1, $2)
        ON CONFLICT (app) DO UPDATE SET version = excluded.version, failed = NULL, why = NULL";
    let owner = owner.key();
    let values = [Value::Text(&owner), Value::Text(version)];
    transaction.rows(REACH, &values).await.map(drop)
}

/// Its definition is another one, or somebody says so: what failed is tried again.
pub(super) async fn forgive(
    transaction: &mut Transaction,
    owner: &Owner,
) -> Result<(), RegistryError> {
    const FORGIVE: &str = "UPDATE upgrade SET failed = NULL, why = NULL WHERE app = $1";
    transaction.rows(FORGIVE, &[Value::Text(&owner.key())]).await.map(drop)
}

/// An app is gone, and what it was with it.
pub(super) async fn forget(
    transaction: &mut Transaction,
    owner: &Owner,
) -> Result<(), RegistryError> {
    let owner = owner.key();
    transaction.rows("DELETE FROM upgrade WHERE app = $1", &[Value::Text(&owner)]).await.map(drop)
}

/// An app has another id. Not while it is upgraded: under that id the same would be begun beside it.
pub(super) async fn rename(
    transaction: &mut Transaction,
    from: &Owner,
    to: &Owner,
) -> Result<(), WriteError> {
    if let Some(row) = transaction.rows(FIND, &[Value::Text(&from.key())]).await?.first()
        && row.column::<Option<String>>(1)?.is_some()
        && row.maybe_number(2)?.unwrap_or_default() > now_ms()
    {
        let why = "its upgrade is under way: try again when that has ended".into();
        return Err(WriteError::Refused { what: format!("app \"{}\"", from.app()), why });
    }
    let (from, to) = (from.key(), to.key());
    let values = [Value::Text(&from), Value::Text(&to)];
    transaction.rows("UPDATE upgrade SET app = $2 WHERE app = $1", &values).await?;
    Ok(())
}
