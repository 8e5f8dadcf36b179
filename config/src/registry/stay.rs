//! Which of the apps that have had an id an app of a file is. One of the registry is told apart by the revision
//! at which it came to be; a file says nothing of the kind, so it is noted here when an app comes into the files of
//! a Doorbell, and when it is not in them any more. Who comes back is another app, and gets nothing of the earlier one's.
//!
//! Who replaces files does so one by one, and an app may be in none of them for a moment: so one that comes back
//! within [`ABSENCE`] was never away. Several Doorbells that share a registry may have the same app in their files: it
//! is one app as long as one of them has it.
//!
//! Asked for are only apps whose database is ours to make.

use super::{
    Registry, advance,
    error::{RegistryError, WriteError},
    now_ms, storable,
    store::{Row, Transaction, Value, stored},
    upgrade,
};
use crate::name::AppId;

/// How long an app may be away and still be the same, in milliseconds.
const ABSENCE: u64 = 60_000;

/// An app in the files of one Doorbell, as it is noted.
struct Stay {
    doorbell: String,
    incarnation: u64,
    left_at: Option<u64>,
}

impl Stay {
    fn of(row: &Row) -> Result<Self, RegistryError> {
        let (doorbell, incarnation) = (row.column(0)?, row.number(1)?);
        Ok(Self { doorbell, incarnation, left_at: row.maybe_number(2)? })
    }
}

/// Whether who left then, and is back now, was never away.
fn is_in_time(left_at: u64, now: u64) -> bool {
    now.saturating_sub(left_at) < ABSENCE
}

impl Registry {
    /// Which of the apps that have had its id an app is, which is in the files of this Doorbell. What is returned
    /// is durable, and the same until it leaves.
    ///
    /// # Errors
    /// When a name cannot be stored, or the registry fails.
    pub async fn stay(&self, app: &AppId, doorbell: &str) -> Result<u64, WriteError> {
        storable("doorbell", doorbell)?;
        // Nearly always it is known, and nothing has to be written.
        let rows = self.store.rows(FIND, &[Value::Text(app.as_str())]).await?;
        let stays = rows.iter().map(Stay::of).collect::<Result<Vec<_>, _>>()?;
        let own = stays.iter().find(|stay| stay.doorbell == doorbell && stay.left_at.is_none());
        if let Some(own) = own {
            return Ok(own.incarnation);
        }
        let entered = self.transact(async |transaction| enter(transaction, app, doorbell).await);
        Ok(entered.await?)
    }

    /// Takes note of who has left the files of a Doorbell since it was asked last, and of who is back in time.
    /// `is_there` says who is in them, as of `since`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn note_stays(
        &self,
        doorbell: &str,
        since: u64,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<(), RegistryError> {
        const NOTED: &str = "SELECT app, left_at FROM file_app WHERE doorbell = $1";
        const LEAVE: &str = "UPDATE file_app SET left_at = $3 WHERE app = $1 AND doorbell = $2";
        const RETURN: &str = "UPDATE file_app SET left_at = NULL WHERE app = $1 AND doorbell = $2";
        let doorbell = Value::Text(doorbell);
        for row in self.store.rows(NOTED, &[doorbell]).await? {
            let app: String = row.column(0)?;
            let key = [Value::Text(&app), doorbell];
            match (row.maybe_number(1)?, is_there(&app)) {
                (None, false) => {
                    self.note_stay(LEAVE, &[key[0], key[1], Value::Number(stored(since))]).await?;
                }
                (Some(left_at), true) if is_in_time(left_at, since) => {
                    self.note_stay(RETURN, &key).await?;
                }
                (None, true) | (Some(_), _) => {}
            }
        }
        Ok(())
    }

    async fn note_stay(
        &self,
        statement: &'static str,
        values: &[Value<'_>],
    ) -> Result<(), RegistryError> {
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(statement, values).await.map(drop)
        })
        .await
    }
}

const FIND: &str = "SELECT doorbell, incarnation, left_at FROM file_app WHERE app = $1";

async fn enter(
    transaction: &mut Transaction,
    app: &AppId,
    doorbell: &str,
) -> Result<u64, RegistryError> {
    const ENTER: &str = "
        INSERT INTO file_app (app, doorbell, incarnation) VALUES ($1, $2, $3)
        ON CONFLICT (app, doorbell) DO UPDATE SET
            incarnation = excluded.incarnation, left_at = NULL";
    // One after the other, among all Doorbells.
    advance(transaction, 0).await?;
    let (key, now) = (Value::Text(app.as_str()), now_ms());
    let rows = transaction.rows(FIND, &[key]).await?;
    let stays = rows.iter().map(Stay::of).collect::<Result<Vec<_>, _>>()?;
    let incarnation =
        match stays.iter().find(|stay| stay.left_at.is_none_or(|left_at| is_in_time(left_at, now)))
        {
            Some(stay) => stay.incarnation,
            // The first of its id, or one whose database was made before this was noted.
            None if stays.is_empty() => 0,
            None => {
                // What it is up to date with was of the earlier one.
                upgrade::forget(transaction, app).await?;
                advance(transaction, 1).await?.number()
            }
        };
    let values = [key, Value::Text(doorbell), Value::Number(stored(incarnation))];
    transaction.rows(ENTER, &values).await?;
    Ok(incarnation)
}
