//! What `/proc` says of processes: proc(5), `/proc/[pid]/stat` and its neighbours.
//!
//! It reads; what belongs to an app is decided in `tree`. A process that ends while it is read is
//! left out.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Instant,
};

use rustix::io::retry_on_intr;
use tokio::sync::Mutex;

use crate::output::PipeIdentity;

/// Times the list of processes is read where there are always new ones.
const ROUNDS: usize = 16;

/// Bytes of an environment: more than execve(2) takes as a rule, an eighth of the stack's limit.
const MOST_ENVIRONMENT: u64 = 8 << 20;

/// Bytes of `/proc/[pid]/stat`: a name and 50 numbers of 20 digits at most.
const MOST_STAT: usize = 2048;

/// A process id.
pub(crate) type Pid = u32;

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    /// Its process group; 0 if its leader is outside our pid namespace.
    pub(crate) group: Pid,
    /// Its session; 0 like the group.
    pub(crate) session: Pid,
    /// When it began, in clock ticks since boot: with the pid, its identity.
    pub(crate) began: u64,
    /// Ended, and not yet waited for.
    pub(crate) is_zombie: bool,
    /// Stopped by a signal, or a debugger.
    pub(crate) is_stopped: bool,
    /// What has none is about to be a zombie, or a thread of the kernel.
    pub(crate) has_memory: bool,
    /// User and system time of it and of the children it waited for, in clock ticks.
    pub(crate) cpu_ticks: u64,
}

/// Every process at one moment.
#[derive(Debug)]
pub(crate) struct ProcessTable {
    processes: HashMap<Pid, Process>,
}

impl ProcessTable {
    /// Reads all processes. A parent that forks and exits while we read cannot hide its child:
    /// the list is read again until it names nobody new.
    pub(crate) fn read() -> io::Result<Self> {
        let mut seen = HashSet::new();
        let mut processes = HashMap::new();
        for _ in 0..ROUNDS {
            let new: Vec<Pid> = pids()?.filter(|pid| seen.insert(*pid)).collect();
            if new.is_empty() {
                break;
            }
            let read = new.into_iter().filter_map(Process::read);
            processes.extend(read.map(|process| (process.pid, process)));
        }
        Ok(Self { processes })
    }

    pub(crate) fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(&pid)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }
}

fn pids() -> io::Result<impl Iterator<Item = Pid>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

impl Process {
    /// The process as it is now; `None` if there is none.
    pub(crate) fn read(pid: Pid) -> Option<Self> {
        // The kernel tells all at once, and would tell no more to who asks in pieces: machines have thousands.
        let mut line = [0; MOST_STAT];
        let file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = retry_on_intr(|| rustix::io::read(&file, &mut line)).ok()?;
        Self::parse(pid, line.get(..length)?)
    }

    /// Ourselves. Read and not asked for by getsid(2), whose answer is 0, which rustix forbids, where
    /// the leader is outside our pid namespace: what was started by `docker exec` is in no group and
    /// no session that its container knows.
    pub(crate) fn own() -> Option<Self> {
        Self::read(std::process::id())
    }

    /// A line of `/proc/[pid]/stat`. The name in it may hold anything, blanks and parentheses too.
    fn parse(pid: Pid, stat: &[u8]) -> Option<Self> {
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
        // The first is field 3 of the manual.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let id = |field: usize| Some(u32::try_from(number(field)?).unwrap_or(0));
        let cpu_ticks = (14..=17).filter_map(number).sum();
        Some(Self {
            pid,
            parent: id(4)?,
            group: id(5)?,
            session: id(6)?,
            began: number(22)?,
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            is_stopped: matches!(*fields.first()?, "T" | "t"),
            has_memory: number(23)? > 0,
            cpu_ticks,
        })
    }
}

/// The process that a thread is of.
pub(super) fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Whether threads of a process are left. Its first one may have ended before them; until the last
/// has, what it holds is held.
pub(crate) fn has_threads(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.is_ok_and(|threads| threads.take(2).count() > 1)
}

/// What people call a process.
pub(crate) fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "unknown".into(), |name| name.trim_end().into())
}

