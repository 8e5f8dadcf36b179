//! Secrets of apps: bytes that somebody else has sealed. They are changed by an [`Edit`](super::Edit), so that
//! an app and its secrets change together, and go with their app.

use std::fmt;

use super::{
    Registry,
    error::{RegistryError, WriteError},
    owner::Owner,
    storable,
    store::{Transaction, Value, stored},
};

/// Most bytes that a sealed secret has.
pub const MOST_SECRET_BYTES: usize = 64 * 1024;

/// A secret as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Its name among those of its app.
    pub name: String,
    /// What only who sealed it can open.
    pub sealed: Vec<u8>,
    /// When it was put there, in milliseconds since 1970.
    pub changed_at: u64,
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedSecret({:?}, {} bytes)", self.name, self.sealed.len())
    }
}

impl Registry {
    /// All that have secrets, apps that are gone from files too.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn owners_of_secrets(&self) -> Result<Vec<Owner>, RegistryError> {
        let rows = self.store.rows("SELECT DISTINCT app FROM secret", &[]).await?;
        let keys = rows.iter().map(|row| row.column::<String>(0));
        keys.filter_map(|key| key.map(|key| Owner::of_key(&key)).transpose()).collect()
    }

    /// The secrets of an app, by name. An app that is gone has none.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn secrets(&self, owner: &Owner) -> Result<Vec<SealedSecret>, RegistryError> {
        const LIST: &str = "SELECT name, sealed, changed_at FROM secret WHERE app = $1";
        let rows = self.store.rows(LIST, &[Value::Text(&owner.key())]).await?;
        let secrets = rows.iter().map(|row| {
            Ok(SealedSecret {
                name: row.column(0)?,
                sealed: row.column(1)?,
                changed_at: row.number(2)?,
            })
        });
        let mut secrets = secrets.collect::<Result<Vec<_>, RegistryError>>()?;
        // Not by the database, whose order of texts is that of a language.
        secrets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(secrets)
    }
}

/// Sees that a secret can be stored.
pub(super) fn check(name: &str, sealed: Option<&[u8]>) -> Result<(), WriteError> {
    storable("secret", name)?;
    if sealed.is_some_and(|sealed| sealed.len() > MOST_SECRET_BYTES) {
        let why = format!("it has more than {MOST_SECRET_BYTES} bytes");
        return Err(WriteError::Refused { what: format!("secret {name:?}"), why });
    }
    Ok(())
}

pub(super) async fn put(
    transaction: &mut Transaction,
    owner: &Owner,
    name: &str,
    sealed: &[u8],
    at: u64,
) -> Result<(), RegistryError> {
    const PUT: &str = "
        INSERT INTO secret (app, name, sealed, changed_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (app, name) DO UPDATE SET
            sealed = excluded.sealed,
            changed_at = excluded.changed_at";
    let owner = owner.key();
    let key = [Value::Text(&owner), Value::Text(name)];
    let values = [key[0], key[1], Value::Bytes(sealed), Value::Number(stored(at))];
    transaction.rows(PUT, &values).await.map(drop)
}

/// Puts a secret where there is none; says whether it was put.
pub(super) async fn keep(
    transaction: &mut Transaction,
    owner: &Owner,
    name: &str,
    sealed: &[u8],
    at: u64,
) -> Result<bool, RegistryError> {
    const KEEP: &str = "
        INSERT INTO secret (app, name, sealed, changed_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (app, name) DO NOTHING RETURNING name";
    let owner = owner.key();
    let key = [Value::Text(&owner), Value::Text(name)];
    let values = [key[0], key[1], Value::Bytes(sealed), Value::Number(stored(at))];
    Ok(!transaction.rows(KEEP, &values).await?.is_empty())
}

/// Puts one sealed text in the place of another; says whether that was there.
pub(super) async fn reseal(
    transaction: &mut Transaction,
    owner: &Owner,
    name: &str,
    was: &[u8],
    sealed: &[u8],
) -> Result<bool, RegistryError> {
    const RESEAL: &str = "
        UPDATE secret SET sealed = $4 WHERE app = $1 AND name = $2 AND sealed = $3 RETURNING name";
    let owner = owner.key();
    let key = [Value::Text(&owner), Value::Text(name)];
    let values = [key[0], key[1], Value::Bytes(was), Value::Bytes(sealed)];
    Ok(!transaction.rows(RESEAL, &values).await?.is_empty())
}

/// Whether there was such a secret.
pub(super) async fn remove(
    transaction: &mut Transaction,
    owner: &Owner,
    name: &str,
) -> Result<bool, RegistryError> {
    const REMOVE: &str = "DELETE FROM secret WHERE app = $1 AND name = $2 RETURNING name";
    let owner = owner.key();
    let rows = transaction.rows(REMOVE, &[Value::Text(&owner), Value::Text(name)]).await?;
    Ok(!rows.is_empty())
}

pub(super) async fn remove_all(
    transaction: &mut Transaction,
    owner: &Owner,
) -> Result<(), RegistryError> {
    let owner = owner.key();
    transaction.rows("DELETE FROM secret WHERE app = $1", &[Value::Text(&owner)]).await.map(drop)
}

pub(super) async fn move_all(
    transaction: &mut Transaction,
    from: &Owner,
    to: &Owner,
) -> Result<(), RegistryError> {
    let (from, to) = (from.key(), to.key());
    let values = [Value::Text(&from), Value::Text(&to)];
    transaction.rows("UPDATE secret SET app = $2 WHERE app = $1", &values).await.map(drop)
}
