//! What a program is to have, and to be, from its first statement on.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
};

use doorbell_config::spec::ProcessSpec;

use super::{
    Driver,
    advance::Advance,
    cgroup::{Controller, Entrance},
    enclosure::may_mount,
    rank::Rank,
    record::Walled,
    sys::{Limit, Mount, User},
    wall::{self, Strength},
};

/// What a wall does not keep.
const METADATA: &str = "modes, owners, times and attributes of files";

/// All of it.
#[derive(Debug)]
pub(super) struct Outfit {
    /// A socket that listens, to inherit.
    pub(super) listener: Option<OwnedFd>,
    pub(super) limits: Vec<Limit>,
    pub(super) groups: Entrance,
    /// What puts it behind us where the processor is short.
    pub(super) rank: Rank,
    pub(super) mounts: Vec<Mount>,
    /// What keeps it from changing files.
    pub(super) wall: Option<OwnedFd>,
    /// Whom it becomes, if not who we are.
    pub(super) user: Option<User>,
    /// That it can gain no privileges.
    pub(super) no_new_privs: bool,
    /// That the kernel tells when it listens, if it can.
    pub(super) heard: Option<Advance>,
}

impl Driver {
    /// What each process of an app may take, as far as no control group sees to it.
    pub(super) fn limits(&self, process: &ProcessSpec) -> Vec<Limit> {
        let resources = &process.resources;
        let files = match (resources.files, self.open_files) {
            (Some(files), _) => Some((files, Some(files))),
            (None, soft) => soft.map(|soft| (soft, None)),
        };
        let is_left = |controller| self.cgroups.version(controller).is_none();
        let memory = resources.memory.filter(|_| is_left(Controller::Memory));
        // Counted per user, and not at all for root.
        let processes = resources.processes.filter(|_| is_left(Controller::Processes));
        let processes = processes.filter(|_| process.user.is_some()).map(u64::from);
        let both = |most: u64| (most, Some(most));
        let all = [
            (libc::RLIMIT_NOFILE, files),
            (libc::RLIMIT_DATA, memory.map(|memory| both(memory.0))),
            (libc::RLIMIT_NPROC, processes.map(both)),
        ];
        all.into_iter()
            .filter_map(|(resource, limit)| {
                limit.map(|(soft, hard)| Limit { resource, soft, hard })
            })
            .collect()
    }

    /// Which limits of an app nothing here holds, for its operator.
    pub(super) fn unmet(&self, process: &ProcessSpec, walled: Option<&Walled>) -> Vec<String> {
        let resources = &process.resources;
        let is_left = |controller| self.cgroups.version(controller).is_none();
        let memory = "`limits.memory` holds for each process alone, not for all together";
        let cpu = "`limits.cpu` does not hold";
        let processes = match process.user {
            Some(_) => "`limits.processes` counts all processes of the app's user",
            None => "`limits.processes` does not hold",
        };
        let limits = [
            (resources.memory.is_some() && is_left(Controller::Memory), memory),
            (resources.cpu.is_some() && is_left(Controller::Cpu), cpu),
            (resources.processes.is_some() && is_left(Controller::Processes), processes),
        ];
        let mut told = unmet_enclosure(process, walled);
        let unmet = limits.into_iter().filter(|(is_unmet, _)| *is_unmet);
        let why = self.cgroups.problems().join("; ");
        told.extend(unmet.map(|(_, what)| format!("{what}: no control group for it here ({why})")));
        told
    }

    /// Lets every user through to a folder of an app's, and to nothing else: an app that is another user
    /// has its sockets there.
    pub(super) fn let_everybody_through(&self, folder: &Path) -> io::Result<()> {
        for folder in [&self.state_dir, &self.run_dir(), folder] {
            let mode = fs::metadata(folder)?.permissions().mode();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o001))?;
        }
        Ok(())
    }
}

/// What of an app's enclosure does not hold.
fn unmet_enclosure(process: &ProcessSpec, walled: Option<&Walled>) -> Vec<String> {
    if process.enclosure.is_open() || may_mount() {
        return Vec::new();
    }
    let root = "mounts of its own take root";
    let tmp = process.enclosure.private_tmp;
    let tmp = tmp.then(|| format!("`private_tmp` is a `TMPDIR` alone: {root}"));
    let paths = (!process.enclosure.read_only.is_empty()).then(|| {
        let truncation = match wall::strength() {
            Strength::ButTruncation => ", nor for truncate(2)",
            Strength::Whole | Strength::Nothing => "",
        };
        let (of, and) = match walled {
            Some(Walled::In) => (format!(" for {METADATA}{truncation}"), String::new()),
            Some(Walled::Not(why)) => (String::new(), format!(", and {why}")),
            None => (String::new(), "; an earlier version started it: restart it".to_owned()),
        };
        format!("`read_only_paths` does not hold{of}: {root}{and}")
    });
    tmp.into_iter().chain(paths).collect()
}
