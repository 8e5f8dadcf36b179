//! What was read before, so that one changed file among many costs by that file.
//!
//! Included files are remembered by their stamps; an app that is as it was stays the same `Arc`, by
//! which others see at once that it did not change. Whatever is not plainly good (a problem, a
//! claim that two apps make, other settings of the server) is left to a complete reading, which has
//! every text at hand to point into. Files with warnings are read each time. Apps of the registry come
//! behind the files, and are remembered by being the same [`Entry`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Entry, Environment, Loaded, Raw, Refused, Seen, Stamp, Wrong,
    compile::{self, Compiled, needs, shared},
    load_raw, open,
    source::Source,
};
use crate::{
    name::{AppId, HostPattern, PathPrefix},
    problem::{Problem, Problems},
    spec::{AppSpec, Backend, Config, EndpointSpec, ListenAddr, ServerSpec},
};

/// The files that were read last, and what they held.
#[derive(Debug, Default)]
pub struct Archive {
    server: ServerSpec,
    files: HashMap<PathBuf, Known>,
    read: Option<Files>,
}

/// What was read when all was good.
#[derive(Clone, Debug)]
struct Files {
    /// The main file's text.
    main: String,
    /// What is watched, the main file first.
    watched: Vec<Seen>,
    /// The others that have apps, in order.
    included: Vec<PathBuf>,
}

impl Files {
    fn of(raw: &Raw, parts: &[Part]) -> Self {
        let path = |part: &Part| match part {
            Part::Fresh(file) => raw.sources[*file].path.clone(),
            Part::Known(path) => path.clone(),
        };
        Self {
            main: raw.sources[0].text.clone(),
            watched: raw.watched.clone(),
            included: parts.iter().skip(1).map(path).collect(),
        }
    }
}

/// What one file held.
#[derive(Debug)]
struct Known {
    /// `None` if it is to be read again in any case.
    stamp: Option<Stamp>,
    /// Whether there is nothing to be told of it.
    is_plain: bool,
    /// The app of the registry that stands in the place of a file.
    entry: Option<Arc<Entry>>,
    apps: Vec<Arc<AppSpec>>,
    /// Pages that they show.
    pages: Vec<Seen>,
}

impl Known {
    /// Whether neither the file nor what it names has changed.
    fn is_current(&self, stamp: Option<Stamp>) -> bool {
        self.stamp == stamp && self.has_current_pages()
    }

    fn has_current_pages(&self) -> bool {
        self.pages.iter().all(Seen::is_current)
    }
}

impl Archive {
    /// Reads the file, all it includes, and these apps of the registry, but for what is known. An app of
    /// the registry that cannot be is left out and named; what is wrong in the files is wrong as a whole.
    pub fn load(
        &mut self,
        path: &Path,
        environment: &Environment<'_>,
        entries: &[Arc<Entry>],
    ) -> Loaded {
        let load = |entries: &[_]| Ok::<_, Infallible>(self.load_all(path, environment, entries));
        let Ok(loaded) = without_wrong(entries, load);
        loaded
    }

    /// As [`Archive::load`], with the files as they were when they were last good: whoever changes an app
    /// of the registry is not to wait for a file that is being mended, and what is wrong now is the fault of
    /// no file. `None` if that is not enough to tell.
    pub fn load_entries(
        &mut self,
        environment: &Environment<'_>,
        entries: &[Arc<Entry>],
    ) -> Option<Loaded> {
        without_wrong(entries, |entries| self.load_beside_known(environment, entries).ok_or(()))
            .ok()
    }

    fn load_beside_known(
        &mut self,
        environment: &Environment<'_>,
        entries: &[Arc<Entry>],
    ) -> Option<Loaded> {
        let Files { main, watched, included } = self.read.clone()?;
        let main = Source::of_file(watched.first()?.path.clone(), main);
        let mut raw = Raw::of(main, watched.first()?.clone());
        // What it includes is known.
        let _ = raw.read_main(environment);
        raw.watched = watched;
        let known = included.into_iter().map(Part::Known);
        let mut parts: Vec<_> = [Part::Fresh(0)].into_iter().chain(known).collect();
        parts.extend(raw.read_entries(entries, Some(self)));
        match self.finish(raw, &parts, entries) {
            Ok(loaded) => Some(loaded),
            // What is in doubt has no problem yet.
            Err(wrong) if wrong.problems.0.is_empty() => None,
            Err(wrong) => Some(wrong.into()),
        }
    }

