//! What becomes of apps: each change of state is kept, and told to whoever listens.
//!
//! The last changes of each app stand in a file of its own, a line of JSON each, so that they outlive
//! this process and cost no memory. News of the last minutes is kept in memory, for listeners that were
//! cut off and come back.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use doorbell_config::name::AppId;
use doorbell_supervisor::message::{Generation, GoalName, Snapshot, StateName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::{clock, whole_file};

/// Changes of an app that are kept.
pub const KEPT: usize = 100;
/// Lines of a file before all but the last are cut off.
const MOST_LINES: usize = 4 * KEPT;
/// Changes that may wait for the disk.
const WAITING: usize = 1 << 16;
/// News that is kept for those who were cut off, and that may wait for a slow listener.
const RECENT: usize = 1024;

/// A change of an app's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// The app, or one of its replicas.
    pub app: AppId,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What it is since then.
    pub state: StateName,
    /// What it should be.
    pub goal: GoalName,
    /// Why, in words for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The instance of this state, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// An app's state has changed.
    State(Transition),
    /// Apps were added or changed.
    Defined {
        /// Which.
        apps: Vec<AppId>,
    },
    /// Apps are no more.
    Removed {
        /// Which.
        apps: Vec<AppId>,
    },
}

impl Happening {
    /// Whom it concerns.
    #[must_use]
    pub fn apps(&self) -> &[AppId] {
        match self {
            Self::State(transition) => std::slice::from_ref(&transition.app),
            Self::Defined { apps } | Self::Removed { apps } => apps,
        }
    }

    /// Whether an app is no more by it.
    #[must_use]
    pub fn removes(&self, app: &AppId) -> bool {
        matches!(self, Self::Removed { apps } if apps.contains(app))
    }

    /// Its name, as in its JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::State(_) => "state",
            Self::Defined { .. } => "defined",
            Self::Removed { .. } => "removed",
        }
    }
}

/// One piece of news.
#[derive(Debug)]
pub struct News {
    /// Rises by one; begins anew with this process, at another number.
    pub number: u64,
    /// What happened.
    pub what: Happening,
}

/// What a listener hears.
#[derive(Debug)]
pub struct Listening {
    /// What happened after what it heard; `None` if that is not known any more.
    pub missed: Option<Vec<Arc<News>>>,
    /// The last number that was given so far.
    pub last: u64,
    /// What happens from here on.
    pub coming: broadcast::Receiver<Arc<News>>,
}

/// Tells and keeps what happens.
#[derive(Debug)]
pub struct Chronicle {
    tell: broadcast::Sender<Arc<News>>,
    recent: Mutex<Recent>,
    /// To who writes; `None` before there is a folder.
    to_write: Mutex<Option<mpsc::Sender<Entry>>>,
}

#[derive(Debug)]
struct Recent {
    next: u64,
    news: VecDeque<Arc<News>>,
}

#[derive(Debug)]
enum Entry {
    Add(Transition),
    Remove(AppId),
    /// From this id to that.
    Rename(AppId, AppId),
}

impl Default for Chronicle {
    fn default() -> Self {
        // No number of an earlier process is one of ours.
        let recent = Recent { next: clock::unix_millis() * 1000, news: VecDeque::new() };
        Self {
            tell: broadcast::channel(RECENT).0,
            recent: Mutex::new(recent),
            to_write: Mutex::default(),
        }
    }
}

impl Chronicle {
    /// Keeps changes in this folder from here on.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn keep_in(&self, folder: PathBuf) -> io::Result<()> {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let (sender, entries) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("chronicle".into())
            .spawn(move || write_all(&folder, entries))?;
        *self.to_write.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(())
    }

    /// Takes note of what an app is now, if that is another state than before.
    pub fn compare(&self, before: Option<&Snapshot>, now: &Snapshot) {
        let is_same = |before: &Snapshot| {
            (before.state, before.goal, before.generation) == (now.state, now.goal, now.generation)
        };
        // An app that nobody knew, and that does nothing, has done nothing.
        if before.map_or(now.state == StateName::Stopped, is_same) {
            return;
        }
        let transition = Transition {
            app: now.app.clone(),
            at_unix_ms: clock::unix_millis(),
            state: now.state,
            goal: now.goal,
            reason: now.reason.as_deref().map(str::to_owned),
            generation: now.generation,
        };
        self.write(Entry::Add(transition.clone()));
        self.happened(Happening::State(transition));
    }

    /// Nothing is kept of this app any more.
    pub fn forget(&self, app: &AppId) {
        self.write(Entry::Remove(app.clone()));
    }

    /// An app has another id, and its history with it.
    pub fn rename(&self, from: &AppId, to: &AppId) {
        self.write(Entry::Rename(from.clone(), to.clone()));
    }

    fn write(&self, entry: Entry) {
        let writer = self.to_write.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = writer.as_ref().map_or(Ok(()), |writer| writer.try_send(entry));
        if let Err(mpsc::error::TrySendError::Full(_)) = sent {
            tracing::warn!("the disk is too slow for the history of apps: a change is left out");
        }
    }

    /// Tells what happened.
    pub fn happened(&self, what: Happening) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let news = Arc::new(News { number: recent.next, what });
        recent.next += 1;
        if recent.news.len() == RECENT {
            recent.news.pop_front();
        }
        recent.news.push_back(Arc::clone(&news));
        // There may be no listener. Under the lock, so that none misses what comes next.
        let _ = self.tell.send(news);
    }

    /// What happens from here on, behind what happened after a piece of news that was heard.
    #[must_use]
    pub fn listen(&self, heard: Option<u64>) -> Listening {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = self.tell.subscribe();
        // Numbers begin far from zero.
        let last = recent.next - 1;
        let Some(heard) = heard else {
            return Listening { missed: Some(Vec::new()), last, coming };
        };
        let first = recent.news.front().map_or(recent.next, |news| news.number);
        let is_known =
            heard.checked_add(1).is_some_and(|next| (first..=recent.next).contains(&next));
        let missed = || recent.news.iter().filter(|news| news.number > heard).cloned().collect();
        Listening { missed: is_known.then(missed), last, coming }
    }
}

