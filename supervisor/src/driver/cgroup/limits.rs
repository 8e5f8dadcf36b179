//! What is written into an instance's groups so that it takes no more than it may, and what is read
//! there of what it took.

use std::{fs, io, path::Path};

use doorbell_config::spec::{MilliCores, ResourceSpec};

use super::{Controller, Group, Version, write};

/// The time in which processor time is counted, in microseconds.
const PERIOD: u64 = 100_000;

impl Group {
    /// Writes the limits that something here can hold.
    pub(super) fn limit(&self, resources: &ResourceSpec) -> io::Result<()> {
        if let (Some(memory), Some(place)) = (resources.memory, self.place(Controller::Memory)) {
            limit_memory(place, memory.0)?;
        }
        if let (Some(cpu), Some(place)) = (resources.cpu, self.place(Controller::Cpu)) {
            limit_cpu(place, cpu)?;
        }
        let processes = self.place(Controller::Processes);
        if let (Some(most), Some((_, path))) = (resources.processes, processes) {
            write(path, "pids.max", &most.to_string())?;
        }
        Ok(())
    }

    /// Whether somebody in it was ended for want of memory.
    pub(in crate::driver) fn ran_out_of_memory(&self) -> bool {
        let Some((version, path)) = self.place(Controller::Memory) else { return false };
        let file = match version {
            Version::Two => "memory.events",
            Version::One => "memory.oom_control",
        };
        number_of(path, file, "oom_kill ").is_some_and(|kills| kills > 0)
    }

    /// Lets its memory go to swap, while it stands still, or not.
    ///
    /// A limit holds for memory alone: swap would only put the end off, and make everybody wait. Who
    /// stands still is another matter.
    pub(in crate::driver) fn let_swap(&self, is_to: bool) {
        let Some((Version::Two, path)) = self.place(Controller::Memory) else { return };
        let is_limited = fs::read_to_string(path.join("memory.max"));
        if is_limited.is_ok_and(|most| most.trim() != "max") {
            // Where swap is not counted there is no such file.
            let _ = write(path, "memory.swap.max", if is_to { "max" } else { "0" });
        }
    }

    /// Memory that it takes, in bytes, where that is counted.
    pub(in crate::driver) fn memory_bytes(&self) -> Option<u64> {
        let (version, path) = self.place(Controller::Memory)?;
        let file = match version {
            Version::Two => "memory.current",
            Version::One => "memory.usage_in_bytes",
        };
        fs::read_to_string(path.join(file)).ok()?.trim().parse().ok()
    }

    /// Asks the kernel to take this many bytes back that no file has; it may be fewer. Waits until it has.
    ///
    /// Linux knows `swappiness=max` since 6.16 (Documentation/admin-guide/cgroup-v2.rst). One that does not
    /// takes from pages of files too.
    pub(in crate::driver) fn reclaim(&self, bytes: u64) -> io::Result<()> {
        match self.place(Controller::Memory) {
            Some((Version::Two, path)) => {
                let asked = write(path, "memory.reclaim", &format!("{bytes} swappiness=max"));
                match asked {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        write(path, "memory.reclaim", &bytes.to_string())
                    }
                    asked => asked,
                }
            }
            Some((Version::One, _)) | None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn limit_memory((version, path): (Version, &Path), bytes: u64) -> io::Result<()> {
    let bytes = bytes.to_string();
    match version {
        Version::Two => {
            write(path, "memory.max", &bytes)?;
            // Without swap there is no such file.
            let _ = write(path, "memory.swap.max", "0");
            // All or nobody: an app without one of its processes is a riddle.
            write(path, "memory.oom.group", "1")
        }
        Version::One => {
            write(path, "memory.limit_in_bytes", &bytes)?;
            // Together with swap, where that is counted.
            let _ = write(path, "memory.memsw.limit_in_bytes", &bytes);
            Ok(())
        }
    }
}

fn limit_cpu((version, path): (Version, &Path), cpu: MilliCores) -> io::Result<()> {
    let quota = u64::from(cpu.0) * PERIOD / 1000;
    match version {
        Version::Two => write(path, "cpu.max", &format!("{quota} {PERIOD}")),
        Version::One => {
            write(path, "cpu.cfs_period_us", &PERIOD.to_string())?;
            write(path, "cpu.cfs_quota_us", &quota.to_string())
        }
    }
}

/// The number behind a word.
fn number_of(folder: &Path, file: &str, word: &str) -> Option<u64> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(word))?.trim().parse().ok()
}
