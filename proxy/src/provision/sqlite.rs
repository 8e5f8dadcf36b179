//! A file of SQLite of the app's own, in a folder of its own, since SQLite keeps further files beside it.
//!
//! The marker is a file beside the app's folder: the app may write into the latter only. It is written
//! first and removed last. Whom the folder belongs to is not decided here: it is made for who runs us
//! (0700), and an app with a user of its own is to be given it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use doorbell_config::registry::printable;
use tokio::time::{Duration, Instant, sleep};

use super::{
    Adopt, Connection, Marker, ProvisionError, Provisioner, Removed, Secret, Step, Told,
    marker::{Claim, taken},
    name,
};

const TURN: Step = Step::new("wait for its turn", "to read the folder");
const LOOK: Step = Step::new("look what is there", "to read the folder");
const MARK: Step = Step::new("mark its folder as the app's", "to write to the folder");
const FOLDER: Step = Step::new("create its folder", "to write to the folder");
const REMOVE: Step = Step::losing("remove its folder", "to write to the folder");
const UNMARK: Step = Step::new("remove its mark", "to write to the folder");

/// What the file is called.
const FILE: &str = "database.sqlite";

/// How long to wait for another program that makes or removes something here.
const PATIENCE: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(20);

/// The folder that all apps have theirs in.
pub(super) struct Folder(pub(super) PathBuf);

/// What an app has there.
struct Place<'a> {
    folder: &'a Path,
    name: String,
}

#[async_trait]
impl Provisioner for Folder {
    async fn provision(
        &self,
        owner: &Marker,
        _password: &Secret,
        adopt: Adopt,
        told: Told<'_>,
    ) -> Result<Connection, ProvisionError> {
        let place = Place::of(&self.0, owner);
        // Freed when it is dropped, whatever comes.
        let _turn = place.turn().await?;
        place.make(owner, adopt, told)?;
        Ok(Connection::of_file(&place.own().join(FILE)))
    }

    async fn remove(&self, owner: &Marker, told: Told<'_>) -> Result<Removed, ProvisionError> {
        let place = Place::of(&self.0, owner);
        let _turn = place.turn().await?;
        let Some(found) = place.marker()? else {
            return if place.exists()? { Err(place.taken(NOT_OURS)) } else { Ok(Removed::Nothing) };
        };
        owner.claim(Some(&found), Adopt::No).map_err(|why| place.taken(&why))?;
        told(REMOVE);
        let own = place.own();
        // There may be much in it.
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(own)).await;
        let removed = removed.unwrap_or_else(|error| Err(io::Error::other(error)));
        place.done(REMOVE, unless_gone(removed))?;
        told(UNMARK);
        place.done(UNMARK, unless_gone(fs::remove_file(place.mark("new"))))?;
        place.done(UNMARK, fs::remove_file(place.mark("marker")))?;
        Ok(Removed::All)
    }
}

const NOT_OURS: &str = "it is not Doorbell's, which leaves it alone";

impl<'a> Place<'a> {
    fn of(folder: &'a Path, owner: &Marker) -> Self {
        Self { folder, name: name::of(&owner.app, name::MOST) }
    }

    /// The app's folder.
    fn own(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Its marker, or that which is about to be.
    fn mark(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    /// The folder, while nobody else makes or removes something in it.
    async fn turn(&self) -> Result<File, ProvisionError> {
        let folder = self.done(TURN, File::open(self.folder))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(folder),
                Err(TryLockError::WouldBlock) if Instant::now() < end => sleep(PAUSE).await,
                Err(error) => return self.done(TURN, Err(error.into())),
            }
        }
    }

    fn make(&self, owner: &Marker, adopt: Adopt, told: Told<'_>) -> Result<(), ProvisionError> {
        let exists = self.exists()?;
        let claim = match self.marker()? {
            None if exists => return Err(self.taken(NOT_OURS)),
            None => Claim::ToAdopt,
            Some(found) => owner.claim(Some(&found), adopt).map_err(|why| self.taken(&why))?,
        };
        if claim == Claim::ToAdopt {
            told(MARK);
            self.done(MARK, self.write_marker(owner))?;
        }
        if !exists {
            told(FOLDER);
            self.done(FOLDER, DirBuilder::new().mode(0o700).create(self.own()))?;
            self.done(FOLDER, sync(self.folder))?;
        }
        Ok(())
    }

    fn exists(&self) -> Result<bool, ProvisionError> {
        match fs::symlink_metadata(self.own()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => self.done(LOOK, Err(error)),
        }
    }

    fn marker(&self) -> Result<Option<String>, ProvisionError> {
        match fs::read(self.mark("marker")) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => self.done(LOOK, Err(error)),
        }
    }

    /// Whole or not at all, and before the folder, also on the disk.
    fn write_marker(&self, owner: &Marker) -> io::Result<()> {
        let new = self.mark("new");
        unless_gone(fs::remove_file(&new))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{owner}")?;
        file.sync_all()?;
        fs::rename(new, self.mark("marker"))?;
        sync(self.folder)
    }

    fn taken(&self, why: &str) -> ProvisionError {
        taken(&self.shown(), "folder", &self.name, why.into())
    }

    fn shown(&self) -> String {
        format!("sqlite:{}", self.folder.display())
    }

    fn done<T>(&self, step: Step, result: io::Result<T>) -> Result<T, ProvisionError> {
        result.map_err(|error| {
            let (server, words) = (self.shown(), printable(&error.to_string()));
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    ProvisionError::Unreachable { server, words }
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    ProvisionError::Refused { server, step: step.what, right: step.right, words }
                }
                _ => ProvisionError::Other { server, step: step.what, words },
            }
        })
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
