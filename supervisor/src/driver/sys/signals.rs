//! Signals that are read instead of caught, signalfd(2), and those that a child knows nothing of.

use std::{
    ffi::c_int,
    io, mem,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
};

use tokio::io::unix::AsyncFd;

use super::watch;

/// Bytes that tell of one signal, signalfd(2).
pub(crate) const SIGNAL_INFO: usize = size_of::<libc::signalfd_siginfo>();

/// Signals there are, and one.
const SIGNALS: c_int = 65;

/// Blocks these signals and no others, in this thread and those that it starts from here on.
pub(crate) fn hold_signals(signals: &[c_int]) -> io::Result<()> {
    let mask = mask(signals);
    // SAFETY: a mask on the stack.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Where signals that are blocked can be read, in pieces of [`SIGNAL_INFO`] bytes.
pub(crate) fn signal_descriptor(signals: &[c_int]) -> io::Result<AsyncFd<OwnedFd>> {
    let mask = mask(signals);
    // SAFETY: a mask on the stack. What signalfd gives is a new descriptor, which is ours alone.
    let descriptor = unsafe {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let descriptor = libc::signalfd(-1, &raw const mask, flags);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    watch(descriptor)
}

fn mask(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: a mask on the stack; sigaddset refuses what is no signal.
    unsafe {
        let mut mask = mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        for signal in signals {
            libc::sigaddset(&raw mut mask, *signal);
        }
        mask
    }
}

/// Signals that we handle do what they do by default, as after execve(2), and so does SIGPIPE, which
/// Rust ignores: what is blocked until then must not reach a handler of ours.
///
/// # Safety
/// For a process that shares no handlers with another.
pub(super) unsafe fn forget_handlers() {
    for signal in 1..SIGNALS {
        // SAFETY: both calls take pointers to actions on the stack; they refuse what is no signal.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &raw mut action) != 0 {
                continue;
            }
            if action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE {
                let default: libc::sigaction = mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
            }
        }
    }
}
