//! Addresses of databases in definitions. One that tells a password stands sealed where it is stored, opened where
//! it is used, and without it where it is shown.

use base64::{Engine, engine::general_purpose::STANDARD};
use doorbell_config::spec::{DatabaseUrl, HIDDEN, SEALED, Secret};
use serde_json::{Map, Value};

use crate::vault::{Vault, VaultError};

/// What the addresses are sealed as.
const NAME: &str = "=address";
/// The table that has them.
const TABLE: &str = "database";

/// The keys of an app.
type Keys = Map<String, Value>;

/// How the addresses of a definition stand there; of several, the one that stands worst, which is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There is none that tells a secret.
    Open,
    /// Sealed.
    Sealed,
    /// Sealed, by an older key than the newest.
    Old,
    /// One tells a secret in the clear.
    Clear,
}

/// Why addresses cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The keys are to blame.
    #[error("the address of its database: {0}")]
    Vault(#[from] VaultError),
    /// It is no text that was sealed.
    #[error("the address of its database is damaged")]
    Damaged,
    /// There are none.
    #[error("the address of its database: there are no keys to seal it with: see doorbell's log")]
    NoVault,
}

/// The same keys with each address that tells a secret sealed; `None` if there is none.
///
/// # Errors
/// Why it cannot be.
pub fn sealed(keys: &Keys, vault: Option<&Vault>) -> Result<Option<Keys>, AddressError> {
    if !addresses(keys).any(is_secret) {
        return Ok(None);
    }
    let vault = vault.ok_or(AddressError::NoVault)?;
    let mut keys = keys.clone();
    for address in addresses_mut(&mut keys).filter(|address| is_secret(address)) {
        let text = Secret::new(std::mem::take(address));
        *address = format!("{SEALED}{}", STANDARD.encode(vault.seal(NAME, &text)?));
    }
    Ok(Some(keys))
}

/// Opens what stands sealed; tells how it stood there.
///
/// # Errors
/// Why it cannot be opened: then it stays as it is.
pub fn open(keys: &mut Keys, vault: Option<&Vault>) -> Result<Standing, AddressError> {
    let (mut standing, mut opened) = (Standing::Open, Vec::new());
    for address in addresses(keys) {
        let Some(digits) = address.strip_prefix(SEALED) else {
            if is_secret(address) {
                standing = Standing::Clear;
            }
            opened.push(address.to_owned());
            continue;
        };
        let bytes = STANDARD.decode(digits).map_err(|_| AddressError::Damaged)?;
        let vault = vault.ok_or(AddressError::NoVault)?;
        opened.push(vault.open_sealed(NAME, &bytes)?.reveal().to_owned());
        let now = if vault.is_newest(&bytes) { Standing::Sealed } else { Standing::Old };
        standing = standing.max(now);
    }
    for (address, opened) in addresses_mut(keys).zip(opened) {
        *address = opened;
    }
    Ok(standing)
}

/// Puts an address that anybody may know in the place of each that is sealed, for one who only looks whether all
/// else is well.
pub fn stand_in(keys: &mut Keys) -> Standing {
    let mut standing = Standing::Open;
    for address in addresses_mut(keys).filter(|address| address.starts_with(SEALED)) {
        "postgres://localhost/sealed".clone_into(address);
        standing = Standing::Sealed;
    }
    standing
}

/// Takes the secrets out of addresses that are to be shown.
pub fn hide(keys: &mut Keys) {
    addresses_mut(keys).for_each(|address| *address = hidden(address));
}

/// Puts addresses that were shown, and come back as they were shown, in the place of what was hidden. Tells whether
/// there is one left whose secret nobody said.
#[must_use]
pub fn restore(keys: &mut Keys, before: Option<&Keys>) -> bool {
    let known: Vec<_> = before.into_iter().flat_map(addresses).collect();
    let mut is_left = false;
    for address in addresses_mut(keys).filter(|address| address.contains(HIDDEN)) {
        match known.iter().find(|known| hidden(known) == *address) {
            Some(known) => *address = (*known).to_owned(),
            None => is_left = true,
        }
    }
    is_left
}

fn addresses(keys: &Keys) -> impl Iterator<Item = &str> {
    let table = keys.get(TABLE).and_then(Value::as_object);
    table.into_iter().flat_map(Map::values).filter_map(Value::as_str)
}

