//! Which app a request is for: an immutable table, cheap to look up, cheap to change by one app.
//!
//! The rules, in this order; a path prefix matches on segment boundaries, and the longest wins
//! inside each step:
//!
//! 1. the exact host's prefixes,
//! 2. the prefixes of each wildcard that covers the host, longest suffix first,
//! 3. where neither an exact host nor a wildcard claims the host: any-host prefixes and path
//!    access, `/apps/<id>` and `/_app/<id>`, together by length; at equal length the claim wins.
//!    Where some app claims the host, any-host prefixes alone,
//! 4. the default app, 5. nothing.
//!
//! A host whose own prefixes do not match the path falls through to the wider steps: an app at
//! `*` with `/status` answers everywhere. What no prefix covers is not the host's to swallow.
//!
//! The table knows nothing of states: a disabled app still owns its routes. Its content is `T`,
//! the caller's own (an `Arc` to all that a request needs). [`crate::path`] makes the paths normal,
//! [`Hostname::normalize`](crate::name::Hostname::normalize) the hosts.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use crate::{
    name::{AppId, HostPattern, PathPrefix},
    spec::{PrefixRule, RouteSpec},
};

mod depths;
mod paths;
mod shards;

use depths::Depths;
use paths::{Claim, PathClaims};
use shards::{Keyed, ShardMap};

/// Most labels of a host name, RFC 1035: 127, and one more so that counting cannot overflow.
const MAX_LABELS: usize = 128;

/// The route table. Cloning and changing one app cost by the app, not by the table.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    exact: ShardMap<HostClaims<T>>,
    wildcard: ShardMap<HostClaims<T>>,
    /// How many labels the wildcards' suffixes have: only these suffixes of a host are looked up.
    wildcard_labels: Depths<MAX_LABELS>,
    any: PathClaims<T>,
    apps: ShardMap<AppRoutes<T>>,
    path_access: PathAccess,
    default_app: Option<AppId>,
}

/// Whether apps are reachable at `/apps/<id>` and `/_app/<id>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAccess {
    /// On hosts that no app claims.
    On,
    /// Nowhere.
    Off,
}

/// A change of one app.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// Add the app, or replace its routes and target.
    Put {
        /// The app.
        app: AppId,
        /// Which requests are for it.
        routes: Arc<RouteSpec>,
        /// What a match gives.
        target: T,
    },
    /// Forget the app.
    Remove(AppId),
}

/// An app that was rejected because an earlier one owns a route that it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("app \"{app}\": {} already belongs to app \"{owner}\"", Place(host, path))]
pub struct Conflict {
    /// The rejected app. What the table held of it before, it still holds.
    pub app: AppId,
    /// The app that owns the route.
    pub owner: AppId,
    /// The route's host.
    pub host: HostPattern,
    /// The route's path prefix.
    pub path: PathPrefix,
}

struct Place<'a>(&'a HostPattern, &'a PathPrefix);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

/// What a request matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch<'t, T> {
    /// The app's entry.
    pub target: &'t T,
    /// How it was found.
    pub kind: RouteKind,
    /// Bytes of the path that the prefix covers; 0 when it is `/`. Never includes the slash after
    /// it.
    pub prefix_len: usize,
    /// What happens to these bytes.
    pub rule: PrefixRule,
}

/// How a request found its app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// By a host and path it claims.
    Claim,
    /// By `/apps/<id>` or `/_app/<id>`.
    PathAccess,
    /// By being the default.
    Default,
}

impl<T: Clone> Default for RouteTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> RouteTable<T> {
    /// An empty table with path access and no default app.
    #[must_use]
    pub fn new() -> Self {
        Self {
            exact: ShardMap::new(),
            wildcard: ShardMap::new(),
            wildcard_labels: Depths::new(),
            any: PathClaims::new(),
            apps: ShardMap::new(),
            path_access: PathAccess::On,
            default_app: None,
        }
    }

    /// This table with other settings. A default app that is not in the table matches nothing.
    #[must_use]
    pub fn with_settings(mut self, access: PathAccess, default_app: Option<AppId>) -> Self {
        self.path_access = access;
        self.default_app = default_app;
        self
    }

