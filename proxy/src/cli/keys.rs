//! The keys of an app as they are given on the command line: `hosts=a.test env.PORT={port}`.
//!
//! A value is TOML where it is that, else a text. Where the key wants a list, a text becomes one, taken
//! apart at its commas. What is wrong with keys and values is told by the running Doorbell.

use std::sync::LazyLock;

use anyhow::{Context, bail};
use doorbell_config::{file::KIND, schema};
use serde_json::{Map, Value};

/// Reads pairs into keys.
///
/// # Errors
/// Says which pair is none, or contradicts another.
pub(super) fn read(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut keys = Map::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').with_context(|| {
            format!("`{pair}` is no key with a value: write it such as `hosts=blog.example.com`")
        })?;
        let path: Vec<_> = key.split('.').collect();
        if path.iter().any(|part| part.is_empty()) {
            bail!("`{key}` is no key: write it such as `hosts`, or `idle.stop_after`");
        }
        put(&mut keys, &path, self::value(&path, value))
            .with_context(|| format!("`{key}` contradicts another key that was given"))?;
    }
    Ok(keys)
}

/// A value at its place; tables on the way are made.
pub(super) fn put(keys: &mut Map<String, Value>, path: &[&str], value: Value) -> Option<()> {
    let (first, rest) = path.split_first()?;
    if rest.is_empty() {
        keys.insert((*first).to_owned(), value);
        return Some(());
    }
    let inner = keys.entry(*first).or_insert_with(|| Value::Object(Map::new()));
    put(inner.as_object_mut()?, rest, value)
}

fn value(path: &[&str], text: &str) -> Value {
    let wants = shape(path);
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    let parsed = parsed.and_then(|mut table| serde_json::to_value(table.remove("value")?).ok());
    match parsed {
        // `name=5` is a name, and `env.A=nan` a text.
        Some(value) if wants == Wants::Text && !value.is_string() => text.into(),
        Some(value) if wants != Wants::List || value.is_array() || value.is_object() => value,
        Some(Value::String(text)) => listed(&text),
        _ if wants == Wants::List => listed(text),
        _ => text.into(),
    }
}

fn listed(text: &str) -> Value {
    text.split(',').map(|item| Value::from(item.trim())).collect()
}

/// What a key wants, as far as that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    List,
    Text,
    Other,
}

fn shape(path: &[&str]) -> Wants {
    static SCHEMA: LazyLock<Value> = LazyLock::new(schema::json_schema);
    if path == [KIND] {
        return Wants::Text;
    }
    let families = ["app", "tcp"].iter().map(|name| {
        let apps = resolved(&SCHEMA["properties"][*name], &SCHEMA);
        resolved(&apps["additionalProperties"], &SCHEMA)
    });
    let found = families.filter_map(|keys| find(keys, path, &SCHEMA)).next();
    match found.map(|schema| schema["type"].as_str()) {
        Some(Some("array")) => Wants::List,
        Some(Some("string")) => Wants::Text,
        _ => Wants::Other,
    }
}

fn find<'s>(table: &'s Value, path: &[&str], root: &'s Value) -> Option<&'s Value> {
    let (first, rest) = path.split_first()?;
    let named = table["properties"].get(first);
    let found =
        named.or_else(|| Some(&table["additionalProperties"]).filter(|any| any.is_object()))?;
    let found = resolved(found, root);
    if rest.is_empty() { Some(found) } else { find(found, rest, root) }
}

fn resolved<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let reference = schema["$ref"].as_str().or_else(|| {
        // A key that may be left out.
        let choices = schema["anyOf"].as_array()?;
        choices.iter().find_map(|choice| choice["$ref"].as_str())
    });
    match reference {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pairs: &[&str]) -> Value {
        let pairs: Vec<_> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        super::read(&pairs).map(Value::Object).unwrap()
    }

    #[test]
    fn values_are_what_their_keys_want() {
        assert_eq!(
            read(&[
                "hosts=a.test,b.test",
                "command=[\"node\", \"server.js\"]",
                "name=5",
                "env.N=nan",
                "port=3000",
                "env.A=x=y",
                "env.PORT={port}",
                "limits.cpu=1.5",
                "idle={ stop_after = \"1m\" }",
                "maintenance=true",
                "secrets=true",
                "kind=tcp",
            ]),
            json!({
                "hosts": ["a.test", "b.test"], "command": ["node", "server.js"], "name": "5",
                "port": 3000, "env": {"N": "nan", "A": "x=y", "PORT": "{port}"}, "limits": {"cpu": 1.5},
                "idle": {"stop_after": "1m"}, "maintenance": true, "kind": "tcp", "secrets": ["true"],
            })
        );
    }

    #[test]
    fn what_is_no_pair_is_told() {
        for wrong in ["hosts", "=x", "a..b=1"] {
            assert!(super::read(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(super::read(&["env=1".into(), "env.A=1".into()]).is_err());
    }
}
