//! Apps as they are stored, and what changed since a revision.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Registry, advance,
    error::{RegistryError, printable},
    migration, now_ms,
    store::{self, Row},
};
use crate::name::AppId;

/// A number that rises with every change of the registry. The revision of an app's last change is what its
/// ETag is made of.
///
/// Invariant: revisions are given out under a lock that is held until the change is visible, so who has seen
/// one has seen all before it (`a_reader_beside_many_writers_misses_no_change`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// Before the first change.
    pub const ZERO: Self = Self(0);

    /// The revision with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// As the databases have it.
    pub(super) fn stored(self) -> i64 {
        store::stored(self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An app as it is stored. Its definition is what somebody wrote: an object of JSON, not yet validated.
#[derive(Clone, Debug, PartialEq)]
pub struct AppRow {
    /// Its id.
    pub id: AppId,
    /// The revision of its last change.
    pub revision: Revision,
    /// The revision in which it came to be; the order among apps. It stays when the app is renamed.
    pub created: Revision,
    /// What was written.
    pub definition: Map<String, Value>,
    /// When it came to be, in milliseconds since 1970.
    pub created_at: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub changed_at: u64,
}

/// What changed since a revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Where the registry is now: what to ask with next.
    pub now: Revision,
    /// Whether `put` holds all apps there are, so that any other is gone. So it is for a question since
    /// zero, for one since a revision that the registry has not reached: it was restored from a backup; and for
    /// one so long ago that not all is known of what is gone since.
    pub whole: bool,
    /// Apps that are new or changed, in the order of their creation.
    pub put: Vec<AppRow>,
    /// Apps that are gone.
    pub gone: Vec<AppId>,
    /// Apps that are stored in a form that Doorbell did not write. They keep what they had; the others are
    /// not to suffer from them.
    pub unreadable: Vec<Unreadable>,
}

/// An app that somebody changed past Doorbell, into something that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What stands in the place of its id, without control characters.
    pub id: String,
    /// What is wrong.
    pub why: String,
}

// One statement, so one snapshot: the revision is that of the apps beside it. Without an app there is still
// the row with the revision.
const CHANGES: &str = "
    SELECT registry.revision, registry.version, app.id, app.revision, app.created, app.definition,
           app.created_at, app.changed_at, registry.trimmed
    FROM registry LEFT JOIN app ON app.revision > $1
    ORDER BY app.created";
const ALL: &str = "
    SELECT registry.revision, registry.version, app.id, app.revision, app.created, app.definition,
           app.created_at, app.changed_at
    FROM registry LEFT JOIN app ON app.definition IS NOT NULL
    ORDER BY app.created";
const ONE: &str = "
    SELECT registry.revision, registry.version, app.id, app.revision, app.created, app.definition,
           app.created_at, app.changed_at
    FROM registry LEFT JOIN app ON app.definition IS NOT NULL AND app.id = $1";
const NOW: &str = "SELECT revision, version FROM registry";

impl Registry {
    /// Which registry this is among all there are: the digits of a UUID, the same as long as it lives.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn installation(&self) -> Result<String, RegistryError> {
        const WHICH: &str = "SELECT installation FROM registry";
        let rows = self.store.rows(WHICH, &[]).await?;
        rows.first().map_or_else(|| Err(no_revision()), |row| row.column(0))
    }

    /// What changed since a revision; since [`Revision::ZERO`], all apps.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn changes_since(&self, since: Revision) -> Result<Changes, RegistryError> {
        if since == Revision::ZERO {
            return changes(&self.store.rows(ALL, &[]).await?, true);
        }
        let since_stored = store::Value::Number(since.stored());
        let rows = self.store.rows(CHANGES, &[since_stored]).await?;
        let found = changes(&rows, false)?;
        let trimmed = rows.first().map_or(Ok(0), |row| row.number(8))?;
        if found.now < since || since.number() < trimmed {
            return changes(&self.store.rows(ALL, &[]).await?, true);
        }
        Ok(found)
    }

    /// One app.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn app(&self, id: &AppId) -> Result<Option<AppRow>, RegistryError> {
        let rows = self.store.rows(ONE, &[store::Value::Text(id.as_str())]).await?;
        let mut found = changes(&rows, false)?;
        match found.unreadable.pop() {
            Some(bad) => Err(RegistryError::Corrupt(format!("app \"{}\": {}", bad.id, bad.why))),
            None => Ok(found.put.pop()),
        }
    }

    /// Forgets apps that are gone for longer than this; tells how many.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn trim_gone(&self, longer_than: Duration) -> Result<u64, RegistryError> {
        const TRIM: &str = "
            DELETE FROM app WHERE definition IS NULL AND changed_at < $1 RETURNING revision";
        const NOTE: &str = "UPDATE registry SET trimmed = $1 WHERE trimmed < $1";
        let longer_than = u64::try_from(longer_than.as_millis()).unwrap_or(u64::MAX);
        let before = store::Value::Number(store::stored(now_ms().saturating_sub(longer_than)));
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            let gone = transaction.rows(TRIM, &[before]).await?;
            let revisions = gone.iter().map(|row| row.number(0));
            let last = revisions.collect::<Result<Vec<_>, _>>()?.into_iter().max();
            if let Some(last) = last {
                let last = store::Value::Number(store::stored(last));
                transaction.rows(NOTE, &[last]).await?;
            }
            Ok(gone.len() as u64)
        })
        .await
    }

    /// Where the registry is now.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn revision(&self) -> Result<Revision, RegistryError> {
        self.store.rows(NOW, &[]).await?.first().map_or_else(|| Err(no_revision()), now)
    }
}

fn changes(rows: &[Row], whole: bool) -> Result<Changes, RegistryError> {
    let first = rows.first().ok_or_else(no_revision)?;
    let mut changes = Changes { now: now(first)?, whole, ..Changes::default() };
    for row in rows {
        let Some(id) = row.column::<Option<String>>(2)? else { continue };
        match app(row, &id) {
            Ok((_, Some(app))) => changes.put.push(app),
            Ok((id, None)) => changes.gone.push(id),
            Err(why) => changes.unreadable.push(Unreadable { id: printable(&id), why }),
        }
    }
    Ok(changes)
}

/// The app of a row; without one where it is a tombstone.
fn app(row: &Row, id: &str) -> Result<(AppId, Option<AppRow>), String> {
    let id = AppId::parse(id).map_err(|error| printable(&error.to_string()))?;
    let failed = |error: RegistryError| error.to_string();
    let Some(text) = row.column::<Option<String>>(5).map_err(failed)? else {
        return Ok((id, None));
    };
    let definition = serde_json::from_str(&text)
        .map_err(|error| format!("its definition is no object of JSON: {error}"))?;
    let number = |column| row.number(column).map_err(failed);
    let app = AppRow {
        id: id.clone(),
        revision: Revision(number(3)?),
        created: Revision(number(4)?),
        definition,
        created_at: number(6)?,
        changed_at: number(7)?,
    };
    Ok((id, Some(app)))
}

/// The revision in front of a row, of a registry that is not too new for us.
pub(super) fn now(row: &Row) -> Result<Revision, RegistryError> {
    migration::known(row.number(1)?)?;
    Ok(Revision(row.number(0)?))
}

pub(super) fn no_revision() -> RegistryError {
    RegistryError::Corrupt("its revision is gone".into())
}
