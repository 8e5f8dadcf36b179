//! Which processes belong to an instance, and how to signal all of them.
//!
//! Members are found in the instance's control group, where it has one; and by parent, by process group and session, and, for those that came to us as
//! strays, by the mark in their environment or the output pipe they still hold. Once found a
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
    cgroup::Group,
    children,
    mark::Mark,
    procfs::{self, Pid, Process, ProcessTable},
};
use crate::output::PipeIdentity;

/// The processes of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// What every process of the instance is started with.
    mark: Mark,
    /// The pipe that takes the instance's output.
    output: PipeIdentity,
    /// Pid to start time.
    members: BTreeMap<Pid, u64>,
    /// Process groups and sessions seen with living members. Their numbers are not reused while
    /// they have any.
    groups: BTreeSet<Pid>,
    /// The session that the instance was started in, if it is not its own: others are in it too.
    outer_session: Option<Pid>,
    /// Who gets the strays of an instance that is not our child, and children of that one which are
    /// none of them.
    reaper: Option<Pid>,
    strangers: BTreeSet<(Pid, u64)>,
    /// Whoever is in it is a member, whatever it does to hide.
    group: Group,
}

/// Whether a search found somebody.
enum Found {
    Some,
    None,
}

impl Tree {
    /// The tree of a process that was just spawned as the leader of its own session.
    pub(crate) fn of(root: Pid, mark: Mark, output: PipeIdentity) -> Self {
        let process = Process::read(root);
        Self {
            mark,
            output,
            members: process.iter().map(|process| (root, process.began)).collect(),
            groups: BTreeSet::from([root]),
            outer_session: process.map(|process| process.session).filter(|one| *one != root),
            reaper: None,
            strangers: BTreeSet::new(),
            group: Group::default(),
        }
    }

    /// The same tree, with all that are in this control group.
    pub(crate) fn with(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// The tree of a process that an earlier supervisor spawned so.
    pub(crate) fn adopted(root: Pid, mark: Mark, output: PipeIdentity) -> Self {
        let parent = Process::read(root).map(|process| process.parent);
        let reaper = parent.filter(|parent| *parent != std::process::id());
        Self { reaper, ..Self::of(root, mark, output) }
    }

    /// Looks again: forgets the dead, finds the new, and returns the living. `None` if a process
    /// that may have been ours ended since the table was read: it may have left children that the
    /// table does not show.
    pub(crate) fn refresh(&mut self, table: &ProcessTable) -> Option<Vec<Process>> {
        self.members.retain(|pid, began| table.process(*pid).is_some_and(|p| p.began == *began));
        self.strangers.retain(|(pid, began)| {
            table.process(*pid).is_some_and(|process| process.began == *began)
        });
        self.forget_empty_groups(table);
        self.find_in_group(table)?;
        loop {
            match self.find_more(table)? {
                Found::Some => {}
                Found::None => return Some(self.living(table)),
            }
        }
    }

    /// Whoever is in its control group; `None` where there is none that says it.
    pub(crate) fn in_group(&self) -> Option<Vec<Pid>> {
        self.group.members().and_then(Result::ok).filter(|members| !members.is_empty())
    }

    /// `None` if there is somebody whom the table does not show.
    fn find_in_group(&mut self, table: &ProcessTable) -> Option<()> {
        // A group that cannot be read is gone, with all that were in it.
        for pid in self.group.members().and_then(Result::ok).unwrap_or_default() {
            let process = table.process(pid)?;
            self.members.insert(pid, process.began);
        }
        Some(())
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
            let identity = (process.pid, process.began);
            if self.members.contains_key(&process.pid) || self.strangers.contains(&identity) {
                continue;
            }
            if self.owns(process)? {
                self.remember(process);
                found = Found::Some;
            } else if self.may_have_gone_to_reaper(process) {
                self.strangers.insert(identity);
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
        let is_outer = self.outer_session == Some(process.session);
        if process.session != own.session && process.session != 0 && !is_outer {
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
        if !is_adopted(process) && !self.may_have_gone_to_reaper(process) {
            return Some(false);
        }
        let is_marked = self.mark.is_on(process.pid)?;
        Some(is_marked || procfs::writes_to(process.pid, self.output))
    }

    /// Strays of an instance that is not our child do not come to us.
    fn may_have_gone_to_reaper(&self, process: &Process) -> bool {
        self.reaper == Some(process.parent)
    }

    /// Whether the process is a member, or a descendant of one that no table has shown yet.
    pub(crate) fn includes(&self, pid: Pid) -> bool {
        if self.group.members().is_some_and(|members| members.is_ok_and(|all| all.contains(&pid))) {
            return true;
        }
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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::CommandExt,
        path::Path,
        process::{Child, Command, Stdio},
    };

    use doorbell_config::name::AppId;

    use super::*;
    use crate::{driver::procfs::ProcessTable, message::Generation};

    fn mark(state_dir: &str) -> Mark {
        Mark::of_instance(Path::new(state_dir), &AppId::parse("app").unwrap(), Generation(7))
    }

    #[test]
    fn an_instance_of_the_same_name_of_another_doorbell_is_a_stranger() {
        let mut processes = ["/one", "/one", "/other"].map(|state_dir| {
            let mut command = Command::new("sleep");
            command.arg("100").env("DOORBELL_INSTANCE", "app.7");
            command.env("DOORBELL_STATE_DIR", state_dir).process_group(0).spawn().unwrap()
        });
        let pids = processes.each_ref().map(Child::id);
        let output = PipeIdentity { device: 0, inode: 0 };
        // Whoever is a child of our own may be a stray of an instance that is not.
        let mut tree = Tree::of(pids[0], mark("/one"), output);
        tree.reaper = Some(std::process::id());
        let living = loop {
            if let Some(living) = tree.refresh(&ProcessTable::read().unwrap())
                && living.len() > 1
            {
                break living;
            }
        };
        let found: Vec<_> = living.iter().map(|process| process.pid).collect();
        assert_eq!(found, pids[..2]);
        for process in &mut processes {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    #[test]
    fn who_only_shares_the_session_that_an_instance_was_started_in_is_a_stranger() {
        // A leader with two children, each with a group of its own: one, with a child, is the instance.
        let script = "
import os, subprocess, time
os.setsid()
for script in ('sleep 100 & wait', 'exec sleep 100'):
    child = subprocess.Popen(['sh', '-c', script], stdout=subprocess.DEVNULL, process_group=0)
    print(child.pid, flush=True)
time.sleep(100)";
        let mut leader =
            Command::new("python3").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(leader.stdout.take().unwrap()).lines();
        let mut pid = || lines.next().unwrap().unwrap().parse::<Pid>().unwrap();
        let (root, neighbour) = (pid(), pid());
        let output = PipeIdentity { device: 0, inode: 0 };
        let mut tree = Tree::adopted(root, mark("/nowhere"), output);
        let child = loop {
            let table = ProcessTable::read().unwrap();
            let living = tree.refresh(&table).unwrap_or_default();
            if let Some(child) = living.iter().find(|process| process.parent == root) {
                break child.pid;
            }
        };
        let table = ProcessTable::read().unwrap();
        let living = tree.refresh(&table).unwrap();
        let pids: Vec<_> = living.iter().map(|process| process.pid).collect();
        assert!(pids.contains(&root) && pids.contains(&child), "{pids:?}");
        assert!(!pids.contains(&neighbour) && !pids.contains(&leader.id()), "{pids:?}");
        let all: Vec<_> = table.all().filter(|one| one.session == leader.id()).copied().collect();
        signal(&Tree::handles(&all), Signal::KILL);
        leader.wait().unwrap();
    }
}
