//! Turns a [`Launch`] into a running process: no shell, a process group of its own, standard input
//! from nowhere, both outputs into one pipe of ours, and no other descriptor of ours.

use std::{
    fs::File,
    io::{self, PipeReader},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid,
};

use super::{children, launch::Launch, procfs::Pid, sys};

/// A process that runs, and is registered as ours to wait for.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// What it and its descendants write.
    pub(super) output: PipeReader,
    /// The pipe's identity, which those who write to it share.
    pub(super) output_inode: u64,
}

/// Spawns, with a soft limit on open files if it is not to be ours. Blocks until the program is
/// executed or failed to be.
pub(super) fn spawn(
    launch: &Launch,
    listener: Option<OwnedFd>,
    open_files: Option<u64>,
) -> io::Result<Spawned> {
    let (output, writer) = io::pipe()?;
    let writer = File::from(OwnedFd::from(writer));
    let output_inode = writer.metadata()?.ino();
    let legacy = sys::Legacy { output: writer.into(), listener, open_files };
    let (pid, pidfd) = children::spawn_registered(|| {
        let pid = sys::spawn(launch, legacy)?;
        open(pid).map(|pidfd| (pid, pidfd))
    })?;
    Ok(Spawned { pid, pidfd, output, output_inode })
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
