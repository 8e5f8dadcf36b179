//! The apps of the registry as this Doorbell takes them: what was read of them last, in the order in
//! which they came to be.
//!
//! The ledger asks nobody. Whoever holds it decides what is read next, and is the only one who does: see
//! [`crate::house`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use doorbell_config::{
    file::{Archive, Entry, EntryError, Loaded, Refused},
    name::AppId,
    problem::Problems,
    registry::{AppRow, Changes, Edit, Expect, Revision, What},
};
use doorbell_supervisor::protocol::Lineage;
use serde_json::{Map, Value};

pub mod address;
pub mod copy;
pub mod place;

/// An app of the registry.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The revision of its last change.
    pub revision: Revision,
    /// Its place among the others.
    pub created: Revision,
    /// When it came to be, in milliseconds since 1970.
    pub created_at: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub changed_at: u64,
    /// What it is.
    pub entry: Arc<Entry>,
}

/// All apps of the registry, by id.
pub type List = BTreeMap<AppId, Listed>;

/// The files and the apps that were read last.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What is known of the files.
    pub archive: Archive,
    /// The apps of the registry.
    pub list: Arc<List>,
    /// Those of them that cannot be, and why.
    pub refused: Vec<Refused>,
    /// What the registry is known up to.
    pub known: Revision,
    /// Apps of the registry as they are in force.
    in_force: Arc<InForce>,
}

/// Apps of the registry that are in force: when each came to be, and what it is.
pub type InForce = BTreeMap<AppId, (Revision, Arc<Entry>)>;

/// Why an edit makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The app is not as its author saw it.
    #[error("{}", misfit(app, *found))]
    Conflict {
        /// Which.
        app: AppId,
        /// What it is now, if it is there.
        found: Option<Revision>,
    },
    /// It has keys that no app can have.
    #[error("app \"{app}\": {error}")]
    Keys {
        /// Which.
        app: AppId,
        /// What is wrong.
        error: EntryError,
    },
}

fn misfit(app: &AppId, found: Option<Revision>) -> String {
    match found {
        Some(_) => format!("app \"{app}\" has changed since you read it, or was there before"),
        None => format!("app \"{app}\" is not in the registry"),
    }
}

impl Ledger {
    /// The apps as they are loaded: who came first has what others want too.
    #[must_use]
    pub fn entries(list: &List) -> Vec<Arc<Entry>> {
        let mut listed: Vec<_> = list.values().collect();
        listed.sort_by_key(|listed| listed.created);
        listed.into_iter().map(|listed| Arc::clone(&listed.entry)).collect()
    }

    /// Whether an app was refused before.
    #[must_use]
    pub fn was_refused(&self, app: &AppId) -> bool {
        self.refused.iter().any(|refused| refused.app == *app)
    }

    /// Whether an app is in force as it is written.
    #[must_use]
    pub fn is_in_force(&self, app: &AppId) -> bool {
        let written = self.list.get(app).map(|listed| &listed.entry);
        let in_force = self.in_force.get(app);
        in_force.zip(written).is_some_and(|((_, in_force), written)| Arc::ptr_eq(in_force, written))
    }

    /// What is in force of the list, but for what is refused and was not kept.
    #[must_use]
    pub fn in_force_but<'r>(
        &self,
        refused: impl Iterator<Item = &'r Refused>,
        kept: &[AppId],
    ) -> InForce {
        let refused: HashSet<_> = refused.map(|refused| &refused.app).collect();
        let is_in = |id: &&AppId| !refused.contains(*id) || kept.contains(*id);
        let in_force = self.list.iter().filter(|(id, _)| is_in(id));
        let listed =
            |(id, one): (&AppId, &Listed)| (id.clone(), (one.created, Arc::clone(&one.entry)));
        in_force.map(listed).collect()
    }

    /// This is in force now.
    pub fn holds(&mut self, in_force: Arc<InForce>) {
        self.in_force = in_force;
    }

    /// Apps that cannot be loaded any more, whatever has become of the files: something that they name is
    /// gone.
    pub fn own_fault(&mut self, entries: &[Arc<Entry>]) -> HashSet<AppId> {
        if entries.is_empty() {
            return HashSet::new();
        }
        let loaded = self.archive.load_entries(&|name| std::env::var(name).ok(), entries);
        loaded.into_iter().flat_map(|loaded| loaded.refused).map(|refused| refused.app).collect()
    }

    /// An app that holds is no less good because a file that comes later wants what it has: then the file
    /// is wrong.
    pub fn keeps_all(&self, loaded: &mut Loaded, own_fault: &HashSet<AppId>) {
        let is_lost = |refused: &&Refused| {
            !self.was_refused(&refused.app) && !own_fault.contains(&refused.app)
        };
        let lost = loaded.refused.iter().filter(is_lost);
        let problems: Vec<_> =
            lost.flat_map(|refused| refused.problems.0.iter().cloned()).collect();
        if loaded.outcome.is_ok() && !problems.is_empty() {
            loaded.outcome = Err(Problems(problems));
        }
    }

    /// The list as edits would make it. What is new comes last, at no revision yet.
    ///
    /// # Errors
    /// Says which edit does not fit.
    pub fn edited(&self, edits: &[Edit], now: u64) -> Result<List, Misfit> {
        let mut list = List::clone(&self.list);
        edits.iter().try_for_each(|edit| apply(&mut list, edit, now))?;
        Ok(list)
    }

    /// Takes in what changed, and tells of what is not as it should be.
    pub fn take(&mut self, changes: &Changes) {
        let (list, misfits) = self.changed(changes);
        for misfit in &misfits {
            tracing::error!("{misfit}: it stays as it was");
        }
        for unreadable in &changes.unreadable {
            let (app, why) = (&unreadable.id, &unreadable.why);
            tracing::error!(app, why, "an app of the registry cannot be read, and stays as it was");
        }
        self.list = Arc::new(list);
        self.known = changes.now;
    }

    /// The list with what others changed. An app with keys that no app can have stays as it was, and is
    /// told beside it.
    fn changed(&self, changes: &Changes) -> (List, Vec<Misfit>) {
        let mut list = List::clone(&self.list);
        let mut misfits = Vec::new();
        if changes.whole {
            let there = changes.put.iter().map(|row| row.id.as_str());
            let there: HashSet<_> =
                there.chain(changes.unreadable.iter().map(|row| row.id.as_str())).collect();
            list.retain(|id, _| there.contains(id.as_str()));
        }
        for id in &changes.gone {
            list.remove(id);
        }
        for row in &changes.put {
            match Listed::of(row, list.get(&row.id)) {
                Ok(listed) => _ = list.insert(row.id.clone(), listed),
                Err(error) => misfits.push(Misfit::Keys { app: row.id.clone(), error }),
            }
        }
        (list, misfits)
    }
}