    fn load_all(
        &mut self,
        path: &Path,
        environment: &Environment<'_>,
        entries: &[Arc<Entry>],
    ) -> Loaded {
        if let Some(loaded) = self.load_changes(path, environment, entries) {
            return loaded;
        }
        let (mut raw, mut parts) = match open(path) {
            Ok((main, seen)) => load_raw(main, seen, environment, None),
            Err(wrong) => return wrong.into(),
        };
        let files = Files::of(&raw, &parts);
        parts.extend(raw.read_entries(entries, None));
        let loaded = self.finish(raw, &parts, entries);
        self.keep(loaded, files).unwrap_or_else(Into::into)
    }

    /// Reads what changed; nothing if that is not enough.
    fn load_changes(
        &mut self,
        path: &Path,
        environment: &Environment<'_>,
        entries: &[Arc<Entry>],
    ) -> Option<Loaded> {
        if self.files.is_empty() {
            return None;
        }
        let (main, seen) = open(path).ok()?;
        let (mut raw, mut parts) = load_raw(main, seen, environment, Some(self));
        let files = Files::of(&raw, &parts);
        parts.extend(raw.read_entries(entries, Some(self)));
        let loaded = self.finish(raw, &parts, entries);
        self.keep(loaded, files).ok()
    }

    fn keep(&mut self, loaded: Result<Loaded, Wrong>, files: Files) -> Result<Loaded, Wrong> {
        if loaded.is_ok() {
            self.read = Some(files);
        }
        loaded
    }

    /// Whether the file need not be read.
    pub(super) fn knows_file(&self, path: &Path, stamp: Option<Stamp>) -> bool {
        stamp.is_some() && self.files.get(path).is_some_and(|known| known.is_current(stamp))
    }

    /// Whether the app need not be read.
    pub(super) fn knows_entry(&self, entry: &Arc<Entry>) -> bool {
        self.files.get(&Entry::place(entry.id())).is_some_and(|known| {
            known.entry.as_ref().is_some_and(|known| Arc::ptr_eq(known, entry))
                && known.has_current_pages()
        })
    }

    /// Puts together what was read and what is known. Where that has a problem, the archive stays
    /// as it is.
    fn finish(
        &mut self,
        mut raw: Raw,
        parts: &[Part],
        entries: &[Arc<Entry>],
    ) -> Result<Loaded, Wrong> {
        let mut sources = std::mem::take(&mut raw.watched);
        let paths: Vec<PathBuf> = raw.sources.iter().map(|source| source.path.clone()).collect();
        let kept: Vec<&Path> = parts.iter().filter_map(Part::known).collect();
        let others = kept.iter().filter_map(|path| self.files.get(*path));
        let known_pages = others.clone().flat_map(|known| &known.pages);
        sources.extend(known_pages.cloned());
        let others: Vec<&AppSpec> =
            others.flat_map(|known| &known.apps).map(|app| &**app).collect();
        let Compiled { server, registry, apps, problems, warnings, odd_files, pages } =
            compile::config(raw, &others);
        sources.extend(pages.iter().map(|(_, page)| page.clone()));
        if !problems.0.is_empty() {
            return Err(Wrong { sources, problems });
        }
        let (fresh, has_new_claims) = self.recognise(&paths, apps);
        let apps = self.in_order(parts, &fresh);
        let is_doubtful = server != self.server
            || (has_new_claims && clash(&server, &apps))
            || (self.loses_programs(parts, &paths, &fresh) && !are_there(&apps));
        if !kept.is_empty() && is_doubtful {
            return Err(Wrong { sources, problems: Problems::default() });
        }
        let mut fresh: Vec<Held> = fresh.into_iter().map(|apps| (apps, Vec::new())).collect();
        pages.into_iter().for_each(|(file, page)| fresh[file].1.push(page));
        self.remember(parts, &sources, &paths, fresh, &odd_files);
        for entry in entries {
            let known = self.files.get_mut(&Entry::place(entry.id()));
            if let Some(known) = known.filter(|known| known.is_plain) {
                known.entry = Some(Arc::clone(entry));
            }
        }
        self.server = server.clone();
        let outcome = Ok(Config { server, registry, apps, warnings });
        Ok(Loaded { sources, outcome, refused: Vec::new() })
    }

