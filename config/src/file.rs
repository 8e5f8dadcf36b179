//! The configuration file: text in, a complete [`Config`] or every problem at once out.
//!
//! The way of a file: [`toml`] makes a tree with places; `check` holds it against the shape that
//! [`keys`] describes, fills in the environment and takes out what is wrong; serde reads the rest
//! into [`keys::ServerKeys`] and [`keys::AppKeys`]; `compile` turns these into the domain of
//! [`crate::spec`] and looks for what contradicts itself or another app. A broken section hides no
//! problem of another.

use std::path::Path;

use crate::{
    name::AppId,
    problem::{Problem, Problems, Severity},
    spec::Config,
};

mod address;
mod check;
mod compile;
mod environment;
mod format;
mod include;
pub mod keys;
mod read;
mod seen;
mod shape;
mod source;
mod text;

pub use environment::Environment;
pub(crate) use format::FORMATS;
pub use seen::{Seen, Stamp};
pub use text::{At, FromText, Text};

use check::Broken;
use keys::{AppKeys, ServerKeys};
use source::{Findings, Place, Source};

/// What came of reading a file and all it includes.
#[derive(Debug)]
pub struct Loaded {
    /// Files and folders that were looked at, to be watched: also those of a config that is wrong,
    /// whose author is about to mend one of them.
    pub sources: Vec<Seen>,
    /// The config, or every problem in the order of the files.
    pub outcome: Result<Config, Problems>,
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
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let seen = Seen::now(path.clone());
    match read::text_of(&path) {
        Ok(text) => load_source(Source { path, text }, seen, environment),
        Err(problem) => Loaded { sources: vec![seen], outcome: Err(Problems(vec![*problem])) },
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
    load_source(Source { path, text }, seen, environment).outcome
}

/// An app as it was read, before it is held against the rules of the domain.
#[derive(Debug)]
struct RawApp {
    id: AppId,
    /// Its key.
    place: Place,
    keys: AppKeys,
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
    let mut raw = Raw {
        watched: vec![seen],
        sources: vec![main],
        server: ServerKeys::default(),
        server_broken: Broken::new(),
        apps: Vec::new(),
        findings: Findings::default(),
    };
    let patterns = raw.read_main(environment);
    for path in raw.find_included(&patterns) {
        raw.watched.push(Seen::now(path.clone()));
        match read::text_of(&path) {
            Ok(text) => {
                raw.sources.push(Source { path, text });
                raw.read_included(environment);
            }
            Err(problem) => raw.findings.push_of_file(*problem),
        }
    }
    let sources = std::mem::take(&mut raw.watched);
    let (mut config, (problems, warnings)) = compile::config(raw);
    config.warnings = warnings;
    let outcome = if problems.0.is_empty() { Ok(config) } else { Err(problems) };
    Loaded { sources, outcome }
}

/// A file that cannot be read, as a problem.
fn unreadable(path: &Path, why: &str) -> Problem {
    Problem::of_file(Severity::Error, path.to_owned(), format!("cannot read the file: {why}"))
}
