//! Who waits for changes, those of other programs included.
//!
//! PostgreSQL tells of a change; of a file of SQLite the kernel does. Both are asked for their revision besides, now
//! and then: what tells may have been lost on the way, or be in front of something that passes no such word on.
//! A connection that was lost is made anew, again and again with a bounded pause, and the revision is asked for
//! after it is there: what came between is seen.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use super::{Registry, error::RegistryError, row::Revision, store::Store};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Tells when the registry has changed. Dropped, it stops looking.
#[derive(Debug)]
pub struct Watch {
    known: Revision,
    seen: watch::Receiver<Seen>,
    looking: JoinHandle<()>,
}

/// What was seen last.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// None before the first look.
    revision: Option<Revision>,
    /// Why the registry does not answer, if so.
    problem: Option<RegistryError>,
}

impl Registry {
    /// Watches for changes beyond a revision that is known.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn watch(&self, known: Revision) -> Watch {
        let (tell, seen) = watch::channel(Seen::default());
        let looking = tokio::spawn(look(self.store.clone(), tell));
        Watch { known, seen, looking }
    }
}

impl Watch {
    /// Waits until the registry is elsewhere than where it was known to be, and says where. That is a lower
    /// revision if it was restored from a backup. May be dropped and called again: nothing is lost.
    pub async fn changed(&mut self) -> Revision {
        loop {
            let revision = self.seen.borrow_and_update().revision;
            if let Some(revision) = revision.filter(|revision| *revision != self.known) {
                self.known = revision;
                return revision;
            }
            if self.seen.changed().await.is_err() {
                // Who looks has ended with the runtime.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until something is seen that was not seen before: a change, or a problem that comes or goes.
    pub async fn stirred(&mut self) {
        if self.seen.changed().await.is_err() {
            // Who looks has ended with the runtime.
            std::future::pending::<()>().await;
        }
    }

    /// Why the registry does not answer, if so.
    #[must_use]
    pub fn problem(&self) -> Option<RegistryError> {
        self.seen.borrow().problem.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(store: Arc<Store>, tell: watch::Sender<Seen>) {
    let registry = Registry { store };
    let mut pause = FIRST_PAUSE;
    loop {
        if let Err(problem) = listen(&registry, &tell, &mut pause).await {
            told(&tell, |seen| seen.problem.replace(problem.clone()) != Some(problem));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks at each word and after each pause, until something fails.
async fn listen(
    registry: &Registry,
    tell: &watch::Sender<Seen>,
    pause: &mut Duration,
) -> Result<(), RegistryError> {
    let mut ear = match registry.store.listen().await {
        Ok(ear) => ear,
        // Nobody tells; it may answer all the same.
        Err(error) => return ask(registry, tell).await.and(Err(error)),
    };
    loop {
        ask(registry, tell).await?;
        *pause = FIRST_PAUSE;
        let late = tokio::time::sleep(ear.pause());
        tokio::select! {
            heard = ear.heard() => heard?,
            () = late => {}
        }
    }
}

async fn ask(registry: &Registry, tell: &watch::Sender<Seen>) -> Result<(), RegistryError> {
    let revision = registry.revision().await?;
    told(tell, |seen| {
        let had_problem = seen.problem.take().is_some();
        seen.revision.replace(revision) != Some(revision) || had_problem
    });
    Ok(())
}

fn told(tell: &watch::Sender<Seen>, change: impl FnOnce(&mut Seen) -> bool) {
    tell.send_if_modified(change);
}
