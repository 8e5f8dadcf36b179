//! What a file or folder looked like when it was read, to tell later whether it has changed.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What tells one content of a file from another without reading it: identity, size, and the times
/// of the last write and of the last change of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of what is at this path now, links followed; `None` if nothing can be seen there.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Stamp {
    /// The same for every way to write a file's path.
    pub(super) fn identity(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// A file or folder that a config was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub path: PathBuf,
    /// What it was just before it was read; `None` if it was not there.
    pub stamp: Option<Stamp>,
}

impl Seen {
    pub(super) fn now(path: PathBuf) -> Self {
        Self { stamp: Stamp::of(&path), path }
    }

    /// Whether no other path led to the same file before. What is not there is nobody's double.
    pub(super) fn is_first(&self, known: &mut HashSet<(u64, u64)>) -> bool {
        self.stamp.is_none_or(|stamp| known.insert(stamp.identity()))
    }

    /// Whether it is as it was.
    #[must_use]
    pub fn is_current(&self) -> bool {
        Stamp::of(&self.path) == self.stamp
    }
}
