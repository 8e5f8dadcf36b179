//! Signals that are read instead of caught: signalfd(2).

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
