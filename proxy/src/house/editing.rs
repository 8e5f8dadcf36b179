//! Changes of the registry: those that operators make here, and those that others made.
//!
//! An edit is held against everything else first, then stored, then made to hold: what is answered with
//! success is durable, and what is refused has changed nothing. Edits, and reloads of the files, come one
//! after the other.

use std::{sync::Arc, time::Duration};

use doorbell_config::{
    file::{Loaded, Refused},
    name::AppId,
    problem::Problems,
    registry::{Actor, Edit, Registry, RegistryError, Revision, What, WriteError},
};
use tokio::time::{Instant, timeout_at};

use super::{House, ReloadError, ReloadReport, addresses::revealed, finished, hold::Held};
use crate::{
    clock,
    ledger::{List, Listed, Misfit, address::AddressError},
};

/// Pause before a registry that cannot be opened, or read, is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often apps that cannot be are tried again.
const RETRY: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long it is known of an app that it is gone.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// Entries of the audit log that are kept.
const MOST_AUDITED: u32 = 100_000;

/// How often an edit is held against everything anew while other Doorbells change apps: of those that meet each time
/// one gets through.
const MOST_TRIES: u32 = 30;

/// Whether an edit is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It is.
    No,
    /// It is only told what would come of it.
    Yes,
}

/// What is read of the registry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// What has changed since it was read last.
    Changes,
    /// All that is there, to try again what could not be.
    All,
}

/// Edits that are in nobody's way.
struct Checked {
    edits: Vec<Edit>,
    /// All apps as they make them.
    list: List,
    loaded: Loaded,
    /// Apps that are put as they were.
    same: Vec<AppId>,
}

/// What came of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The revision of the last app that was edited; of none for a trial.
    pub revision: Revision,
    /// What operators should know.
    pub report: ReloadReport,
    /// Apps that were put as they were.
    pub same: Vec<AppId>,
}

/// Why an edit was not made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no registry, or it does not answer.
    #[error("{0}")]
    NoRegistry(String),
    /// It does not fit to what there is.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// What was shown without its secret cannot be stored so.
    #[error(
        "app \"{0}\": `********` stands for what is not shown, and only of the address that is stored: write the \
         whole address of its database"
    )]
    Hidden(AppId),
    /// It cannot be stored sealed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The apps would be wrong, or in the way of others that were there before.
    #[error("{}", words(.0))]
    Refused(Vec<Refused>),
    /// The files are wrong, and without them it cannot be told.
    #[error("the configuration file is wrong, mend it first:\n{0}")]
    Files(Problems),
    /// It could not be stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It cannot be made to hold.
    #[error(transparent)]
    Reload(#[from] ReloadError),
}

fn words(refused: &[Refused]) -> String {
    let words: Vec<_> = refused.iter().map(|refused| refused.problems.to_string()).collect();
    words.join("\n")
}

impl House {
    /// There is a registry.
    pub fn has_registry(&self, registry: &Registry) {
        self.registry.store(Some(Arc::new(registry.clone())));
        self.is_registry_known.send_replace(true);
    }

    /// The registry, or why there is none; at the beginning, as soon as that is known.
    ///
    /// # Errors
    /// In words for operators.
    pub async fn registry_soon(&self) -> Result<Arc<Registry>, EditError> {
        let mut known = self.is_registry_known.subscribe();
        // It is not gone while we are here.
        let _ = known.wait_for(|is_known| *is_known).await;
        self.registry()
    }

    /// Takes in what is in a registry, as it changes, until the task is dropped.
    pub async fn follow_registry(self: Arc<Self>, registry: Registry) {
        self.has_registry(&registry);
        let mut watch = registry.watch(self.ledger.lock().await.known);
        let (mut retry, mut trim) = (Instant::now() + RETRY, Instant::now() + RETRY);
        loop {
            let outcome = match watch.problem() {
                Some(problem) => Err(problem),
                None => self.sync().await,
            };
            let look_again = match outcome {
                Ok(()) => {
                    self.registry_answers();
                    self.seal_clear_addresses(&registry).await;
                    retry
                }
                Err(error) => {
                    self.registry_fails(&error);
                    Instant::now() + PAUSE
                }
            };
            // Passing it is no error.
            let _ = timeout_at(look_again, watch.stirred()).await;
            if Instant::now() >= retry {
                retry = Instant::now() + RETRY;
                if !self.refused().is_empty()
                    && let Err(error) = self.sync_all().await
                {
                    self.registry_fails(&error);
                }
            }
            if Instant::now() >= trim {
                trim = Instant::now() + DAY;
                if let Err(error) = registry.trim_audit(MOST_AUDITED).await {
                    tracing::warn!(%error, "the audit log grows");
                }
                if let Err(error) = registry.trim_gone(MONTH).await {
                    tracing::warn!(%error, "apps that are gone stay in the registry");
                }
            }
        }
    }

    /// The registry, or why there is none.
    ///
    /// # Errors
    /// In words for operators.
    pub fn registry(&self) -> Result<Arc<Registry>, EditError> {
        self.registry.load_full().ok_or_else(|| {
            let problem = self.registry_problem.load_full();
            let words =
                problem.map_or("the registry is not open yet".into(), |words| words.to_string());
            EditError::NoRegistry(words)
        })
    }

