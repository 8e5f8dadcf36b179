//! Turns a [`Launch`] into a running process: no shell, a process group of its own, standard input
//! from nowhere, both outputs into one pipe of ours, and no other descriptor of ours.

use std::{
    fs::File,
    io::{self, PipeReader},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
};

use rustix::process::{PidfdFlags, pidfd_open};

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

/// Spawns. Blocks until the program is executed or failed to be.
pub(super) fn spawn(launch: &Launch, listener: Option<OwnedFd>) -> io::Result<Spawned> {
    let (output, writer) = io::pipe()?;
    let output_inode = File::from(OwnedFd::from(writer.try_clone()?)).metadata()?.ino();
    let mut command = Command::new(&launch.program);
    if let Some((name, arguments)) = launch.arguments.split_first() {
        command.arg0(name).args(arguments);
    }
    command
        .env_clear()
        .current_dir(&launch.directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    match listener {
        Some(listener) => sys::hand_over(&mut command, launch, listener)?,
        None => _ = command.envs(&launch.environment),
    }
    let (pid, pidfd) = children::spawn_registered(|| {
        let mut child = command.spawn()?;
        open(&child).map(|pidfd| (child.id(), pidfd)).inspect_err(|_| {
            // Errors mean that it ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        })
    })?;
    Ok(Spawned { pid, pidfd, output, output_inode })
}

/// Nobody has waited for the child yet, so the pid is still its own.
fn open(child: &Child) -> io::Result<OwnedFd> {
    let pid = children::to_rustix(child.id()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}
