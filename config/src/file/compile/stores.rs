//! Apps that keep what is theirs in one place, each not knowing of the other: a database, a folder, or
//! what browsers store for a site. It may be meant, so it is odd and not wrong.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use super::resolve;
use crate::{
    file::{
        RawApp,
        source::{Finding, Findings, Place},
    },
    name::{AppId, HostPattern},
    spec::{AppSpec, Backend, DatabasePlace, DatabaseSpec, ProcessSpec, Template, TemplatePart},
};

/// Variables with one of these in their name say where an app stores something, if their value is a path.
const FOLDERS: [&str; 4] = ["STORAGE", "UPLOAD", "DATA_DIR", "DATA_PATH"];
/// Variables with this in their name say what the names begin with under which an app's pages store
/// something in browsers, which keep it by host.
const BROWSER_PREFIX: &str = "STORAGE_PREFIX";

/// Where an app stores something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Store<'a> {
    /// Server, and the name there.
    Database(&'a DatabasePlace, Option<&'a str>),
    Folder(PathBuf),
    Browsers(&'a HostPattern, &'a str),
}

/// One app's.
struct Owner<'a> {
    app: &'a AppSpec,
    /// Unknown for files that were read before.
    place: Option<Place>,
    /// The key that says so.
    key: &'a str,
}

/// Checks where these apps store what is theirs, and those that are known already.
pub(super) fn check(
    raws: &[RawApp],
    apps: &[(usize, AppSpec)],
    others: &[&AppSpec],
    findings: &mut Findings,
) {
    let mut owners: HashMap<Store<'_>, Owner<'_>> = HashMap::new();
    for app in others {
        for (key, store) in stores(app) {
            owners.entry(store).or_insert(Owner { app, place: None, key });
        }
    }
    let places: HashMap<&AppId, &Place> = raws.iter().map(|raw| (&raw.id, &raw.place)).collect();
    for (_, app) in apps {
        let Some(place) = places.get(&app.id) else { continue };
        let mut told = HashSet::new();
        for (key, store) in stores(app) {
            let owner = Owner { app, place: Some((*place).clone()), key };
            match owners.get(&store) {
                Some(first) if first.app.id == app.id || know_each_other(first.app, app) => {}
                Some(first) => {
                    if told.insert(&first.app.id) {
                        findings.push(shared(first, &owner, &store));
                    }
                }
                None => _ = owners.insert(store, owner),
            }
        }
    }
}

/// Where an app says that it stores something, and in which key.
fn stores(app: &AppSpec) -> Vec<(&str, Store<'_>)> {
    let Some(process) = program(app) else { return Vec::new() };
    let mut stores = Vec::new();
    if let Some(DatabaseSpec::NewConnection(url)) = process.database.as_deref() {
        stores.push(("database", Store::Database(&url.place, url.database.as_deref())));
    }
    for (name, value) in &*process.env {
        let Some(value) = literal(value) else { continue };
        if name.contains(BROWSER_PREFIX) {
            let hosts = match &*app.routes.hosts {
                [] => &[HostPattern::Any],
                hosts => hosts,
            };
            let of_host = |host| (name.as_str(), Store::Browsers(host, value));
            stores.extend(hosts.iter().map(of_host));
        } else if FOLDERS.iter().any(|word| name.contains(word)) && is_path(value) {
            stores.push((name, Store::Folder(resolve(&process.directory, value.as_ref()))));
        }
    }
    stores
}

/// Who shares another's instance has nothing of its own.
fn program(app: &AppSpec) -> Option<&ProcessSpec> {
    match &app.backend {
        Backend::Process(process) => Some(process),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

/// A value that is the same for each instance of each app.
fn literal(value: &Template) -> Option<&str> {
    match &*value.0 {
        [TemplatePart::Text(text)] => Some(text),
        _ => None,
    }
}

/// `local` and `s3://bucket` are none.
fn is_path(value: &str) -> bool {
    value.contains('/') && !value.contains("://")
}

/// Apps of which one needs the other are parts of one thing.
fn know_each_other(one: &AppSpec, other: &AppSpec) -> bool {
    let needs = |app, id| program(app).is_some_and(|process| process.needs.contains(id));
    needs(one, &other.id) || needs(other, &one.id)
}

fn shared(first: &Owner<'_>, second: &Owner<'_>, store: &Store<'_>) -> Finding {
    let (one, other) = (&second.app.id, &first.app.id);
    let (what, help) = match store {
        Store::Database(..) => (
            "use the same database",
            "give one of them another, or one of its own by `new_database`".to_owned(),
        ),
        Store::Folder(_) => (
            "store in the same folder",
            format!("give one of them another in `env.{}`", second.key),
        ),
        Store::Browsers(..) => (
            "store under the same names in browsers",
            format!(
                "both have the same host: browsers give one what the other stored, sessions too; \
                 give one of them another `env.{}`, such as `{{id}}_`",
                second.key
            ),
        ),
    };
    // Invariant: the second is of a file that was just read.
    let place = second.place.clone().unwrap_or(Place { file: 0, span: 0..0 });
    let finding = Finding::warning(place, format!("apps `{one}` and `{other}` {what}"));
    let finding = match &first.place {
        Some(place) => finding.note(format!("`{other}` is at"), place.clone()),
        None => finding,
    };
    finding.help(help)
}
