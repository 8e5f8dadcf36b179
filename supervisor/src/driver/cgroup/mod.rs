//! Control groups, cgroups(7): one per instance, where we may make some. All processes of an instance
//! are in it, whatever they do to hide, and can be frozen, ended and limited as one.
//!
//! Version 2 is used for whatever it has; a controller that is bound to version 1 is used from there,
//! by instances that need it. Groups are made in a folder of our own, below the group that we were
//! started in: nobody else's are touched. Where there are none to be had, signals and rlimits do what
//! they can.
//!
//! Read [`find`] for where the folders are, [`limits`] for what is written there, [`weights`] for who goes first,
//! [`kills`] for what is told of them.

mod find;
mod group;
mod kills;
mod limits;
mod make_way;
mod weights;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use doorbell_config::{name::AppId, spec::ResourceSpec};

pub use self::make_way::make_way;
pub(super) use self::{
    find::Purpose,
    group::{Entrance, Group},
};
use super::endpoint::base36;
use crate::message::Generation;

/// Characters of a state folder's path in the name of its groups; a file's name has 255 bytes.
const MOST_OF_A_NAME: usize = 60;

/// Where groups can be made, and what each can do.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// Version 2 first.
    folders: Vec<Folder>,
    /// Why there are no more, in words.
    problems: Vec<String>,
    /// Whether limits that an earlier supervisor wrote are gone: somebody had to make way.
    lost_limits: bool,
}

/// A folder in one hierarchy: ours, or an instance's in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    version: Version,
    /// What it can do there.
    controllers: Vec<Controller>,
}

/// The two kinds of hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// One per controller, or for some together.
    One,
    /// One for all.
    Two,
}

/// What a hierarchy can limit or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Processes,
    Freezer,
}

/// What our own folders are called, for whoever looks at them.
pub(super) fn name_of(state_dir: &Path) -> String {
    let place: String = state_dir.to_string_lossy().replace(['/', '\n'], "-");
    let end: Vec<char> = place.chars().rev().take(MOST_OF_A_NAME).collect();
    format!("doorbell{}", end.into_iter().rev().collect::<String>())
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Processes, Self::Freezer];

    /// What the kernel calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "pids",
            Self::Freezer => "freezer",
        }
    }

    /// Whether an instance with these limits, that may be frozen or not, needs it.
    fn is_needed(self, resources: &ResourceSpec, may_freeze: bool) -> bool {
        match self {
            Self::Memory => resources.memory.is_some(),
            Self::Cpu => resources.cpu.is_some(),
            Self::Processes => resources.processes.is_some(),
            Self::Freezer => may_freeze,
        }
    }
}

impl Cgroups {
    /// From which version something can be had here.
    pub(crate) fn version(&self, controller: Controller) -> Option<Version> {
        let has = |folder: &&Folder| folder.controllers.contains(&controller);
        self.folders.iter().find(has).map(|folder| folder.version)
    }

    /// Whether there are groups of version 2.
    pub(crate) fn has_unified(&self) -> bool {
        self.folders.iter().any(|folder| folder.version == Version::Two)
    }

    /// Why there is not everything, in words.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Makes the groups of an instance, with its limits. What cannot be limited here is not.
    pub(super) fn make(
        &self,
        app: &AppId,
        generation: Generation,
        resources: &ResourceSpec,
        may_freeze: bool,
    ) -> io::Result<Group> {
        let is_needed = |folder: &Folder| match folder.version {
            Version::Two => true,
            Version::One => {
                folder.controllers.iter().any(|one| one.is_needed(resources, may_freeze))
            }
        };
        let group = self.group(app, generation, is_needed);
        group.make(resources)?;
        Ok(group)
    }

    /// The groups that an earlier supervisor made for an instance.
    pub(super) fn find_again(&self, app: &AppId, generation: Generation) -> Group {
        self.group(app, generation, |folder| folder.path.exists())
    }

    /// The same, with its limits.
    pub(super) fn take_up(
        &self,
        app: &AppId,
        generation: Generation,
        resources: &ResourceSpec,
    ) -> Group {
        let group = self.find_again(app, generation);
        if self.lost_limits
            && let Err(error) = group.limit(resources)
        {
            tracing::error!(%app, %error, "its limits do not hold any more");
        }
        group
    }

    fn group(&self, app: &AppId, generation: Generation, is_in: impl Fn(&Folder) -> bool) -> Group {
        let name = format!("{}.{}", app.file_name(), base36(generation.0));
        let own =
            self.folders.iter().map(|ours| Folder { path: ours.path.join(&name), ..ours.clone() });
        Group::of(own.filter(is_in).collect())
    }

    /// Removes groups that nobody is in any more: those of earlier supervisors.
    pub(crate) fn sweep(&self) {
        for folder in &self.folders {
            for entry in fs::read_dir(&folder.path).into_iter().flatten().flatten() {
                // Errors mean that somebody is in it, or that it is a file.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Drop for Cgroups {
    /// Removes our own folders, if nobody is left in them.
    fn drop(&mut self) {
        self.sweep();
        for folder in &self.folders {
            // An error means that an app outlives us, or we are in it ourselves.
            let _ = fs::remove_dir(&folder.path);
        }
    }
}

/// A group in a folder of version 2, of which there is nothing but memory.
#[cfg(test)]
pub(super) fn with_memory(folder: &Path) -> Group {
    let controllers = vec![Controller::Memory];
    Group::of(vec![Folder { path: folder.to_owned(), version: Version::Two, controllers }])
}

/// Makes a folder that may be there.
fn make_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes to a file of a group: in one piece, as each write is an order.
fn write(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    let path = folder.join(file);
    let written = fs::OpenOptions::new().write(true).open(&path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        io::Error::new(error.kind(), format!("{text:?} to {}: {error}", path.display()))
    })
}
