//! A mount namespace of the child's own, mount_namespaces(7).

use std::{
    ffi::{CStr, CString, c_ulong},
    ptr,
};

/// One change of what is mounted in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Mount {
    /// What is at the first path is seen at the second too, with what is mounted below it.
    Bind { from: CString, to: CString },
    /// What is mounted at this path can be changed no more; with the flags that it has, mount(2).
    /// Others below it that are gone or hidden are passed over.
    ReadOnly { at: CString, flags: c_ulong, is_asked_for: bool },
}

/// Gives the calling process a namespace of its own, with these changes, in this order. Called in a child:
/// only system calls.
///
/// # Safety
/// For the calling process and its descendants; it shares its root and folder with no other.
pub(super) unsafe fn enter(mounts: &[Mount]) -> bool {
    if mounts.is_empty() {
        return true;
    }
    // SAFETY: paths are NUL-terminated and alive, all else numbers and null.
    unsafe {
        // What is mounted outside later is to be seen inside, but not the other way.
        libc::unshare(libc::CLONE_NEWNS) == 0
            && mount(None, c"/", libc::MS_REC | libc::MS_SLAVE)
            && mounts.iter().all(|one| match one {
                Mount::Bind { from, to } => mount(Some(from), to, libc::MS_BIND | libc::MS_REC),
                Mount::ReadOnly { at, flags, is_asked_for } => {
                    let how = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
                    let is_there =
                        || !matches!(*libc::__errno_location(), libc::ENOENT | libc::EINVAL);
                    mount(None, at, how | flags) || (!is_asked_for && !is_there())
                }
            })
    }
}

/// # Safety
/// Changes what is mounted in the caller's namespace.
unsafe fn mount(from: Option<&CStr>, to: &CStr, flags: c_ulong) -> bool {
    let from = from.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: by the caller; mount(2) takes null where there is no source, kind or data.
    unsafe { libc::mount(from, to.as_ptr(), ptr::null(), flags, ptr::null()) == 0 }
}
