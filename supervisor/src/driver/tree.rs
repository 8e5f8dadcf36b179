//! Which processes belong to an instance, and how to signal all of them.
//!
//! Members are found by parent, by process group and session, and, for those that came to us as
//! strays, by the marker in their environment or the output pipe they still hold. Once found a
//! member is remembered, by pid and start time, so that a reused pid is never taken for it. Signals
//! go through pidfds, which cannot hit another process either.
//!
//! A process that leaves group and session, clears its environment, closes its output and loses its
//! parent, all between two looks, is not found here; `stop` then looks who holds the port.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    children,
    procfs::{self, Pid, Process, ProcessTable},
};
use crate::output::PipeIdentity;

/// The processes of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// `NAME=value` that every process of the instance is started with.
    marker: String,
    /// The pipe that takes the instance's output.
    output: PipeIdentity,
    /// Pid to start time.
    members: BTreeMap<Pid, u64>,
    /// Process groups and sessions seen with living members. Their numbers are not reused while
    /// they have any.
    groups: BTreeSet<Pid>,
}

/// Whether a search found somebody.
enum Found {
    Some,
    None,
}

impl Tree {
    /// The tree of a process that was just spawned as the leader of its own group.
    pub(crate) fn of(root: Pid, marker: String, output: PipeIdentity) -> Self {
        let began = Process::read(root).map(|process| process.began);
        Self {
            marker,
            output,
            members: began.map(|began| (root, began)).into_iter().collect(),
            groups: BTreeSet::from([root]),
        }
    }

    /// Looks again: forgets the dead, finds the new, and returns the living. `None` if a process
    /// that may have been ours ended since the table was read: it may have left children that the
    /// table does not show.
    pub(crate) fn refresh(&mut self, table: &ProcessTable) -> Option<Vec<Process>> {
        self.members.retain(|pid, began| table.process(*pid).is_some_and(|p| p.began == *began));
        self.forget_empty_groups(table);
        loop {
            match self.find_more(table)? {
                Found::Some => {}
                Found::None => return Some(self.living(table)),
            }
        }
    }

    fn living(&self, table: &ProcessTable) -> Vec<Process> {
        let members = self.members.keys().filter_map(|pid| table.process(*pid));
        members.filter(|process| !process.is_zombie).copied().collect()
    }

    /// A group without a process may be somebody else's tomorrow; the root's own is held by the
    /// root until it is waited for.
    fn forget_empty_groups(&mut self, table: &ProcessTable) {
        let used: BTreeSet<Pid> = table.all().flat_map(|p| [p.group, p.session]).collect();
        self.groups.retain(|group| used.contains(group));
    }

    fn find_more(&mut self, table: &ProcessTable) -> Option<Found> {
        let mut found = Found::None;
        for process in table.all().filter(|process| !process.is_zombie) {
            if !self.members.contains_key(&process.pid) && self.owns(process)? {
                self.remember(process);
                found = Found::Some;
            }
        }
        Some(found)
    }

    /// Takes a process into the tree.
    pub(crate) fn remember(&mut self, process: &Process) {
        self.members.insert(process.pid, process.began);
        // What shares our own group or session says nothing about the others there.
        let Some(own) = Process::own() else { return };
        if process.group != own.group && process.group != 0 {
            self.groups.insert(process.group);
        }
        if process.session != own.session && process.session != 0 {
            self.groups.insert(process.session);
        }
    }

    /// `None` if it has ended before it could be told.
    fn owns(&self, process: &Process) -> Option<bool> {
        let is_relative = self.members.contains_key(&process.parent)
            || self.groups.contains(&process.group)
            || self.groups.contains(&process.session);
        if is_relative {
            return Some(true);
        }
        if !is_adopted(process) {
            return Some(false);
        }
        let is_marked = procfs::has_variable(process.pid, self.marker.as_bytes())?;
        Some(is_marked || procfs::writes_to(process.pid, self.output))
    }

    /// Whether the process is a member, or a descendant of one that no table has shown yet.
    pub(crate) fn includes(&self, pid: Pid) -> bool {
        let Some(mut process) = Process::read(pid) else { return false };
        loop {
            let is_member = self.members.get(&process.pid) == Some(&process.began);
            if is_member || self.owns(&process) == Some(true) {
                return true;
            }
            match Process::read(process.parent) {
                Some(parent) if parent.pid > 1 => process = parent,
                Some(_) | None => return false,
            }
        }
    }

    /// Handles for the living, for signals and for waiting.
    pub(crate) fn handles(living: &[Process]) -> Vec<OwnedFd> {
        living.iter().filter_map(open).collect()
    }
}

/// Whether a process lost its parent, and came to us.
pub(crate) fn is_adopted(process: &Process) -> bool {
    process.parent == std::process::id() && !children::is_registered(process.pid)
        // Children that somebody else in this very process spawned stay in our group.
        && Process::own().is_some_and(|own| own.group != process.group)
}

/// A handle for exactly this process, `None` if it ended.
fn open(process: &Process) -> Option<OwnedFd> {
    let handle = pidfd_open(children::to_rustix(process.pid)?, PidfdFlags::NONBLOCK).ok()?;
    let now = Process::read(process.pid)?;
    (now.began == process.began).then_some(handle)
}

/// Signals those that still live.
pub(crate) fn signal(handles: &[OwnedFd], signal: Signal) {
    for handle in handles {
        // The only error that can happen to a handle of ours is that its process has ended.
        let _ = pidfd_send_signal(handle, signal);
    }
}
