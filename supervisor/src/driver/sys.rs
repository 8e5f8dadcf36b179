//! The one place with unsafe code: exec(3) with the child's own pid in its environment, and the
//! registration of descriptors that we own.
//!
//! `sd_listen_fds(3)` wants `LISTEN_PID` to be the pid of the process that inherits the sockets, and
//! that is known only in the child, between fork and exec. All other spawning goes the safe way
//! (and through `posix_spawn`, which does not copy our page tables).
#![allow(unsafe_code)]

use std::{
    ffi::{CString, NulError, OsStr, c_char},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    process::Command,
};

use tokio::io::{Interest, unix::AsyncFd};

use super::launch::Launch;

/// The first descriptor that `sd_listen_fds(3)` looks at.
const LISTEN_FDS_START: i32 = 3;
/// Room for any pid.
const LISTEN_PID: &[u8] = b"LISTEN_PID=0000000000";
const DIGITS_AT: usize = 11;

/// What is executed in the child, complete before the fork: nothing may be allocated after it.
struct Image {
    program: CString,
    _arguments: Vec<CString>,
    _variables: Vec<CString>,
    listen_pid: Vec<u8>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    listener: OwnedFd,
}

// SAFETY: the pointers point into the heap buffers of the `CString`s and of `listen_pid` of the same
// value, which stay where they are when the value moves, and are never changed while pointed to.
unsafe impl Send for Image {}
// SAFETY: as above; there is no access through `&self`.
unsafe impl Sync for Image {}

/// Makes readiness of a descriptor awaitable.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same descriptor, until it is dropped, and the `AsyncFd`
    // owns it from here on.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}

/// Makes `command` inherit the listening socket as descriptor 3, in the way of `sd_listen_fds(3)`.
/// Program, arguments and environment are those of `launch`.
pub(super) fn hand_over(
    command: &mut Command,
    launch: &Launch,
    listener: OwnedFd,
) -> io::Result<()> {
    let mut image = Image::build(launch, listener)?;
    // SAFETY: `exec` calls only async-signal-safe functions (dup2, fcntl, getpid, execve) and does
    // not allocate, as pre_exec demands of a child of a process with threads.
    unsafe {
        command.pre_exec(move || Err(image.exec()));
    }
    Ok(())
}

impl Image {
    fn build(launch: &Launch, listener: OwnedFd) -> io::Result<Self> {
        let program = c_string(launch.program.as_os_str())?;
        let arguments = launch
            .arguments
            .iter()
            .map(|argument| c_string(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let variables = launch
            .environment
            .iter()
            .map(|(name, value)| {
                let mut entry = name.clone();
                entry.push("=");
                entry.push(value);
                c_string(&entry)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut listen_pid = LISTEN_PID.to_vec();
        listen_pid.push(0);
        let end = [std::ptr::null()];
        let argv = arguments.iter().map(|a| a.as_ptr()).chain(end).collect();
        // The first place is for `listen_pid`.
        let envp = end.into_iter().chain(variables.iter().map(|v| v.as_ptr())).chain(end).collect();
        Ok(Self {
            program,
            _arguments: arguments,
            _variables: variables,
            listen_pid,
            argv,
            envp,
            listener,
        })
    }

    /// Becomes the program; returns only if that fails.
    fn exec(&mut self) -> io::Error {
        let fd = self.listener.as_raw_fd();
        // SAFETY: `fd` is open. dup2 clears close-on-exec on the new descriptor, but does nothing
        // for equal ones, hence fcntl.
        let moved = unsafe {
            if fd == LISTEN_FDS_START {
                libc::fcntl(fd, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd, LISTEN_FDS_START)
            }
        };
        if moved < 0 {
            return io::Error::last_os_error();
        }
        self.write_pid(std::process::id());
        self.envp[0] = self.listen_pid.as_ptr().cast();
        // SAFETY: the path and both arrays are NUL-terminated strings and null-terminated arrays of
        // them, alive as long as `self`.
        unsafe {
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
        }
        io::Error::last_os_error()
    }

    /// `sd_listen_fds(3)` parses with leading zeros forbidden by nobody but some imitators, so the
    /// digits stand left and the string ends after them.
    fn write_pid(&mut self, pid: u32) {
        let mut digits = [0_u8; 10];
        let mut left = pid;
        let mut count = 0;
        loop {
            // A remainder of ten is a digit.
            digits[count] = b'0' + u8::try_from(left % 10).unwrap_or(0);
            count += 1;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        for (place, digit) in digits[..count].iter().rev().enumerate() {
            self.listen_pid[DIGITS_AT + place] = *digit;
        }
        self.listen_pid[DIGITS_AT + count] = 0;
    }
}

fn c_string(text: &OsStr) -> Result<CString, NulError> {
    CString::new(text.as_bytes())
}
