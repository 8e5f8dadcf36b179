//! A copy of the registry's apps beside Doorbell, for a start at which the registry does not answer.
//!
//! Without it a Doorbell, or a control process, that is started while its database is down would know none
//! of its apps, and stop those that run. The copy is only ever read then; what the registry says later
//! replaces all of it. Each app is a file of its own, so that a change costs by the app.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use doorbell_config::{
    file::{Entry, as_file},
    name::AppId,
    registry::Revision,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    List, Listed,
    address::{self, AddressError, Standing},
};
use crate::{house::House, vault::Vault, whole_file};

const EXTENSION: &str = "json";
/// What stands in a file with an address of a database.
const TABLE: &str = "database";

/// What opens the addresses of an app.
type Open<'o> = dyn Fn(&mut Map<String, Value>) -> Result<Standing, AddressError> + 'o;

/// An app in the copy.
#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    id: AppId,
    revision: Revision,
    created: Revision,
    created_at: u64,
    changed_at: u64,
    file: String,
}

impl Copied {
    /// What is sealed in it is opened; where it cannot be, its app is told to be wrong.
    fn listed(self, open: &Open<'_>) -> Option<(AppId, Listed)> {
        let Self { id, mut revision, created, created_at, changed_at, file } = self;
        let mut entry = Entry::of_file(id.clone(), file)?;
        if entry.as_file().contains(TABLE) {
            let mut keys = entry.keys();
            match open(&mut keys) {
                // As an earlier version copied it: to be copied anew.
                Ok(Standing::Clear) => revision = Revision::ZERO,
                Ok(Standing::Open) => {}
                Ok(Standing::Old | Standing::Sealed) => {
                    entry = Entry::new(id.clone(), &keys).ok()?
                }
                Err(error) => tracing::error!(app = %id, "in the copy of the registry, {error}"),
            }
        }
        let entry = Arc::new(entry);
        Some((id, Listed { revision, created, created_at, changed_at, entry }))
    }
}

/// What was copied last; nothing if nothing was. A file that is no copy is told, and left out.
///
/// # Errors
/// If the folder cannot be read.
pub fn read(folder: &Path, vault: Option<&Vault>) -> io::Result<List> {
    read_with(folder, &|keys| address::open(keys, vault))
}

/// The same without the keys: something stands in for what is sealed.
///
/// # Errors
/// If the folder cannot be read.
pub fn read_unopened(folder: &Path) -> io::Result<List> {
    read_with(folder, &|keys| Ok(address::stand_in(keys)))
}

fn read_with(folder: &Path, open: &Open<'_>) -> io::Result<List> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(List::new()),
        other => other?,
    };
    let mut list = List::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let copied = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match copied.and_then(|copied: Copied| copied.listed(open)) {
            Some((id, listed)) => _ = list.insert(id, listed),
            None => tracing::error!(path = %path.display(), "no copy of an app, and left out"),
        }
    }
    Ok(list)
}

