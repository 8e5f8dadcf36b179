//! An app that the program of another one answers: what it may say, and that the other one is there.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{RawApp, Section, backend::process_keys, process::http_probe};
use crate::{
    file::{
        check::closest,
        keys::{AppKeys, ReadyChoice},
        source::{Finding, Findings, Place},
        text::{At, Text},
    },
    name::AppId,
    spec::{AppKind, AppSpec, Backend, ListenNotice, SharedReadySpec, SharedSpec},
};

/// Keys about a program that an app has of its own, though another's program answers.
const OWN: [&str; 2] = ["ready", "wake"];

pub(super) fn compile(
    section: &mut Section<'_>,
    keys: &AppKeys,
    with: &At<Text<AppId>>,
) -> SharedSpec {
    let with = with.value.0.clone();
    for (key, span) in process_keys(keys).iter().filter(|(key, _)| !OWN.contains(key)) {
        let message = format!("`{key}` has no meaning for an app with `shared_with`");
        let help = format!("remove it, or write it at app `{with}`, whose program answers");
        section.wrong(span, message, help);
    }
    let ready = keys.ready.as_ref().and_then(|choice| ready(section, choice));
    SharedSpec { with, ready }
}

/// What tells that the program can answer for this app too: its answers, and nothing else.
fn ready(section: &mut Section<'_>, choice: &At<ReadyChoice>) -> Option<SharedReadySpec> {
    let keys = match &choice.value {
        ReadyChoice::Word(_) => {
            only_http(section, &choice.span);
            return None;
        }
        ReadyChoice::Table(keys) => keys,
    };
    let is_unheard = ListenNotice::from(keys.listen) != ListenNotice::default();
    let Some(path) = &keys.http else {
        if !section.is_broken() {
            only_http(section, &choice.span);
        }
        return None;
    };
    if keys.notify.value || keys.socket_activation.value || is_unheard {
        only_http(section, &choice.span);
    }
    Some(SharedReadySpec { probe: http_probe(keys, path), deadline: keys.deadline.0.0 })
}

fn only_http(section: &mut Section<'_>, span: &Range<usize>) {
    let message = "only its answers tell whether an app with `shared_with` is ready";
    section.wrong(span, message, "write `ready = { http = \"/path\" }`, or leave it out");
}

/// What an app is for those that share its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It has a program, which is spoken to in HTTP/2, or not.
    Program {
        http2: bool,
    },
    /// Its program runs several times side by side.
    Replicas,
    Tcp,
    Upstream,
    Shared,
    /// Something else is wrong with it.
    Unclear,
}

impl Kind {
    fn raw(app: &RawApp) -> Self {
        let keys = &app.keys;
        match (&keys.command, &keys.upstream, &keys.shared_with) {
            _ if app.tcp.is_some() => Self::Tcp,
            (Some(_), None, None) if keys.instances.as_ref().is_some_and(|at| at.value > 1) => {
                Self::Replicas
            }
            (Some(_), None, None) => Self::Program { http2: keys.http2 },
            (None, Some(_), None) => Self::Upstream,
            (None, None, Some(_)) => Self::Shared,
            _ => Self::Unclear,
        }
    }

    fn known(app: &AppSpec) -> Self {
        match (&app.backend, &app.kind) {
            (Backend::Process(_), AppKind::Http) if app.instances() > 1 => Self::Replicas,
            (Backend::Process(_), AppKind::Http) => Self::Program { http2: app.http2 },
            (Backend::Process(_), AppKind::Tcp(_)) => Self::Tcp,
            (Backend::Upstream(_), _) => Self::Upstream,
            (Backend::Shared(_), _) => Self::Shared,
        }
    }
}

/// Checks that those with which these apps share are there, and have a program to share.
pub(super) fn check(apps: &[RawApp], others: &[&AppSpec], findings: &mut Findings) {
    let mut sharers = apps.iter().filter(|app| app.keys.shared_with.is_some()).peekable();
    if sharers.peek().is_none() {
        return;
    }
    let known = others.iter().map(|app| (&app.id, Kind::known(app)));
    let raw = apps.iter().map(|app| (&app.id, Kind::raw(app)));
    // Of two apps with one id that of the file that was read now counts.
    let kinds: HashMap<&AppId, Kind> = known.chain(raw).collect();
    for app in sharers {
        let Some(At { value: Text(with), span }) = &app.keys.shared_with else { continue };
        let Some((message, help)) = fault(app, with, &kinds) else { continue };
        let place = Place { file: app.place.file, span: span.clone() };
        findings.push(Finding::error(place, message).help(help));
    }
}

/// Why an app cannot share with another, and what to do.
fn fault(app: &RawApp, with: &AppId, kinds: &HashMap<&AppId, Kind>) -> Option<(String, String)> {
    if *with == app.id {
        let help = "write the id of another app, or give this one a `command`";
        return Some(("no app can share with itself".into(), help.into()));
    }
    let (why, help) = match kinds.get(with) {
        None => {
            let others = kinds.keys().filter(|id| **id != &app.id).map(|id| id.as_str());
            let help = match closest(with.as_str(), others) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None => "write the id of an app that has a `command`".to_owned(),
            };
            return Some(("there is no app of this id".into(), help));
        }
        Some(Kind::Unclear) => return None,
        Some(Kind::Program { http2 }) if *http2 == app.keys.http2 => return None,
        Some(Kind::Program { http2: true }) => {
            ("is spoken to in HTTP/2, and this one is not", "add `http2 = true` here too")
        }
        Some(Kind::Program { http2: false }) => {
            ("is not spoken to in HTTP/2, and this one is", "write `http2` alike at both")
        }
        Some(Kind::Replicas) => (
            "has several instances, and those who share have one",
            "remove `instances` there, or give this app a `command` of its own",
        ),
        Some(Kind::Tcp) => {
            ("is a TCP app", "share with an app whose program speaks HTTP: `[app.<id>]`")
        }
        Some(Kind::Upstream) => (
            "is served by upstream servers, which Doorbell does not start",
            "give this app that `upstream` too, instead of `shared_with`",
        ),
        Some(Kind::Shared) => (
            "has no program of its own: it shares one",
            "share with the app that has the `command`",
        ),
    };
    Some((format!("app `{with}` {why}"), help.to_owned()))
}

/// Whether every app that shares finds a program to share among these.
pub(in crate::file) fn are_there<'a>(apps: impl Iterator<Item = &'a AppSpec> + Clone) -> bool {
    let mut sharers =
        apps.clone().filter_map(|app| Some((&app.shared()?.with, app.http2))).peekable();
    if sharers.peek().is_none() {
        return true;
    }
    let programs: HashSet<(&AppId, bool)> = apps.filter_map(shareable).collect();
    sharers.all(|sharer| programs.contains(&sharer))
}

/// An app whose program others can share, and whether it is spoken to in HTTP/2.
pub(in crate::file) fn shareable(app: &AppSpec) -> Option<(&AppId, bool)> {
    match Kind::known(app) {
        Kind::Program { http2 } => Some((&app.id, http2)),
        Kind::Replicas | Kind::Tcp | Kind::Upstream | Kind::Shared | Kind::Unclear => None,
    }
}
