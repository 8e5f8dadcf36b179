//! Giving memory back: the pages of processes that stand still are written to swap (`MADV_PAGEOUT`,
//! process_madvise(2)). Without swap there is nowhere for them to go. Pages that a file has anyway, such
//! as those of programs, are left: the kernel drops them when it needs room, and to read them again
//! takes longer than a visitor should wait.
//!
//! It takes its time, and is given up the moment somebody wants the instance back. Where we may not do
//! it (it takes `CAP_SYS_NICE` and the right to look into the process) memory stays where it is, and the
//! kernel takes it under pressure, as it takes that of any idle process.

use std::{
    fs, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    cgroup::Group,
    procfs::{Pid, Process},
    sys,
    tree::Tree,
};

/// Bytes that are given back at once: between two pieces it can be given up.
const PIECE: usize = 16 << 20;

/// One instance at a time: several would only compete for the disk, and for the threads that starts need.
static TURN: Semaphore = Semaphore::const_new(1);

/// Giving back that goes on until this is dropped, or all is done.
#[derive(Debug)]
pub(super) struct GivingBack {
    /// Where there is swap, until it is done.
    task: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl GivingBack {
    /// Begins with these processes, which stand still.
    pub(super) fn of(processes: &[Process], group: Option<&Group>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let task = has_swap().then(|| {
            let (over, processes) = (Arc::clone(&is_over), processes.to_vec());
            let group = group.cloned();
            tokio::spawn(async move {
                // Invariant: the semaphore is never closed.
                let Ok(_turn) = TURN.acquire().await else { return };
                let giving = tokio::task::spawn_blocking(move || {
                    if !group.is_some_and(|group| give_back_group(&group, &over)) {
                        give_back(&processes, &over);
                    }
                });
                if let Err(error) = giving.await {
                    tracing::error!(%error, "no memory is given back");
                }
            })
        });
        Self { task, is_over }
    }

    /// Waits until all is given back that can be. Dropping this future loses nothing.
    pub(super) async fn is_done(&mut self) {
        if let Some(task) = &mut self.task {
            if let Err(error) = task.await {
                tracing::error!(%error, "giving memory back failed");
            }
            self.task = None;
        }
    }
}

impl Drop for GivingBack {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Who waits for his turn waits no more; a piece that is under way is finished.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Has the kernel take back what a group has, piece by piece; tells whether it can be asked for that.
fn give_back_group(group: &Group, is_over: &AtomicBool) -> bool {
    let Some(mut left) = group.memory_bytes() else { return false };
    group.let_swap(true);
    while left > 0 && !is_over.load(Ordering::Relaxed) {
        match group.reclaim(left.min(PIECE as u64)) {
            Ok(()) => {}
            // There is no more that it would give.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                tracing::debug!(%error, "the kernel takes no memory back");
                return false;
            }
        }
        left = left.saturating_sub(PIECE as u64);
    }
    true
}

fn give_back(processes: &[Process], is_over: &AtomicBool) {
    for process in processes {
        if let Err(error) = give_back_one(process, is_over) {
            tracing::debug!(pid = process.pid, %error, "its memory stays where it is");
            if error.kind() == io::ErrorKind::PermissionDenied {
                return;
            }
        }
    }
}

fn give_back_one(process: &Process, is_over: &AtomicBool) -> io::Result<()> {
    let handles = Tree::handles(std::slice::from_ref(process));
    // It has ended.
    let Some(handle) = handles.first() else { return Ok(()) };
    for range in mappings(process.pid)? {
        for start in range.clone().step_by(PIECE) {
            if is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            match sys::page_out(handle, start..range.end.min(start + PIECE)) {
                // What is locked, or is no memory of its own.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                other => other?,
            }
        }
    }
    Ok(())
}

/// Whether there is anything under the title of `/proc/swaps`, proc(5).
pub(crate) fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// Where a process has memory of its own: proc(5), `/proc/[pid]/maps`.
fn mappings(pid: Pid) -> io::Result<Vec<Range<usize>>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(text.lines().filter_map(mapping).collect())
}

fn mapping(line: &str) -> Option<Range<usize>> {
    let (addresses, rest) = line.split_once(' ')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Rights, offset, device, inode, name. What may not be read was never used.
    let &[rights, _, _, inode, ..] = fields.as_slice() else { return None };
    let name = fields.get(4).unwrap_or(&"");
    let is_ours = inode == "0" && !rights.starts_with("---") && !name.starts_with("[v");
    let (start, end) = addresses.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?).filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_but_for_the_kernels_own() {
        let lines = [
            "55d0-55f0 rw-p 00000000 00:00 0                          [heap]",
            "7f00-7f10 r-xp 00001000 fe:01 123                        /usr/lib/libc.so.6",
            "7f20-7f30 rw-p 00000000 00:00 0 ",
            "7ff0-7ff1 ---p 00000000 00:00 0 ",
            "7ff2-7ff4 r-xp 00000000 00:00 0                          [vdso]",
            "nonsense",
        ];
        let read: Vec<_> = lines.into_iter().filter_map(mapping).collect();
        assert_eq!(read, [0x55d0..0x55f0, 0x7f20..0x7f30]);
        assert!(!mappings(std::process::id()).unwrap().is_empty());
    }
}
