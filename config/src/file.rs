//! The configuration file: text in, a complete [`Config`] or every problem at once out.
//!
//! The way of a file: [`toml`] makes a tree with places; `check` holds it against the shape that
//! [`keys`] describes, fills in the environment and takes out what is wrong; serde reads the rest
//! into [`keys::ServerKeys`] and [`keys::AppKeys`]; `compile` turns these into the domain of
//! [`crate::spec`] and looks for what contradicts itself or another app. A broken section hides no
//! problem of another.

use std::{path::Path, sync::Arc};

use crate::{
    name::AppId,
    problem::{Problem, Problems, Severity},
    spec::Config,
};

mod address;
mod archive;
mod check;
mod compile;
mod entry;
mod environment;
mod format;
mod include;
pub mod keys;
mod literal;
mod read;
mod seen;
mod shape;
mod source;
mod text;
mod visitor;
mod written;

pub use archive::Archive;
pub use entry::{Entry, EntryError, KIND, as_file};
pub use environment::Environment;
pub(crate) use format::FORMATS;
pub use literal::{literal, literal_template, plain};
pub use seen::{Seen, Stamp};
pub use text::{At, FromText, Text};
pub use written::written;

use archive::Part;
use check::Broken;
use compile::Compiled;
use keys::{AppKeys, ServerKeys, TcpEntrance};
use source::{Findings, Place, Source};

/// What came of reading a file and all it includes.
#[derive(Debug)]
pub struct Loaded {
    /// Files and folders that were looked at, to be watched: also those of a config that is wrong,
    /// whose author is about to mend one of them.
    pub sources: Vec<Seen>,
    /// The config, or every problem in the order of the files.
    pub outcome: Result<Config, Problems>,
    /// Apps of the registry that the config goes without, and why.
    pub refused: Vec<Refused>,
}

/// An app of the registry that cannot be, beside the files and the apps that were there before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub app: AppId,
    /// What is wrong with it.
    pub problems: Problems,
}

/// What was looked at, and what is wrong with it.
struct Wrong {
    sources: Vec<Seen>,
    problems: Problems,
}

impl From<Wrong> for Loaded {
    fn from(wrong: Wrong) -> Self {
        Self { sources: wrong.sources, outcome: Err(wrong.problems), refused: Vec::new() }
    }
}

/// Reads the file and all it includes.
///
/// `environment` answers `${NAME}`; [`std::env::var`] behind `.ok()` in service.
///
/// # Errors
/// Every problem, in the order of the files.
pub fn load(path: &Path, environment: &Environment<'_>) -> Result<Config, Problems> {
    load_watched(path, environment).outcome
}

/// [`load`], and what to watch.
pub fn load_watched(path: &Path, environment: &Environment<'_>) -> Loaded {
    match open(path) {
        Ok((main, seen)) => load_source(main, seen, environment),
        Err(wrong) => wrong.into(),
    }
}

/// The main file's text, and its stamp from before.
fn open(path: &Path) -> Result<(Source, Seen), Wrong> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let seen = Seen::now(path.clone());
    match read::text_of(&path) {
        Ok(text) => Ok((Source::of_file(path, text), seen)),
        Err(problem) => Err(Wrong { sources: vec![seen], problems: Problems(vec![*problem]) }),
    }
}

/// Reads a config from memory, as if `text` stood in the file at `path`. Files that it includes
/// are read.
///
/// # Errors
/// Every problem, in the order of the files.
pub fn load_text(
    path: &Path,
    text: String,
    environment: &Environment<'_>,
) -> Result<Config, Problems> {
    let (path, stamp) = (path.to_owned(), None);
    let seen = Seen { path: path.clone(), stamp };
    load_source(Source::of_file(path, text), seen, environment).outcome
}

/// An app as it was read, before it is held against the rules of the domain.
#[derive(Debug)]
struct RawApp {
    id: AppId,
    /// Its key.
    place: Place,
    keys: AppKeys,
    /// Its addresses, if it is a TCP app.
    tcp: Option<TcpEntrance>,
    /// Keys that were taken out.
    broken: Broken,
}

/// All that was read so far.
#[derive(Debug)]
struct Raw {
    sources: Vec<Source>,
    /// Files and folders to watch.
    watched: Vec<Seen>,
    server: ServerKeys,
    server_broken: Broken,
    apps: Vec<RawApp>,
    findings: Findings,
}

fn load_source(main: Source, seen: Seen, environment: &Environment<'_>) -> Loaded {
    let (mut raw, _) = load_raw(main, seen, environment, None);
    let mut sources = std::mem::take(&mut raw.watched);
    let Compiled { server, registry, apps, problems, warnings, pages, .. } =
        compile::config(raw, &[]);
    sources.extend(pages.into_iter().map(|(_, page)| page));
    let apps = apps.into_iter().map(|(_, app)| Arc::new(app)).collect();
    let good = problems.0.is_empty().then_some(Config { server, registry, apps, warnings });
    Loaded { sources, outcome: good.ok_or(problems), refused: Vec::new() }
}

/// Reads the file and all it includes, but for what an archive knows.
fn load_raw(
    main: Source,
    seen: Seen,
    environment: &Environment<'_>,
    archive: Option<&Archive>,
) -> (Raw, Vec<Part>) {
    let mut raw = Raw::of(main, seen);
    let mut parts = vec![Part::Fresh(0)];
    let patterns = raw.read_main(environment);
    for seen in raw.find_included(&patterns) {
        let (path, stamp) = (seen.path.clone(), seen.stamp);
        raw.watched.push(seen);
        if archive.is_some_and(|archive| archive.knows_file(&path, stamp)) {
            parts.push(Part::Known(path));
            continue;
        }
        match read::text_of(&path) {
            Ok(text) => {
                parts.push(Part::Fresh(raw.sources.len()));
                raw.sources.push(Source::of_file(path, text));
                raw.read_included(environment);
            }
            Err(problem) => raw.findings.push_of_file(*problem),
        }
    }
    (raw, parts)
}

impl Raw {
    fn of(main: Source, seen: Seen) -> Self {
        Self {
            watched: vec![seen],
            sources: vec![main],
            server: ServerKeys::default(),
            server_broken: Broken::new(),
            apps: Vec::new(),
            findings: Findings::default(),
        }
    }

    /// Reads apps of the registry behind the files, but for those that an archive knows.
    fn read_entries(&mut self, entries: &[Arc<Entry>], archive: Option<&Archive>) -> Vec<Part> {
        let folder = self.sources[0].folder().to_owned();
        let mut parts = Vec::with_capacity(entries.len());
        for entry in entries {
            if archive.is_some_and(|archive| archive.knows_entry(entry)) {
                parts.push(Part::Known(Entry::place(entry.id())));
                continue;
            }
            parts.push(Part::Fresh(self.sources.len()));
            self.sources.push(entry.source(&folder));
            self.read_included(&|_| None);
        }
        parts
    }
}

/// A file that cannot be read, as a problem.
fn unreadable(path: &Path, why: &str) -> Problem {
    Problem::of_file(Severity::Error, path.to_owned(), format!("cannot read the file: {why}"))
}
