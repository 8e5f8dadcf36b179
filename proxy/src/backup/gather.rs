//! Folders on their way into an archive.
//!
//! Whoever runs this may read everything, and whoever the folder belongs to may change it meanwhile. So each
//! step is taken from a folder that is open to a name in it, and no link is ever followed: what is saved was
//! below the folder.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat, fstat, openat, statat};

use super::{
    BackupError,
    inner_path::{InnerPath, MOST_DEPTH},
    writer::{Looks, Writer},
};

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder below another one. The latter may be behind links, the way from there may not.
///
/// # Errors
/// If there is none, or a link.
pub fn open(directory: &Path, folder: &InnerPath) -> Result<OwnedFd, BackupError> {
    let shown = directory.join(folder.to_path());
    let what = format!("cannot open the folder {}", shown.display());
    let open = || -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(directory, flags, Mode::empty())?;
        for name in folder.names() {
            let is_link = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| kind(&stat) == FileType::Symlink);
            if is_link {
                return Err(io::Error::other("it is behind a link, which is not followed"));
            }
            at = openat(&at, name, FOLDER, Mode::empty())?;
        }
        Ok(at)
    };
    open().map_err(BackupError::io(what))
}

/// What is gathered, and what was left.
pub struct Gathering<'g, W: Write> {
    /// Where it goes.
    pub writer: &'g mut Writer<W>,
    /// The folder's number in the archive.
    pub number: usize,
    /// The folder as it was named.
    pub shown: PathBuf,
    /// Hears of what was not taken as it is.
    pub told: &'g mut dyn FnMut(String),
    /// Files that were taken.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl<W: Write> Gathering<'_, W> {
    /// Takes all that is in a folder.
    ///
    /// # Errors
    /// If something cannot be read, or nothing be written.
    pub fn take(&mut self, folder: &OwnedFd) -> Result<(), BackupError> {
        self.folder(folder.as_fd(), &InnerPath::default())
    }

    fn folder(&mut self, folder: BorrowedFd<'_>, path: &InnerPath) -> Result<(), BackupError> {
        if path.depth() >= MOST_DEPTH {
            return Err(self.failed("read", path)(io::Error::other(
                "folders are nested too deeply",
            )));
        }
        let stat = fstat(folder).map_err(|error| self.failed("read", path)(error.into()))?;
        let names = names(folder).map_err(self.failed("read", path))?;
        for name in names {
            self.one(
                folder,
                OsStr::from_bytes(name.as_bytes()),
                &path.join(OsStr::from_bytes(name.as_bytes())),
            )?;
        }
        self.writer.folder(self.number, path, looks(&stat))
    }

    fn one(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &InnerPath,
    ) -> Result<(), BackupError> {
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was deleted just now.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.failed("read", path)(error.into())),
        };
        let done = match kind(&stat) {
            FileType::Directory => match openat(folder, name, FOLDER, Mode::empty()) {
                Ok(inner) => return self.folder(inner.as_fd(), path),
                Err(error) => Err(error),
            },
            FileType::RegularFile => {
                let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match openat(folder, name, flags, Mode::empty()) {
                    Ok(file) => return self.file(file.into(), path),
                    Err(error) => Err(error),
                }
            }
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => return self.link(path, looks(&stat), target),
                Err(error) => Err(error),
            },
            other => {
                self.tell(path, &format!("left out: it is {}", words(other)));
                Ok(())
            }
        };
        match done {
            // It went, or became something else, between two looks.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                self.tell(path, "left out: it was just replaced");
                Ok(())
            }
            other => other.map_err(|error| self.failed("read", path)(error.into())),
        }
    }

    fn link(&mut self, path: &InnerPath, looks: Looks, target: CString) -> Result<(), BackupError> {
        let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
        if path.leads_out(&target) {
            self.tell(path, "a link that leads out of the folder: an import leaves it out");
        }
        self.writer.link(self.number, path, looks, &target)
    }

    fn file(&mut self, file: File, path: &InnerPath) -> Result<(), BackupError> {
        let stat = fstat(&file).map_err(|error| self.failed("read", path)(error.into()))?;
        if kind(&stat) != FileType::RegularFile {
            self.tell(path, "left out: it was just replaced");
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let mut content = Exactly { file, left: size, is_short: false, error: None };
        self.writer.file(self.number, path, looks(&stat), size, &mut content)?;
        if let Some(error) = content.error {
            return Err(self.failed("read", path)(error));
        }
        if content.is_short {
            self.tell(path, "became shorter while it was read: it is filled up with zeros");
        } else if content.file.read(&mut [0]).is_ok_and(|more| more > 0) {
            self.tell(path, "became longer while it was read: what came later is not in it");
        }
        self.files += 1;
        self.bytes += size;
        Ok(())
    }

    fn tell(&mut self, path: &InnerPath, words: &str) {
        let shown = self.shown.join(path.to_path());
        (self.told)(format!("{}: {words}", shown.display().to_string().escape_debug()));
    }

    fn failed(
        &self,
        verb: &str,
        path: &InnerPath,
    ) -> impl FnOnce(io::Error) -> BackupError + use<W> {
        let shown = self.shown.join(path.to_path());
        BackupError::io(format!("cannot {verb} {}", shown.display().to_string().escape_debug()))
    }
}

/// As many bytes of a file as were announced, whatever becomes of it.
struct Exactly {
    file: File,
    left: u64,
    is_short: bool,
    /// Told when the writer, who is not to blame, is done.
    error: Option<io::Error>,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        if most == 0 {
            return Ok(0);
        }
        let read = if self.is_short { Ok(0) } else { self.file.read(buffer) };
        let read = match read {
            Ok(0) => {
                self.is_short = true;
                buffer.fill(0);
                most
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                (self.error, self.is_short) = (Some(error), true);
                buffer.fill(0);
                most
            }
        };
        self.left -= read as u64;
        Ok(read)
    }
}

/// What is in a folder, in order.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode as RawMode)
}

fn looks(stat: &Stat) -> Looks {
    let changed_at = u64::try_from(stat.st_mtime).unwrap_or_default();
    Looks { mode: stat.st_mode & 0o777, changed_at }
}

fn words(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        _ => "no file",
    }
}
