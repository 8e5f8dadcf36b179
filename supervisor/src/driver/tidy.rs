//! Removes what apps left, however much and however deep it is, while nobody waits.
//!
//! A tree that an app made is not to be trusted: it may be so deep that whoever goes down recursively has
//! neither stack nor descriptors enough, and so large that it takes minutes. So folders are moved up to the
//! top until there is one level left, with two descriptors, by a thread of its own. Links are never
//! followed.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

/// What stands before the name of what is to be removed.
const GONE: &str = "gone-";
/// Times that a folder is gone through before it is left alone: somebody goes on filling it.
const PASSES: usize = 100_000;

/// Puts a folder out of the way at once, and has it removed, with others that were left so.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
    let mut gone = std::ffi::OsString::from(GONE);
    gone.push(name);
    let gone = above.join(gone);
    match fs::rename(folder, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    remove_later(&gone)
}

/// Whether this is the name of something that is being removed already.
pub(super) fn is_gone(name: &str) -> bool {
    name.starts_with(GONE)
}

/// Has it removed.
pub(super) fn remove_later(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    let tidying = thread::Builder::new().name("tidy".to_owned());
    // Nobody waits for it: what is left when we end is removed by whoever comes next.
    let spawned = tidying.spawn(move || {
        if let Err(error) = remove_tree(&folder) {
            tracing::warn!(path = %folder.display(), %error, "an app's files stay behind");
        }
    });
    spawned.map(drop)
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top: OwnedFd = rustix::fs::open(folder, flags, Mode::empty())?;
    let mut moved = 0;
    for _ in 0..PASSES {
        let mut is_empty = true;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_itself(name) {
                continue;
            }
            is_empty = false;
            if !remove_file(top.as_fd(), name)? {
                lift(top.as_fd(), name, &mut moved)?;
                match unlinkat(&top, name, AtFlags::REMOVEDIR) {
                    // Somebody fills it still: the next time.
                    Ok(()) | Err(Errno::NOTEMPTY) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if is_empty {
            return fs::remove_dir(folder);
        }
    }
    Err(io::Error::other("it is filled faster than it can be emptied"))
}

/// Removes what is no folder; tells whether it was none.
fn remove_file(within: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(within, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // The second is what POSIX says of folders.
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the files of a folder in the top one, and moves its folders up there.
fn lift(top: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(top, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_itself(name) || remove_file(inner.as_fd(), name)? {
            continue;
        }
        loop {
            *moved += 1;
            let to = format!("doorbell-{moved}");
            match renameat_with(&inner, name, top, &*to, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                // It is the app's name for something.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn is_itself(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_goes_however_deep_it_is_and_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "stays").unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("doorbell-1/doorbell-2")).unwrap();
        fs::write(tree.join("doorbell-1/file"), "x").unwrap();
        symlink(folder.path(), tree.join("link")).unwrap();
        // Deeper than any path, stack or set of descriptors.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        for _ in 0..20_000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.exists());
    }

    #[test]
    fn a_folder_is_out_of_the_way_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("app.1");
        fs::create_dir(&own).unwrap();
        remove(&own).unwrap();
        assert!(!own.exists());
        remove(&own).unwrap();
    }
}
