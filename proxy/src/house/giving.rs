//! What programs are given that nobody else may see: secrets of the registry, opened for one start.
//!
//! What was read once is remembered as it is sealed, so that an app is started again while the registry is
//! down.

use std::{collections::HashMap, sync::Arc};

use doorbell_config::{
    interned::Interned,
    name::AppId,
    registry::{Actor, Edit, Expect, Owner, Registry, RegistryError, Revision, SealedSecret, What},
    spec::{Given, GivenSpec, Secret},
};

use doorbell_supervisor::protocol::Question;

use super::{EditError, House, addresses::Which, file_apps::process};
use crate::provision::Adopt;
use crate::vault::{Vault, VaultError};

/// The name under which `{secret}` is kept: no environment variable is called so.
pub(super) const OWN: &str = "=secret";
/// And this the password of its database's user.
const PASSWORD: &str = "=database";

/// Sealed secrets by whose they are, as they were read last. Of those of the registry that have had an id it is the one
/// that came to be at this revision.
pub(super) type Sealed = HashMap<(Owner, Revision), Arc<Vec<SealedSecret>>>;

/// Why a secret could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The registry is to blame.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The keys are.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// There are no keys: why is told in the log.
    #[error("there are no keys to seal secrets with: see doorbell's log")]
    NoVault,
}

impl House {
    /// What the program of an app is given at a start, and whether its upgrade is to be run before.
    ///
    /// # Errors
    /// Why it cannot start, for operators.
    pub async fn given(&self, app: &AppId, question: Question) -> Result<Given, String> {
        let app = app.first();
        if let Some(upgraded) = &question.upgraded {
            self.has_upgraded(&app, upgraded).await;
        }
        if self.is_ending(&app) {
            return Err("it is being deleted".into());
        }
        self.has_begun().await;
        // A supervisor starts what a change brings before the change is done here: then it is waited for.
        drop(self.inner.lock().await);
        let mut given = if question.is_given {
            let spec = self.given_spec(&app).await?;
            self.given_of(&app, &spec).await?
        } else {
            Given::default()
        };
        // Last: whoever has the turn and does not start keeps others waiting.
        if let Some(wanted) = &question.version {
            given.upgrade = self.turn_to_upgrade(&app, wanted).await?;
        }
        Ok(given)
    }

    /// What an app is to be given, as it is defined.
    async fn given_spec(&self, app: &AppId) -> Result<Interned<GivenSpec>, String> {
        let spec = self.latest(app).await;
        let given = spec.as_ref().and_then(process).and_then(|process| process.given.clone());
        given.ok_or_else(|| "its definition has changed meanwhile: it is started anew".into())
    }

    async fn given_of(&self, app: &AppId, spec: &GivenSpec) -> Result<Given, String> {
        let vault = self.vault.load_full().ok_or_else(|| SecretError::NoVault.to_string())?;
        let mut sealed = self.sealed(app).await?;
        if spec.secret && sealed.iter().all(|secret| secret.name != OWN) {
            self.generate(app, OWN, &vault).await.map_err(|error| error.to_string())?;
            sealed = self.sealed(app).await?;
        }
        let mut given = match open(app, spec, &vault, &sealed) {
            // Another Doorbell may seal with a key that was copied here since.
            Err(Unopened::Vault(_, VaultError::NoKey { .. })) => {
                let vault = self.reopen_vault().await.unwrap_or(vault);
                open(app, spec, &vault, &sealed)
            }
            other => other,
        }
        .map_err(|error| error.to_string())?;
        if spec.database {
            given.database = self.database_of(app, Adopt::No).await?;
        }
        Ok(given)
    }

    /// Whose secrets and version those of an app are: of the one of this id that is in force.
    pub(super) fn owner(&self, app: &AppId) -> Owner {
        let is_listed = || self.list().contains_key(app);
        let is_of_registry = match &*self.in_force.load() {
            Some(in_force) if in_force.contains_key(app) => true,
            // A file's is in force, or none.
            Some(_) => self.routes.load().app(app.as_str()).is_none() && is_listed(),
            // It held before this process was, and the files are broken since.
            None => is_listed(),
        };
        let app = app.clone();
        if is_of_registry { Owner::Registry(app) } else { Owner::File(app) }
    }

