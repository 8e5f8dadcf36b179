//! What of a definition a running program depends on, and the number that stands for it in its record.
//!
//! Another version of Doorbell finds the number there, and replaces what runs under another one. So it is made of
//! what is said, and of nothing else: a key that a later version adds changes the number of those apps alone that
//! have it, as long as its value says nothing (nothing, no, or empty) where the operator does not.

use std::{collections::BTreeMap, path::Path};

use doorbell_config::spec::{
    AppSpec, Backend, EnclosureSpec, EndpointSpec, ListenNotice, Placeholder, Probe, ProcessSpec,
    ResourceSpec, Template, UpgradeSpec, UserSpec,
};
use serde::Serialize;
use serde_json::Value;

/// What a program is started with, as far as its definition goes.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Outset<'a> {
    command: &'a [Template],
    directory: &'a Path,
    env: &'a BTreeMap<String, Template>,
    version: Option<&'a str>,
    upgrade: Option<&'a UpgradeSpec>,
    /// `None` where it may have any port.
    endpoint: Option<EndpointSpec>,
    /// `None` where a connection is enough.
    probe: Option<&'a Probe>,
    is_unheard: bool,
    no_new_privs: bool,
    enclosure: &'a EnclosureSpec,
    resources: &'a ResourceSpec,
    user: Option<&'a UserSpec>,
    /// `None` if it does not ask for it.
    base_path: Option<String>,
}

impl<'a> Outset<'a> {
    /// Of an app's program, if it has one.
    pub(super) fn of(spec: &'a AppSpec) -> Option<Self> {
        let Backend::Process(process) = &spec.backend else { return None };
        let ProcessSpec { command, directory, env, version, upgrade, .. } = &**process;
        let mut texts = command.iter().chain(env.values());
        let asks = texts.any(|text| text.asks_for(Placeholder::BasePath));
        Some(Self {
            command,
            directory,
            env,
            version: version.as_deref(),
            upgrade: upgrade.as_deref(),
            endpoint: Some(process.endpoint).filter(|one| *one != EndpointSpec::AnyPort),
            probe: Some(&process.ready.probe).filter(|probe| **probe != Probe::Connect),
            is_unheard: process.ready.listen == ListenNotice::Never,
            no_new_privs: process.no_new_privs,
            enclosure: &process.enclosure,
            resources: &process.resources,
            user: process.user.as_deref(),
            base_path: asks.then(|| spec.base_path()),
        })
    }
}

/// Tells definitions apart that run a program in different ways.
pub(super) fn fingerprint(spec: &AppSpec) -> u64 {
    Outset::of(spec).map_or(0, |outset| fnv(text(&outset).as_bytes()))
}

/// All that is said, as JSON.
fn text(outset: &Outset<'_>) -> String {
    // Invariant: it came as JSON, or can go as such to another process.
    serde_json::to_value(outset).map_or_else(|error| error.to_string(), |value| canonical(&value))
}

/// As JSON, members in the order of their names, without those that say nothing.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let said: BTreeMap<_, _> =
                members.iter().filter(|(_, value)| !says_nothing(value)).collect();
            let said = said.into_iter().map(|(name, value)| {
                format!("{}:{}", Value::from(name.as_str()), canonical(value))
            });
            format!("{{{}}}", said.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
        Value::Number(_) | Value::String(_) => false,
    }
}

/// FNV-1a of 64 bits (draft-eastlake-fnv): the same in every version, and nobody gains by a collision.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::forms;

    /// Apps in which all is said that can be, and in which nothing is.
    fn apps() -> Vec<Arc<AppSpec>> {
        let messages: Vec<Value> = forms::read("wire/from_control");
        let apps = messages.iter().find_map(|message| message.get("Apps")).unwrap();
        serde_json::from_value(apps.clone()).unwrap()
    }

    fn app(id: &str) -> AppSpec {
        let app = apps().into_iter().find(|app| app.id.as_str() == id).unwrap();
        AppSpec::clone(&app)
    }

    /// Another number replaces every app at the next upgrade: see "Two versions" in docs/architecture.md.
    #[test]
    fn every_version_gives_the_same_number() {
        let plain = app("plain");
        assert_eq!(
            text(&Outset::of(&plain).unwrap()),
            r#"{"command":[[{"Text":"true"}]],"directory":"/","env":{"HOST":[{"Text":"127.0.0.1"}],"PORT":[{"Placeholder":"Port"}]}}"#
        );
        assert_eq!(fingerprint(&plain), 0x6ffe_3084_004f_13e1);
        assert_eq!(fingerprint(&app("blog")), 0x4825_ffe2_27d5_e4f9);
        assert_eq!(fingerprint(&app("up")), 0);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_says_nothing_changes_nothing_and_all_else_does() {
        let said = json!({ "b": { "x": 1 }, "a": [{ "y": "" }] });
        let more =
            json!({ "a": [{ "y": "", "z": null }], "b": { "w": false, "x": 1 }, "c": {}, "d": [] });
        assert_eq!(canonical(&said), r#"{"a":[{"y":""}],"b":{"x":1}}"#);
        assert_eq!(canonical(&said), canonical(&more));
        for other in [json!({ "b": { "x": 0 } }), json!({ "b": { "x": 1, "w": true } }), json!({})]
        {
            assert_ne!(canonical(&said), canonical(&other));
        }
    }

    #[test]
    fn whatever_a_program_is_started_with_makes_another_number() {
        let changes: [fn(&mut Value); 13] = [
            |process| process["command"] = json!([[{ "Text": "false" }]]),
            |process| process["directory"] = json!("/srv"),
            |process| process["env"] = json!({}),
            |process| process["version"] = json!("1"),
            |process| process["endpoint"] = json!({ "FixedPort": 80 }),
            |process| process["ready"]["probe"] = json!("Notify"),
            |process| process["ready"]["listen"] = json!("Never"),
            |process| process["no_new_privs"] = json!(true),
            |process| process["enclosure"]["private_tmp"] = json!(true),
            |process| process["resources"]["memory"] = json!(1),
            |process| process["user"] = json!({ "name": "nobody", "group": null }),
            |process| {
                process["upgrade"] = json!({ "command": [[{ "Text": "x" }]], "deadline": { "secs": 1, "nanos": 0 } });
            },
            |process| process["command"] = json!([[{ "Placeholder": "BasePath" }]]),
        ];
        let plain = app("plain");
        let mut numbers = vec![fingerprint(&plain)];
        for change in changes {
            let mut value = serde_json::to_value(&plain).unwrap();
            change(&mut value["backend"]["Process"]);
            let changed: AppSpec = serde_json::from_value(value).unwrap();
            assert_ne!(Outset::of(&plain), Outset::of(&changed));
            let number = fingerprint(&changed);
            assert!(!numbers.contains(&number), "{:?}", Outset::of(&changed));
            numbers.push(number);
        }
    }

    #[test]
    fn what_no_program_sees_makes_none() {
        let plain = app("plain");
        let mut value = serde_json::to_value(&plain).unwrap();
        value["routes"]["hosts"] = json!([]);
        let process = &mut value["backend"]["Process"];
        process["idle_stop_after"] = json!(null);
        process["stop"]["signal"] = json!(2);
        let changed: AppSpec = serde_json::from_value(value).unwrap();
        assert_eq!(fingerprint(&plain), fingerprint(&changed));
    }
}