    /// Why the registry does not answer, if so.
    #[must_use]
    pub fn registry_problem(&self) -> Option<Arc<String>> {
        self.registry_problem.load_full()
    }

    /// Takes note that the registry does not answer; what it had holds on.
    pub fn registry_fails(&self, error: &dyn std::fmt::Display) {
        let words = error.to_string();
        let before = self.registry_problem.swap(Some(Arc::new(words.clone())));
        self.is_registry_known.send_replace(true);
        if before.is_none_or(|before| *before != words) {
            tracing::error!("{words}; apps go on as they were");
        }
    }

    fn registry_answers(&self) {
        if self.registry_problem.swap(None).is_some() {
            tracing::info!("the registry answers again");
        }
    }

    /// Makes edits: all of them, or none. Whoever asks may leave: they are made to the end.
    ///
    /// # Errors
    /// Says why not; then nothing has changed.
    pub async fn edit(
        self: &Arc<Self>,
        edits: Vec<Edit>,
        by: Actor,
        trial: Trial,
    ) -> Result<Edited, EditError> {
        let house = Arc::clone(self);
        finished(tokio::spawn(async move { house.edit_now(edits, &by, trial).await })).await
    }

    async fn edit_now(
        &self,
        edits: Vec<Edit>,
        by: &Actor,
        trial: Trial,
    ) -> Result<Edited, EditError> {
        let registry = self.registry()?;
        let mut ledger = Arc::clone(&self.ledger).lock_owned().await;
        for _ in 0..MOST_TRIES {
            let (checked, held) = self.checked(ledger, edits.clone()).await?;
            let stored = self.stored(&checked.edits)?;
            if trial == Trial::Yes {
                let (revision, report) = (Revision::ZERO, ReloadReport::default());
                return Ok(Edited { revision, report, same: checked.same });
            }
            match registry.write_unless_changed(held.known, &stored, by).await {
                // Another Doorbell was faster: what it has changed may be in the way of this.
                Err(WriteError::Changed) => {
                    let synced = self.synced(&registry, held, Sync::Changes).await;
                    ledger = synced.map_err(WriteError::from)?;
                }
                written => {
                    let last = written?;
                    drop(stored);
                    return Ok(self.written(checked, held, last).await);
                }
            }
        }
        Err(WriteError::Changed.into())
    }

    /// Holds edits against everything else.
    async fn checked(&self, ledger: Held, edits: Vec<Edit>) -> Result<(Checked, Held), EditError> {
        let edits = revealed(edits, &ledger.list)?;
        let list = ledger.edited(&edits, clock::unix_millis())?;
        let (loaded, ledger) = self.load(ledger, list.clone()).await;
        if let Err(problems) = &loaded.outcome {
            return Err(EditError::Files(problems.clone()));
        }
        let (bad, loaded, ledger) = self.faults(&edits, loaded, ledger, &list).await;
        if !bad.is_empty() {
            return Err(EditError::Refused(bad));
        }
        if let Ok(config) = &loaded.outcome {
            // What could not be before is no fault of these edits.
            let is_tried = |app: &AppId| is_edited(&edits, app) || !ledger.was_refused(app);
            self.try_out(config, is_tried).await?;
        }
        let same = unchanged(&edits, &ledger.list, &list);
        Ok((Checked { edits, list, loaded, same }, ledger))
    }

    /// Makes hold what was stored.
    async fn written(&self, checked: Checked, mut ledger: Held, last: Revision) -> Edited {
        let Checked { edits, list, loaded, same } = checked;
        ledger.list = Arc::new(numbered(list, &edits, last));
        // Nobody else has changed an app since.
        ledger.known = last;
        self.publish(&ledger);
        let report = match self.hold(loaded, ledger).await.0 {
            Ok(report) => report,
            // It is stored, and holds as soon as somebody is there to make it.
            Err(error) => ReloadReport { warnings: vec![error.to_string()], ..Default::default() },
        };
        Edited { revision: last, report, same }
    }

    /// What is wrong because of edits. An app that is left alone and has become wrong by itself, since
    /// something that it names is gone, is in nobody's way.
    async fn faults(
        &self,
        edits: &[Edit],
        loaded: Loaded,
        ledger: Held,
        list: &List,
    ) -> (Vec<Refused>, Loaded, Held) {
        let is_edited = |app: &AppId| is_edited(edits, app);
        let is_bad =
            |refused: &&Refused| is_edited(&refused.app) || !ledger.was_refused(&refused.app);
        let bad: Vec<_> = loaded.refused.iter().filter(is_bad).cloned().collect();
        if bad.iter().all(|refused| is_edited(&refused.app)) {
            return (bad, loaded, ledger);
        }
        let now = List::clone(&ledger.list);
        let (without, ledger) = self.load(ledger, now).await;
        let by_itself =
            |refused: &Refused| without.refused.iter().any(|other| other.app == refused.app);
        let is_due = |refused: &Refused| is_edited(&refused.app) || !by_itself(refused);
        let bad = bad.into_iter().filter(is_due).collect();
        let (loaded, ledger) = self.load(ledger, list.clone()).await;
        (bad, loaded, ledger)
    }