/// The environment a process was started with, or what it says that is: bounded, as anybody may say
/// anything.
fn environ(pid: Pid) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(format!("/proc/{pid}/environ"))?.take(MOST_ENVIRONMENT).read_to_end(&mut text)?;
    Ok(text)
}

/// Whether the environment a process was started with holds all these `NAME=value`; `None` if the
/// process has ended.
pub(crate) fn has_variables(pid: Pid, variables: &[Vec<u8>]) -> Option<bool> {
    match environ(pid) {
        Ok(environ) if environ.is_empty() => {
            Process::read(pid).filter(|process| process.has_memory).map(|_| false)
        }
        Ok(environ) => Some(holds(&environ, variables)),
        // A process without memory has ended, even if its entry is still there.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(false),
    }
}

/// Whether one of these `NAME=value` is not in the environment a process was started with. What we may
/// not read says nothing.
pub(crate) fn lacks_variables(pid: Pid, variables: &[Vec<u8>]) -> bool {
    environ(pid).is_ok_and(|environ| !environ.is_empty() && !holds(&environ, variables))
}

fn holds(environ: &[u8], variables: &[Vec<u8>]) -> bool {
    let entries = || environ.split(|byte| *byte == 0);
    variables.iter().all(|variable| entries().any(|entry| entry == variable))
}

/// The value of a variable in the environment a process was started with, if there is one that we may
/// read.
pub(crate) fn variable(pid: Pid, name: &str) -> Option<String> {
    let environ = environ(pid).ok()?;
    let mut entries = environ.split(|byte| *byte == 0);
    let value =
        entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The user that a process runs as; `None` if there is none.
pub(crate) fn user(pid: Pid) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid())
}

/// Whether standard output or standard error of a process is this pipe.
pub(crate) fn writes_to(pid: Pid, pipe: PipeIdentity) -> bool {
    [1, 2].iter().any(|fd| {
        fs::metadata(format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|found| (found.dev(), found.ino()) == (pipe.device, pipe.inode))
    })
}

/// Resident bytes, shared pages in proportion where the system says so.
pub(crate) fn memory_bytes(pid: Pid) -> u64 {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0)
}

/// Reads the process table for everyone: those who ask while it is read share the next reading.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    last: Last,
}

type Last = Arc<Mutex<Option<Reading>>>;

#[derive(Debug)]
struct Reading {
    begun: Instant,
    table: Arc<ProcessTable>,
}

impl Scanner {
    /// Every process, as it was at a moment after this call.
    pub(crate) async fn table(&self) -> io::Result<Arc<ProcessTable>> {
        // A task of its own: who asks may rest a while without being polled, and must not hold up all
        // others then.
        tokio::spawn(Self::read(Arc::clone(&self.last), Instant::now())).await?
    }

    async fn read(last: Last, asked: Instant) -> io::Result<Arc<ProcessTable>> {
        let mut last = last.lock().await;
        if let Some(Reading { begun, table }) = last.as_ref()
            && *begun >= asked
        {
            return Ok(table.clone());
        }
        let begun = Instant::now();
        let table = tokio::task::spawn_blocking(ProcessTable::read).await??;
        let table = Arc::new(table);
        *last = Some(Reading { begun, table: table.clone() });
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_whatever_is_in_them() {
        let stat = b"42 (a) b \xff(c) S 7 41 40 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 999 5 6";
        let process = Process::parse(42, stat).unwrap();
        assert_eq!((process.parent, process.group, process.session), (7, 41, 40));
        assert_eq!((process.began, process.cpu_ticks), (999, 100));
        assert!(!process.is_zombie);
    }

    #[test]
    fn refuses_nonsense() {
        for stat in ["", "1 (x", "1 (x) S", "1 (x) S a b c"] {
            assert_eq!(Process::parse(1, stat.as_bytes()), None, "{stat:?}");
        }
    }

    #[test]
    fn finds_this_process() {
        let table = ProcessTable::read().unwrap();
        let me = table.process(std::process::id()).unwrap();
        assert!(!me.is_zombie && me.began > 0);
        assert!(memory_bytes(me.pid) > 0);
    }
}
