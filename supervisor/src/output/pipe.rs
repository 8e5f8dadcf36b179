//! The pipe that takes an instance's output, and that outlives us.
//!
//! It has a name, `<run>/<app>/<generation>.out`, so that a later Doorbell finds it again, and the
//! app itself holds both of its ends: it may write while nobody reads, until the pipe is full, and
//! never learns that we were gone. Bytes in it live as long as one process holds it.
//!
//! Reading is `intake`; beside the pipe stands a [`Mark`].

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, mkfifoat, open},
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};

use super::{
    mark::{Mark, Record},
    scratch, whereabouts,
};

/// Bytes that may wait in a pipe, where the system permits it.
pub(super) const CAPACITY: usize = 256 * 1024;

/// The reading end of an instance's output.
#[derive(Debug)]
pub(crate) struct OutputPipe {
    pub(super) reader: OwnedFd,
    pub(super) mark: Mark,
    /// What the last reader was about when it ended.
    pub(super) unsettled: Option<Record>,
    path: PathBuf,
    identity: PipeIdentity,
}

/// What those who write to a pipe have in common: stat(2) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl OutputPipe {
    /// Makes a pipe, and returns the app's end with it: for reading and writing, so that the app never
    /// writes to a pipe without a reader. The folder must be there.
    pub(crate) fn create(path: &Path) -> io::Result<(Self, OwnedFd)> {
        Self::remove(path)?;
        Self::make(path).inspect_err(|_| {
            // The first failure is the one to tell.
            let _ = Self::remove(path);
        })
    }

    fn make(path: &Path) -> io::Result<(Self, OwnedFd)> {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
        let reader = open_reader(path)?;
        let apps = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // All of it is to be seen at one look. Who may not have so much has what there is.
        let _ = fcntl_setpipe_size(&reader, scratch::capacity()?.min(CAPACITY));
        Ok((Self::from_held(reader, path)?, apps))
    }

    /// Takes up the pipe of an earlier Doorbell, and its mark.
    pub(crate) fn reopen(path: &Path) -> io::Result<Self> {
        if !fs::symlink_metadata(path)?.file_type().is_fifo() {
            let why = format!("{} is no pipe", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let reader = open_reader(path)?;
        // A reader is told of the end only if somebody has written since it came, fifo(7).
        drop(open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
        Self::from_held(reader, path)
    }

    /// Takes up a pipe by a reading end that somebody kept open, and its mark. The name may be gone,
    /// and so may everybody who writes.
    pub(crate) fn from_held(reader: OwnedFd, path: &Path) -> io::Result<Self> {
        let mark = Mark::open(&mark_of(path))?;
        let unsettled = mark.read()?;
        let found = fstat(&reader)?;
        let identity = PipeIdentity { device: found.st_dev, inode: found.st_ino };
        Ok(Self { reader, mark, unsettled, path: path.into(), identity })
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> PipeIdentity {
        self.identity
    }

    /// The reading end once more, for somebody to hold while we are gone: what was printed stays even
    /// if the app ends meanwhile.
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.reader.try_clone()
    }

    /// Removes the name of a pipe and what stands beside it, if they are there.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        for path in [path, &mark_of(path), &whereabouts::link_of(path)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The bytes that a pipe holds at most.
pub(super) fn capacity(pipe: impl AsFd) -> io::Result<usize> {
    Ok(fcntl_getpipe_size(pipe)?)
}

fn mark_of(path: &Path) -> PathBuf {
    path.with_extension("mark")
}

fn open_reader(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    fn front(pipe: &OutputPipe, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        scratch::peek(&pipe.reader, most, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn who_writes_without_a_reader_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.out");
        let (pipe, apps) = OutputPipe::create(&path).unwrap();
        let identity = pipe.identity();
        drop(pipe);
        let mut apps = File::from(apps);
        apps.write_all(b"nobody reads\n").unwrap();
        let pipe = OutputPipe::reopen(&path).unwrap();
        assert_eq!(front(&pipe, 100), b"nobody reads\n");
        assert_eq!(pipe.identity(), identity);
        assert_eq!(identity.inode, apps.metadata().unwrap().ino());
        assert_eq!(apps.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_look_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, apps) = OutputPipe::create(&folder.path().join("1.out")).unwrap();
        assert_eq!(front(&pipe, 100), b"");
        let mut apps = File::from(apps);
        apps.write_all(&[b'x'; 100_000]).unwrap();
        assert_eq!(front(&pipe, 10), b"xxxxxxxxxx");
        assert_eq!(front(&pipe, usize::MAX).len(), 100_000);
        drop(apps);
        let mut all = Vec::new();
        File::from(pipe.reader).read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn all_that_a_pipe_holds_is_seen_at_one_look() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, apps) = OutputPipe::create(&folder.path().join("1.out")).unwrap();
        rustix::fs::fcntl_setfl(&apps, OFlags::NONBLOCK).unwrap();
        let mut apps = File::from(apps);
        // More than half a page each, so that no two share one.
        let written: usize = std::iter::from_fn(|| apps.write(&[b'x'; 2500]).ok()).sum();
        assert!(written < capacity(&pipe.reader).unwrap());
        assert_eq!(front(&pipe, CAPACITY).len(), written);
    }

    #[test]
    fn a_reading_end_that_was_held_keeps_what_the_app_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.out");
        let (pipe, apps) = OutputPipe::create(&path).unwrap();
        File::from(apps).write_all(b"last words").unwrap();
        let held = pipe.try_clone().unwrap();
        drop(pipe);
        fs::remove_file(&path).unwrap();
        assert_eq!(front(&OutputPipe::from_held(held, &path).unwrap(), 100), b"last words");
    }

    #[test]
    fn what_stands_in_the_way_goes_and_what_is_no_pipe_is_not_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.out");
        fs::write(&path, "stale").unwrap();
        assert!(OutputPipe::reopen(&path).is_err());
        drop(OutputPipe::create(&path).unwrap());
        OutputPipe::remove(&path).unwrap();
        OutputPipe::remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
