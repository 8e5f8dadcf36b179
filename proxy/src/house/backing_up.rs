//! What a backup of an app has in it that only the control process knows, and how it comes back.

use std::sync::Arc;

use doorbell_config::{
    name::AppId,
    registry::{Actor, Edit, Expect, Revision, What},
    spec::Secret,
};
use serde_json::{Map, Value};

use super::{Edited, House, SecretError, Trial, giving::OWN};
use crate::{
    backup::format::{Access, Kind, Secrets},
    provision::Adopt,
    vault::VaultError,
};

/// An app that comes with what it has.
pub struct Arrival {
    /// Its definition.
    pub keys: Map<String, Value>,
    /// Its secrets.
    pub secrets: Secrets,
    /// The version that its data is up to date with.
    pub upgraded_to: Option<String>,
}

impl House {
    /// The version that the data of an app is up to date with, if its upgrade reached one.
    ///
    /// # Errors
    /// Why that cannot be known, in words for operators.
    pub async fn upgraded_to(&self, app: &AppId) -> Result<Option<String>, String> {
        let registry = self.registry().map_err(|error| error.to_string())?;
        registry.upgraded_to(&self.owner(app)).await.map_err(|error| error.to_string())
    }

    /// All secrets of an app, opened; not the password of its database, which it gets anew elsewhere.
    ///
    /// # Errors
    /// Why they cannot be read, in words for operators.
    pub async fn open_secrets(&self, app: &AppId) -> Result<Secrets, String> {
        let sealed = self.sealed(app).await?;
        if sealed.is_empty() {
            return Ok(Secrets::default());
        }
        let mut vault = self.vault.load_full().ok_or_else(|| SecretError::NoVault.to_string())?;
        let mut secrets = Secrets::default();
        for secret in sealed.iter() {
            let is_own = secret.name == OWN;
            if !is_own && secret.name.starts_with('=') {
                continue;
            }
            let mut opened = vault.open_sealed(&secret.name, &secret.sealed);
            // Another Doorbell may seal with a key that was copied here since.
            if let Err(VaultError::NoKey { .. }) = opened {
                vault = self.reopen_vault().await.unwrap_or(vault);
                opened = vault.open_sealed(&secret.name, &secret.sealed);
            }
            let shown = if is_own { "{secret}" } else { &*secret.name };
            let opened =
                opened.map_err(|error| format!("secret {shown} cannot be opened: {error}"))?;
            if is_own {
                secrets.own = Some(opened);
            } else {
                secrets.named.insert(secret.name.clone(), opened);
            }
        }
        Ok(secrets)
    }

    /// How to get to the database of an app, which is made if it is not there yet; `None` if it asks for none.
    ///
    /// # Errors
    /// Why there is none, with the server's own words.
    pub async fn database_access(
        &self,
        app: &AppId,
        adopt: Adopt,
    ) -> Result<Option<Access>, String> {
        let Some(spec) = self.database_spec(app).await else { return Ok(None) };
        let kind = Kind::from(&*spec);
        let values = self.database_of(app, adopt).await?;
        let value = |name: &str| values.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let schema =
            value("database_schema").map(Secret::reveal).filter(|schema| !schema.is_empty());
        let schema = schema.map(str::to_owned);
        let url = value("database_url").cloned().ok_or("its address is not known")?;
        Ok(Some(Access { kind, url, schema }))
    }

    /// Adds an app together with its secrets, in one transaction; tells its revision.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub async fn import(
        self: &Arc<Self>,
        app: &AppId,
        arrival: Arrival,
        by: Actor,
        trial: Trial,
    ) -> Result<Edited, SecretError> {
        let Arrival { keys, secrets, upgraded_to } = arrival;
        let put = Edit {
            app: app.clone(),
            expect: Expect::Absent,
            what: What::Put(keys),
            is_of_file: false,
        };
        let mut edits = vec![put];
        edits.extend(self.sealing(app, &secrets)?);
        let reach = |version| Edit {
            app: app.clone(),
            expect: Expect::Anything,
            what: What::Reach(version),
            is_of_file: false,
        };
        edits.extend(upgraded_to.map(reach));
        let after_it = edits.len() as u64 - 1;
        let mut edited = self.edit(edits, by, trial).await?;
        // What comes with it has numbers of its own.
        if edited.revision != Revision::ZERO {
            edited.revision = Revision::new(edited.revision.number() - after_it);
        }
        Ok(edited)
    }

    /// The edits that store secrets.
    ///
    /// # Errors
    /// If they cannot be sealed.
    pub fn sealing(&self, app: &AppId, secrets: &Secrets) -> Result<Vec<Edit>, SecretError> {
        let own = secrets.own.iter().map(|value| (OWN, value));
        let named = secrets.named.iter().map(|(name, value)| (name.as_str(), value));
        let all: Vec<_> = own.chain(named).collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let vault = self.vault.load_full().ok_or(SecretError::NoVault)?;
        let put = |(name, value): (&str, &Secret)| {
            let what = What::PutSecret { name: name.into(), sealed: vault.seal(name, value)? };
            Ok(Edit { app: app.clone(), expect: Expect::Anything, what, is_of_file: false })
        };
        all.into_iter().map(put).collect()
    }
}
