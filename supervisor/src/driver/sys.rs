//! The one place with unsafe code: a program's start (`child`), the filter that tells of its listen(2),
//! signals, and the registration of descriptors that we own.
#![allow(unsafe_code)]

use std::{
    convert::Infallible,
    ffi::{CString, NulError, OsStr, OsString, c_void},
    io, mem,
    ops::Range,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

use tokio::io::{Interest, unix::AsyncFd};

mod child;
mod clone_into;
mod filter;
mod mounts;
pub(super) mod notices;
mod signals;

pub(crate) use self::signals::{SIGNAL_INFO, hold_signals, signal_descriptor};
pub(super) use self::{
    child::{Ear, Legacy, Limit, User, spawn},
    filter::can_notify,
    mounts::Mount,
};

/// The first descriptor beyond the standard ones; `sd_listen_fds(3)` begins to look here.
const LISTEN_FDS_START: i32 = 3;
/// Behind the one that a program may inherit there.
pub(super) const FIRST_FREE: i32 = LISTEN_FDS_START + 1;

/// Makes it awaitable that there is something to read.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch_for(fd, Interest::READABLE)
}

/// Makes readiness of a descriptor awaitable.
pub(crate) fn watch_for(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same descriptor, until it is dropped, and the `AsyncFd`
    // owns it from here on.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| error.into_parts().1)
}

/// Becomes another program, with `input` as its standard input; returns only if that fails. Signals
/// that come meanwhile wait until the new program lets them in ([`hold_signals`]).
pub(super) fn execute(
    program: &OsStr,
    arguments: &[OsString],
    input: &OwnedFd,
) -> io::Result<Infallible> {
    let all = [program].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let arguments = all.map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(&name)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    let program = c_string(program)?;
    let end = [ptr::null()];
    let argv: Vec<_> = arguments.iter().map(|a| a.as_ptr()).chain(end).collect();
    let envp: Vec<_> = variables.iter().map(|v| v.as_ptr()).chain(end).collect();
    rustix::stdio::dup2_stdin(input)?;
    // SAFETY: the strings are NUL-terminated, the arrays of them null-terminated, and all are alive.
    // The mask is of this thread, which is the only one that is left if execve succeeds; if it fails,
    // it is restored.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
        let failed = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        Err(failed)
    }
}

/// Has every descriptor beyond the standard ones closed when another program is executed. An old kernel
/// (before 5.11) that cannot do this leaves it as it was.
pub fn keep_descriptors() {
    // SAFETY: descriptors stay open; only what becomes of them in another program changes. The call is
    // async-signal-safe.
    unsafe {
        libc::syscall(libc::SYS_close_range, LISTEN_FDS_START, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Asks the kernel to write a range of another process's memory to swap, or to drop it where a file has
/// it: process_madvise(2).
pub(super) fn page_out(process: &OwnedFd, range: Range<usize>) -> io::Result<()> {
    let part = libc::iovec { iov_base: range.start as *mut c_void, iov_len: range.len() };
    // SAFETY: one range of addresses, of the other process, which the kernel checks; ours are not
    // touched.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &raw const part,
            1_usize,
            libc::MADV_PAGEOUT,
            0_u32,
        )
    };
    if advised < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_string(text: &OsStr) -> Result<CString, NulError> {
    CString::new(text.as_bytes())
}