    /// An app is gone: another one of its id has none of its secrets.
    pub(super) fn forget_sealed(&self, app: &AppId) {
        let mut known = self.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.retain(|(owner, _), _| owner.app() != app);
    }

    /// The sealed secrets of an app, as they are or were known to be.
    pub(super) async fn sealed(&self, app: &AppId) -> Result<Arc<Vec<SealedSecret>>, String> {
        // Before anything is waited for: meanwhile the id may become another's.
        let created = self.list().get(app).map_or(Revision::ZERO, |listed| listed.created);
        let whose = (self.owner(app), created);
        // Who is known not to answer is not waited for.
        if self.registry_problem().is_some()
            && let Some(known) = self.known_sealed(&whose)
        {
            return Ok(known);
        }
        let read = match self.registry_soon().await {
            Ok(registry) => registry.secrets(&whose.0).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let mut known = self.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match read {
            Ok(sealed) => {
                let sealed = Arc::new(sealed);
                known.insert(whose, Arc::clone(&sealed));
                Ok(sealed)
            }
            Err(error) => known
                .get(&whose)
                .cloned()
                .ok_or_else(|| format!("its secrets cannot be read: {error}")),
        }
    }

    fn known_sealed(&self, whose: &(Owner, Revision)) -> Option<Arc<Vec<SealedSecret>>> {
        self.sealed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(whose).cloned()
    }

    /// The password of the user of an app's database: generated once.
    pub(super) async fn database_password(&self, app: &AppId) -> Result<Secret, String> {
        let vault = self.vault.load_full().ok_or_else(|| SecretError::NoVault.to_string())?;
        if let Some(known) = self.opened(&vault, &self.sealed(app).await?, PASSWORD).await? {
            return Ok(known);
        }
        self.generate(app, PASSWORD, &vault).await.map_err(|error| error.to_string())?;
        let made = self.opened(&vault, &self.sealed(app).await?, PASSWORD).await?;
        made.ok_or_else(|| "its password was removed meanwhile".into())
    }

    /// One of these secrets, if it is among them.
    async fn opened(
        &self,
        vault: &Vault,
        sealed: &[SealedSecret],
        name: &str,
    ) -> Result<Option<Secret>, String> {
        let Some(found) = sealed.iter().find(|secret| secret.name == name) else { return Ok(None) };
        let opened = match vault.open_sealed(name, &found.sealed) {
            // Another Doorbell may seal with a key that was copied here since.
            Err(VaultError::NoKey { .. }) if let Some(vault) = self.reopen_vault().await => {
                vault.open_sealed(name, &found.sealed)
            }
            other => other,
        };
        opened.map(Some).map_err(|error| error.to_string())
    }

    /// Stores a new secret of the app's own, unless somebody else has.
    async fn generate(&self, app: &AppId, name: &str, vault: &Vault) -> Result<(), SecretError> {
        let sealed = vault.seal(name, &vault.random_text()?)?;
        let what = What::KeepSecret { name: name.into(), sealed };
        let by = Actor { name: "doorbell".into(), from: "start".into() };
        self.write_secret(&self.owner(app), what, &by).await
    }

    async fn write_secret(&self, owner: &Owner, what: What, by: &Actor) -> Result<(), SecretError> {
        let is_of_file = matches!(owner, Owner::File(_));
        let edit = Edit { app: owner.app().clone(), expect: Expect::Anything, what, is_of_file };
        let registry = self.registry()?;
        registry.write(&[edit], by).await.map_err(EditError::from)?;
        Ok(())
    }

    /// Stores a secret of an app; one of that name is replaced.
    ///
    /// # Errors
    /// Why not.
    pub async fn put_secret(
        &self,
        app: &AppId,
        name: &str,
        value: &Secret,
        by: &Actor,
    ) -> Result<(), SecretError> {
        let vault = self.vault.load_full().ok_or(SecretError::NoVault)?;
        let what = What::PutSecret { name: name.into(), sealed: vault.seal(name, value)? };
        self.write_secret(&self.owner(app), what, by).await
    }

    /// Removes a secret; tells whether there was one.
    ///
    /// # Errors
    /// Why not.
    pub async fn remove_secret(
        &self,
        app: &AppId,
        name: &str,
        by: &Actor,
    ) -> Result<bool, SecretError> {
        let there = self.secrets(app).await?.iter().any(|secret| secret.name == name);
        if there {
            let what = What::RemoveSecret { name: name.into() };
            self.write_secret(&self.owner(app), what, by).await?;
        }
        Ok(there)
    }

    /// The secrets of an app that operators stored, by name.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn secrets(&self, app: &AppId) -> Result<Vec<SealedSecret>, SecretError> {
        let read = self.registry()?.secrets(&self.owner(app)).await;
        let mut secrets = read.map_err(|error| EditError::Write(error.into()))?;
        secrets.retain(|secret| !secret.name.starts_with('='));
        Ok(secrets)
    }

