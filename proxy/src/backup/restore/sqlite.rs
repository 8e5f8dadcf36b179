//! A file of SQLite, put in its place when it is whole. It is not opened here: what is in it is between the app
//! and SQLite.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, fchown},
    path::Path,
};

use super::not_empty;
use crate::backup::{BackupError, output::NewFile};

/// What each of them begins with: <https://www.sqlite.org/fileformat.html>.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Sees that it is a file of SQLite, or empty.
pub(super) fn check(dump: &mut dyn Read) -> Result<(), BackupError> {
    let mut begin = Vec::new();
    let mut limited = dump.take(MAGIC.len() as u64);
    limited.read_to_end(&mut begin).map_err(BackupError::reading)?;
    if begin.is_empty() || begin == MAGIC {
        return Ok(());
    }
    Err(BackupError::Refused("its database is no file of SQLite".into()))
}

/// Writes the file, for the owner of its folder.
pub(super) fn restore(path: &Path, dump: &mut dyn Read) -> Result<Vec<String>, BackupError> {
    let shown = path.display().to_string();
    if is_in_use(path) {
        return Err(not_empty(&format!("sqlite:{shown}")));
    }
    let failed = BackupError::io(format!("cannot write {shown}"));
    write(path, dump).map_err(failed)?;
    Ok(Vec::new())
}

/// Whether there is something in it, or beside it that SQLite would play back into what takes its place.
fn is_in_use(path: &Path) -> bool {
    let beside = |more: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(more);
        fs::symlink_metadata(Path::new(&name)).is_ok()
    };
    fs::symlink_metadata(path).is_ok_and(|there| there.len() > 0)
        || ["-journal", "-wal", "-shm"].iter().any(|more| beside(more))
}

fn write(path: &Path, dump: &mut dyn Read) -> io::Result<()> {
    let owner = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    let mut new = NewFile::open(path)?;
    if owner.uid() != new.file().metadata()?.uid() {
        fchown(new.file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    if io::copy(dump, new.file())? == 0 { Ok(()) } else { new.finish() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_left_beside_it_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database.sqlite");
        fs::write(folder.path().join("database.sqlite-journal"), "").unwrap();
        assert!(restore(&path, &mut &MAGIC[..]).is_err());
        fs::remove_file(folder.path().join("database.sqlite-journal")).unwrap();
        restore(&path, &mut &b""[..]).unwrap();
        assert!(!path.exists(), "nothing was in it");
        restore(&path, &mut &MAGIC[..]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), MAGIC);
        assert!(restore(&path, &mut &MAGIC[..]).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