fn file_of(folder: &Path, app: &AppId) -> PathBuf {
    folder.join(format!("{}.jsonl", app.file_name()))
}

/// The last changes of an app, the oldest first.
///
/// # Errors
/// If they cannot be read.
pub fn history(folder: &Path, app: &AppId) -> io::Result<Vec<Transition>> {
    let text = match fs::read_to_string(file_of(folder, app)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // A line that was cut off by a full disk is no change.
    let all: Vec<Transition> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = all.into_iter().rev().take(KEPT);
    // It may have had another id.
    let mut last: Vec<_> = last.map(|one| Transition { app: app.clone(), ..one }).collect();
    last.reverse();
    Ok(last)
}

fn write_all(folder: &Path, mut entries: mpsc::Receiver<Entry>) {
    let mut failed = false;
    while let Some(entry) = entries.blocking_recv() {
        let written = match &entry {
            Entry::Add(transition) => append(folder, transition),
            Entry::Remove(app) => unless_missing(fs::remove_file(file_of(folder, app))),
            Entry::Rename(from, to) => unless_missing(rename(folder, from, to)),
        };
        if let Err(error) = &written
            && !failed
        {
            tracing::warn!(%error, "the history of apps cannot be kept");
        }
        failed = written.is_err();
    }
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// In front of what the new id has done already.
fn rename(folder: &Path, from: &AppId, to: &AppId) -> io::Result<()> {
    let (from, to) = (file_of(folder, from), file_of(folder, to));
    let mut text = fs::read(&from)?;
    text.extend(fs::read(&to).unwrap_or_default());
    whole_file::put(&to, &text)?;
    fs::remove_file(from)
}

fn append(folder: &Path, transition: &Transition) -> io::Result<()> {
    let path = file_of(folder, &transition.app);
    let mut line = serde_json::to_vec(transition)?;
    line.push(b'\n');
    let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    file.write_all(&line)?;
    // A line is hardly shorter than this: most times nothing is to be counted.
    const SHORTEST: u64 = 64;
    if file.metadata()?.len() > SHORTEST * MOST_LINES as u64 {
        cut(folder, &path, &transition.app)?;
    }
    Ok(())
}

/// Leaves the last changes, once there are many more.
fn cut(folder: &Path, path: &Path, app: &AppId) -> io::Result<()> {
    if fs::read_to_string(path)?.lines().count() <= MOST_LINES {
        return Ok(());
    }
    let mut text = Vec::new();
    for transition in history(folder, app)? {
        serde_json::to_writer(&mut text, &transition)?;
        text.push(b'\n');
    }
    whole_file::put(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(at_unix_ms: u64) -> Transition {
        Transition {
            app: AppId::parse("blog").unwrap(),
            at_unix_ms,
            state: StateName::Ready,
            goal: GoalName::Up,
            reason: Some("because".into()),
            generation: Some(Generation(at_unix_ms)),
        }
    }

    #[test]
    fn the_last_changes_are_kept_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppId::parse("blog").unwrap();
        assert_eq!(history(folder.path(), &app).unwrap(), []);
        for at in 0..2000 {
            append(folder.path(), &transition(at)).unwrap();
        }
        let kept = history(folder.path(), &app).unwrap();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept[0].at_unix_ms, kept[99].at_unix_ms), (1900, 1999));
        let lines = fs::read_to_string(file_of(folder.path(), &app)).unwrap().lines().count();
        assert!(lines <= MOST_LINES, "{lines}");
    }

    #[test]
    fn who_was_cut_off_hears_what_it_missed() {
        let chronicle = Chronicle::default();
        let happens = || chronicle.happened(Happening::Removed { apps: Vec::new() });
        let Listening { missed, last, mut coming } = chronicle.listen(None);
        assert!(missed.unwrap().is_empty());
        happens();
        let heard = coming.try_recv().unwrap().number;
        assert_eq!(heard, last + 1);
        happens();
        happens();
        let numbers = |heard| {
            let missed = chronicle.listen(Some(heard)).missed?;
            Some(missed.iter().map(|news| news.number - heard).collect::<Vec<_>>())
        };
        assert_eq!(numbers(heard), Some(vec![1, 2]));
        assert_eq!(numbers(heard + 2), Some(vec![]));
        assert_eq!(numbers(heard + 3), None, "of another process");
        for _ in 0..RECENT {
            happens();
        }
        assert_eq!(numbers(heard), None, "too long ago");
    }
}
