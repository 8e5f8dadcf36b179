//! Where the registry is, as the files said when they were good: a control process may be started while they are
//! broken, and is not to take another registry for its own then.

use std::{fs, io, path::Path};

use doorbell_config::registry::Location;

use crate::whole_file;

/// The file, in the control process's folder. It may hold a password.
const FILE: &str = "registry.url";

/// Remembers what the files say: a place, or nothing.
///
/// # Errors
/// If it cannot be written.
pub fn remember(folder: &Path, named: Option<&Location>) -> io::Result<()> {
    let path = folder.join(FILE);
    if remembered(folder).ok().as_ref().is_some_and(|known| known.as_ref() == named) {
        return Ok(());
    }
    match named {
        Some(location) => whole_file::put(&path, location.reveal().as_bytes()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    }
}

/// What they said last.
///
/// # Errors
/// If that cannot be read.
pub fn remembered(folder: &Path) -> io::Result<Option<Location>> {
    match fs::read_to_string(folder.join(FILE)) {
        Ok(text) => text.parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_was_said_last_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(remembered(folder).unwrap(), None);
        for text in ["postgres://me:secret@db.test/door?sslmode=require", "sqlite:/var/lib/r.db"] {
            let location = text.parse().unwrap();
            remember(folder, Some(&location)).unwrap();
            remember(folder, Some(&location)).unwrap();
            assert_eq!(remembered(folder).unwrap(), Some(location));
        }
        assert_eq!(fs::metadata(folder.join(FILE)).unwrap().mode() & 0o777, 0o600);
        fs::write(folder.join(FILE), "my:secret").unwrap();
        assert!(!remembered(folder).unwrap_err().to_string().contains("secret"));
        remember(folder, None).unwrap();
        assert_eq!(remembered(folder).unwrap(), None);
    }
}
