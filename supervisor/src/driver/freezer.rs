//! Standing still: the whole tree of an idle instance uses no processor until somebody comes, and gives
//! its memory back meanwhile. Its control group is frozen, where it has one; else each process is
//! stopped (SIGSTOP, signal(7)), which its parent may notice.
//!
//! Who is stopped cannot fork, so the tree does not change while it stands still. Its own sockets stay
//! open: the kernel goes on to accept connections into their backlog.

use std::{io, time::Duration};

use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    Witness,
    cgroup::Group,
    procfs::{Pid, Process, ProcessTable, Scanner},
    reclaim::GivingBack,
    tree::{self, Tree},
    watch,
};

/// Looks until everybody stands still; who is in the midst of a system call that cannot be interrupted
/// takes his time, and stops behind it.
const LOOKS: usize = 50;
/// Time between two looks.
const PACE: Duration = Duration::from_millis(2);

/// A tree that stands still.
#[derive(Debug)]
pub(super) struct Still {
    processes: Vec<Process>,
    /// Ends when this is dropped.
    giving_back: GivingBack,
}

impl Still {
    /// Waits until its memory is given back. Dropping this future loses nothing.
    pub(super) async fn gave_back(&mut self) {
        self.giving_back.is_done().await;
    }
}

/// Has every process of the instance stand still, newcomers too.
pub(super) async fn stop(witness: &Witness, scanner: &Scanner) -> io::Result<Still> {
    match witness.group().filter(|group| group.can_freeze()) {
        Some(group) => freeze(&group, witness, scanner).await,
        None => stop_each(witness, scanner).await,
    }
}

async fn freeze(group: &Group, witness: &Witness, scanner: &Scanner) -> io::Result<Still> {
    group.freeze(true)?;
    let mut looks = 0;
    while looks < LOOKS && !group.is_frozen()? {
        looks += 1;
        sleep(PACE).await;
    }
    let processes = watch::living(witness, scanner).await?;
    let giving_back = GivingBack::of(&processes, Some(group));
    Ok(Still { processes, giving_back })
}

async fn stop_each(witness: &Witness, scanner: &Scanner) -> io::Result<Still> {
    let mut looks = 0;
    let processes = loop {
        let living = watch::living(witness, scanner).await?;
        looks += 1;
        let moving: Vec<Process> = living.iter().filter(|one| !one.is_stopped).copied().collect();
        if moving.is_empty() || looks > LOOKS {
            break living;
        }
        tree::signal(&Tree::handles(&moving), Signal::STOP);
        if looks > 1 {
            sleep(PACE).await;
        }
    };
    let giving_back = GivingBack::of(&processes, None);
    Ok(Still { processes, giving_back })
}

/// Whether an instance of an earlier supervisor stands still as a whole, or is about to. Without a group that is seen of
/// its first process and those of its session: who is to go on is told behind all of them (`go_on`).
pub(super) fn stands_still(group: &Group, first: Pid, table: &ProcessTable) -> io::Result<bool> {
    if group.can_freeze() {
        return group.is_to_freeze();
    }
    let Some(first) = table.process(first) else { return Ok(false) };
    let is_outer = Process::own().is_none_or(|own| own.session == first.session);
    let is_of_it =
        |one: &&Process| one.group == first.group || one.session == first.session && !is_outer;
    let mut living = table.all().filter(|one| !one.is_zombie).filter(is_of_it);
    Ok(living.all(|one| one.is_stopped))
}

