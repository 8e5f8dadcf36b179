//! What signals ask for.
//!
//! They stay blocked and are read from a descriptor (signalfd(2)): one that nobody has read when this
//! process becomes another version (execve(2)) is still there for that.

use std::{io, os::fd::OwnedFd};

use libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use tokio::io::unix::AsyncFd;

use crate::driver::{self, SIGNAL_INFO};

/// Those that ask for something.
const HEEDED: [i32; 4] = [SIGHUP, SIGINT, SIGTERM, SIGUSR2];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Reload,
    Upgrade,
    Stop,
}

#[derive(Debug)]
pub(super) struct Signals {
    descriptor: AsyncFd<OwnedFd>,
}

/// Holds back the signals that ask for something until the hub reads them, and lets all others in. To
/// be called before there is another thread, which would get them all the same.
///
/// # Errors
/// What the system says.
pub fn hold_signals() -> io::Result<()> {
    driver::hold_signals(&HEEDED)
}

/// Lets all signals in: roles inherit what their supervisor holds back.
///
/// # Errors
/// What the system says.
pub fn let_signals_in() -> io::Result<()> {
    driver::hold_signals(&[])
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { descriptor: driver::signal_descriptor(&HEEDED)? })
    }

    /// The next one. Dropping this future loses none.
    pub(super) async fn next(&mut self) -> io::Result<Asked> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let mut info = [0; SIGNAL_INFO];
            let read = ready.try_io(|descriptor| Ok(rustix::io::read(descriptor, &mut info)?));
            let Ok(read) = read else { continue };
            read?;
            // `ssi_signo`, the first field.
            let number = info.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number));
            match number {
                SIGHUP => return Ok(Asked::Reload),
                SIGUSR2 => return Ok(Asked::Upgrade),
                SIGINT | SIGTERM => return Ok(Asked::Stop),
                // No other is asked for.
                _ => {}
            }
        }
    }
}
