//! A file of SQLite, put in its place when it is whole. It is not opened here: what is in it is between the app
//! and SQLite.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

use super::not_empty;
use crate::backup::BackupError;

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
    if fs::symlink_metadata(path).is_ok_and(|there| there.len() > 0) {
        return Err(not_empty(&format!("sqlite:{shown}")));
    }
    let failed = BackupError::io(format!("cannot write {shown}"));
    write(path, dump).map_err(failed)?;
    Ok(Vec::new())
}

fn write(path: &Path, dump: &mut dyn Read) -> io::Result<()> {
    let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let new = path.with_extension("import");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let owner = folder.metadata()?;
    if owner.uid() != file.metadata()?.uid() {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    let written = io::copy(dump, &mut file)?;
    if written == 0 {
        return fs::remove_file(&new);
    }
    file.flush()?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    folder.sync_all()
}
