//! Which processes are ours to wait for, and the end of those that are nobody's.
//!
//! We are a child subreaper (prctl(2)): descendants that lose their parent become our children, and
//! stay zombies until we wait for them. Every wait is for one process by name, never for any child,
//! so that nobody's exit status is stolen: instances' first processes are registered here, and
//! waited for by their instance alone. Children outside of any app's process group (those of a test
//! harness, say) are left alone.
//!
//! The registry is process-wide like the thing it mirrors.

use std::{
    collections::HashSet,
    io,
    sync::{Mutex, PoisonError, RwLock, TryLockError},
    time::Duration,
};

use rustix::process::{WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::procfs::{Pid, Process, ProcessTable, Scanner};

/// Time between two searches for strays, so that a storm of exits costs little.
const PACE: Duration = Duration::from_millis(100);

static REGISTRY: RwLock<()> = RwLock::new(());
static INSTANCES: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// Spawns and registers in one step, as far as the search for strays can see.
pub(crate) fn spawn_registered<T, E>(
    spawn: impl FnOnce() -> Result<(Pid, T), E>,
) -> Result<(Pid, T), E> {
    let _held = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    let (pid, spawned) = spawn()?;
    with_instances(|instances| instances.insert(pid));
    Ok((pid, spawned))
}

/// Registers a process that another version of us spawned.
pub(super) fn register(pid: Pid) {
    with_instances(|instances| instances.insert(pid));
}

/// Forgets a process that was waited for.
pub(crate) fn forget(pid: Pid) {
    with_instances(|instances| instances.remove(&pid));
}

/// Whether this is the first process of an instance.
pub(crate) fn is_registered(pid: Pid) -> bool {
    with_instances(|instances| instances.contains(&pid))
}

fn with_instances<T>(look: impl FnOnce(&mut HashSet<Pid>) -> T) -> T {
    let mut instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
    look(instances.get_or_insert_default())
}

/// Makes strays come to us.
pub(crate) fn adopt_strays() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Waits for strays that ended, for ever.
pub(crate) async fn reap_strays(scanner: &Scanner) -> io::Result<()> {
    let mut exits = signal(SignalKind::child())?;
    while exits.recv().await.is_some() {
        // An unreadable table leaves zombies until the next exit, no worse.
        while let Ok(table) = scanner.table().await
            && reap(&table) == Reaped::Later
        {
            tokio::time::sleep(PACE).await;
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Whether there was a moment for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaped {
    All,
    /// A program is being started, which may take long on a slow disk.
    Later,
}

fn reap(table: &ProcessTable) -> Reaped {
    let Some(own) = table.process(std::process::id()) else { return Reaped::All };
    let is_stray = |p: &&Process| p.is_zombie && p.parent == own.pid && p.group != own.group;
    let strays: Vec<_> =
        table.all().filter(is_stray).filter(|stray| !is_registered(stray.pid)).collect();
    if strays.is_empty() {
        return Reaped::All;
    }
    // With the lock no process is spawned and not yet registered.
    let _held = match REGISTRY.try_write() {
        Ok(held) => held,
        Err(TryLockError::Poisoned(held)) => held.into_inner(),
        Err(TryLockError::WouldBlock) => return Reaped::Later,
    };
    for stray in strays.into_iter().filter(|stray| !is_registered(stray.pid)) {
        if let Some(pid) = to_rustix(stray.pid) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // An error means that it was waited for in the meantime.
            let _ = rustix::process::waitid(WaitId::Pid(pid), options);
        }
    }
    Reaped::All
}

pub(crate) fn to_rustix(pid: Pid) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)
}
