//! Small files that are there whole or not at all, for their owner alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Puts a file in the place of the one that is there, if any. The folder is ours: nobody else writes there.
///
/// # Errors
/// If it cannot be written; then the old one stays.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    // Or a machine that loses its power could be left with an empty file in the place of the old one.
    file.sync_data()?;
    fs::rename(new, path)
}