    /// Takes in what others changed in the registry.
    ///
    /// # Errors
    /// If it cannot be read: then all is as it was.
    pub async fn sync(self: &Arc<Self>) -> Result<(), RegistryError> {
        let house = Arc::clone(self);
        finished(tokio::spawn(async move { house.sync_now(Sync::Changes).await })).await
    }

    /// Reads all of the registry, and tries again what could not be.
    async fn sync_all(self: &Arc<Self>) -> Result<(), RegistryError> {
        let house = Arc::clone(self);
        finished(tokio::spawn(async move { house.sync_now(Sync::All).await })).await
    }

    async fn sync_now(&self, what: Sync) -> Result<(), RegistryError> {
        let Some(registry) = self.registry.load_full() else { return Ok(()) };
        let ledger = Arc::clone(&self.ledger).lock_owned().await;
        self.synced(&registry, ledger, what).await.map(drop)
    }

    async fn synced(
        &self,
        registry: &Registry,
        mut ledger: Held,
        what: Sync,
    ) -> Result<Held, RegistryError> {
        let since = if what == Sync::All { Revision::ZERO } else { ledger.known };
        let mut changes = registry.changes_since(since).await?;
        self.open_addresses(&mut changes).await;
        let before = Arc::clone(&ledger.list);
        ledger.take(&changes);
        let is_same = |(a, b): ((&AppId, &Listed), (&AppId, &Listed))| {
            a.0 == b.0 && Arc::ptr_eq(&a.1.entry, &b.1.entry)
        };
        if what == Sync::Changes
            && ledger.list.len() == before.len()
            && ledger.list.iter().zip(&*before).all(is_same)
        {
            self.publish(&ledger);
            return Ok(ledger);
        }
        Ok(self.take_in(ledger, &before).await)
    }

    /// Makes the list from the registry hold. An app that cannot be as others made it stays as it was.
    async fn take_in(&self, ledger: Held, before: &List) -> Held {
        let list = List::clone(&ledger.list);
        let (mut loaded, mut ledger) = self.load(ledger, list.clone()).await;
        let kept = keep_old(Arc::make_mut(&mut ledger.list), &loaded.refused, before);
        if !kept.is_empty() {
            let list = List::clone(&ledger.list);
            (loaded, ledger) = self.load(ledger, list).await;
        }
        // Who is started by this is to be found in it.
        self.publish(&ledger);
        let (outcome, mut ledger) = self.hold(loaded, ledger).await;
        // The outcome is logged and counted where it happens; what is kept is told with it.
        if outcome.is_ok() {
            let is_new = |kept: &Refused| ledger.refused.iter().all(|other| other.app != kept.app);
            let kept: Vec<_> = kept.into_iter().filter(is_new).collect();
            ledger.refused.extend(kept);
        }
        self.publish(&ledger);
        ledger
    }
}

/// The apps that edits put as they were.
fn unchanged(edits: &[Edit], before: &List, after: &List) -> Vec<AppId> {
    let put = edits.iter().filter(|edit| matches!(edit.what, What::Put(_))).map(|edit| &edit.app);
    let is_same = |app: &&AppId| {
        before.get(*app).zip(after.get(*app)).is_some_and(|(a, b)| a.entry == b.entry)
    };
    put.filter(is_same).cloned().collect()
}

fn is_edited(edits: &[Edit], app: &AppId) -> bool {
    edits.iter().any(|edit| edit.app == *app || matches!(&edit.what, What::Rename(to) if to == app))
}

/// Puts apps that were refused back to what they were, if that was another thing; tells which.
fn keep_old(list: &mut List, refused: &[Refused], before: &List) -> Vec<Refused> {
    let mut kept = Vec::new();
    for refused in refused {
        let old = before.get(&refused.app).map(|old| &old.entry);
        if let (Some(old), Some(listed)) = (old, list.get_mut(&refused.app))
            && !Arc::ptr_eq(old, &listed.entry)
        {
            listed.entry = Arc::clone(old);
            kept.push(refused.clone());
        }
    }
    kept
}

/// The list with the revisions that the registry gave: a rising one to each edit, of which secrets leave their
/// app at its own.
fn numbered(mut list: List, edits: &[Edit], last: Revision) -> List {
    let count = edits.len() as u64;
    let edits = (0..count).rev().zip(edits);
    let gives_one = |edit: &Edit| matches!(edit.what, What::Put(_) | What::Rename(_));
    for (before_last, edit) in edits.filter(|(_, edit)| gives_one(edit)) {
        let revision = Revision::new(last.number().saturating_sub(before_last));
        let app = if let What::Rename(to) = &edit.what { to } else { &edit.app };
        if let Some(listed) = list.get_mut(app) {
            listed.revision = revision;
            if listed.created == Revision::new(u64::MAX) {
                listed.created = revision;
            }
        }
    }
    list
}
