//! The control process's line to the supervisor: wishes go out and are answered, news of apps come
//! in.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use doorbell_config::{name::AppId, spec::AppSpec};
use doorbell_supervisor::{
    OperateError,
    machine::Ability,
    message::{GoalName, Snapshot, StartCounts, StateName, Usage, Verb},
    protocol::{Answer, FromControl, Wish, portions},
    wire::Sender,
};
use tokio::sync::oneshot;

/// The line, and what is known through it.
#[derive(Default)]
pub struct Link {
    /// `None` while there is no supervisor.
    sender: ArcSwapOption<Sender>,
    next: AtomicU64,
    wishes: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    snapshots: RwLock<Snapshots>,
    /// What earlier supervisors counted.
    earlier: Mutex<Counted>,
    abilities: Mutex<Vec<Ability>>,
}

/// What is known of apps.
#[derive(Default)]
struct Snapshots {
    now: HashMap<AppId, Arc<Snapshot>>,
    /// What was known of those of which the supervisor, a new one, has not told yet.
    before: HashMap<AppId, Arc<Snapshot>>,
}

/// Cold starts by app: those that became ready, and those that failed.
type ColdStarts = HashMap<AppId, (u64, u64)>;

/// What earlier supervisors counted.
#[derive(Default)]
struct Counted {
    all: ColdStarts,
    /// Without the last one.
    but_for_the_last: ColdStarts,
}

/// There is no supervisor at the moment, or it went away over the wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("doorbell's supervisor is being restarted: try again in a moment")]
pub struct NoSupervisor;

impl Link {
    /// Uses this connection from here on. Wishes of an earlier one are not answered any more.
    pub fn connect(&self, sender: Sender) {
        self.sender.store(Some(Arc::new(sender)));
    }

    /// The connection is gone.
    pub fn disconnect(&self) {
        self.sender.store(None);
        self.wishes().clear();
    }

    /// Says something that needs no answer.
    ///
    /// # Errors
    /// If there is nobody to hear it.
    pub fn say(&self, message: &FromControl) -> Result<(), NoSupervisor> {
        let sender = self.sender.load_full().ok_or(NoSupervisor)?;
        sender.send(message).map_err(|_| NoSupervisor)
    }

    /// Wishes something, and waits for what becomes of it. `apps` belong to the wish.
    ///
    /// # Errors
    /// If there is nobody to fulfil it.
    pub async fn wish(&self, apps: &[Arc<AppSpec>], wish: Wish) -> Result<Answer, NoSupervisor> {
        for apps in portions(apps) {
            self.say(&FromControl::Apps(apps.to_vec()))?;
        }
        let (done, answer) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.wishes().insert(number, done);
        let said = self.say(&FromControl::Wish { number, wish: Box::new(wish) });
        if said.is_err() {
            self.wishes().remove(&number);
        }
        said?;
        answer.await.map_err(|_| NoSupervisor)
    }

    /// Takes an answer.
    pub fn answered(&self, wish: u64, answer: Answer) {
        if let Some(done) = self.wishes().remove(&wish) {
            // Whoever wished may have left.
            let _ = done.send(answer);
        }
    }

    fn wishes(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something of one app and waits for its effect.
    ///
    /// # Errors
    /// Why it was not carried out; the inner one is the app's own.
    pub async fn operate(
        &self,
        app: AppId,
        verb: Verb,
    ) -> Result<Result<(), OperateError>, NoSupervisor> {
        match self.wish(&[], Wish::Operate(app, verb)).await? {
            Answer::Operated(outcome) => Ok(outcome),
            Answer::Configured(_) | Answer::Usages(_) | Answer::Upgraded(_) => Err(NoSupervisor),
        }
    }

    /// Memory and CPU of every app that runs; of none while there is no supervisor.
    pub async fn usages(&self) -> HashMap<AppId, Usage> {
        match self.wish(&[], Wish::Usages).await {
            Ok(Answer::Usages(usages)) => usages.into_iter().collect(),
            Ok(Answer::Configured(_) | Answer::Operated(_) | Answer::Upgraded(_))
            | Err(NoSupervisor) => HashMap::new(),
        }
    }

    /// What operators see of an app's lifecycle: of one that shares an instance, that of its host.
    #[must_use]
    pub fn lifecycle(&self, app: &AppSpec, id: &AppId) -> Option<Snapshot> {
        let own = Arc::unwrap_or_clone(self.snapshot(id)?);
        let Some(shared) = app.shared().filter(|_| own.goal != GoalName::Disabled) else {
            return Some(own);
        };
        let host = Arc::unwrap_or_clone(self.snapshot(&shared.with)?);
        // What it lacks in an instance is of no account while there is none.
        let reason = if host.state == StateName::Ready {
            own.reason.or(host.reason)
        } else {
            host.reason.or(own.reason)
        };
        Some(Snapshot {
            app: own.app,
            reason,
            start: None,
            // What is counted, is so once: at the host.
            starts: StartCounts::default(),
            last_start: None,
            yields: 0,
            warnings: Box::default(),
            ..host
        })
    }

    /// What is known of one app.
    #[must_use]
    pub fn snapshot(&self, app: &AppId) -> Option<Arc<Snapshot>> {
        let snapshots = self.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        snapshots.now.get(app).or_else(|| snapshots.before.get(app)).cloned()
    }

    /// Takes what the machine lets the supervisor do.
    pub fn learn_abilities(&self, abilities: Vec<Ability>) {
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) = abilities;
    }

