//! Which of the apps that have had an id an app of a file is. One of the registry is told apart by the revision
//! at which it came to be; a file says nothing of the kind, so each Doorbell notes here who comes into its files, and
//! who leaves them. Who comes back is another app, and gets nothing of the earlier one's.
//!
//! Several Doorbells that share a registry may have the same app in their files: it is one app as long as one of
//! them has it. A Doorbell that is not seen any more has none.
//!
//! When an app has left, and whether it comes back soon enough to be the same, is for the Doorbell to say.

use super::{
    Registry, advance,
    error::{RegistryError, WriteError},
    now_ms,
    owner::Owner,
    storable,
    store::{Row, Transaction, Value, stored},
    upgrade,
};
use crate::name::AppId;

/// How long a Doorbell counts that is not seen any more, in milliseconds: a week.
const MOST_UNSEEN: u64 = 7 * 86_400_000;

/// An app that comes into the files of a Doorbell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Which.
    pub app: AppId,
    /// Whether it is another one than that which was in those files before.
    pub is_other: bool,
}

/// An app in the files of one Doorbell, as it is noted.
struct Stay {
    doorbell: String,
    incarnation: u64,
    is_there: bool,
    seen_at: u64,
}

impl Registry {
    /// Notes apps that come into the files of a Doorbell, and tells which of those that have had its id each is, in
    /// their order. All or none; what is returned is durable.
    ///
    /// # Errors
    /// When a name cannot be stored, or the registry fails.
    pub async fn enter(
        &self,
        entrances: &[Entrance],
        doorbell: &str,
    ) -> Result<Vec<u64>, WriteError> {
        storable("doorbell", doorbell)?;
        let entered = self.transact(async |transaction| {
            // One after the other, among all Doorbells.
            advance(transaction, 0).await?;
            let mut incarnations = Vec::with_capacity(entrances.len());
            for entrance in entrances {
                incarnations.push(enter(transaction, entrance, doorbell).await?);
            }
            Ok::<_, RegistryError>(incarnations)
        });
        Ok(entered.await?)
    }

    /// Notes that apps have left the files of a Doorbell.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn leave(&self, apps: &[AppId], doorbell: &str) -> Result<(), RegistryError> {
        // Of one that was never noted, too: it may have been here before anybody noted that.
        const LEAVE: &str = "
            INSERT INTO file_app (app, doorbell, incarnation, is_there, seen_at)
            VALUES ($1, $2, 0, 0, $3)
            ON CONFLICT (app, doorbell) DO UPDATE SET is_there = 0, seen_at = excluded.seen_at";
        let (doorbell, now) = (Value::Text(doorbell), Value::Number(stored(now_ms())));
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            for app in apps {
                transaction.rows(LEAVE, &[Value::Text(app.as_str()), doorbell, now]).await?;
            }
            Ok(())
        })
        .await
    }

    /// Notes that a Doorbell is there, with the apps that it has.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn note_presence(&self, doorbell: &str) -> Result<(), RegistryError> {
        const NOTE: &str = "UPDATE file_app SET seen_at = $2 WHERE doorbell = $1 AND is_there = 1";
        let values = [Value::Text(doorbell), Value::Number(stored(now_ms()))];
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(NOTE, &values).await.map(drop)
        })
        .await
    }
}

impl Stay {
    fn of(row: &Row) -> Result<Self, RegistryError> {
        Ok(Self {
            doorbell: row.column(0)?,
            incarnation: row.number(1)?,
            is_there: row.number(2)? == 1,
            seen_at: row.number(3)?,
        })
    }
}

async fn enter(
    transaction: &mut Transaction,
    Entrance { app, is_other }: &Entrance,
    doorbell: &str,
) -> Result<u64, RegistryError> {
    const FIND: &str =
        "SELECT doorbell, incarnation, is_there, seen_at FROM file_app WHERE app = $1";
    const ENTER: &str = "
        INSERT INTO file_app (app, doorbell, incarnation, is_there, seen_at)
        VALUES ($1, $2, $3, 1, $4)
        ON CONFLICT (app, doorbell) DO UPDATE SET
            incarnation = excluded.incarnation, is_there = 1, seen_at = excluded.seen_at";
    let (key, now) = (Value::Text(app.as_str()), now_ms());
    let rows = transaction.rows(FIND, &[key]).await?;
    let stays = rows.iter().map(Stay::of).collect::<Result<Vec<_>, _>>()?;
    let counts = |stay: &&Stay| match stay.doorbell == doorbell {
        true => stay.is_there && !is_other,
        false => stay.is_there && now.saturating_sub(stay.seen_at) < MOST_UNSEEN,
    };
    let incarnation = match stays.iter().find(counts) {
        Some(stay) => stay.incarnation,
        // The first of its id, or one whose database was made before this was noted.
        None if stays.is_empty() && !is_other => 0,
        None => {
            // What it is up to date with was of the earlier one.
            upgrade::forget(transaction, &Owner::File(app.clone())).await?;
            advance(transaction, 1).await?.number()
        }
    };
    let number = |number| Value::Number(stored(number));
    let values = [key, Value::Text(doorbell), number(incarnation), number(now)];
    transaction.rows(ENTER, &values).await?;
    Ok(incarnation)
}