    /// Seals all secrets of all apps with a new key; tells how many they were. The old key is not needed any
    /// more, and stays in its file until somebody takes it out: backups may have been made.
    ///
    /// # Errors
    /// Why not. What was sealed anew until then, both keys can open.
    pub async fn rotate_keys(&self, by: &Actor) -> Result<usize, SecretError> {
        let registry = self.registry()?;
        // One after the other: two would make the same key twice.
        let _turn = self.rotation.lock().await;
        let old = self.vault.load_full().ok_or(SecretError::NoVault)?;
        let new = tokio::task::spawn_blocking(move || old.with_new_key()).await;
        let new = new.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let new = Arc::new(new);
        self.vault.store(Some(Arc::clone(&new)));
        // Who seals an address does so in a change, with the key that holds when it is made: by then that is this one.
        drop(self.ledger.lock().await);
        let mut count = 0;
        loop {
            let sealed = self.seal_anew(&registry, &new, by).await?;
            count += sealed;
            // What was being stored meanwhile, sealed with the old key, is seen by another look.
            if sealed == 0 {
                break;
            }
        }
        self.file_apps.are_sealed_anew();
        if count == 0 && new.is_credential() {
            return Err(VaultError::Credential.into());
        }
        Ok(count)
    }

    /// Seals anew what the newest key has not sealed; tells how many that were.
    async fn seal_anew(
        &self,
        registry: &Registry,
        new: &Vault,
        by: &Actor,
    ) -> Result<usize, SecretError> {
        let failed = |error: RegistryError| EditError::Write(error.into());
        let mut count = 0;
        for owner in registry.owners_of_secrets().await.map_err(failed)? {
            for secret in registry.secrets(&owner).await.map_err(failed)? {
                if new.is_newest(&secret.sealed) {
                    continue;
                }
                let text = new.open_sealed(&secret.name, &secret.sealed)?;
                let sealed = new.seal(&secret.name, &text)?;
                // What an operator stores meanwhile is newer than this.
                let what = What::Reseal { name: secret.name, was: secret.sealed, sealed };
                self.write_secret(&owner, what, by).await?;
                count += 1;
            }
        }
        Ok(count + self.seal_addresses(registry, Which::AllButNewest, by).await?)
    }
}

/// Why an app is not given a secret.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    #[error("secret {1} is not set: doorbell secret set {0} {1}")]
    NotSet(AppId, String),
    #[error("secret {0} cannot be opened: {1}")]
    Vault(String, VaultError),
}

fn open(
    app: &AppId,
    spec: &GivenSpec,
    vault: &Vault,
    sealed: &[SealedSecret],
) -> Result<Given, Unopened> {
    let one = |name: &str| {
        let found = sealed.iter().find(|secret| secret.name == name);
        let found = found.ok_or_else(|| Unopened::NotSet(app.clone(), name.to_owned()))?;
        let opened = vault.open_sealed(name, &found.sealed);
        opened.map_err(|error| Unopened::Vault(name.to_owned(), error))
    };
    let env = spec.secrets.iter().map(|name| Ok((name.clone(), one(name)?)));
    let env = env.collect::<Result<_, Unopened>>()?;
    let secret = spec.secret.then(|| one(OWN)).transpose()?;
    Ok(Given { secret, env, ..Given::default() })
}
