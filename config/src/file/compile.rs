//! From keys to the domain: what contradicts itself, or another app, ends here.

mod app;
mod backend;
mod claims;
mod database;
pub(super) mod needs;
mod pages;
mod process;
mod server;
pub(super) mod shared;
mod stores;
mod tcp;
mod upstream;
mod wake;

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use self::pages::Pages;
use super::{
    Raw, RawApp,
    check::Broken,
    format::FilePath,
    seen::Seen,
    source::{Finding, Findings, Place, Source},
};
use crate::{
    name::AppId,
    problem::{Problem, Problems},
    registry::Location,
    spec::{AppSpec, ServerSpec},
};

/// The config that was meant, as far as it could be made out, and what is wrong with it.
pub(super) struct Compiled {
    pub(super) server: ServerSpec,
    pub(super) registry: Option<Location>,
    /// Each with the number of its file.
    pub(super) apps: Vec<(usize, AppSpec)>,
    pub(super) problems: Problems,
    pub(super) warnings: Vec<Problem>,
    /// Files of which something is to be told.
    pub(super) odd_files: BTreeSet<usize>,
    /// Pages that were read, to be watched, each with the number of the file that names it.
    pub(super) pages: Vec<(usize, Seen)>,
}

/// Makes the config of what was read; `others` are apps in files that are known already.
pub(super) fn config(raw: Raw, others: &[&AppSpec]) -> Compiled {
    let Raw { sources, server, server_broken, apps, mut findings, .. } = raw;
    let apps = without_duplicates(apps, &mut findings);
    let section = Section::new(&sources[0], 0, &server_broken, &mut findings);
    // Of those that requests can be for.
    let named = apps.iter().filter(|app| app.tcp.is_none()).map(|app| &app.id);
    let known = others.iter().filter(|app| app.tcp().is_none()).map(|app| &app.id);
    let ids: Vec<&AppId> = named.chain(known).collect();
    let mut pages = Pages::default();
    let registry = server.registry.as_ref().map(|location| location.0.clone());
    let server = server::compile(section, &server, &ids, &mut pages);
    let mut specs = Vec::with_capacity(apps.len());
    for raw in &apps {
        let file = raw.place.file;
        let section = Section::new(&sources[file], file, &raw.broken, &mut findings);
        specs.extend(app::compile(section, raw, &mut pages).map(|app| (file, app)));
    }
    claims::check(&sources, &server, &apps, &mut findings);
    needs::check(&apps, others, &mut findings);
    shared::check(&apps, others, &mut findings);
    stores::check(&apps, &specs, others, &mut findings);
    let odd_files = findings.files();
    let (problems, warnings) = findings.into_problems(&sources);
    Compiled { server, registry, apps: specs, problems, warnings, odd_files, pages: pages.seen }
}

/// Of apps with the same id, the first.
fn without_duplicates(apps: Vec<RawApp>, findings: &mut Findings) -> Vec<RawApp> {
    let mut first: HashMap<AppId, Place> = HashMap::with_capacity(apps.len());
    let mut kept = Vec::with_capacity(apps.len());
    for app in apps {
        if let Some(place) = first.get(&app.id) {
            let message = format!("app id `{}` is taken", app.id);
            let finding = Finding::error(app.place.clone(), message);
            findings
                .push(finding.note("first defined at", place.clone()).help("choose another id"));
            continue;
        }
        first.insert(app.id.clone(), app.place.clone());
        kept.push(app);
    }
    kept
}

/// One section of one file while it is compiled.
struct Section<'a> {
    source: &'a Source,
    file: usize,
    broken: &'a Broken,
    findings: &'a mut Findings,
}

impl<'a> Section<'a> {
    fn new(
        source: &'a Source,
        file: usize,
        broken: &'a Broken,
        findings: &'a mut Findings,
    ) -> Self {
        Self { source, file, broken, findings }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        Place { file: self.file, span: span.clone() }
    }

    fn wrong(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let place = self.place(span);
        self.findings.push(Finding::error(place, message).help(help));
    }

    /// Two keys that exclude each other; the later one is blamed.
    fn exclude(&mut self, keys: [(&str, &Range<usize>); 2], help: &str) {
        let [first, second] =
            if keys[0].1.start <= keys[1].1.start { keys } else { [keys[1], keys[0]] };
        let message = format!("`{}` and `{}` exclude each other", second.0, first.0);
        let note = format!("`{}` is at", first.0);
        let finding = Finding::error(self.place(second.1), message).help(help);
        let place = self.place(first.1);
        self.findings.push(finding.note(note, place));
    }

    /// Whether something of this section could not be read: then what is missing may just be that.
    fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// A file's path, taken from the folder of the file it is written in.
    fn resolve(&self, path: &FilePath) -> PathBuf {
        resolve(self.source.folder(), &path.0)
    }
}

fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let mut path: PathBuf = folder.join(path).components().collect();
    path.shrink_to_fit();
    path
}