/// Lets every process of the instance go on.
pub(super) async fn go_on(
    still: Option<Still>,
    witness: &Witness,
    scanner: &Scanner,
) -> io::Result<()> {
    if let Some(group) = witness.group().filter(|group| group.can_freeze()) {
        // Whatever is given back is given back no longer.
        drop(still);
        group.let_swap(false);
        return group.freeze(false);
    }
    let processes = match still {
        Some(Still { processes, giving_back }) => {
            drop(giving_back);
            processes
        }
        // An earlier supervisor stopped it.
        None => watch::living(witness, scanner).await?,
    };
    tree::signal(&Tree::handles(&processes), Signal::CONT);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::process::CommandExt,
        path::Path,
        process::{Child, Command, Stdio},
    };

    use doorbell_config::{name::AppId, spec::ResourceSpec};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        driver::{
            cgroup::{Cgroups, Controller, Version},
            mark::{INSTANCE, Mark, STATE_DIR, name_of},
        },
        message::Generation,
        output::PipeIdentity,
    };

    const GENERATION: Generation = Generation(7);

    fn app() -> AppId {
        AppId::parse("app").unwrap()
    }

    /// A way to have an instance stand still, as far as this machine has it.
    #[derive(Debug)]
    pub(in crate::driver) struct Freezer(Cgroups);

    impl Freezer {
        pub(in crate::driver) fn all() -> Vec<Self> {
            let name = format!("doorbell-freezer-{}", std::process::id());
            let number = std::thread::current().id();
            let versions = [Version::One, Version::Two]
                .map(|version| Cgroups::of_version(&format!("{name}-{number:?}"), version));
            let can_freeze = |groups: &Cgroups| groups.version(Controller::Freezer).is_some();
            let signals = [Cgroups::default()];
            signals.into_iter().chain(versions.into_iter().filter(can_freeze)).map(Self).collect()
        }

        pub(in crate::driver) fn cgroups(&self) -> &Cgroups {
            &self.0
        }
    }

    /// An instance that runs, with what it has as its folder and that of its state.
    pub(in crate::driver) struct Program {
        folder: TempDir,
        child: Child,
        group: Group,
    }

    impl Program {
        /// Runs a script until it has said something.
        pub(in crate::driver) fn start(freezer: &Freezer, script: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let group = freezer.0.make(&app(), GENERATION, &ResourceSpec::default(), true).unwrap();
            // Whatever it starts is in its groups too.
            let script = format!("read -r line; {script}");
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .current_dir(folder.path())
                .env(STATE_DIR, folder.path())
                .env(INSTANCE, name_of(&app(), GENERATION))
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            for door in group.entrance().unwrap().doors {
                std::fs::File::from(door).write_all(child.id().to_string().as_bytes()).unwrap();
            }
            writeln!(child.stdin.take().unwrap(), "go").unwrap();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            Self { folder, child, group }
        }

        pub(in crate::driver) fn folder(&self) -> &Path {
            self.folder.path()
        }

        fn tree(&self) -> Tree {
            let mark = Mark::of_instance(self.folder(), &app(), GENERATION);
            Tree::adopted(self.child.id(), mark, PipeIdentity { device: 0, inode: 0 })
        }

        fn living(&self) -> Vec<Process> {
            let mut tree = self.tree();
            loop {
                if let Some(living) = tree.refresh(&ProcessTable::read().unwrap()) {
                    return living;
                }
            }
        }

        /// Stops the first so many of its processes, and waits until they have.
        async fn stop(&self, count: usize) {
            let stopped = self.living().into_iter().take(count).collect::<Vec<_>>();
            tree::signal(&Tree::handles(&stopped), Signal::STOP);
            let stands = |one: &Process| Process::read(one.pid).is_none_or(|now| now.is_stopped);
            while !stopped.iter().all(stands) {
                sleep(PACE).await;
            }
        }

        pub(in crate::driver) async fn stand_still(&self, freezer: &Freezer) {
            if freezer.0.version(Controller::Freezer).is_none() {
                return self.stop(usize::MAX).await;
            }
            self.group.freeze(true).unwrap();
            while !self.group.is_frozen().unwrap() {
                sleep(PACE).await;
            }
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            if self.group.can_freeze() {
                self.group.freeze(false).unwrap();
            }
            tree::signal(&Tree::handles(&self.living()), Signal::KILL);
            self.child.wait().unwrap();
            while !self.living().is_empty() {
                std::thread::yield_now();
            }
            self.group.remove();
        }
    }

    #[tokio::test]
    async fn who_stands_still_is_told_from_who_goes_on() {
        for freezer in Freezer::all() {
            let program = Program::start(&freezer, "sleep 1000 & echo; wait");
            let is_still = || {
                let table = ProcessTable::read().unwrap();
                stands_still(&program.group, program.child.id(), &table).unwrap()
            };
            assert!(!is_still(), "{freezer:?}");
            // One of two is not all.
            program.stop(1).await;
            assert!(!is_still(), "{freezer:?}");
            program.stand_still(&freezer).await;
            assert!(is_still(), "{freezer:?}");
        }
    }
}