    /// This table after `changes`, and the apps that were rejected.
    ///
    /// The changed apps' old claims go first, so that apps may swap routes in one call; then each
    /// app is put, in order, with all its claims or not at all. A rejected app keeps what it had,
    /// if nobody took that in the same call.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = Change<T>>) -> (Self, Vec<Conflict>) {
        let mut next = self.clone();
        let mut conflicts = Vec::new();
        let puts: Vec<_> = changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Put { app, routes, target } => {
                    let before = next.remove(&app);
                    Some((AppRoutes { app, routes, target }, before))
                }
                Change::Remove(app) => {
                    next.remove(&app);
                    None
                }
            })
            .collect();
        for (app, before) in puts {
            // Put twice in one call: the later one counts.
            let before = next.remove(&app.app).or(before);
            if let Err(conflict) = next.put(app) {
                conflicts.push(conflict);
                // What it had may have been taken meanwhile; then it is out, as reported.
                before.and_then(|before| next.put(before).err());
            }
        }
        (next, conflicts)
    }

    /// The app's entry.
    #[must_use]
    pub fn app(&self, id: &str) -> Option<&T> {
        self.apps.find(id).map(|entry| &entry.target)
    }

    /// Every app's entry, in no order.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.apps.iter().map(|entry| &entry.target)
    }

    /// Number of apps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.apps.len()
    }

    /// Whether there is no app.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The app for a request whose `host` and `path` are in normal form. `None` as host is a
    /// request without one (HTTP/1.0). Does not allocate.
    #[must_use]
    pub fn lookup(&self, host: Option<&str>, path: &str) -> Option<RouteMatch<'_, T>> {
        let mut claimed = false;
        for claims in host.into_iter().flat_map(|host| self.claims_of(host)) {
            claimed = true;
            if let Some(claim) = claims.paths.find(path) {
                return Some(claim.matched());
            }
        }
        let any = self.any.find(path).map(Claim::matched);
        let access = if claimed { None } else { self.path_access(path) };
        match (any, access) {
            (Some(any), Some(access)) if access.prefix_len > any.prefix_len => Some(access),
            (None, Some(access)) => Some(access),
            (Some(any), _) => Some(any),
            (None, None) => self.default_match(),
        }
    }

    /// The exact host's claims, then those of wildcards, longest suffix first.
    fn claims_of<'t, 'h>(
        &'t self,
        host: &'h str,
    ) -> impl Iterator<Item = &'t HostClaims<T>> + use<'t, 'h, T> {
        self.exact.find(host).into_iter().chain(self.wildcards_of(host))
    }

    fn wildcards_of<'t, 'h>(
        &'t self,
        host: &'h str,
    ) -> impl Iterator<Item = &'t HostClaims<T>> + use<'t, 'h, T> {
        let dots = if self.wildcard.len() == 0 { 0 } else { count(host, b'.') };
        let mut rest = host;
        (1..=dots).rev().filter_map(move |labels| {
            rest = &rest[rest.find('.')? + 1..];
            if self.wildcard_labels.contains(labels) { self.wildcard.find(rest) } else { None }
        })
    }

    fn path_access(&self, path: &str) -> Option<RouteMatch<'_, T>> {
        if self.path_access == PathAccess::Off {
            return None;
        }
        let after = path.strip_prefix("/apps/").or_else(|| path.strip_prefix("/_app/"))?;
        let id = after.split('/').next()?;
        let entry = self.apps.find(id)?;
        Some(RouteMatch {
            target: &entry.target,
            kind: RouteKind::PathAccess,
            prefix_len: path.len() - after.len() + id.len(),
            rule: entry.routes.path_access,
        })
    }

    fn default_match(&self) -> Option<RouteMatch<'_, T>> {
        let target = self.app(self.default_app.as_ref()?.as_str())?;
        Some(RouteMatch { target, kind: RouteKind::Default, prefix_len: 0, rule: PrefixRule::Keep })
    }

    /// Puts an app that is not in the table, or says who is in its way.
    fn put(&mut self, entry: AppRoutes<T>) -> Result<(), Conflict> {
        for (host, path) in entry.routes.claims() {
            if let Some(owner) = self.owner(&host, &path) {
                return Err(Conflict { app: entry.app, owner: owner.clone(), host, path });
            }
        }
        for (host, path) in entry.routes.claims() {
            let claim = Claim {
                app: entry.app.clone(),
                prefix: path,
                rule: entry.routes.prefix,
                target: entry.target.clone(),
            };
            self.change_paths(&host, |paths| paths.insert(claim));
        }
        self.apps.insert(entry);
        Ok(())
    }

    fn remove(&mut self, app: &AppId) -> Option<AppRoutes<T>> {
        let entry = self.apps.find(app.as_str())?.clone();
        for (host, path) in entry.routes.claims() {
            self.change_paths(&host, |paths| paths.remove(&path));
        }
        self.apps.remove(app.as_str());
        Some(entry)
    }

    fn owner(&self, host: &HostPattern, path: &PathPrefix) -> Option<&AppId> {
        let paths = match host {
            HostPattern::Any => &self.any,
            HostPattern::Exact(name) => &self.exact.find(name.as_str())?.paths,
            HostPattern::Wildcard(suffix) => &self.wildcard.find(suffix.as_str())?.paths,
        };
        paths.exactly(path).map(|claim| &claim.app)
    }

    /// Changes the claims of one host, which comes and goes with its first and last claim.
    fn change_paths(&mut self, host: &HostPattern, change: impl FnOnce(&mut PathClaims<T>)) {
        let (map, name) = match host {
            HostPattern::Any => return change(&mut self.any),
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcard, suffix),
        };
        let before = map.find(name.as_str()).cloned();
        let was_there = before.is_some();
        let mut claims = before
            .unwrap_or_else(|| HostClaims { host: name.as_str().into(), paths: PathClaims::new() });
        change(&mut claims.paths);
        let is_there = !claims.paths.is_empty();
        if is_there {
            map.insert(claims);
        } else {
            map.remove(name.as_str());
        }
        if matches!(host, HostPattern::Wildcard(_)) && was_there != is_there {
            self.wildcard_labels.count(count(name.as_str(), b'.') + 1, is_there);
        }
    }
}

fn count(text: &str, byte: u8) -> usize {
    text.bytes().filter(|&b| b == byte).count()
}

/// What the table keeps of one app, to find it by id and to take its claims back.
#[derive(Clone, Debug)]
struct AppRoutes<T> {
    app: AppId,
    routes: Arc<RouteSpec>,
    target: T,
}

impl<T> Keyed for AppRoutes<T> {
    fn key(&self) -> &str {
        self.app.as_str()
    }
}

/// All claims on one exact host or one wildcard's suffix.
#[derive(Clone, Debug)]
struct HostClaims<T> {
    host: SmolStr,
    paths: PathClaims<T>,
}

impl<T> Keyed for HostClaims<T> {
    fn key(&self) -> &str {
        &self.host
    }
}
