//! `[app.<id>.wake]`.

use super::Section;
use crate::{
    file::{
        keys::{AsleepKeys, WakeKeys},
        source::Finding,
        text::{At, Text},
    },
    interned::Interned,
    spec::{AsleepSpec, WakeSpec},
};

type List<T> = Option<At<Vec<At<Text<T>>>>>;

/// The rules, or nothing where there are none.
pub(super) fn compile(
    section: &mut Section<'_>,
    keys: &At<WakeKeys>,
) -> Option<Interned<WakeSpec>> {
    let spec = WakeSpec {
        paths: some(section, "paths", &keys.value.paths),
        deny_paths: each(&keys.value.deny_paths),
        methods: some(section, "methods", &keys.value.methods),
        deny_user_agents: each(&keys.value.deny_user_agents),
        keeps_awake: keys.value.keeps_awake.into(),
        asleep: asleep(section, &keys.value.asleep),
    };
    if !spec.has_rules() && !section.is_broken() {
        let message = "nobody is kept from waking the app";
        let finding = Finding::warning(section.place(&keys.span), message);
        let help = "add `paths`, `deny_paths`, `methods` or `deny_user_agents`, or remove `wake`";
        section.findings.push(finding.help(help));
    }
    spec.has_rules().then(|| spec.into())
}

fn each<T: Clone>(list: &[At<Text<T>>]) -> Vec<T> {
    list.iter().map(|item| item.value.0.clone()).collect()
}

/// What may wake the app, if only some may.
fn some<T: Clone>(section: &mut Section<'_>, key: &str, list: &List<T>) -> Option<Vec<T>> {
    let list = list.as_ref()?;
    if list.value.is_empty() && !section.is_broken() {
        let message = format!("with an empty `{key}`, nobody could wake the app");
        let help = "leave the key out to let all, or write `start = \"disabled\"` to let none";
        section.wrong(&list.span, message, help);
    }
    Some(each(&list.value))
}

fn asleep(section: &mut Section<'_>, keys: &AsleepKeys) -> AsleepSpec {
    let status = keys.status.value;
    if status == 205 || (300..400).contains(&status) {
        let message = "this status says that there is something else to do";
        section.wrong(&keys.status.span, message, "write 503, 200 or 204");
    }
    if let (204, Some(body)) = (status, &keys.body) {
        section.wrong(&body.span, "status 204 has no body", "write `status = 200`, or remove it");
    }
    AsleepSpec { status, body: keys.body.as_ref().map(|body| body.value.0.0.clone()) }
}
