//! Where an archive is written: a file that has its name only when it is whole, or standard output.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};
use uuid::Uuid;

use super::BackupError;

/// Where an archive is written.
pub enum Output {
    /// Into whatever reads it.
    Standard(io::Stdout),
    /// Into a file for its owner alone.
    File(NewFile),
}

/// A file that is not there before it is whole. Where the file system allows it, it has no name until then,
/// so that nothing is left of it whoever is killed.
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// What it is called until it is whole, if anything.
    name: Option<PathBuf>,
}

impl Output {
    /// Opens it; `-` is standard output, which must be no terminal.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                let why = "an archive is nothing for a terminal: name a file, or use a pipe";
                return Err(BackupError::InTheWay(why.into()));
            }
            return Ok(Self::Standard(stdout));
        }
        // What is there is replaced: a device or a pipe would be gone.
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            let why =
                format!("{} is no file that could be replaced: `-` is for pipes", path.display());
            return Err(BackupError::InTheWay(why));
        }
        let file = NewFile::open(path);
        Ok(Self::File(file.map_err(BackupError::io(format!("cannot write {}", path.display())))?))
    }

    /// All is written: gives it its name, when it is on the disk.
    ///
    /// # Errors
    /// If it is not.
    pub fn finish(self) -> Result<(), BackupError> {
        match self {
            Self::Standard(mut stdout) => {
                stdout.flush().map_err(BackupError::io("cannot write to standard output"))
            }
            Self::File(file) => {
                let what = format!("cannot write {}", file.path.display());
                file.finish().map_err(BackupError::io(what))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(stdout) => stdout.write(bytes),
            Self::File(file) => file.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(stdout) => stdout.flush(),
            Self::File(file) => file.file.flush(),
        }
    }
}

impl NewFile {
    /// Begins it, for us alone.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let folder = folder_of(path);
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let path = path.to_owned();
        match rustix::fs::open(folder, flags, mode) {
            Ok(file) => Ok(Self { file: file.into(), path, name: None }),
            // Some file systems have none without a name.
            Err(_) => {
                let name = beside(&path);
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o600).open(&name)?;
                Ok(Self { file, path, name: Some(name) })
            }
        }
    }

    /// The file, as far as it is written.
    #[must_use]
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// It is whole: puts it in the place of what was there.
    ///
    /// # Errors
    /// If it cannot have its name, or may not be on the disk.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(0o600))?;
        self.file.sync_all()?;
        if self.name.is_none() {
            let name = beside(&self.path);
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, own, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            self.name = Some(name);
        }
        if let Some(name) = &self.name {
            fs::rename(name, &self.path)?;
        }
        self.name = None;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // It is of no use, and there is nobody to tell.
            let _ = fs::remove_file(name);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside it that nobody else has.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", Uuid::new_v4().simple()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [folder.path(), &link, &socket, Path::new("/dev/null")] {
            assert!(matches!(Output::open(path), Err(BackupError::InTheWay(_))), "{path:?}");
        }
    }

    #[test]
    fn a_file_is_there_when_it_is_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.doorbell");
        let mut output = Output::open(&path).unwrap();
        output.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(names(folder.path()), [""; 0]);
        fs::write(&path, "old").unwrap();
        let mut output = Output::open(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a.doorbell"]);
    }
}
