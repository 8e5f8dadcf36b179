//! Processes of an earlier supervisor that was killed, and that are not adopted: they still hold ports
//! and locks, and would be a second copy of their app. They are known by the state folder in their
//! environment, which only one Doorbell uses at a time.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    time::Duration,
};

use doorbell_config::name::AppId;
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use super::{
    Driver,
    cgroup::Cgroups,
    mark::{self, INSTANCE, Mark, name_of},
    procfs::{self, Pid, Process, ProcessTable, Scanner},
    tree::{self, Tree},
    watch,
};
use crate::message::Generation;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time that starts wait for the end of leftovers.
const DEADLINE: Duration = Duration::from_secs(15);
/// Time between two SIGKILLs.
const PACE: Duration = Duration::from_millis(100);

/// What an earlier Doorbell left behind.
#[derive(Clone, Debug)]
pub(crate) struct Leftovers {
    mark: Mark,
    /// Instances that are adopted.
    spared: HashSet<String>,
    /// The instance that is looked for, if not all are.
    only: Option<String>,
}

/// The oldest process of each instance of an earlier Doorbell.
#[derive(Debug, Default)]
pub(super) struct Remains {
    oldest: HashMap<String, Process>,
}

impl Remains {
    /// Those of a state folder. Of a table that cannot be read there are none.
    ///
    /// Only processes of our own user, or those that still have an instance's output: anybody may call
    /// himself what he likes.
    pub(super) fn of(state_dir: &Path, has_output: impl Fn(Pid, &str) -> bool) -> Self {
        let us = rustix::process::geteuid().as_raw();
        let table = match ProcessTable::read() {
            Ok(table) => table,
            Err(error) => {
                tracing::error!(%error, "cannot look for what instances left");
                return Self::default();
            }
        };
        let (mark, mut oldest) = (Mark::of_folder(state_dir), HashMap::<String, Process>::new());
        for process in table.all().filter(|process| !process.is_zombie) {
            if mark.is_on(process.pid) == Some(true)
                && let Some(instance) = procfs::variable(process.pid, INSTANCE)
                && (procfs::user(process.pid) == Some(us) || has_output(process.pid, &instance))
            {
                let known = oldest.entry(instance).or_insert(*process);
                if (process.began, process.pid) < (known.began, known.pid) {
                    *known = *process;
                }
            }
        }
        Self { oldest }
    }

    pub(super) fn oldest(&self, app: &AppId, generation: Generation) -> Option<Process> {
        self.oldest.get(&name_of(app, generation)).copied()
    }
}

impl Driver {
    /// Ends what an earlier Doorbell left behind; bounded in time.
    pub(crate) async fn end_leftovers(&self, leftovers: &Leftovers) -> io::Result<()> {
        leftovers.end(&self.scanner, &self.cgroups).await
    }
}

impl Leftovers {
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { mark: Mark::of_folder(state_dir), spared: HashSet::new(), only: None }
    }

    /// Those of one instance.
    pub(crate) fn of_one(state_dir: &Path, app: &AppId, generation: Generation) -> Self {
        Self { only: Some(name_of(app, generation)), ..Self::of(state_dir) }
    }

    /// Leaves the processes of this instance alone.
    pub(crate) fn spare(&mut self, app: &AppId, generation: Generation) {
        self.spared.insert(name_of(app, generation));
    }

    async fn end(&self, scanner: &Scanner, cgroups: &Cgroups) -> io::Result<()> {
        let begun = Instant::now();
        let mut told = HashSet::new();
        loop {
            let found = self.find(scanner).await?;
            if found.is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= DEADLINE {
                let pids: Vec<_> = found.iter().map(|process| process.pid).collect();
                tracing::error!(?pids, "processes of an earlier doorbell do not end");
                return Ok(());
            }
            let handles = Tree::handles(&found);
            let newcomers: Vec<Process> =
                found.into_iter().filter(|p| told.insert((p.pid, p.began))).collect();
            for process in &newcomers {
                tracing::warn!(pid = process.pid, "ending a process of an earlier doorbell");
            }
            if begun.elapsed() >= GRACE {
                tree::signal(&handles, Signal::KILL);
            } else {
                tree::signal(&Tree::handles(&newcomers), Signal::TERM);
            }
            let_go_on(&newcomers, cgroups);
            // Passing the pace is no error: then we look again.
            let _ = timeout(PACE, watch::any_gone(handles)).await;
        }
    }

    async fn find(&self, scanner: &Scanner) -> io::Result<Vec<Process>> {
        let (table, leftovers) = (scanner.table().await?, self.clone());
        let search = tokio::task::spawn_blocking(move || {
            let own = std::process::id();
            let others = table.all().filter(|p| !p.is_zombie && p.pid != own);
            others.filter(|p| leftovers.include(p.pid)).copied().collect()
        });
        Ok(search.await?)
    }

    fn include(&self, pid: Pid) -> bool {
        let is_ours = self.mark.is_on(pid) == Some(true);
        is_ours
            && procfs::variable(pid, INSTANCE).is_none_or(|name| {
                !self.spared.contains(&name) && self.only.as_ref().is_none_or(|only| *only == name)
            })
    }
}

/// Lets those go on to their end who stand still: they cannot obey, and in a control group of version 1 not
/// even SIGKILL ends them.
fn let_go_on(processes: &[Process], cgroups: &Cgroups) {
    tree::signal(&Tree::handles(processes), Signal::CONT);
    let names = processes.iter().filter_map(|process| procfs::variable(process.pid, INSTANCE));
    for name in names.collect::<HashSet<_>>() {
        let Some((app, generation)) = mark::instance_of(&name) else { continue };
        let group = cgroups.find_again(&app, generation);
        if group.can_freeze()
            && let Err(error) = group.freeze(false)
        {
            tracing::warn!(%app, %error, "cannot be thawed to be ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::driver::freezer::tests::{Freezer, Program};

    #[tokio::test]
    async fn who_stands_still_ends_as_gracefully_as_others() {
        for freezer in Freezer::all() {
            // Its children are told too.
            let program = Program::start(
                &freezer,
                "trap 'echo ended >ended; exit' TERM; sh -c 'echo; exec sleep 1000' & wait",
            );
            program.stand_still(&freezer).await;
            let begun = Instant::now();
            let leftovers = Leftovers::of(program.folder());
            leftovers.end(&Scanner::default(), freezer.cgroups()).await.unwrap();
            assert!(begun.elapsed() < GRACE, "{freezer:?}");
            let ended = fs::read_to_string(program.folder().join("ended"));
            assert_eq!(ended.unwrap(), "ended\n", "{freezer:?}");
        }
    }
}
