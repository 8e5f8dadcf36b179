//! `[app.<id>]`: what all apps have.

use super::{RawApp, Section, backend, pages::Pages, tcp, wake};
use crate::{
    file::{
        keys::{AppKeys, PrefixChoice},
        source::Finding,
    },
    spec::{AppKind, AppLimits, AppPages, AppSpec, AppTimeouts, Backend, PrefixRule, RouteSpec},
};

/// The app, or nothing where its backend cannot be made out; the findings say why.
pub(super) fn compile(
    mut section: Section<'_>,
    raw: &RawApp,
    pages: &mut Pages,
) -> Option<AppSpec> {
    let keys = &raw.keys;
    let routes = routes(keys);
    let own = pages.of_app(&mut section, &keys.pages);
    let backend = backend::compile(&mut section, raw)?;
    let mut spec = AppSpec::new(raw.id.clone(), routes, backend);
    if let Some(name) = &keys.name {
        spec.name.clone_from(&name.0.0);
    }
    spec.limits =
        AppLimits { held_requests: keys.limits.held_requests, body: keys.limits.body.0.0 }.into();
    spec.timeouts = timeouts(keys).into();
    held_long_enough(&mut section, raw, &spec);
    spec.http2 = keys.http2;
    spec.client_app_headers = keys.client_app_headers;
    spec.pinned = keys.pinned;
    spec.maintenance = keys.maintenance;
    spec.wake = keys.wake.as_ref().and_then(|keys| wake::compile(&mut section, keys));
    if let Some(entrance) = &raw.tcp {
        spec.kind = tcp::compile(&mut section, keys, entrance);
    }
    spec.pages = AppPages { waiting_after: keys.waiting_page.after.0.0, own }.into();
    Some(spec)
}

/// A start may take longer than requests wait for it; its first visitors then see an error.
fn held_long_enough(section: &mut Section<'_>, raw: &RawApp, spec: &AppSpec) {
    let deadline = match &spec.backend {
        Backend::Process(process) => Some(process.ready.deadline),
        Backend::Shared(shared) => shared.ready.as_ref().map(|ready| ready.deadline),
        Backend::Upstream(_) => None,
    };
    let (Some(deadline), Some(ready)) = (deadline, &raw.keys.ready) else { return };
    if deadline <= spec.timeouts.hold || section.is_broken() {
        return;
    }
    let message = match spec.kind {
        AppKind::Http => "a start may take longer than requests wait for it",
        AppKind::Tcp(_) => "a start may take longer than connections wait for it",
    };
    let finding = Finding::warning(section.place(&ready.span), message);
    section.findings.push(finding.help("raise `timeouts.hold` to the deadline too"));
}

fn routes(keys: &AppKeys) -> RouteSpec {
    RouteSpec {
        hosts: keys.hosts.iter().map(|host| host.value.0.clone()).collect(),
        paths: keys.paths.iter().map(|path| path.value.0.clone()).collect(),
        prefix: if keys.strip_prefix { PrefixRule::Strip } else { PrefixRule::Keep },
        path_access: match keys.path_access {
            PrefixChoice::Strip => PrefixRule::Strip,
            PrefixChoice::Keep => PrefixRule::Keep,
        },
        scope_cookies: keys.scope_cookies,
    }
}

fn timeouts(keys: &AppKeys) -> AppTimeouts {
    let timeouts = &keys.timeouts;
    AppTimeouts {
        hold: timeouts.hold.0.0,
        connect: timeouts.connect.0.0,
        response_idle: timeouts.response_idle.0.0,
        upgraded_idle: timeouts.upgraded_idle.0.0,
        write_idle: timeouts.write_idle.0.0,
        keep_alive: timeouts.keep_alive.0,
    }
}
