//! The file of an app's log that is being written.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{CURRENT, cut::LONGEST};
use crate::logs;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) file: File,
    pub(super) inode: u64,
    pub(super) size: u64,
}

impl Current {
    /// Opens the file, and makes it and its folder if need be. Its last line may have no end where it
    /// `is_torn`.
    pub(super) fn open(folder: &Path, is_torn: bool) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let path = folder.join(CURRENT);
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let found = file.metadata()?;
        let mut current = Self { file, inode: found.ino(), size: found.len() };
        if is_torn && found.is_file() {
            current.cut_torn_line(&path)?;
        }
        Ok(current)
    }

    /// Cuts off the beginning of a line whose end was never written: the whole line is in the app's
    /// pipe still, and comes again. What is longer than any line is none, and is ended.
    fn cut_torn_line(&mut self, path: &Path) -> io::Result<()> {
        let (_, end) = logs::last_lines(&File::open(path)?, self.size, 0)?;
        if self.size - end > 2 * LONGEST as u64 {
            self.file.write_all(b"\n")?;
            self.size += 1;
        } else if end < self.size {
            self.file.set_len(end)?;
            self.size = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open_with(text: &str) -> (u64, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CURRENT);
        fs::write(&path, text).unwrap();
        let size = Current::open(folder.path(), true).unwrap().size;
        (size, fs::read_to_string(path).unwrap())
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        assert_eq!(open_with("one\ntwo\nthr"), (8, "one\ntwo\n".into()));
        assert_eq!(open_with("one\n"), (4, "one\n".into()));
        assert_eq!(open_with("on"), (0, String::new()));
        assert_eq!(open_with(""), (0, String::new()));
    }

    #[test]
    fn what_is_longer_than_any_line_is_kept() {
        let long = "x".repeat(200_000);
        assert_eq!(open_with(&long), (200_001, format!("{long}\n")));
    }
}