/// Who is whom among the apps of two lists: an app is the same as long as it came to be at the same revision.
#[must_use]
pub fn lineage(before: &Arc<List>, after: &Arc<List>) -> Lineage {
    let mut lineage = Lineage::default();
    if Arc::ptr_eq(before, after) {
        return lineage;
    }
    // Both are in order, and mostly alike.
    let mut now = after.iter().peekable();
    let mut lost = Vec::new();
    for (id, was) in &**before {
        while now.next_if(|(other, _)| *other < id).is_some() {}
        let is_same =
            now.peek().is_some_and(|(other, is)| *other == id && is.created == was.created);
        if !is_same {
            lost.push((id, was.created));
        }
    }
    if lost.is_empty() {
        return lineage;
    }
    let heirs: HashMap<Revision, &AppId> =
        after.iter().map(|(id, listed)| (listed.created, id)).collect();
    for (id, created) in lost {
        match heirs.get(&created) {
            Some(heir) => lineage.renamed.push((id.clone(), AppId::clone(heir))),
            None => lineage.deleted.push(id.clone()),
        }
    }
    lineage
}

impl Listed {
    /// A row; what is as it was stays the same [`Entry`].
    fn of(row: &AppRow, before: Option<&Self>) -> Result<Self, EntryError> {
        let entry = Entry::new(row.id.clone(), &row.definition)?;
        let same = before.map(|before| &before.entry).filter(|before| ***before == entry);
        let entry = same.map_or_else(|| Arc::new(entry), Arc::clone);
        let AppRow { revision, created, created_at, changed_at, .. } = *row;
        Ok(Self { revision, created, created_at, changed_at, entry })
    }

    fn new(id: &AppId, keys: &Map<String, Value>, now: u64) -> Result<Self, Misfit> {
        let entry = Entry::new(id.clone(), keys)
            .map_err(|error| Misfit::Keys { app: id.clone(), error })?;
        let last = Revision::new(u64::MAX);
        let entry = Arc::new(entry);
        Ok(Self { revision: last, created: last, created_at: now, changed_at: now, entry })
    }
}

fn apply(list: &mut List, edit: &Edit, now: u64) -> Result<(), Misfit> {
    let app = &edit.app;
    let found = list.get(app).map(|listed| listed.revision);
    let fits = match edit.expect {
        Expect::Absent => found.is_none(),
        // Whether it is being deleted is not known here.
        Expect::Present | Expect::Ending => found.is_some(),
        Expect::Revision(revision) => found == Some(revision),
        Expect::Anything => true,
    };
    if !fits {
        return Err(Misfit::Conflict { app: app.clone(), found });
    }
    match &edit.what {
        What::Put(keys) => {
            let mut listed = Listed::new(app, keys, now)?;
            if let Some(before) = list.get(app) {
                (listed.created, listed.created_at) = (before.created, before.created_at);
            }
            list.insert(app.clone(), listed);
        }
        What::Delete => _ = list.remove(app),
        What::Rename(to) => {
            if let Some(there) = list.get(to) {
                return Err(Misfit::Conflict { app: to.clone(), found: Some(there.revision) });
            }
            let before = list
                .remove(app)
                .ok_or_else(|| Misfit::Conflict { app: app.clone(), found: None })?;
            let mut listed = Listed::new(to, &before.entry.keys(), now)?;
            (listed.created, listed.created_at) = (before.created, before.created_at);
            list.insert(to.clone(), listed);
        }
        What::Reword(_)
        | What::PutSecret { .. }
        | What::KeepSecret { .. }
        | What::Reseal { .. }
        | What::Reach(_)
        | What::RemoveSecret { .. } => {}
    }
    Ok(())
}
