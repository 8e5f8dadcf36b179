//! Waiting for processes to end, whoever's children they are.

use std::{future::poll_fn, io, os::fd::OwnedFd, task::Poll, time::Duration};

use super::{
    Witness,
    procfs::{Process, Scanner},
    sys,
    tree::Tree,
};

/// Looks at a tree that changes meanwhile.
const LOOKS: usize = 1000;
/// Time between two looks where there is nothing to wait for.
const PACE: Duration = Duration::from_millis(5);

/// The living processes of an instance, seen after this call.
pub(super) async fn living(witness: &Witness, scanner: &Scanner) -> io::Result<Vec<Process>> {
    for _ in 0..LOOKS {
        let table = scanner.table().await?;
        match witness.with_tree(|tree| tree.refresh(&table)) {
            Some(Some(living)) => return Ok(living),
            // It changes under our eyes.
            Some(None) => tokio::time::sleep(PACE).await,
            None => return Ok(Vec::new()),
        }
    }
    Err(io::Error::other("processes come and go too fast"))
}

/// The living processes of an instance, looked for so many times.
pub(super) async fn others(
    witness: &Witness,
    scanner: &Scanner,
    looks: usize,
) -> io::Result<Vec<Process>> {
    let mut found = living(witness, scanner).await?;
    for _ in 1..looks {
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(PACE).await;
        found = living(witness, scanner).await?;
    }
    Ok(found)
}

/// Waits until no process of the instance is left.
pub(super) async fn all_gone(witness: &Witness, scanner: &Scanner) -> io::Result<()> {
    loop {
        let living = living(witness, scanner).await?;
        if living.is_empty() {
            return Ok(());
        }
        any_gone(Tree::handles(&living)).await;
    }
}

/// Waits until one of these processes has ended.
pub(crate) async fn any_gone(handles: Vec<OwnedFd>) {
    let watched: Vec<_> =
        handles.into_iter().filter_map(|handle| sys::watch(handle).ok()).collect();
    if watched.is_empty() {
        return tokio::time::sleep(PACE).await;
    }
    // A pidfd is readable once its process has ended.
    poll_fn(|context| {
        let ended = watched.iter().any(|handle| handle.poll_read_ready(context).is_ready());
        if ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
