//! The groups of one instance: one folder in each hierarchy that it needs.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use doorbell_config::spec::ResourceSpec;

use super::{Controller, Folder, Version, make_folder, write};
use crate::driver::procfs::Pid;

/// The file that holds, and takes, the processes of a group.
const PROCS: &str = "cgroup.procs";

/// An instance's groups; there may be none.
#[derive(Clone, Debug, Default)]
pub(in crate::driver) struct Group {
    folders: Vec<Folder>,
}

/// How a process gets into its groups while it is made.
#[derive(Debug, Default)]
pub(in crate::driver) struct Entrance {
    /// The folder of version 2, for clone3(2).
    pub(in crate::driver) folder: Option<OwnedFd>,
    /// Where a process writes that it enters: version 2 first, where there is one.
    pub(in crate::driver) doors: Vec<OwnedFd>,
}

impl Group {
    pub(super) fn of(folders: Vec<Folder>) -> Self {
        Self { folders }
    }

    pub(super) fn make(&self, resources: &ResourceSpec) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| make_folder(&folder.path))?;
        self.limit(resources)
    }

    /// Where something is to be had.
    pub(super) fn place(&self, controller: Controller) -> Option<(Version, &Path)> {
        let mut folders = self.folders.iter();
        let folder = folders.find(|folder| folder.controllers.contains(&controller))?;
        Some((folder.version, &folder.path))
    }

    /// Its folder of version 2.
    fn unified(&self) -> Option<&Path> {
        let mut folders = self.folders.iter();
        folders.find(|folder| folder.version == Version::Two).map(|folder| folder.path.as_path())
    }

    /// How a process gets into it.
    pub(in crate::driver) fn entrance(&self) -> io::Result<Entrance> {
        let folder = self
            .unified()
            .map(|path| OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path));
        let door = |folder: &Folder| OpenOptions::new().write(true).open(folder.path.join(PROCS));
        Ok(Entrance {
            folder: folder.transpose()?.map(Into::into),
            doors: self
                .folders
                .iter()
                .map(|folder| door(folder).map(Into::into))
                .collect::<io::Result<_>>()?,
        })
    }

    /// Whoever is in it; `None` if there is no group that says it.
    pub(in crate::driver) fn members(&self) -> Option<io::Result<Vec<Pid>>> {
        let folder = self.folders.first()?;
        Some(fs::read_to_string(folder.path.join(PROCS)).map(|text| {
            // Zero is a process that our own pid namespace does not show.
            text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
        }))
    }

    /// Ends everybody in it at once, newcomers too; tells whether it could.
    pub(in crate::driver) fn kill(&self) -> bool {
        self.unified().is_some_and(|path| write(path, "cgroup.kill", "1").is_ok())
    }

    /// Whether it can stand still as one.
    pub(in crate::driver) fn can_freeze(&self) -> bool {
        self.place(Controller::Freezer).is_some()
    }

    /// Begins to let everybody in it stand still, or go on.
    pub(in crate::driver) fn freeze(&self, is_to: bool) -> io::Result<()> {
        match self.place(Controller::Freezer) {
            Some((Version::Two, path)) => {
                write(path, "cgroup.freeze", if is_to { "1" } else { "0" })
            }
            Some((Version::One, path)) => {
                write(path, "freezer.state", if is_to { "FROZEN" } else { "THAWED" })
            }
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether everybody is to stand still, newcomers too.
    pub(in crate::driver) fn is_to_freeze(&self) -> io::Result<bool> {
        let told = |path: &Path, file: &str| fs::read_to_string(path.join(file));
        match self.place(Controller::Freezer) {
            Some((Version::Two, path)) => Ok(told(path, "cgroup.freeze")?.trim() == "1"),
            Some((Version::One, path)) => Ok(told(path, "freezer.state")?.trim() != "THAWED"),
            None => Ok(false),
        }
    }

    /// Whether everybody stands still.
    pub(in crate::driver) fn is_frozen(&self) -> io::Result<bool> {
        match self.place(Controller::Freezer) {
            Some((Version::Two, path)) => {
                let events = fs::read_to_string(path.join("cgroup.events"))?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
            Some((Version::One, path)) => {
                Ok(fs::read_to_string(path.join("freezer.state"))?.trim() == "FROZEN")
            }
            None => Ok(false),
        }
    }

    /// Removes it, once nobody is in it any more.
    pub(in crate::driver) fn remove(&self) {
        for Folder { path, .. } in &self.folders {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a control group stays behind");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}
