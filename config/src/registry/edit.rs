//! Changes of apps: all of one call, or none, each with what its writer expected to find.

use serde_json::{Map, Value as Json};

use super::{
    Registry, advance,
    audit::{self, Act, Actor},
    error::WriteError,
    expect::Expect,
    now_ms,
    owner::Owner,
    row::Revision,
    secret, storable,
    store::{Transaction, Value, stored},
    upgrade,
};
use crate::name::AppId;

/// Most bytes that a definition has as JSON.
pub const MOST_DEFINITION_BYTES: usize = 1024 * 1024;

/// A change of an app.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Which app.
    pub app: AppId,
    /// What the writer knows of it.
    pub expect: Expect,
    /// What becomes of it.
    pub what: What,
    /// Whether it is an app of files, of which secrets and a version are here, and nothing else.
    pub is_of_file: bool,
}

/// What becomes of an app. A new revision has the app whose definition or id changes; secrets leave it as it is,
/// whatever somebody has read of it.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It has this definition.
    Put(Map<String, Json>),
    /// It has this definition, which says what the one before said in other words; nobody has changed it.
    Reword(Map<String, Json>),
    /// It is gone, and its secrets with it. If there is none, nothing happens.
    Delete,
    /// It has another id, at which there is no app; its secrets come along.
    Rename(AppId),
    /// It has this secret, sealed.
    PutSecret {
        /// The secret's name among those of the app.
        name: String,
        /// What nobody here can open.
        sealed: Vec<u8>,
    },
    /// It has this secret, sealed, unless it has one of that name.
    KeepSecret {
        /// The secret's name among those of the app.
        name: String,
        /// What nobody here can open.
        sealed: Vec<u8>,
    },
    /// This secret is sealed otherwise, if it still is as it was.
    Reseal {
        /// The secret's name among those of the app.
        name: String,
        /// As it was.
        was: Vec<u8>,
        /// As it is to be.
        sealed: Vec<u8>,
    },
    /// Its data is up to date with this version of its program.
    Reach(String),
    /// It has no such secret.
    RemoveSecret {
        /// The secret's name.
        name: String,
    },
}

/// An edit that can be stored.
struct Ready<'e> {
    edit: &'e Edit,
    /// The definition as text, where there is one.
    text: Option<String>,
}

impl Registry {
    /// Makes all edits, in their order, or none. What is returned is the revision of the last one, and durable.
    /// Each edit leaves an entry in the audit log, in the same transaction.
    ///
    /// Who drops this before its end does not know whether the edits were made.
    ///
    /// # Errors
    /// When an app is not as expected, when something cannot be stored, or when the registry fails.
    pub async fn write(&self, edits: &[Edit], by: &Actor) -> Result<Revision, WriteError> {
        self.write_if(async |_, _| Ok(()), edits, by).await
    }

    /// The same, unless an app has changed since this revision: who has looked at all apps, and seen that the edits are
    /// in nobody's way, is to look again then. What is no change of an app does not count.
    ///
    /// # Errors
    /// [`WriteError::Changed`], and those of [`Self::write`].
    pub async fn write_unless_changed(
        &self,
        since: Revision,
        edits: &[Edit],
        by: &Actor,
    ) -> Result<Revision, WriteError> {
        self.write_if(async |transaction, now| unchanged(transaction, since, now).await, edits, by)
            .await
    }

    async fn write_if(
        &self,
        may_be: impl AsyncFnOnce(&mut Transaction, Revision) -> Result<(), WriteError>,
        edits: &[Edit],
        by: &Actor,
    ) -> Result<Revision, WriteError> {
        let ready = edits.iter().map(Ready::check).collect::<Result<Vec<_>, _>>()?;
        if ready.is_empty() {
            return Ok(self.revision().await?);
        }
        self.transact(async |transaction| {
            let count = ready.len() as u64;
            let last = advance(transaction, count).await?;
            may_be(transaction, Revision::new(last.number() - count)).await?;
            apply_all(transaction, &ready, last, by).await?;
            Ok(last)
        })
        .await
    }
}

/// Whether all apps are as they were at a revision. A registry that has not reached it was set back.
async fn unchanged(
    transaction: &mut Transaction,
    since: Revision,
    now: Revision,
) -> Result<(), WriteError> {
    // Tombstones up to `trimmed` may be gone.
    const LATER: &str = "
        SELECT 1 FROM registry WHERE trimmed > $1 OR EXISTS (SELECT 1 FROM app WHERE revision > $1)";
    let later = transaction.rows(LATER, &[Value::Number(since.stored())]).await?;
    if now >= since && later.is_empty() { Ok(()) } else { Err(WriteError::Changed) }
}

