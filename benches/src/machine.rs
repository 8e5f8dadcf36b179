//! The machine a bench runs on.

use std::{fs, process::Command};

use anyhow::Context as _;
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// What a thread and its children may run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// The first one, for what is measured.
    Measured,
    /// The second one, for what makes load and what answers.
    Load,
    /// All there are.
    Any,
}

/// The number of a core; of any, that of the first one.
///
/// # Errors
/// If the system has fewer than two for us.
pub fn number(core: Core) -> anyhow::Result<usize> {
    let all = sched_getaffinity(None).context("which cores are ours?")?;
    let ours: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    anyhow::ensure!(ours.len() >= 2, "two cores are needed: one to measure, one to make load");
    Ok(ours[usize::from(core == Core::Load)])
}

/// Runs something on a core; processes that it starts stay there.
///
/// # Errors
/// If the system has fewer than two cores for us, or says no.
pub fn on<T>(core: Core, run: impl FnOnce() -> T) -> anyhow::Result<T> {
    let before = sched_getaffinity(None).context("which cores are ours?")?;
    let mut set = CpuSet::new();
    match core {
        Core::Measured | Core::Load => set.set(number(core)?),
        Core::Any => set = before,
    }
    sched_setaffinity(None, &set).context("cannot pin to a core")?;
    let outcome = run();
    sched_setaffinity(None, &before).context("cannot unpin from a core")?;
    Ok(outcome)
}

/// As many descriptors as we may have, for us and our children.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("cannot raise the limit on open files: {error}");
    }
}

/// One line that says what this machine is.
#[must_use]
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores of {model}, Linux {}, load before {}",
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// The first line that a program says about itself, wherever it says it.
#[must_use]
pub fn version(program: &str, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else {
        return format!("{program}: not there");
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
