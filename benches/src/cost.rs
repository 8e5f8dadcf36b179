//! What processes cost: processor time and memory, as the kernel counts them.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// A process and all below it.
#[must_use]
pub fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let threads = fs::read_dir(format!("/proc/{}/task", found[at])).into_iter().flatten();
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}

/// Processor time that a process tree has used, by the scheduler's nanosecond clock
/// (proc(5), `schedstat`), threads that have ended not included.
///
/// # Errors
/// If the kernel does not tell.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    tree(pid).into_iter().map(processor_time_alone).sum()
}

/// Processor time that a process has used, without its children.
///
/// # Errors
/// If the kernel does not tell.
pub fn processor_time_alone(pid: u32) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("a process has ended")?;
    for thread in threads {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).context("the kernel keeps no schedstat")?;
        let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
        total += Duration::from_nanos(nanos.context("schedstat is no number")?);
    }
    Ok(total)
}

/// Clock ticks that a process tree has used (proc(5), `utime` and `stime` of `stat`).
///
/// # Errors
/// If the kernel does not tell.
pub fn ticks(pid: u32) -> anyhow::Result<u64> {
    tree(pid).into_iter().map(ticks_of).sum()
}

fn ticks_of(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("stat without a name")?.1;
    let fields: Vec<&str> = fields.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// How often the threads of a process tree have gone to sleep, and so were woken (proc(5),
/// `voluntary_ctxt_switches`).
///
/// # Errors
/// If the kernel does not tell.
pub fn wake_ups(pid: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for pid in tree(pid) {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            total += count.context("no voluntary_ctxt_switches")?.trim().parse::<u64>()?;
        }
    }
    Ok(total)
}

/// Memory of a process tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident, in KiB; pages that several processes share count for each.
    pub rss_kib: u64,
    /// Proportional, in KiB; shared pages are divided among those who share them.
    pub pss_kib: u64,
}

/// Memory that a process tree has (proc(5), `smaps_rollup`).
///
/// # Errors
/// If the kernel does not tell.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let mut total = Memory::default();
    for pid in tree(pid) {
        let Memory { rss_kib, pss_kib } = memory_alone(pid)?;
        total.rss_kib += rss_kib;
        total.pss_kib += pss_kib;
    }
    Ok(total)
}

/// Memory that a process has, without its children.
///
/// # Errors
/// If the kernel does not tell.
pub fn memory_alone(pid: u32) -> anyhow::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
    };
    Ok(Memory {
        rss_kib: field("Rss:").context("no Rss")?,
        pss_kib: field("Pss:").context("no Pss")?,
    })
}
