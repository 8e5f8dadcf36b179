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
    procfs::{Process, Scanner},
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
    _giving_back: GivingBack,
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
    let _giving_back = GivingBack::of(&processes, Some(group));
    Ok(Still { processes, _giving_back })
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
    let _giving_back = GivingBack::of(&processes, None);
    Ok(Still { processes, _giving_back })
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
        Some(Still { processes, _giving_back }) => processes,
        // An earlier supervisor stopped it.
        None => watch::living(witness, scanner).await?,
    };
    tree::signal(&Tree::handles(&processes), Signal::CONT);
    Ok(())
}
