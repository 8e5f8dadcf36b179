//! What is remembered of apps of files beyond the files: which of the apps that have had an id each is, and which
//! database it asks for.
//!
//! The first stands in the registry, see [`doorbell_config::registry::Registry::stay`]. The second is told to no
//! other process, so the next control process finds it in a file beside the registry: it may be started while the
//! configuration is broken, and apps that hold are to start all the same.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, DatabaseSpec, ProcessSpec},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{House, finished};
use crate::{backup::format::Kind, difference::Difference};

/// The file, in the folder of the registry.
const FILE: &str = "databases.json";
/// Pause before what could not be noted is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Which databases apps of files ask for.
type Databases = BTreeMap<AppId, Arc<DatabaseSpec>>;

/// What is remembered.
#[derive(Default)]
pub(super) struct FileApps {
    databases: watch::Sender<Arc<Databases>>,
    /// When the configuration was taken over last, in milliseconds since 1970.
    held_at: watch::Sender<u64>,
}

/// A database, as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Written {
    kind: Kind,
    url: String,
}

impl FileApps {
    /// Takes in what an earlier process remembered.
    pub(super) fn begin(&self, folder: &Path) {
        let path = folder.join(FILE);
        match read(&path) {
            Ok(databases) => _ = self.databases.send_replace(Arc::new(databases)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "databases of apps are not known");
            }
        }
    }

    /// The configuration has changed, at this time. `is_of_file` says whose apps are not the registry's.
    pub(super) fn change(
        &self,
        difference: &Difference,
        is_whole: bool,
        now: u64,
        is_of_file: impl Fn(&AppId) -> bool,
    ) {
        let change = |known: &mut Arc<Databases>| {
            let mut databases = if is_whole { Databases::new() } else { Databases::clone(known) };
            for app in &difference.gone {
                databases.remove(app);
            }
            for app in &difference.put {
                match database(app).filter(|_| is_of_file(&app.id)) {
                    Some(database) => _ = databases.insert(app.id.clone(), Arc::clone(database)),
                    None => _ = databases.remove(&app.id),
                }
            }
            let is_other = databases != **known;
            if is_other {
                *known = Arc::new(databases);
            }
            is_other
        };
        self.databases.send_if_modified(change);
        self.held_at.send_replace(now);
    }

    fn database(&self, app: &AppId) -> Option<Arc<DatabaseSpec>> {
        self.databases.borrow().get(app).cloned()
    }
}

impl House {
    /// The database that an app asks for.
    pub async fn database_spec(&self, app: &AppId) -> Option<Arc<DatabaseSpec>> {
        let spec = self.latest(app).await?;
        let process = process(&spec)?;
        // A definition that was held before this process was says only that there is one.
        let is_untold = process.given.as_ref().is_some_and(|given| given.database);
        let remembered = || self.file_apps.database(app).filter(|_| is_untold);
        process.database.clone().or_else(remembered)
    }

    /// Keeps what is remembered of apps of files where the next process finds it, until the task is dropped.
    pub async fn remembers_file_apps(self: Arc<Self>, folder: PathBuf) {
        tokio::join!(self.writes_databases(folder.join(FILE)), self.notes_stays());
    }

    async fn writes_databases(&self, path: PathBuf) {
        let mut databases = self.file_apps.databases.subscribe();
        self.has_begun().await;
        loop {
            let (path, now) = (path.clone(), Arc::clone(&databases.borrow_and_update()));
            let written = finished(tokio::task::spawn_blocking(move || write(&path, &now))).await;
            if let Err(error) = written {
                tracing::warn!(%error, "the databases of apps cannot be written to the state folder");
            }
            if databases.changed().await.is_err() {
                return;
            }
        }
    }

    async fn notes_stays(&self) {
        self.has_begun().await;
        let mut held_at = self.file_apps.held_at.subscribe();
        loop {
            let since = *held_at.borrow_and_update();
            let pause = match self.note_stays(since).await {
                Ok(()) => Duration::MAX,
                Err(error) => {
                    tracing::debug!(error, "who left the files cannot be noted yet");
                    PAUSE
                }
            };
            // Passing it is no error.
            if let Ok(Err(_)) = tokio::time::timeout(pause, held_at.changed()).await {
                return;
            }
        }
    }

    async fn note_stays(&self, since: u64) -> Result<(), String> {
        // Nothing was taken over yet, but what held before.
        if since == 0 {
            return Ok(());
        }
        let doorbell = self.own_name()?;
        let registry = self.registry_soon().await.map_err(|error| error.to_string())?;
        let inner = self.inner.lock().await;
        let rejected: HashSet<_> = inner.rejected.iter().map(|app| app.id.clone()).collect();
        drop(inner);
        let (routes, list) = (self.routes.load_full(), self.list());
        let is_there = |app: &str| {
            (routes.app(app).is_some() || rejected.contains(app)) && !list.contains_key(app)
        };
        let noted = registry.note_stays(&doorbell, since, is_there).await;
        noted.map_err(|error| error.to_string())
    }
}

/// What runs an app, if it is a program of its own.
pub(super) fn process(app: &Arc<AppSpec>) -> Option<&ProcessSpec> {
    match &app.backend {
        Backend::Process(process) => Some(process),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

fn database(app: &Arc<AppSpec>) -> Option<&Arc<DatabaseSpec>> {
    process(app)?.database.as_ref()
}

fn read(path: &Path) -> io::Result<Databases> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Databases::new()),
        other => other?,
    };
    let written: BTreeMap<AppId, Written> = serde_json::from_slice(&text)?;
    let parse = |(app, Written { kind, url }): (AppId, Written)| {
        // What is wrong with it is told without it: it has a password.
        let url = url.parse().map_err(|_| io::Error::other(format!("that of app \"{app}\"")))?;
        Ok((app, Arc::new(kind.spec(url))))
    };
    written.into_iter().map(parse).collect()
}

/// Whole or not at all, for us alone.
fn write(path: &Path, databases: &Databases) -> io::Result<()> {
    let written: BTreeMap<_, _> = databases
        .iter()
        .map(|(app, spec)| {
            (app, Written { kind: (&**spec).into(), url: spec.url().reveal().into() })
        })
        .collect();
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    // Or a machine that loses its power could be left with an empty file in the place of the old one.
    file.sync_data()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert!(read(&path).unwrap().is_empty());
        let app = AppId::parse("blog").unwrap();
        let url = "postgres://me:secret@db.test/".parse().unwrap();
        let databases = Databases::from([(app, Arc::new(DatabaseSpec::NewDatabase(url)))]);
        write(&path, &databases).unwrap();
        assert_eq!(read(&path).unwrap(), databases);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, r#"{"blog": {"kind": "new_database", "url": "my://secret"}}"#).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("blog") && !error.contains("secret"), "{error}");
    }
}
