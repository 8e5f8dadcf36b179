//! Folders on their way out of an archive.
//!
//! Each step is taken from a folder that is open to a name in it, and no link is followed, neither one that was
//! there nor one that the archive brought: nothing is written but below the folder. Nothing that is there is
//! replaced unless the operator says so, and then files alone. Links that lead out are left out; rights
//! to be another user (setuid) are not given.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
        fchown, futimens, mkdirat, openat, symlinkat, unlinkat,
    },
    io::Errno,
};

mod base;

use super::{BackupError, inner_path::InnerPath, reader::Item, writer::Looks};

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What becomes of files that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: then the folder has to be empty.
    Kept,
    /// Those of the same names are replaced.
    Replaced,
}

/// Who files are given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub user: u32,
    /// Group.
    pub group: u32,
}

/// A folder that is filled.
pub struct Destination {
    shown: PathBuf,
    folder: OwnedFd,
    existing: Existing,
    /// `None` where we can give nothing away.
    owner: Option<Owner>,
}

/// Where a folder is to be: this one, which may be behind links that are nobody else's, and the way from there, on
/// which there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Given by the operator, or by the app's definition.
    pub base: PathBuf,
    /// The rest of it.
    pub inner: InnerPath,
}

impl Site {
    /// As a path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.base.join(self.inner.to_path())
    }

    /// Sees that it may be filled: that it is empty, or not there yet.
    ///
    /// # Errors
    /// Says what stands in the way.
    pub fn check(&self, existing: Existing) -> Result<(), BackupError> {
        let shown = self.path().display().to_string();
        let look = || -> io::Result<bool> {
            let at = match rustix::fs::open(
                &self.base,
                OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                Err(Errno::NOENT) => return Ok(true),
                opened => opened?,
            };
            match walk(&at, self.inner.names(), Missing::IsAnError) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                folder => is_empty(&folder?),
            }
        };
        let is_free = look().map_err(BackupError::io(format!("cannot look into {shown}")))?;
        if is_free || existing == Existing::Replaced {
            return Ok(());
        }
        Err(BackupError::InTheWay(format!(
            "{shown} is there already and has something in it: put the folder elsewhere (--folder-to), or replace \
             files of the same names (--replace-files)"
        )))
    }
}