fn addresses_mut(keys: &mut Keys) -> impl Iterator<Item = &mut String> {
    let table = keys.get_mut(TABLE).and_then(Value::as_object_mut);
    let texts = |value| match value {
        &mut Value::String(ref mut text) => Some(text),
        _ => None,
    };
    table.into_iter().flat_map(Map::values_mut).filter_map(texts)
}

/// What is no address may be one that was misspelt.
fn is_secret(address: &str) -> bool {
    !address.starts_with(SEALED)
        && address.parse::<DatabaseUrl>().map_or(true, |url| url.is_secret())
}

fn hidden(address: &str) -> String {
    address.parse::<DatabaseUrl>().map_or_else(|_| HIDDEN.to_owned(), |url| url.hidden())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(address: &str) -> Keys {
        let keys = json!({"name": "x", "database": {"new_database": address}});
        keys.as_object().unwrap().clone()
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        (folder, vault)
    }

    const SECRET: &str = "postgres://me:hunter2@db.test/";

    #[test]
    fn what_is_sealed_is_opened_and_tells_nothing_meanwhile() {
        let (_folder, vault) = vault();
        let stored = sealed(&keys(SECRET), Some(&vault)).unwrap().unwrap();
        let text = Value::Object(stored.clone()).to_string();
        assert!(!text.contains("hunter2") && !text.contains("db.test"), "{text}");
        assert_eq!(sealed(&stored, Some(&vault)).unwrap(), None, "once is enough");
        let mut opened = stored.clone();
        assert_eq!(open(&mut opened, Some(&vault)).unwrap(), Standing::Sealed);
        assert_eq!(opened, keys(SECRET));
        let newer = vault.with_new_key().unwrap();
        assert_eq!(open(&mut { stored }, Some(&newer)).unwrap(), Standing::Old);
        let mut clear = keys(SECRET);
        assert_eq!(open(&mut clear, Some(&vault)).unwrap(), Standing::Clear);
        assert_eq!(clear, keys(SECRET));
    }

    #[test]
    fn what_tells_no_secret_needs_no_key() {
        for plain in ["postgres://me@db.test/", "sqlite:/srv"] {
            assert_eq!(sealed(&keys(plain), None).unwrap(), None);
            assert_eq!(open(&mut keys(plain), None).unwrap(), Standing::Open);
        }
        assert_eq!(sealed(&Keys::new(), None).unwrap(), None);
        assert!(matches!(sealed(&keys(SECRET), None), Err(AddressError::NoVault)));
    }

    #[test]
    fn what_cannot_be_opened_stays_as_it_is() {
        let ((_folder, ours), (_other_folder, other)) = (vault(), vault());
        let stored = sealed(&keys(SECRET), Some(&ours)).unwrap().unwrap();
        for vault in [None, Some(&other)] {
            let mut read = stored.clone();
            assert!(open(&mut read, vault).is_err());
            assert_eq!(read, stored);
        }
        let mut looked_at = stored;
        assert_eq!(stand_in(&mut looked_at), Standing::Sealed);
        assert_eq!(open(&mut looked_at, None).unwrap(), Standing::Open);
        for damaged in ["sealed:", "sealed:AAAA", "sealed:*"] {
            assert!(open(&mut keys(damaged), Some(&ours)).is_err(), "{damaged}");
        }
    }

    #[test]
    fn what_was_shown_comes_back_as_what_it_was() {
        let mut shown = keys(SECRET);
        hide(&mut shown);
        assert_eq!(shown["database"]["new_database"], "postgres://me:********@db.test/");
        let mut back = shown.clone();
        assert!(!restore(&mut back, Some(&keys(SECRET))));
        assert_eq!(back, keys(SECRET));
        // The password is for its own server, and for whom it was given to.
        let mut elsewhere = keys("postgres://me:********@evil.test/");
        assert!(restore(&mut elsewhere, Some(&keys(SECRET))));
        assert!(restore(&mut shown, None), "there is nobody who knows it");
        let mut misspelt = keys("postgres//me:hunter2");
        hide(&mut misspelt);
        assert_eq!(misspelt["database"]["new_database"], HIDDEN);
    }
}
