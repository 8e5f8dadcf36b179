//! Turns a [`Launch`] into a running process: no shell, a process group of its own, standard input
//! from nowhere, both outputs into one pipe, and no other descriptor of ours.

use std::{io, os::fd::OwnedFd};

use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid,
};

use super::{children, launch::Launch, outfit::Outfit, procfs::Pid, sys};
use crate::output::OutputPipe;

/// A process that runs, and is registered as ours to wait for.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// What it and its descendants write.
    pub(super) output: OutputPipe,
}

/// Spawns with an output pipe, whose other end goes to the program. Blocks until the program is executed
/// or failed to be.
pub(super) fn spawn(
    launch: &Launch,
    (output, theirs): (OutputPipe, OwnedFd),
    outfit: Outfit,
) -> io::Result<Spawned> {
    let Outfit { listener, limits, groups, user } = outfit;
    let legacy = sys::Legacy { output: theirs, listener, limits, groups, user };
    let spawned = children::spawn_registered(|| {
        let pid = sys::spawn(launch, legacy)?;
        open(pid).map(|pidfd| (pid, pidfd))
    });
    let (pid, pidfd) = spawned.inspect_err(|_| {
        // Nobody prints, and the first failure is the one to tell.
        let _ = OutputPipe::remove(output.path());
    })?;
    Ok(Spawned { pid, pidfd, output })
}

/// Nobody has waited for the child yet, so the pid is still its own.
fn open(pid: Pid) -> io::Result<OwnedFd> {
    let pid = children::to_rustix(pid).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK).inspect_err(|_| {
        // Errors mean that it ended by itself.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    })?)
}
