//! Giving memory back: the pages of processes that stand still are written to swap (`memory.reclaim`,
//! cgroups(7), else `MADV_PAGEOUT`, process_madvise(2)). Without swap there is nowhere for them to go. Pages
//! that a file has anyway, such as those of programs, are left: the kernel drops them when it needs room, and
//! to read them again takes longer than a visitor should wait. A group's kernel before Linux 6.16 cannot be
//! told that, and takes some of them too.
//!
//! It takes its time, and is given up the moment somebody wants the instance back. Where we may not do
//! it (it takes `CAP_SYS_NICE` and the right to look into the process) memory stays where it is, and the
//! kernel takes it under pressure, as it takes that of any idle process.

use std::{
    fs, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    leave: Arc<Leave>,
}

/// Whether it may still give back. What is changed for that is changed while this is held, so that nothing is
/// behind its end.
#[derive(Debug, Default)]
struct Leave(Mutex<Term>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Term {
    #[default]
    Lasts,
    Over,
}

impl Leave {
    fn held(&self) -> MutexGuard<'_, Term> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.held() = Term::Over;
    }

    fn is_over(&self) -> bool {
        *self.held() == Term::Over
    }

    /// Lets a group use swap, unless it is over.
    fn let_swap(&self, group: &Group) {
        let term = self.held();
        if *term == Term::Lasts {
            group.let_swap(true);
        }
    }
}

impl GivingBack {
    /// Begins with these processes, which stand still.
    pub(super) fn of(processes: &[Process], group: Option<&Group>) -> Self {
        let leave = Arc::new(Leave::default());
        let task = has_swap().then(|| {
            let (leave, processes) = (Arc::clone(&leave), processes.to_vec());
            let group = group.cloned();
            tokio::spawn(async move {
                // Invariant: the semaphore is never closed.
                let Ok(_turn) = TURN.acquire().await else { return };
                let giving = tokio::task::spawn_blocking(move || {
                    if !group.is_some_and(|group| give_back_group(&group, &leave)) {
                        give_back(&processes, &leave);
                    }
                });
                if let Err(error) = giving.await {
                    tracing::error!(%error, "no memory is given back");
                }
            })
        });
        Self { task, leave }
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
        self.leave.end();
        // Who waits for his turn waits no more; a piece that is under way is finished.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Has the kernel take back what a group has, piece by piece; tells whether it can be asked for that.
fn give_back_group(group: &Group, leave: &Leave) -> bool {
    let Some(mut left) = group.memory_bytes() else { return false };
    leave.let_swap(group);
    while left > 0 && !leave.is_over() {
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

fn give_back(processes: &[Process], leave: &Leave) {
    for process in processes {
        if let Err(error) = give_back_one(process, leave) {
            tracing::debug!(pid = process.pid, %error, "its memory stays where it is");
            if error.kind() == io::ErrorKind::PermissionDenied {
                return;
            }
        }
    }
}

fn give_back_one(process: &Process, leave: &Leave) -> io::Result<()> {
    let handles = Tree::handles(std::slice::from_ref(process));
    // It has ended.
    let Some(handle) = handles.first() else { return Ok(()) };
    for range in mappings(process.pid)? {
        for start in range.clone().step_by(PIECE) {
            if leave.is_over() {
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
    use crate::driver::cgroup;

    /// A folder with the files of a group of version 2 that has a limit.
    fn limited_group() -> (tempfile::TempDir, Group) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.current", "20000000\n"),
            ("memory.max", "64000000\n"),
            ("memory.swap.max", "0\n"),
            ("memory.reclaim", ""),
        ] {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let group = cgroup::with_memory(folder.path());
        (folder, group)
    }

    #[test]
    fn who_is_wanted_back_before_his_turn_is_not_let_into_swap() {
        let (folder, group) = limited_group();
        let file = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let leave = Leave::default();
        leave.end();
        assert!(give_back_group(&group, &leave));
        assert_eq!(file("memory.swap.max"), "0\n");
        assert_eq!(file("memory.reclaim"), "");
        assert!(give_back_group(&group, &Leave::default()));
        assert!(file("memory.swap.max").starts_with("max"));
        assert!(!file("memory.reclaim").is_empty());
    }

    #[test]
    fn a_group_is_asked_for_what_no_file_has() {
        let (folder, group) = limited_group();
        group.reclaim(4096).unwrap();
        let asked = fs::read_to_string(folder.path().join("memory.reclaim")).unwrap();
        assert_eq!(asked, "4096 swappiness=max");
    }

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
