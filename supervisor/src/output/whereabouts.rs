//! Where a log is, which may move while it is written: known to its writer, to whoever moves it, and, in a link
//! beside each pipe that leads to it, to a later Doorbell, which takes up the pipe.

use std::{
    fs, io,
    os::unix,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where a log is being written, for its writer and for whoever moves it.
#[derive(Debug)]
pub(super) struct Place(Mutex<Known>);

/// Locked while a link is made, and never for longer.
#[derive(Debug)]
struct Known {
    folder: PathBuf,
    /// It is not where its app's would be looked for.
    has_moved: bool,
    /// The links of those who write there.
    links: Vec<PathBuf>,
}

/// A link that tells where the log is, as long as somebody writes there.
#[derive(Debug)]
pub(super) struct Link {
    place: Arc<Place>,
    path: PathBuf,
}

impl Place {
    pub(super) fn at(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Known { folder, has_moved: false, links: Vec::new() })))
    }

    /// The folder of the files.
    pub(super) fn folder(&self) -> PathBuf {
        self.known().folder.clone()
    }

    /// It is there from here on.
    pub(super) fn move_to(&self, folder: &Path) {
        let mut known = self.known();
        folder.clone_into(&mut known.folder);
        known.has_moved = true;
        for link in &known.links {
            point(link, folder);
        }
    }

    /// Somebody writes there, through this pipe.
    pub(super) fn link(self: &Arc<Self>, pipe: &Path) -> Link {
        let path = link_of(pipe);
        let mut known = self.known();
        if known.has_moved {
            point(&path, &known.folder);
        }
        known.links.push(path.clone());
        drop(known);
        Link { place: Arc::clone(self), path }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.place.known().links.retain(|path| *path != self.path);
    }
}

/// Where the log is that a pipe leads to; `None` if it never moved.
pub(super) fn pointed_at(pipe: &Path) -> Option<PathBuf> {
    match fs::read_link(link_of(pipe)) {
        Ok(folder) => Some(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(pipe = %pipe.display(), %error, "its log may have moved, and is looked for where it was");
            None
        }
    }
}

/// What tells of a pipe where its log is.
pub(super) fn link_of(pipe: &Path) -> PathBuf {
    pipe.with_extension("log")
}

/// Whoever is killed meanwhile leaves the link as it was, or as it is to be.
fn point(link: &Path, folder: &Path) {
    let fresh = link.with_extension("log.new");
    let made = match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => {
            unix::fs::symlink(folder, &fresh).and_then(|()| fs::rename(&fresh, link))
        }
    };
    if let Err(error) = made {
        let link = link.display();
        tracing::error!(%link, %error, "who takes up this app's output will write it where it was");
    }
}