    /// The apps of each file that was read, those that are as before in their old `Arc`; and
    /// whether one claims what it did not.
    fn recognise(
        &self,
        paths: &[PathBuf],
        apps: Vec<(usize, AppSpec)>,
    ) -> (Vec<Vec<Arc<AppSpec>>>, bool) {
        let mut fresh = vec![Vec::new(); paths.len()];
        let mut before: Vec<HashMap<&AppId, &Arc<AppSpec>>> = Vec::with_capacity(paths.len());
        for path in paths {
            let apps = self.files.get(path).into_iter().flat_map(|known| &known.apps);
            before.push(apps.map(|app| (&app.id, app)).collect());
        }
        let mut has_new_claims = false;
        for (file, app) in apps {
            let old = before[file].get(&app.id).copied();
            has_new_claims |= old.is_none_or(|old| claims_differ(old, &app));
            let same = old.filter(|old| ***old == app).cloned();
            fresh[file].push(same.unwrap_or_else(|| Arc::new(app)));
        }
        (fresh, has_new_claims)
    }

    /// Whether a program that an app in another file may need or share is there no more.
    fn loses_programs(
        &self,
        parts: &[Part],
        paths: &[PathBuf],
        fresh: &[Vec<Arc<AppSpec>>],
    ) -> bool {
        let kept: HashSet<&Path> = parts.iter().filter_map(Part::known).collect();
        let gone = self.files.iter().filter(|(path, _)| !kept.contains(path.as_path()));
        gone.into_iter().any(|(path, known)| {
            let now = paths.iter().position(|read| read == path).and_then(|file| fresh.get(file));
            let programs: HashSet<_> = now.into_iter().flatten().filter_map(program).collect();
            known.apps.iter().filter_map(program).any(|before| !programs.contains(&before))
        })
    }

    fn in_order(&self, parts: &[Part], fresh: &[Vec<Arc<AppSpec>>]) -> Vec<Arc<AppSpec>> {
        let of = |part: &Part| match part {
            Part::Fresh(file) => fresh.get(*file).cloned().unwrap_or_default(),
            Part::Known(path) => {
                self.files.get(path).map(|known| known.apps.clone()).unwrap_or_default()
            }
        };
        parts.iter().flat_map(of).collect()
    }

    fn remember(
        &mut self,
        parts: &[Part],
        sources: &[Seen],
        paths: &[PathBuf],
        mut fresh: Vec<Held>,
        odd_files: &BTreeSet<usize>,
    ) {
        let read: HashSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let seen = sources.iter().filter(|seen| read.contains(seen.path.as_path()));
        let stamps: HashMap<&Path, Option<Stamp>> =
            seen.map(|seen| (seen.path.as_path(), seen.stamp)).collect();
        let mut files = HashMap::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Known(path) => files.extend(self.files.remove_entry(path)),
                Part::Fresh(file) => {
                    // The main file is read each time: it says what else there is.
                    let is_plain = *file != 0 && !odd_files.contains(file);
                    let stamp = stamps.get(paths[*file].as_path()).copied().flatten();
                    let (apps, pages) = std::mem::take(&mut fresh[*file]);
                    let stamp = stamp.filter(|_| is_plain);
                    let known = Known { stamp, is_plain, entry: None, apps, pages };
                    files.insert(paths[*file].clone(), known);
                }
            }
        }
        self.files = files;
    }
}

