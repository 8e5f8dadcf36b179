//! What keeps a program from changing files where it cannot have mounts of its own: landlock(7).
//!
//! Rights can be granted there, and nothing below be taken back again: so a wall stands for `read_only_paths`
//! that have `/` among them, and none below what can be changed. It keeps what files contain and what folders
//! list. Who is behind one can gain no privileges, which is the operator's to say (`no_new_privs`): programs
//! that become another user would not work.

use std::{os::fd::OwnedFd, path::Path, sync::LazyLock};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::sys::FIRST_FREE;

/// What walls keep on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    Whole,
    /// Whoever may write a file by its mode can empty it (truncate(2)): Linux before 6.2.
    ButTruncation,
    /// There are none, or they would forbid any rename from folder to folder: Linux before 5.19.
    Nothing,
}

/// Why there is no wall.
#[derive(Debug, thiserror::Error)]
pub(super) enum WallError {
    #[error(transparent)]
    Path(#[from] PathFdError),
    #[error(transparent)]
    Kernel(#[from] RulesetError),
    #[error(transparent)]
    Descriptor(#[from] Errno),
}

/// Where a file is changed, or what a folder lists.
fn changes() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V3)
}

/// What can be had here.
pub(super) fn strength() -> Strength {
    static STRENGTH: LazyLock<Strength> = LazyLock::new(|| {
        let has = |rights: BitFlags<AccessFs>| {
            let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
            ruleset.handle_access(rights).and_then(Ruleset::create).is_ok()
        };
        match (has(changes()), has(AccessFs::from_write(ABI::V2))) {
            (true, _) => Strength::Whole,
            (false, true) => Strength::ButTruncation,
            (false, false) => Strength::Nothing,
        }
    });
    *STRENGTH
}

/// Builds one around all but these paths, for the child to go behind.
///
/// # Errors
/// If a path is gone, or the kernel has no landlock.
pub(super) fn build<'p>(open: impl Iterator<Item = &'p Path>) -> Result<OwnedFd, WallError> {
    let mut ruleset = Ruleset::default().handle_access(changes())?.create()?;
    for path in open {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, changes()))?;
    }
    let wall: Option<OwnedFd> = ruleset.into();
    // Out of the way of what the child inherits.
    Ok(fcntl_dupfd_cloexec(wall.ok_or(Errno::OPNOTSUPP)?, FIRST_FREE)?)
}
