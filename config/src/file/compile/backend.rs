//! Which backend an app has: a command, an upstream or a share, and only the keys that belong to it.

use std::ops::Range;

use super::{RawApp, Section, process, shared, upstream};
use crate::{file::keys::AppKeys, spec::Backend};

pub(super) fn compile(section: &mut Section<'_>, raw: &RawApp) -> Option<Backend> {
    let keys = &raw.keys;
    if let Some(with) = &keys.shared_with {
        let command = keys.command.as_ref().map(|at| ("command", &at.span));
        let upstream = keys.upstream.as_ref().map(|at| ("upstream", &at.span));
        if let Some(other) = command.or(upstream) {
            let help = "keep `shared_with` if another app's program answers for this one too";
            section.exclude([("shared_with", &with.span), other], help);
            return None;
        }
        return Some(Backend::Shared(shared::compile(section, keys, with).into()));
    }
    match (&keys.command, &keys.upstream) {
        (Some(command), Some(upstream)) => {
            section.exclude(
                [("command", &command.span), ("upstream", &upstream.span)],
                "keep `command` if Doorbell is to start the app, `upstream` if it runs elsewhere",
            );
            None
        }
        (Some(command), None) => {
            process::compile(section, keys, command).map(|process| Backend::Process(process.into()))
        }
        (None, Some(upstream)) => {
            process_keys(keys).iter().for_each(|(key, span)| {
                let message = format!("`{key}` has no meaning for an app with `upstream`");
                section.wrong(span, message, "remove it: Doorbell does not start this app");
            });
            upstream::compile(section, upstream).map(|spec| Backend::Upstream(spec.into()))
        }
        (None, None) => {
            if !section.is_broken() {
                section.wrong(
                    &raw.place.span,
                    format!("app `{}` has neither `command` nor `upstream`", raw.id),
                    "add `command = [\"program\", \"argument\"]` or `upstream = \"http://host:port\"`",
                );
            }
            None
        }
    }
}

/// The keys that were written and concern a program that Doorbell starts.
pub(super) fn process_keys(keys: &AppKeys) -> Vec<(&'static str, Range<usize>)> {
    let span = |span: &Range<usize>| span.clone();
    [
        ("start", keys.start.as_ref().map(|at| span(&at.span))),
        ("instances", keys.instances.as_ref().map(|at| span(&at.span))),
        ("directory", keys.directory.as_ref().map(|at| span(&at.span))),
        ("env", keys.env.as_ref().map(|at| span(&at.span))),
        ("secret", keys.secret.as_ref().map(|at| span(&at.span))),
        ("secrets", keys.secrets.as_ref().map(|at| span(&at.span))),
        ("version", keys.version.as_ref().map(|at| span(&at.span))),
        ("upgrade", keys.upgrade.as_ref().map(|at| span(&at.span))),
        ("port", keys.port.as_ref().map(|at| span(&at.span))),
        ("ready", keys.ready.as_ref().map(|at| span(&at.span))),
        ("no_new_privs", keys.no_new_privs.as_ref().map(|at| span(&at.span))),
        ("private_tmp", keys.private_tmp.as_ref().map(|at| span(&at.span))),
        ("read_only_paths", keys.read_only_paths.as_ref().map(|at| span(&at.span))),
        ("read_write_paths", keys.read_write_paths.as_ref().map(|at| span(&at.span))),
        ("needs", keys.needs.as_ref().map(|at| span(&at.span))),
        ("keep_awake", keys.keep_awake.as_ref().map(|at| span(&at.span))),
        ("prewarm", keys.prewarm.as_ref().map(|at| span(&at.span))),
        ("idle", keys.idle.as_ref().map(|at| span(&at.span))),
        ("wake", keys.wake.as_ref().map(|at| span(&at.span))),
        ("stop", keys.stop.as_ref().map(|at| span(&at.span))),
        ("back_off", keys.back_off.as_ref().map(|at| span(&at.span))),
        ("logs", keys.logs.as_ref().map(|at| span(&at.span))),
        ("user", keys.user.as_ref().map(|at| span(&at.span))),
        ("group", keys.group.as_ref().map(|at| span(&at.span))),
        ("database", keys.database.as_ref().map(|at| span(&at.span))),
        ("limits.memory", keys.limits.memory.as_ref().map(|at| span(&at.span))),
        ("limits.cpu", keys.limits.cpu.as_ref().map(|at| span(&at.span))),
        ("limits.processes", keys.limits.processes.as_ref().map(|at| span(&at.span))),
        ("limits.files", keys.limits.files.as_ref().map(|at| span(&at.span))),
    ]
    .into_iter()
    .filter_map(|(key, span)| Some((key, span?)))
    .collect()
}
