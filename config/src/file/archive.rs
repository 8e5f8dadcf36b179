//! What was read before, so that one changed file among many costs by that file.
//!
//! Included files are remembered by their stamps; an app that is as it was stays the same `Arc`, by
//! which others see at once that it did not change. Whatever is not plainly good (a problem, a
//! claim that two apps make, other settings of the server) is left to a complete reading, which has
//! every text at hand to point into. Files with warnings are read each time.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Environment, Loaded, Raw, Seen, Stamp, Wrong,
    compile::{self, Compiled, needs, shared},
    load_raw, open,
};
use crate::{
    name::{AppId, HostPattern, PathPrefix},
    problem::Problems,
    spec::{AppSpec, Backend, Config, EndpointSpec, ListenAddr, ServerSpec},
};

/// The files that were read last, and what they held.
#[derive(Debug, Default)]
pub struct Archive {
    server: ServerSpec,
    files: HashMap<PathBuf, Known>,
}

/// What one file held.
#[derive(Debug)]
struct Known {
    /// `None` if it is to be read again in any case.
    stamp: Option<Stamp>,
    apps: Vec<Arc<AppSpec>>,
    /// Pages that they show.
    pages: Vec<Seen>,
}

impl Known {
    /// Whether neither the file nor what it names has changed.
    fn is_current(&self, stamp: Option<Stamp>) -> bool {
        self.stamp == stamp && self.pages.iter().all(Seen::is_current)
    }
}

impl Archive {
    /// Reads the file and all it includes, but for what is known.
    pub fn load(&mut self, path: &Path, environment: &Environment<'_>) -> Loaded {
        if let Some(loaded) = self.load_changes(path, environment) {
            return loaded;
        }
        let (raw, parts) = match open(path) {
            Ok((main, seen)) => load_raw(main, seen, environment, |_, _| false),
            Err(wrong) => return wrong.into(),
        };
        self.finish(raw, &parts).unwrap_or_else(Into::into)
    }

    /// Reads what changed; nothing if that is not enough.
    fn load_changes(&mut self, path: &Path, environment: &Environment<'_>) -> Option<Loaded> {
        if self.files.is_empty() {
            return None;
        }
        let (main, seen) = open(path).ok()?;
        let is_known = |path: &Path, stamp: Option<Stamp>| {
            stamp.is_some() && self.files.get(path).is_some_and(|known| known.is_current(stamp))
        };
        let (raw, parts) = load_raw(main, seen, environment, is_known);
        self.finish(raw, &parts).ok()
    }

    /// Puts together what was read and what is known. Where that has a problem, the archive stays
    /// as it is.
    fn finish(&mut self, mut raw: Raw, parts: &[Part]) -> Result<Loaded, Wrong> {
        let mut sources = std::mem::take(&mut raw.watched);
        let paths: Vec<PathBuf> = raw.sources.iter().map(|source| source.path.clone()).collect();
        let kept: Vec<&Path> = parts.iter().filter_map(Part::known).collect();
        let others = kept.iter().filter_map(|path| self.files.get(*path));
        let known_pages = others.clone().flat_map(|known| &known.pages);
        sources.extend(known_pages.cloned());
        let others: Vec<&AppSpec> =
            others.flat_map(|known| &known.apps).map(|app| &**app).collect();
        let Compiled { server, apps, problems, warnings, odd_files, pages } =
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
        self.server = server.clone();
        Ok(Loaded { sources, outcome: Ok(Config { server, apps, warnings }) })
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
                    let known = Known { stamp: stamp.filter(|_| is_plain), apps, pages };
                    files.insert(paths[*file].clone(), known);
                }
            }
        }
        self.files = files;
    }
}

/// Apps of a file, and the pages that they show.
type Held = (Vec<Arc<AppSpec>>, Vec<Seen>);

/// A file of the config.
#[derive(Debug)]
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