async fn apply_all(
    transaction: &mut Transaction,
    edits: &[Ready<'_>],
    last: Revision,
    by: &Actor,
) -> Result<(), WriteError> {
    let at = now_ms();
    for (before_last, ready) in (0..edits.len() as u64).rev().zip(edits) {
        let revision = Revision::new(last.number() - before_last);
        if ready.apply(transaction, revision, at).await? {
            audit::note(transaction, &ready.edit.act(), by, Some(revision), at).await?;
        }
    }
    Ok(transaction.tell().await?)
}

impl Edit {
    /// Whose secrets and version it is about.
    fn owner(&self) -> Owner {
        let app = self.app.clone();
        if self.is_of_file { Owner::File(app) } else { Owner::Registry(app) }
    }

    /// What the audit log says of it.
    fn act(&self) -> Act {
        let (what, subject) = match &self.what {
            What::Put(_) => ("put app", None),
            What::Reword(_) => ("seal app", None),
            What::Delete => ("delete app", None),
            What::Rename(to) => ("rename app", Some(to.to_string())),
            What::PutSecret { name, .. } => ("put secret", Some(name.clone())),
            What::KeepSecret { name, .. } => ("generate secret", Some(name.clone())),
            What::Reseal { name, .. } => ("reseal secret", Some(name.clone())),
            What::Reach(version) => ("upgrade app", Some(version.clone())),
            What::RemoveSecret { name } => ("remove secret", Some(name.clone())),
        };
        Act { what: what.into(), app: Some(self.app.clone()), subject }
    }
}

impl<'e> Ready<'e> {
    /// Sees that an edit can be stored, before the database is asked for anything.
    fn check(edit: &'e Edit) -> Result<Self, WriteError> {
        whole_app(&edit.app)?;
        let mut text = None;
        match &edit.what {
            What::Put(definition) | What::Reword(definition) => {
                text = Some(definition_text(&edit.app, definition)?);
            }
            What::Rename(to) => whole_app(to)?,
            What::PutSecret { name, sealed }
            | What::KeepSecret { name, sealed }
            | What::Reseal { name, sealed, .. } => {
                secret::check(name, Some(sealed))?;
            }
            What::Reach(version) => storable("version", version)?,
            What::RemoveSecret { name } => secret::check(name, None)?,
            What::Delete => {}
        }
        Ok(Self { edit, text })
    }

    /// Makes the edit. Says whether there was anything to do.
    async fn apply(
        &self,
        transaction: &mut Transaction,
        revision: Revision,
        at: u64,
    ) -> Result<bool, WriteError> {
        let app = &self.edit.app;
        let found = self.edit.expect.check(transaction, app).await?;
        let must_exist = matches!(self.edit.what, What::Rename(_) | What::Reword(_));
        if found.is_none() && must_exist {
            return Err(WriteError::Conflict { app: app.clone(), found: None });
        }
        let is_ending = found.as_ref().is_some_and(|found| found.ending_since.is_some());
        if is_ending && matches!(self.edit.what, What::Put(_) | What::Rename(_)) {
            return Err(WriteError::Ending(app.clone()));
        }
        let owner = self.edit.owner();
        let change = Change { app, owner: &owner, revision, at };
        match &self.edit.what {
            What::Put(_) if found.is_none() => {
                Change::forget_earlier(transaction, &owner).await?;
                change.put(transaction, self.text.as_deref().unwrap_or("{}")).await?;
            }
            What::Put(_) => change.put(transaction, self.text.as_deref().unwrap_or("{}")).await?,
            What::Reword(_) => {
                change.reword(transaction, self.text.as_deref().unwrap_or("{}")).await?;
            }
            What::Delete if found.is_none() => return Ok(false),
            What::Delete => change.delete(transaction).await?,
            What::Rename(to) => change.rename(transaction, to).await?,
            What::PutSecret { name, sealed } => {
                secret::put(transaction, &owner, name, sealed, at).await?;
            }
            What::KeepSecret { name, sealed } => {
                if !secret::keep(transaction, &owner, name, sealed, at).await? {
                    return Ok(false);
                }
            }
            What::Reseal { name, was, sealed } => {
                if !secret::reseal(transaction, &owner, name, was, sealed).await? {
                    return Ok(false);
                }
            }
            What::Reach(version) => upgrade::reach(transaction, &owner, version).await?,
            What::RemoveSecret { name } => {
                if !secret::remove(transaction, &owner, name).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// A change that is as expected.
struct Change<'c> {
    app: &'c AppId,
    owner: &'c Owner,
    revision: Revision,
    at: u64,
}

impl Change<'_> {
    /// Whoever is there keeps its place among the apps; who comes after a tombstone gets a new one.
    async fn put(&self, transaction: &mut Transaction, text: &str) -> Result<(), WriteError> {
        const PUT: &str = "
            INSERT INTO app (id, revision, created, definition, created_at, changed_at)
            VALUES ($1, $2, $2, $3, $4, $4)
            ON CONFLICT (id) DO UPDATE SET
                revision = excluded.revision,
                definition = excluded.definition,
                changed_at = excluded.changed_at,
                created = CASE WHEN app.definition IS NULL
                    THEN excluded.created ELSE app.created END,
                created_at = CASE WHEN app.definition IS NULL
                    THEN excluded.created_at ELSE app.created_at END";
        let [app, revision, at] = self.values();
        transaction.rows(PUT, &[app, revision, Value::Text(text), at]).await?;
        Ok(upgrade::forgive(transaction, self.owner).await?)
    }

    /// Who has changed it last, and what came of its upgrade, is as it was.
    async fn reword(&self, transaction: &mut Transaction, text: &str) -> Result<(), WriteError> {
        const REWORD: &str = "UPDATE app SET definition = $3, revision = $2 WHERE id = $1";
        let [app, revision, _] = self.values();
        transaction.rows(REWORD, &[app, revision, Value::Text(text)]).await?;
        Ok(())
    }

    /// Leaves a tombstone, of which other Doorbells learn.
    async fn delete(&self, transaction: &mut Transaction) -> Result<(), WriteError> {
        Self::forget_earlier(transaction, self.owner).await?;
        self.bury(transaction).await
    }

    /// What an app of this id had is nobody else's.
    async fn forget_earlier(
        transaction: &mut Transaction,
        owner: &Owner,
    ) -> Result<(), WriteError> {
        secret::remove_all(transaction, owner).await?;
        Ok(upgrade::forget(transaction, owner).await?)
    }

    async fn bury(&self, transaction: &mut Transaction) -> Result<(), WriteError> {
        const BURY: &str =
            "UPDATE app SET definition = NULL, revision = $2, changed_at = $3, ending_since = NULL
            WHERE id = $1";
        transaction.rows(BURY, &self.values()).await?;
        Ok(())
    }

    async fn rename(&self, transaction: &mut Transaction, to: &AppId) -> Result<(), WriteError> {
        const COPY: &str = "
            INSERT INTO app (id, revision, created, definition, created_at, changed_at)
            SELECT $4, $2, created, definition, created_at, $3 FROM app WHERE id = $1
            ON CONFLICT (id) DO UPDATE SET
                revision = excluded.revision,
                created = excluded.created,
                definition = excluded.definition,
                created_at = excluded.created_at,
                changed_at = excluded.changed_at";
        Expect::Absent.check(transaction, to).await?;
        let [app, revision, at] = self.values();
        transaction.rows(COPY, &[app, revision, at, Value::Text(to.as_str())]).await?;
        let heir = Owner::Registry(to.clone());
        Self::forget_earlier(transaction, &heir).await?;
        secret::move_all(transaction, self.owner, &heir).await?;
        upgrade::rename(transaction, self.owner, &heir).await?;
        self.bury(transaction).await
    }

    fn values(&self) -> [Value<'_>; 3] {
        [
            Value::Text(self.app.as_str()),
            Value::Number(self.revision.stored()),
            Value::Number(stored(self.at)),
        ]
    }
}

/// A definition as it is stored: as text, for PostgreSQL's own JSON has an order of its own, and no NUL.
fn definition_text(app: &AppId, definition: &Map<String, Json>) -> Result<String, WriteError> {
    let refused = |why| WriteError::Refused { what: format!("app \"{app}\""), why };
    let text = serde_json::to_string(definition).map_err(|error| refused(error.to_string()))?;
    if text.len() > MOST_DEFINITION_BYTES {
        let (has, most) = (text.len(), MOST_DEFINITION_BYTES);
        return Err(refused(format!("its definition has {has} bytes, the most is {most}")));
    }
    // What is nested too deeply can be written, but not read.
    serde_json::from_str::<Map<String, Json>>(&text).map_err(|error| refused(error.to_string()))?;
    Ok(text)
}

/// Replicas are part of an app's definition.
fn whole_app(id: &AppId) -> Result<(), WriteError> {
    if id.is_further_replica() {
        let why = "a replica has no definition of its own".into();
        return Err(WriteError::Refused { what: format!("app \"{id}\""), why });
    }
    Ok(())
}