/// Makes the copy of one list that of another.
///
/// # Errors
/// The first that could not be written; all others are.
fn change(folder: &Path, before: &List, after: &List, vault: Option<&Vault>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let is_same = |(id, listed): (&AppId, &Listed)| {
        before
            .get(id)
            .is_some_and(|old| old.revision == listed.revision && old.entry == listed.entry)
    };
    let written = after
        .iter()
        .filter(|one| !is_same(*one))
        .map(|(id, listed)| write(folder, id, listed, vault));
    let gone = before.keys().filter(|id| !after.contains_key(*id));
    let removed = gone.map(|id| match fs::remove_file(file_of(folder, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    });
    let outcomes: Vec<_> = written.chain(removed).collect();
    outcomes.into_iter().collect()
}

fn file_of(folder: &Path, id: &AppId) -> PathBuf {
    folder.join(format!("{id}.{EXTENSION}"))
}

fn write(folder: &Path, id: &AppId, listed: &Listed, vault: Option<&Vault>) -> io::Result<()> {
    let mut file = listed.entry.as_file().to_owned();
    if file.contains(TABLE)
        && let Some(sealed) =
            address::sealed(&listed.entry.keys(), vault).map_err(io::Error::other)?
    {
        file = as_file(id, &sealed).map_err(io::Error::other)?;
    }
    let copied = Copied {
        id: id.clone(),
        revision: listed.revision,
        created: listed.created,
        created_at: listed.created_at,
        changed_at: listed.changed_at,
        file,
    };
    whole_file::put(&file_of(folder, id), &serde_json::to_vec(&copied)?)
}

/// Copies the list whenever it has changed, until the task is dropped.
pub async fn keep(house: Arc<House>, folder: PathBuf) {
    let mut lists = house.lists();
    let mut copied: Arc<List> = Arc::new(BTreeMap::new());
    let (mut is_first, mut failed) = (true, None);
    while lists.changed().await.is_ok() {
        let list = Arc::clone(&lists.borrow_and_update());
        let (folder, before, after) = (folder.clone(), Arc::clone(&copied), Arc::clone(&list));
        let vault = house.vault();
        let writing = tokio::task::spawn_blocking(move || {
            let vault = vault.as_deref();
            let before = if is_first { Arc::new(read(&folder, vault)?) } else { before };
            change(&folder, &before, &after, vault)
        });
        let problem = match writing.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        if let Some(error) = problem.as_ref().filter(|_| problem != failed) {
            tracing::warn!(%error, "the registry's apps cannot be copied to the state folder");
        }
        // What failed is tried again with the next change, from what is there.
        is_first = problem.is_some();
        (copied, failed) = (list, problem);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(id: &str, revision: u64) -> (AppId, Listed) {
        let id = AppId::parse(id).unwrap();
        let keys = json!({"hosts": ["a.test"], "env": {"A": "\u{1}"}});
        let entry = Arc::new(Entry::new(id.clone(), keys.as_object().unwrap()).unwrap());
        let (revision, created) = (Revision::new(revision), Revision::new(1));
        (id, Listed { revision, created, created_at: 1, changed_at: 2, entry })
    }

    #[test]
    fn what_is_copied_is_read_and_a_change_costs_by_the_app() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("copy");
        assert_eq!(read(&folder, None).unwrap().len(), 0);
        let first = List::from([listed("a", 1), listed("b", 2)]);
        change(&folder, &List::new(), &first, None).unwrap();
        let revisions = || {
            let read = read(&folder, None).unwrap();
            let of = |(id, one): (AppId, Listed)| (String::from(id), one.revision.number());
            read.into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(revisions(), [("a".into(), 1), ("b".into(), 2)]);
        fs::remove_file(folder.join("a.json")).unwrap();
        let second = List::from([listed("a", 1), listed("c", 3)]);
        change(&folder, &first, &second, None).unwrap();
        assert_eq!(revisions(), [("c".into(), 3)], "a had not changed");
        fs::write(folder.join("d.json"), "{}").unwrap();
        assert_eq!(revisions(), [("c".into(), 3)]);
    }

    #[test]
    fn an_address_with_a_password_is_copied_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        let id = AppId::parse("a").unwrap();
        let keys = json!({"database": {"new_database": "postgres://me:hunter2@h/"}});
        let entry = Arc::new(Entry::new(id.clone(), keys.as_object().unwrap()).unwrap());
        let (_, listed) = listed("a", 7);
        let list = List::from([(id.clone(), Listed { entry, ..listed })]);
        let text = || fs::read_to_string(folder.path().join("a.json")).unwrap();
        change(folder.path(), &List::new(), &list, Some(&vault)).unwrap();
        assert!(!text().contains("hunter2"), "{}", text());
        let back = read(folder.path(), Some(&vault)).unwrap();
        assert_eq!((&back[&id].entry, back[&id].revision), (&list[&id].entry, Revision::new(7)));
        // An earlier version's is copied anew.
        let sealed = &read(folder.path(), None).unwrap()[&id].entry;
        let clear = text().replace(
            &json!(sealed.as_file()).to_string(),
            &json!(list[&id].entry.as_file()).to_string(),
        );
        fs::write(folder.path().join("a.json"), clear).unwrap();
        assert!(text().contains("hunter2"));
        let before = read(folder.path(), Some(&vault)).unwrap();
        change(folder.path(), &before, &list, Some(&vault)).unwrap();
        assert!(!text().contains("hunter2"), "{}", text());
    }
}
