//! What two apps cannot both have: a host and path, a fixed port, an address.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
};

use super::tcp::resolved;
use crate::{
    file::{
        RawApp,
        source::{Finding, Findings, Place, Source},
    },
    name::{HostPattern, PathPrefix},
    spec::{ListenAddr, ServerSpec},
};

/// Who was first.
struct Owner<'a> {
    app: &'a RawApp,
    place: Place,
}

pub(super) fn check(
    sources: &[Source],
    server: &ServerSpec,
    apps: &[RawApp],
    findings: &mut Findings,
) {
    let mut routes = HashMap::with_capacity(apps.len());
    let mut ports = HashMap::new();
    addresses(sources, server, apps, findings);
    for app in apps {
        for (host, path, span) in claims(app) {
            let place = Place { file: app.place.file, span };
            match routes.entry((host, path)) {
                Entry::Vacant(free) => {
                    free.insert(Owner { app, place });
                }
                Entry::Occupied(owner) => findings.push(taken(sources, owner.get(), app, place)),
            }
        }
        fixed_port(server, (app, apps), &mut ports, findings);
        unreachable(server, app, findings);
    }
}

/// Every host and path of the app, and the place to blame for it.
fn claims(app: &RawApp) -> Vec<(&HostPattern, PathPrefix, Range<usize>)> {
    let (hosts, paths) = (&app.keys.hosts, &app.keys.paths);
    let each_host = || hosts.iter().map(|host| (&host.value.0, host.span.clone()));
    if paths.is_empty() {
        // Where the paths could not be read, nobody knows what was meant on these hosts.
        let is_known = !app.broken.contains("paths");
        let root = each_host().filter(|_| is_known);
        return root.map(|(host, span)| (host, PathPrefix::root(), span)).collect();
    }
    if hosts.is_empty() && app.broken.contains("hosts") {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for path in paths {
        let prefix = &path.value.0;
        if hosts.is_empty() {
            claims.push((&HostPattern::Any, prefix.clone(), path.span.clone()));
        }
        claims.extend(each_host().map(|(host, _)| (host, prefix.clone(), path.span.clone())));
    }
    claims
}

fn taken(sources: &[Source], owner: &Owner<'_>, app: &RawApp, place: Place) -> Finding {
    let written = sources[place.file].written(&place.span);
    if owner.app.id == app.id {
        return Finding::error(place, format!("{written} stands here twice"))
            .note("first at", owner.place.clone())
            .help("remove one of them");
    }
    let message = format!("{written} already belongs to app `{}`", owner.app.id);
    Finding::error(place, message)
        .note("claimed at", owner.place.clone())
        .help("choose another host or path, or remove one of the two apps")
}

/// Each address is one door: Doorbell's own, or one TCP app's.
fn addresses(sources: &[Source], server: &ServerSpec, apps: &[RawApp], findings: &mut Findings) {
    let mut owners: HashMap<ListenAddr, Owner<'_>> = HashMap::new();
    let ours =
        |address: &ListenAddr| server.listen.contains(address) || server.admin.contains(address);
    for (app, entrance) in apps.iter().filter_map(|app| Some((app, app.tcp.as_ref()?))) {
        let folder = sources[app.place.file].folder();
        for (address, span) in entrance.listen.each() {
            let place = Place { file: app.place.file, span };
            let address = resolved(folder, address);
            if ours(&address) {
                let finding =
                    Finding::error(place.clone(), "Doorbell itself listens on this address");
                findings.push(finding.help("choose another, or take it out of `[server]`"));
            }
            match owners.entry(address) {
                Entry::Vacant(free) => _ = free.insert(Owner { app, place }),
                Entry::Occupied(owner) if owner.get().app.id != app.id => findings.push(
                    Finding::error(
                        place,
                        format!("this address belongs to app `{}`", owner.get().app.id),
                    )
                    .note("used at", owner.get().place.clone())
                    .help("choose another address"),
                ),
                // Told where the app is compiled.
                Entry::Occupied(_) => {}
            }
        }
    }
}

/// The ports of all TCP apps on this machine's own addresses.
fn doors(apps: &[RawApp]) -> impl Iterator<Item = &ListenAddr> {
    let entrances = apps.iter().filter_map(|app| app.tcp.as_ref());
    entrances.flat_map(|entrance| entrance.listen.each()).map(|(address, _)| address)
}

fn fixed_port<'a>(
    server: &ServerSpec,
    (app, apps): (&'a RawApp, &'a [RawApp]),
    ports: &mut HashMap<u16, Owner<'a>>,
    findings: &mut Findings,
) {
    let Some(port) = &app.keys.port else { return };
    let place = Place { file: app.place.file, span: port.span.clone() };
    let addresses = server.listen.iter().chain(&server.admin).chain(doors(apps));
    let is_ours = addresses.into_iter().any(|address| {
        matches!(address, ListenAddr::Tcp(address)
            if address.port() == port.value
                && (address.ip().is_unspecified() || address.ip().is_loopback()))
    });
    if is_ours {
        let finding = Finding::error(place.clone(), "Doorbell itself listens on this port");
        findings.push(finding.help("choose another port"));
    }
    match ports.entry(port.value) {
        Entry::Vacant(free) => {
            free.insert(Owner { app, place });
        }
        Entry::Occupied(owner) => findings.push(
            Finding::error(place, format!("this port belongs to app `{}`", owner.get().app.id))
                .note("used at", owner.get().place.clone())
                .help("choose another port, or leave `port` out and use `{port}`"),
        ),
    }
}

/// An app that no request can be for is odd, not wrong: it may be on its way in or out.
fn unreachable(server: &ServerSpec, app: &RawApp, findings: &mut Findings) {
    let has_route = !app.keys.hosts.is_empty() || !app.keys.paths.is_empty();
    if app.tcp.is_some() {
        return;
    }
    let is_default = server.default_app.as_ref() == Some(&app.id);
    if has_route || server.path_access || is_default || !app.broken.is_empty() {
        return;
    }
    let message = format!("no request can reach app `{}`", app.id);
    let finding = Finding::warning(app.place.clone(), message);
    findings.push(finding.help("add `hosts` or `paths`, or set `server.path_access = true`"));
}
