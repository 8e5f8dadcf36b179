//! Turns a [`Launch`] into a running process: no shell, a process group of its own, standard input
//! from nowhere, both outputs into one pipe, and no other descriptor of ours.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::fchown},
};

use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid,
};

use super::{
    advance, children,
    ear::Parts,
    launch::Launch,
    outfit::Outfit,
    procfs::Pid,
    root::Root,
    sys::{self, notices::Letter},
};
use crate::output::OutputPipe;

/// A process that runs. What fails from here on, before somebody has it, ends it.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) root: Root,
    /// What it and its descendants write.
    pub(super) output: OutputPipe,
    /// Where the kernel tells when it listens.
    pub(super) ear: Option<Parts>,
}

/// Spawns with an output pipe, whose other end goes to the program. Blocks until the program is executed
/// or failed to be.
pub(super) fn spawn(
    launch: &Launch,
    (output, theirs): (OutputPipe, OwnedFd),
    outfit: Outfit,
) -> io::Result<Spawned> {
    let spawned = start(launch, theirs, outfit);
    let (root, ear) = spawned.inspect_err(|_| {
        // Nobody prints, and the first failure is the one to tell.
        let _ = OutputPipe::remove(output.path());
    })?;
    Ok(Spawned { root, output, ear })
}

fn start(
    launch: &Launch,
    output: OwnedFd,
    Outfit { listener, limits, groups, rank, mounts, wall, user, no_new_privs, heard }: Outfit,
) -> io::Result<(Root, Option<Parts>)> {
    if let Some(user) = &user {
        // It may want to open its own output again, as `/dev/stdout`.
        fchown(&output, Some(user.user), None)?;
    }
    // Made before: with the filter there is no way back.
    let (mut ours, mut theirs) = (None, None);
    if let Some(advance) = heard {
        let ((near, socket), letter) = (advance::pair()?, Letter::create()?);
        theirs = Some(sys::Ear { socket, letter: letter.try_clone()?, advance });
        ours = Some((near, letter));
    }
    let ear = theirs;
    let legacy = sys::Legacy {
        output,
        listener,
        limits,
        groups,
        rank,
        mounts,
        wall,
        user,
        no_new_privs,
        ear,
    };
    let mut deaf = None;
    let (pid, pidfd) = children::spawn_registered(|| {
        let started = sys::spawn(launch, legacy)?;
        deaf = started.deaf;
        open(started.pid).map(|pidfd| (started.pid, pidfd))
    })?;
    let root = Root::watch(pid, pidfd)?;
    let ear = match (ours, deaf) {
        (Some((near, letter)), None) => {
            // Without it the program could never listen.
            Some(Parts { notices: take(&near)?, letter })
        }
        (Some(_), Some(why)) => {
            tracing::debug!(pid, %why, "the kernel does not tell when this app listens");
            None
        }
        (None, _) => None,
    };
    Ok((root, ear))
}

/// The descriptor that the child has sent before it executed.
fn take(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let (_, descriptors) = advance::receive(socket, &mut [0])?;
    // As if there were too many open.
    let none = || io::Error::from_raw_os_error(libc::EMFILE);
    descriptors.into_iter().next().ok_or_else(none)
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
