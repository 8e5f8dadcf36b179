//! What passes of operators are signed with: made once, and kept with the state.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use crate::{desk::replace, protocol::Seed};

const FILE: &str = "operator.seed";

/// The seed in this folder; a new one where there is none, or none that is whole.
pub(super) fn seed(state_dir: &Path) -> io::Result<Seed> {
    let path = state_dir.join(FILE);
    if let Ok(kept) = fs::read(&path)
        && let Ok(seed) = kept.try_into()
    {
        return Ok(Seed(seed));
    }
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    replace(&path, &seed)?;
    Ok(Seed(seed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = seed(folder.path()).unwrap();
        assert_ne!(first, Seed([0; 32]));
        assert_eq!(seed(folder.path()).unwrap(), first);
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "Seed(..)");
    }
}
