//! Who goes first where several want the processor: we do, and all apps share alike.
//!
//! A weight takes nothing from anybody as long as there is enough for all. Where an app wants everything, it
//! is what lets those who answer requests have their turn at once, and not at the end of the app's.

use std::{io, path::Path};

use super::{Folder, Version, find::ROLES, write};

/// Ours beside that of each app, which is 100 (`cpu.weight`, cgroups(7)).
const OURS: &str = "1000";
/// That of all apps together where we are outside of their folder: a fifth of what one process has there.
/// With a half of it, whoever answers requests still waits now and then.
const OF_ALL_APPS: &str = "20";
/// The same in version 1, where a process has 1024 (`cpu.shares`).
const OF_ALL_APPS_LEGACY: &str = "205";

/// Puts apps in their place behind us, in a hierarchy that shares the processor out.
pub(super) fn write_weights(folder: &Folder) -> io::Result<()> {
    let roles = folder.path.join(ROLES);
    let (path, file, weight): (&Path, _, _) = match folder.version {
        // Beside the apps, in a group whose own weight is our operator's.
        Version::Two if roles.is_dir() => (&roles, "cpu.weight", OURS),
        Version::Two => (&folder.path, "cpu.weight", OF_ALL_APPS),
        Version::One => (&folder.path, "cpu.shares", OF_ALL_APPS_LEGACY),
    };
    write(path, file, weight)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::driver::cgroup::Controller;

    fn folder(version: Version, files: &[&str]) -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        for file in files {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let path = place.path().to_owned();
        (place, Folder { path, version, controllers: vec![Controller::Cpu] })
    }

    fn read(folder: &Folder, file: &str) -> String {
        fs::read_to_string(folder.path.join(file)).unwrap()
    }

    #[test]
    fn we_are_raised_where_we_are_beside_the_apps() {
        let (_place, folder) = folder(Version::Two, &["cpu.weight", "roles/cpu.weight"]);
        write_weights(&folder).unwrap();
        assert_eq!(
            (read(&folder, "cpu.weight"), read(&folder, "roles/cpu.weight")),
            (String::new(), OURS.to_owned())
        );
    }

    #[test]
    fn apps_are_lowered_together_where_we_are_elsewhere() {
        let (_place, unified) = folder(Version::Two, &["cpu.weight"]);
        write_weights(&unified).unwrap();
        assert_eq!(read(&unified, "cpu.weight"), OF_ALL_APPS);
        let (_place, legacy) = folder(Version::One, &["cpu.shares"]);
        write_weights(&legacy).unwrap();
        assert_eq!(read(&legacy, "cpu.shares"), OF_ALL_APPS_LEGACY);
        let (_place, none) = folder(Version::One, &[]);
        assert!(write_weights(&none).is_err());
    }
}
