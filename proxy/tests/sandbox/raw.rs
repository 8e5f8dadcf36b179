//! System calls by their number: most of what is forbidden has no safe function.
#![allow(unsafe_code)]

use std::{ffi::CStr, io};

/// Makes a call whose arguments are plain numbers, or null.
pub(crate) fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = arguments;
    let own = std::process::id();
    // SAFETY: no argument is an address but null, which the kernel refuses where it needs one. The
    // callers make calls that are to be refused, and that do not change our memory if they are not.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if std::process::id() != own {
        // A second one of us, where none should be: one report is enough.
        std::process::abort();
    }
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a process, which ends at once.
pub(crate) fn fork() -> io::Result<()> {
    // SAFETY: a child does nothing but end, without running what we registered for our end.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Maps a page of fresh memory with a protection (mmap(2)), and then changes it to another.
pub(crate) fn map(protection: i32, then: i32) -> io::Result<()> {
    const PAGE: usize = 4096;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses an address where nothing is, and nobody uses the page.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), PAGE, protection, kind, -1, 0);
        if page == libc::MAP_FAILED || libc::mprotect(page, PAGE, then) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(page, PAGE);
    }
    Ok(())
}

/// Loads a library as the C library does for the names that nsswitch.conf(5) gives.
pub(crate) fn load_library(name: &CStr) -> bool {
    // SAFETY: a library of the C library's own, whose initialisers touch nothing of ours.
    unsafe { !libc::dlopen(name.as_ptr(), libc::RTLD_NOW).is_null() }
}
