//! What a program can change, where it cannot have mounts of its own: landlock(7).
//!
//! Rights can be granted there, and nothing below be taken back again: so a fence stands for `read_only_paths`
//! that have `/` among them, and none within what can be changed. It keeps what files contain and what folders
//! list, not modes, owners and times. Who is behind one can gain no privileges, which is the operator's to say
//! (`no_new_privs`): programs that are another user would not work.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use doorbell_config::spec::{EnclosureSpec, ProcessSpec};
use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};

/// How well one holds on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Well,
    /// Whoever may write a file can empty it (truncate(2)): Linux before 6.2.
    ButTruncation,
    Not,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum FenceError {
    #[error(transparent)]
    Path(#[from] PathFdError),
    #[error(transparent)]
    Kernel(#[from] RulesetError),
}

/// Where a file is changed, or what a folder lists.
fn changes() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V3)
}

/// What can be had here.
pub(super) fn holds() -> Holds {
    let has = |rights: BitFlags<AccessFs>| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(rights).and_then(Ruleset::create).is_ok()
    };
    match (has(changes()), has(AccessFs::from_write(ABI::V1))) {
        (true, _) => Holds::Well,
        (false, true) => Holds::ButTruncation,
        (false, false) => Holds::Not,
    }
}

/// Why an app's `read_only_paths` cannot be held by a fence, if so.
pub(super) fn hindrance(process: &ProcessSpec) -> Option<&'static str> {
    if holds() == Holds::Not {
        return Some("this kernel has no landlock");
    }
    if !process.no_new_privs {
        return Some("landlock takes `no_new_privs = true`");
    }
    (!is_expressible(&process.enclosure))
        .then_some("landlock takes `/` among them, and none below `read_write_paths`")
}

/// Whether all is read-only but some paths, with all below them.
fn is_expressible(spec: &EnclosureSpec) -> bool {
    let real = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let read_write: Vec<_> = spec.read_write.iter().map(real).collect();
    let read_only: Vec<_> = spec.read_only.iter().map(real).collect();
    let is_within = |path: &PathBuf| read_write.iter().any(|open| path.starts_with(open));
    let root = Path::new("/");
    read_only.iter().any(|path| path == root)
        && !read_only.iter().any(|path| path != root && is_within(path))
}

/// Builds one around all but these paths, to be entered by the child.
pub(super) fn build<'p>(
    open: impl Iterator<Item = &'p Path>,
) -> Result<Option<OwnedFd>, FenceError> {
    let mut ruleset = Ruleset::default().handle_access(changes())?.create()?;
    for path in open {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, changes()))?;
    }
    Ok(ruleset.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_some_paths_can_be_said() {
        let said = |read_only: &[&str], read_write: &[&str]| {
            let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect();
            let (read_only, read_write) = (paths(read_only), paths(read_write));
            is_expressible(&EnclosureSpec { private_tmp: false, read_only, read_write })
        };
        assert!(said(&["/"], &[]) && said(&["/", "/etc"], &["/srv/app/data", "/var/cache/app"]));
        assert!(!said(&["/etc"], &[]) && !said(&[], &["/srv"]));
        assert!(!said(&["/", "/srv/app/old"], &["/srv/app"]));
    }
}