fn is_empty(folder: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Destination {
    /// Opens the folder; makes it, and those above it, where there is none.
    ///
    /// # Errors
    /// If it cannot be, or is not empty.
    pub fn open(
        site: &Site,
        existing: Existing,
        owner: Option<Owner>,
    ) -> Result<Self, BackupError> {
        site.check(existing)?;
        let open = || -> io::Result<OwnedFd> {
            let base = base::open(&site.base, owner)?;
            walk(&base, site.inner.names(), Missing::IsMade(owner))
        };
        let shown = site.path();
        let folder = open()
            .map_err(BackupError::io(format!("cannot make the folder {}", shown.display())))?;
        Ok(Self { shown, folder, existing, owner })
    }

    /// Puts something into it; tells what was left out.
    ///
    /// # Errors
    /// If it cannot be written, or is there already.
    pub fn put(&self, path: &InnerPath, item: Item<'_>) -> Result<Option<String>, BackupError> {
        let shown = self.shown.join(path.to_path()).display().to_string();
        let shown = shown.escape_debug().to_string();
        let failed = BackupError::io(format!("cannot write {shown}"));
        match item {
            Item::Link(target) if path.leads_out(&target) => {
                Ok(Some(format!("{shown}: left out, a link that leads out of the folder")))
            }
            Item::Link(target) => self.link(path, &target).map(|()| None).map_err(failed),
            Item::Folder(looks) => self.folder(path, looks).map(|()| None).map_err(failed),
            Item::File(looks, content) => {
                self.file(path, looks, content).map(|()| None).map_err(failed)
            }
        }
    }

    /// All that was put is on the disk when this returns.
    ///
    /// # Errors
    /// If it is not.
    pub fn settle(&self) -> Result<(), BackupError> {
        let failed = BackupError::io(format!("cannot write {}", self.shown.display()));
        rustix::fs::syncfs(&self.folder).map_err(|error| failed(error.into()))
    }

    fn file(&self, path: &InnerPath, looks: Looks, content: &mut dyn Read) -> io::Result<()> {
        let (folder, name) = self.above(path)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file: File = match openat(&folder, &*name, NEW_FILE, mode) {
            Err(Errno::EXIST) if self.existing == Existing::Replaced => {
                unlinkat(&folder, &*name, AtFlags::empty())?;
                openat(&folder, &*name, NEW_FILE, mode)
            }
            opened => opened,
        }?
        .into();
        io::copy(content, &mut file)?;
        self.finish(&file, looks)
    }

    fn link(&self, path: &InnerPath, target: &Path) -> io::Result<()> {
        let (folder, name) = self.above(path)?;
        match symlinkat(target, &folder, &*name) {
            Err(Errno::EXIST) if self.existing == Existing::Replaced => {
                unlinkat(&folder, &*name, AtFlags::empty())?;
                symlinkat(target, &folder, &*name)
            }
            made => made,
        }?;
        if let Some(Owner { user, group }) = self.owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            chownat(&folder, &*name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// What is in it is there by now.
    fn folder(&self, path: &InnerPath, looks: Looks) -> io::Result<()> {
        let folder = self.walk(path.names())?;
        // That which was there keeps what it was.
        if path.depth() == 0 && self.existing == Existing::Replaced {
            return Ok(());
        }
        self.finish(&folder, looks)
    }

    fn finish(&self, file: impl AsFd, looks: Looks) -> io::Result<()> {
        if let Some(owner) = self.owner {
            give(&file, owner)?;
        }
        fchmod(&file, Mode::from_raw_mode(looks.mode & 0o777))?;
        let changed =
            Timespec { tv_sec: i64::try_from(looks.changed_at).unwrap_or_default(), tv_nsec: 0 };
        let unsaid = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(&file, &Timestamps { last_access: unsaid, last_modification: changed })?;
        Ok(())
    }

    /// The folder that something is in, and its name there.
    fn above(&self, path: &InnerPath) -> io::Result<(OwnedFd, OsString)> {
        let mut names = path.names();
        let name = names.next_back().ok_or(Errno::EXIST)?.to_owned();
        Ok((self.walk(names)?, name))
    }

    fn walk<'n>(&self, names: impl Iterator<Item = &'n OsStr>) -> io::Result<OwnedFd> {
        walk(&self.folder, names, Missing::IsMade(self.owner))
    }
}

/// What becomes of a folder that is not there.
#[derive(Clone, Copy)]
enum Missing {
    IsAnError,
    IsMade(Option<Owner>),
}

/// Goes down from a folder, through no link.
fn walk<'n>(
    from: &OwnedFd,
    names: impl Iterator<Item = &'n OsStr>,
    missing: Missing,
) -> io::Result<OwnedFd> {
    let mut at = from.try_clone()?;
    for name in names {
        at = match (openat(&at, name, FOLDER, Mode::empty()), missing) {
            (Err(Errno::NOENT), Missing::IsMade(owner)) => {
                mkdirat(&at, name, Mode::RWXU)?;
                let made = openat(&at, name, FOLDER, Mode::empty())?;
                if let Some(owner) = owner {
                    give(&made, owner)?;
                }
                made
            }
            (Err(Errno::LOOP | Errno::NOTDIR), _) => {
                return Err(io::Error::other("something else than a folder is in the way"));
            }
            (opened, _) => opened?,
        };
    }
    Ok(at)
}

fn give(file: impl AsFd, owner: Owner) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(owner.user), Gid::from_raw(owner.group));
    Ok(fchown(file, Some(user), Some(group))?)
}
