//! Lets a service manager put the next supervisor where the last one was.
//!
//! A group that hands controllers on can have no process of its own (cgroups(7)), and systemd starts a service in
//! the service's own group: where an earlier supervisor handed controllers on to apps that outlive it, the next one
//! could not be started. Since version 254 systemd starts it in a group below, if it is told the name
//! (`DelegateSubgroup=`). Before, what was handed on is taken back when the supervisor has died
//! (`ExecStopPost=`), and the next one hands it on again, and sets the limits anew.

use std::{fs, io, path::Path};

use super::{
    find::{self, HANDED_ON, SUBGROUP},
    write,
};

/// Where systemd runs what it runs beside the service.
const BESIDE: &str = ".control";

/// Takes back what was handed on in the group of this service, unless the next supervisor is not started there.
///
/// # Errors
/// If a group cannot be read or written to.
pub fn make_way() -> io::Result<()> {
    let Some(own) = find::own_unified()? else { return Ok(()) };
    match own.parent().filter(|_| own.ends_with(BESIDE) || own.ends_with(SUBGROUP)) {
        Some(service) => clear(service),
        // Whoever else is there may be nobody's business.
        None => Err(io::Error::other("this is for ExecStopPost= of a unit with Delegate=yes")),
    }
}

fn clear(service: &Path) -> io::Result<()> {
    if service.join(SUBGROUP).is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(service)? {
        let below = entry?.path();
        if below.is_dir() {
            take_back(&below)?;
        }
    }
    take_back(service)
}

fn take_back(group: &Path) -> io::Result<()> {
    let handed = fs::read_to_string(group.join(HANDED_ON))?;
    handed.split_ascii_whitespace().try_for_each(|one| write(group, HANDED_ON, &format!("-{one}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service with apps below; what is written last to a file is what is in it.
    fn service() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("doorbell/blog.1")).unwrap();
        for (folder, text) in [("", "memory pids"), ("doorbell", "memory")] {
            fs::write(place.path().join(folder).join(HANDED_ON), text).unwrap();
        }
        place
    }

    fn handed_on(service: &Path, below: &str) -> String {
        fs::read_to_string(service.join(below).join(HANDED_ON)).unwrap()
    }

    #[test]
    fn what_was_handed_on_is_taken_back_from_below() {
        let place = service();
        clear(place.path()).unwrap();
        // In a real group each write is an order of its own.
        assert!(handed_on(place.path(), "").starts_with("-pids"));
        assert!(handed_on(place.path(), "doorbell").starts_with("-memory"));
    }

    #[test]
    fn where_the_next_supervisor_has_a_group_of_its_own_nothing_is_taken_back() {
        let place = service();
        fs::create_dir(place.path().join(SUBGROUP)).unwrap();
        clear(place.path()).unwrap();
        assert_eq!(handed_on(place.path(), ""), "memory pids");
    }
}
