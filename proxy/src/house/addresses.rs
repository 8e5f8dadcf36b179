//! Addresses of databases of the registry's apps: sealed on their way into it, opened on their way out.
//!
//! An earlier Doorbell wrote them in the clear. Where one is read so, it is sealed as soon as the registry takes it.

use std::{borrow::Cow, sync::atomic::Ordering};

use doorbell_config::registry::{
    Actor, Changes, Edit, Expect, Registry, Revision, What, WriteError,
};

use super::{EditError, House, SecretError};
use crate::{
    ledger::{
        List,
        address::{self, AddressError, Standing},
    },
    vault::VaultError,
};

/// Which addresses are sealed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that stand in the clear.
    Clear,
    /// Those that the newest key has not sealed.
    AllButNewest,
}

impl House {
    /// Opens the addresses in what was read of the registry. One that cannot be opened stays as it is: its app is
    /// told to be wrong, and why.
    pub async fn open_addresses(&self, changes: &mut Changes) {
        let mut vault = self.vault.load_full();
        let mut is_read_again = false;
        for row in &mut changes.put {
            let mut opened = address::open(&mut row.definition, vault.as_deref());
            // Another Doorbell may seal with a key that was copied here since.
            if matches!(opened, Err(AddressError::Vault(VaultError::NoKey { .. })))
                && !is_read_again
            {
                is_read_again = true;
                vault = self.reopen_vault().await.or(vault);
                opened = address::open(&mut row.definition, vault.as_deref());
            }
            match opened {
                Ok(Standing::Clear) => self.has_clear_addresses.store(true, Ordering::Relaxed),
                Ok(Standing::Open | Standing::Old | Standing::Sealed) => {}
                Err(error) => tracing::error!(app = %row.id, "{error}"),
            }
        }
    }

    /// Edits as they are stored.
    pub(super) fn stored<'e>(&self, edits: &'e [Edit]) -> Result<Cow<'e, [Edit]>, EditError> {
        let vault = self.vault.load();
        let mut stored = Cow::Borrowed(edits);
        for (at, edit) in edits.iter().enumerate() {
            let What::Put(keys) = &edit.what else { continue };
            if let Some(sealed) = address::sealed(keys, vault.as_deref())? {
                stored.to_mut()[at].what = What::Put(sealed);
            }
        }
        Ok(stored)
    }

    /// Seals what was read in the clear, if there was some.
    pub(super) async fn seal_clear_addresses(&self, registry: &Registry) {
        if !self.has_clear_addresses.swap(false, Ordering::Relaxed) {
            return;
        }
        let by = Actor { name: "doorbell".into(), from: "start".into() };
        let sealed = self.seal_addresses(registry, Which::Clear, &by).await;
        let is_gone = match registry.forget_overwritten().await {
            Ok(is_gone) => is_gone,
            Err(error) => {
                tracing::debug!(%error, "what was overwritten is still there");
                false
            }
        };
        match sealed {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "addresses of databases are sealed in the registry"),
            Err(ref error) => {
                tracing::warn!(%error, "addresses of databases stand in the registry in the clear");
            }
        }
        // What could not be done is tried again with the next look at the registry.
        self.has_clear_addresses.fetch_or(sealed.is_err() || !is_gone, Ordering::Relaxed);
    }

    /// Seals addresses anew; tells how many apps have them.
    pub(super) async fn seal_addresses(
        &self,
        registry: &Registry,
        which: Which,
        by: &Actor,
    ) -> Result<usize, SecretError> {
        let vault = self.vault.load_full().ok_or(SecretError::NoVault)?;
        let changes = registry.changes_since(Revision::ZERO).await;
        let mut count = 0;
        for mut row in changes.map_err(|error| EditError::Write(error.into()))?.put {
            match (address::open(&mut row.definition, Some(&vault)), which) {
                (Ok(Standing::Clear), _) | (Ok(Standing::Old), Which::AllButNewest) => {}
                (Ok(Standing::Open | Standing::Old | Standing::Sealed), _) => continue,
                // It does not stand in the clear; why its app cannot be is told with it.
                (Err(_), Which::Clear) => continue,
                (Err(error), Which::AllButNewest) => return Err(EditError::from(error).into()),
            }
            let sealed = address::sealed(&row.definition, Some(&vault)).map_err(EditError::from)?;
            let Some(sealed) = sealed else { continue };
            let expect = Expect::Revision(row.revision);
            let app = row.id;
            let what = What::Reword(sealed);
            let edit = Edit { app: app.clone(), expect, what, is_of_file: false };
            match registry.write(&[edit], by).await {
                Ok(_) => count += 1,
                // Who changed it meanwhile has sealed it.
                Err(WriteError::Conflict { .. }) => {}
                // It fits no more; the others do.
                Err(error @ WriteError::Refused { .. }) => {
                    tracing::warn!(%app, %error, "the address of its database cannot be sealed");
                }
                Err(error) => return Err(EditError::Write(error).into()),
            }
        }
        Ok(count)
    }
}

/// Edits with addresses that were shown without their secrets as those that they were.
///
/// # Errors
/// If nobody knows what is hidden.
pub(super) fn revealed(mut edits: Vec<Edit>, list: &List) -> Result<Vec<Edit>, EditError> {
    for edit in &mut edits {
        let What::Put(keys) = &mut edit.what else { continue };
        if !keys.contains_key("database") {
            continue;
        }
        let before = list.get(&edit.app).map(|listed| listed.entry.keys());
        if address::restore(keys, before.as_ref()) {
            return Err(EditError::Hidden(edit.app.clone()));
        }
    }
    Ok(edits)
}