/// Loads again and again without the entries that are wrong, until none is.
fn without_wrong<E>(
    entries: &[Arc<Entry>],
    mut load: impl FnMut(&[Arc<Entry>]) -> Result<Loaded, E>,
) -> Result<Loaded, E> {
    let mut entries = entries.to_vec();
    let mut refused: Vec<Refused> = Vec::new();
    loop {
        let mut loaded = load(&entries)?;
        let more = loaded.outcome.as_ref().err().map(|wrong| blamed(wrong, &entries));
        match more.filter(|more| !more.is_empty()) {
            Some(more) => {
                entries.retain(|entry| more.iter().all(|refused| refused.app != *entry.id()));
                refused.extend(more);
            }
            None => {
                loaded.refused = refused;
                return Ok(loaded);
            }
        }
    }
}

/// What is wrong with apps of the registry among all that is wrong.
fn blamed(wrong: &Problems, entries: &[Arc<Entry>]) -> Vec<Refused> {
    let mut of_place: HashMap<&Path, Vec<Problem>> = HashMap::new();
    for problem in &wrong.0 {
        of_place.entry(&problem.file).or_default().push(problem.clone());
    }
    let of = |entry: &Arc<Entry>| {
        let problems = Problems(of_place.remove(&*Entry::place(entry.id()))?);
        Some(Refused { app: entry.id().clone(), problems })
    };
    entries.iter().filter_map(of).collect()
}

/// Apps of a file, and the pages that they show.
type Held = (Vec<Arc<AppSpec>>, Vec<Seen>);

/// A file of the config.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Read now: the number of its source.
    Fresh(usize),
    /// As it was.
    Known(PathBuf),
}

impl Part {
    fn known(&self) -> Option<&Path> {
        match self {
            Self::Fresh(_) => None,
            Self::Known(path) => Some(path),
        }
    }
}

/// Whether an app's new definition may be in the way of others that the old one was not.
fn claims_differ(old: &AppSpec, new: &AppSpec) -> bool {
    old.routes.hosts != new.routes.hosts
        || old.routes.paths != new.routes.paths
        || fixed_port(old) != fixed_port(new)
        || old.kind != new.kind
}

fn fixed_port(app: &AppSpec) -> Option<u16> {
    match &app.backend {
        Backend::Process(process) => match process.endpoint {
            EndpointSpec::FixedPort(port) => Some(port),
            EndpointSpec::AnyPort | EndpointSpec::Socket => None,
        },
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

/// An app that has a program, and what it is to those that share it.
fn program(app: &Arc<AppSpec>) -> Option<(&AppId, Option<bool>)> {
    let is_program = matches!(app.backend, Backend::Process(_));
    is_program.then(|| (&app.id, shared::shareable(app).map(|(_, http2)| http2)))
}

/// Whether those that others need, or share with, are all among these.
fn are_there(apps: &[Arc<AppSpec>]) -> bool {
    let all = || apps.iter().map(|app| &**app);
    needs::are_there(all()) && shared::are_there(all())
}

/// Whether two apps want the same, or one what is ours.
fn clash(server: &ServerSpec, apps: &[Arc<AppSpec>]) -> bool {
    let mut ids = HashSet::with_capacity(apps.len());
    let mut routes: HashSet<(HostPattern, PathPrefix)> = HashSet::with_capacity(apps.len());
    let doors = || apps.iter().filter_map(|app| app.tcp()).flat_map(|tcp| &tcp.listen);
    let ours = || server.listen.iter().chain(&server.admin);
    let mut addresses: HashSet<&ListenAddr> = ours().collect();
    let mut ports: HashSet<u16> = ours().chain(doors()).filter_map(port).collect();
    doors().any(|address| !addresses.insert(address))
        || apps.iter().any(|app| {
            !ids.insert(&app.id)
                || fixed_port(app).is_some_and(|port| !ports.insert(port))
                || app.routes.claims().any(|claim| !routes.insert(claim))
        })
}

fn port(address: &ListenAddr) -> Option<u16> {
    match address {
        ListenAddr::Tcp(address) => Some(address.port()),
        ListenAddr::Unix(_) => None,
    }
}