    /// What the machine lets the supervisor do.
    #[must_use]
    pub fn abilities(&self) -> Vec<Ability> {
        self.abilities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes news of an app; gives what this supervisor had told before.
    pub fn learn(&self, mut snapshot: Snapshot) -> Option<Arc<Snapshot>> {
        let (ready, failed) = self.earlier().all.get(&snapshot.app).copied().unwrap_or_default();
        snapshot.starts.cold_ready += ready;
        snapshot.starts.cold_failed += failed;
        let mut snapshots = self.snapshots_to_change();
        snapshots.before.remove(&snapshot.app);
        snapshots.now.insert(snapshot.app.clone(), Arc::new(snapshot))
    }

    /// The app is gone.
    pub fn forget(&self, app: &AppId) {
        self.earlier().all.remove(app);
        let mut snapshots = self.snapshots_to_change();
        snapshots.now.remove(app);
        snapshots.before.remove(app);
    }

    /// Everything is about to be told anew, by one that has counted nothing yet. Until then what was known
    /// stands.
    pub fn forget_all(&self) {
        let mut snapshots = self.snapshots_to_change();
        let known = std::mem::take(&mut snapshots.now);
        if known.is_empty() {
            // One that told nothing, as it was about to go, was none: the last one is the one before.
            return;
        }
        let counted = known.iter().map(|(app, snapshot)| {
            (app.clone(), (snapshot.starts.cold_ready, snapshot.starts.cold_failed))
        });
        let mut earlier = self.earlier();
        earlier.but_for_the_last = earlier.all.clone();
        earlier.all.extend(counted.filter(|(_, counts)| *counts != (0, 0)));
        snapshots.before.extend(known);
    }

    /// This one goes on counting where the last one stopped.
    pub fn is_counted_on(&self) {
        let mut earlier = self.earlier();
        earlier.all = std::mem::take(&mut earlier.but_for_the_last);
    }

    fn snapshots_to_change(&self) -> RwLockWriteGuard<'_, Snapshots> {
        self.snapshots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn earlier(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(cold_ready: u64) -> Snapshot {
        let starts = json!({ "ready": 0, "failed": 0, "cold_ready": cold_ready, "cold_failed": 0 });
        let text = json!({
            "app": "blog", "goal": "down", "state": "stopped", "since_unix_seconds": 0, "starts": starts,
            "warnings": [], "last_output": [],
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn what_was_known_stands_until_the_next_supervisor_tells_more() {
        let (link, app) = (Link::default(), AppId::parse("blog").unwrap());
        let cold = || link.snapshot(&app).map(|snapshot| snapshot.starts.cold_ready);
        link.learn(snapshot(2));
        // The next one may be killed before it has told anything.
        for _ in 0..2 {
            link.forget_all();
            assert_eq!(cold(), Some(2));
        }
        assert!(link.learn(snapshot(1)).is_none(), "nothing has happened");
        assert_eq!(cold(), Some(3));
        link.forget_all();
        link.forget(&app);
        assert_eq!(cold(), None);
    }

    #[test]
    fn what_an_upgraded_supervisor_counts_on_is_counted_once() {
        let (link, app) = (Link::default(), AppId::parse("blog").unwrap());
        link.learn(snapshot(2));
        // The one that is being replaced may still answer the call, and tell nothing.
        link.forget_all();
        link.forget_all();
        link.is_counted_on();
        link.learn(snapshot(3));
        assert_eq!(link.snapshot(&app).map(|snapshot| snapshot.starts.cold_ready), Some(3));
    }
}
