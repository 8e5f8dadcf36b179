//! The file that what is remembered stands in. Addresses are sealed: a password in one may have been kept out of
//! files on purpose.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use doorbell_config::{
    name::AppId,
    spec::{DatabaseSpec, Secret},
};
use serde::{Deserialize, Serialize};

use super::{Apps, FileApp, House, PAUSE, Stay};
use crate::{backup::format::Kind, house::finished, vault::Vault, whole_file};

/// The file, in the control process's folder.
const FILE: &str = "file-apps.json";
/// What the addresses are sealed as.
const NAME: &str = "=address";

/// An app, as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Written {
    stay: Stay,
    database: Option<Address>,
}

#[derive(Serialize, Deserialize)]
struct Address {
    kind: Kind,
    /// In base64.
    sealed: String,
}

impl House {
    /// Takes in what an earlier process remembered in this folder.
    pub fn recalls_file_apps(&self, folder: &Path) {
        let path = folder.join(FILE);
        match read(&path, self.vault.load().as_deref()) {
            Ok(apps) => *self.file_apps.lock() = apps,
            Err(error) => {
                let aside = path.with_extension("json.bad");
                let kept = fs::rename(&path, &aside).is_ok();
                tracing::error!(
                    path = %path.display(), %error, kept,
                    "what was remembered of apps of files is lost"
                );
            }
        }
    }

    /// Keeps what is remembered where the next process finds it, until the task is dropped.
    pub async fn remembers_file_apps(self: Arc<Self>, folder: std::path::PathBuf) {
        let mut changed = self.file_apps.changed.subscribe();
        let mut is_told = false;
        loop {
            changed.borrow_and_update();
            let (path, apps) = (folder.join(FILE), self.file_apps.lock().clone());
            let vault = self.vault.load_full();
            let writing =
                tokio::task::spawn_blocking(move || write(&path, &apps, vault.as_deref()));
            let pause = match finished(writing).await {
                Ok(()) => {
                    is_told = false;
                    std::time::Duration::MAX
                }
                Err(error) => {
                    if !is_told {
                        tracing::warn!(
                            folder = %folder.display(), %error,
                            "what is remembered of apps of files cannot be written"
                        );
                    }
                    is_told = true;
                    PAUSE
                }
            };
            // Passing it is no error, and it is not gone while we are here.
            let _ = tokio::time::timeout(pause, changed.changed()).await;
        }
    }
}

fn read(path: &Path, vault: Option<&Vault>) -> io::Result<Apps> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Apps::new()),
        other => other?,
    };
    let written: BTreeMap<AppId, Written> = serde_json::from_slice(&text)?;
    let open = |(app, written): (AppId, Written)| {
        let opened = written.database.map(|address| open(&address, vault));
        let database = opened.transpose().unwrap_or_else(|error| {
            tracing::warn!(%app, error, "the address of its database is not known any more");
            None
        });
        (app, FileApp { database: database.map(Arc::new), stay: written.stay })
    };
    Ok(written.into_iter().map(open).collect())
}

fn open(address: &Address, vault: Option<&Vault>) -> Result<DatabaseSpec, String> {
    let vault = vault.ok_or("there are no keys")?;
    let sealed = STANDARD.decode(&address.sealed).map_err(|error| error.to_string())?;
    let opened = vault.open_sealed(NAME, &sealed).map_err(|error| error.to_string())?;
    // What is wrong with it is told without it: it has a password.
    let url = opened.reveal().parse().map_err(|_| "it is no address")?;
    Ok(address.kind.spec(url))
}

fn write(path: &Path, apps: &Apps, vault: Option<&Vault>) -> io::Result<()> {
    if apps.is_empty() && !path.exists() {
        return Ok(());
    }
    let written = apps.iter().map(|(id, app)| {
        let database = app.database.as_ref().zip(vault);
        let database = database.map(|(spec, vault)| seal(spec, vault)).transpose()?;
        Ok((id, Written { stay: app.stay.clone(), database }))
    });
    let written = written.collect::<io::Result<BTreeMap<_, _>>>()?;
    whole_file::put(path, &serde_json::to_vec(&written)?)
}

fn seal(spec: &DatabaseSpec, vault: &Vault) -> io::Result<Address> {
    let url = Secret::new(spec.url().reveal());
    let sealed = vault.seal(NAME, &url).map_err(io::Error::other)?;
    Ok(Address { kind: spec.into(), sealed: STANDARD.encode(sealed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_shows_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let vault = Vault::open(folder.path()).unwrap();
        assert!(read(&path, Some(&vault)).unwrap().is_empty());
        write(&path, &Apps::new(), Some(&vault)).unwrap();
        assert!(!path.exists());
        let url = "postgres://me:geheim@db.test/".parse().unwrap();
        let database = Some(Arc::new(DatabaseSpec::NewDatabase(url)));
        let left = Stay::Left { at: 7, before: Box::new(Stay::New { is_other: true }) };
        let apps: Apps = [("blog", Stay::Is(3)), ("shop", left)]
            .map(|(id, stay)| {
                (AppId::parse(id).unwrap(), FileApp { database: database.clone(), stay })
            })
            .into();
        write(&path, &apps, Some(&vault)).unwrap();
        assert_eq!(read(&path, Some(&vault)).unwrap(), apps);
        assert!(!fs::read_to_string(&path).unwrap().contains("geheim"));
        // Without its key an address is lost, and nothing else.
        let other = tempfile::tempdir().unwrap();
        let other = Vault::open(other.path()).unwrap();
        for vault in [None, Some(&other)] {
            let read = read(&path, vault).unwrap();
            assert!(read.values().all(|app| app.database.is_none()));
            assert!(read.values().zip(apps.values()).all(|(read, app)| read.stay == app.stay));
        }
    }
}
