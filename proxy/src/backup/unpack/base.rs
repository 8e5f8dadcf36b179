//! The way to a folder that something is unpacked into, as root: whoever may write to a folder on it could put a link
//! there that leads to another place, where root would make a folder and give it away.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat, statat},
    io::Errno,
    process::geteuid,
};

use super::{Owner, give};

/// Only a place: neither listed nor written to.
const STEP: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// As the kernel has it.
const MOST_LINKS: u32 = 40;

/// Opens a folder. Makes it where there is none, for this owner, and those above it. Root follows a link only where
/// nobody else can have put it.
///
/// # Errors
/// If it cannot be opened or made, or is behind such a link.
pub(super) fn open(path: &Path, owner: Option<Owner>) -> io::Result<OwnedFd> {
    let mut rest = names(path);
    let mut at = start(path)?;
    let (mut links, mut is_new) = (0, false);
    while let Some(name) = rest.pop_front() {
        match openat(&at, &*name, STEP, Mode::empty()) {
            Ok(next) => (at, is_new) = (next, false),
            Err(Errno::NOENT) => {
                mkdirat(&at, &*name, Mode::RWXU | Mode::RWXG | Mode::RWXO)?;
                (at, is_new) = (openat(&at, &*name, STEP, Mode::empty())?, true);
            }
            Err(Errno::LOOP | Errno::NOTDIR) if is_link(&at, &name)? => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = target(&at, &name)?;
                if target.is_absolute() {
                    at = start(&target)?;
                }
                rest = names(&target).into_iter().chain(rest).collect();
            }
            Err(error) => return Err(error.into()),
        }
    }
    let folder = openat(&at, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if is_new && let Some(owner) = owner {
        give(&folder, owner)?;
    }
    Ok(folder)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let is_step =
        |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_step).map(|part| part.as_os_str().to_owned()).collect()
}

fn start(path: &Path) -> io::Result<OwnedFd> {
    let from = if path.is_absolute() { "/" } else { "." };
    Ok(openat(CWD, from, STEP, Mode::empty())?)
}

fn is_link(at: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let about = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(about.st_mode) == FileType::Symlink)
}

/// Where a link leads.
fn target(at: &OwnedFd, name: &OsStr) -> io::Result<PathBuf> {
    if !is_safe(at)? {
        let why =
            "on the way there is a link where others than root may put one: say where it leads";
        return Err(io::Error::other(why));
    }
    let target = readlinkat(at, name, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// Whether what is in a folder is nobody's but root's. Who is not root has no rights that a link could lead astray.
fn is_safe(folder: &OwnedFd) -> io::Result<bool> {
    let about = fstat(folder)?;
    let is_others = about.st_uid != 0 || about.st_mode & 0o022 != 0;
    Ok(!geteuid().is_root() || !is_others)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    };

    use super::*;

    #[test]
    fn a_folder_is_made_and_given_away_and_those_above_it_are_made() {
        let place = tempfile::tempdir().unwrap();
        let is_root = geteuid().is_root();
        let owner = is_root.then_some(Owner { user: 1, group: 1 });
        let path = place.path().join("a/./b/../c");
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        drop(open(&path, owner).unwrap());
        let about = |path: &str| fs::metadata(place.path().join(path)).unwrap();
        assert_eq!(about("a/c").uid(), if is_root { 1 } else { geteuid().as_raw() });
        // One that was there is whose it was.
        drop(open(&place.path().join("a/b"), owner).unwrap());
        assert_eq!(about("a/b").uid(), geteuid().as_raw());
        fs::write(place.path().join("file"), "").unwrap();
        let file = open(&place.path().join("file/x"), owner).unwrap_err();
        assert_eq!(file.raw_os_error(), Some(Errno::NOTDIR.raw_os_error()));
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_have_put_them() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        fs::create_dir(at("real")).unwrap();
        fs::create_dir(at("home")).unwrap();
        for (target, link) in [(at("real"), "absolute"), ("real".into(), "relative")] {
            symlink(target, at(link)).unwrap();
            drop(open(&at(link).join("made"), None).unwrap());
            fs::remove_dir(at("real/made")).unwrap();
        }
        symlink("circle", at("circle")).unwrap();
        let circle = open(&at("circle"), None).unwrap_err();
        assert_eq!(circle.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        symlink(at("real"), at("home/link")).unwrap();
        if !geteuid().is_root() {
            return;
        }
        let refused = || open(&at("home/link/made"), None).unwrap_err().to_string();
        chown(at("home"), Some(1), Some(1)).unwrap();
        assert!(refused().contains("say where it leads"));
        chown(at("home"), Some(0), Some(0)).unwrap();
        fs::set_permissions(at("home"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(refused().contains("say where it leads"));
        assert!(!at("real/made").exists());
    }
}
