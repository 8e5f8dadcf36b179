//! The keys of an app as they are given on the command line: `hosts=a.test env.PORT={port}`.
//!
//! A value is TOML where it is that, else a text. Where the key wants a list, a text becomes one, taken
//! apart at its commas. What is wrong with keys and values is told by the running Doorbell.

use std::{path::Path, sync::LazyLock};

use anyhow::{Context, bail, ensure};
use clap::Args;
use doorbell_config::{file::KIND, schema};
use serde_json::{Map, Value};

use super::import::text_of;

/// Values that stand in files.
#[derive(Debug, Args)]
pub(super) struct FilesArg {
    /// A key with its value in a file, such as an address with a password, which shows in no list of processes then;
    /// `-` is standard input
    #[arg(long, value_name = "KEY=FILE")]
    set_file: Vec<String>,
}

impl FilesArg {
    /// Whether a value comes from standard input.
    pub(super) fn takes_input(&self) -> bool {
        self.set_file.iter().any(|pair| is_input(pair))
    }
}

/// Reads pairs into keys, and values from files.
///
/// # Errors
/// Says which pair is none, or contradicts another, or which file cannot be read.
pub(super) fn read(pairs: &[String], files: &FilesArg) -> anyhow::Result<Map<String, Value>> {
    let mut keys = Map::new();
    for pair in pairs {
        let (key, value) = split(pair, "hosts=blog.example.com")?;
        add(&mut keys, key, value)?;
    }
    let from_input = files.set_file.iter().filter(|pair| is_input(pair));
    ensure!(from_input.count() <= 1, "one value alone can come through standard input");
    for pair in &files.set_file {
        let (key, file) = split(pair, "database.new_database=address.txt")?;
        let text = text_of(Path::new(file))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        add(&mut keys, key, text.strip_suffix('\r').unwrap_or(text))?;
    }
    Ok(keys)
}

/// Whether a value is to come through standard input.
fn is_input(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(_, file)| file == "-")
}

fn split<'p>(pair: &'p str, such_as: &str) -> anyhow::Result<(&'p str, &'p str)> {
    pair.split_once('=')
        .with_context(|| format!("`{pair}` is no key with a value: write it such as `{such_as}`"))
}

fn add(keys: &mut Map<String, Value>, key: &str, value: &str) -> anyhow::Result<()> {
    let path: Vec<_> = key.split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        bail!("`{key}` is no key: write it such as `hosts`, or `idle.stop_after`");
    }
    put(keys, &path, self::value(&path, value))
        .with_context(|| format!("`{key}` contradicts another key that was given"))
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

    fn files(pairs: &[&str]) -> FilesArg {
        FilesArg { set_file: pairs.iter().map(|pair| (*pair).to_owned()).collect() }
    }

    fn read(pairs: &[&str]) -> Value {
        let pairs: Vec<_> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        super::read(&pairs, &files(&[])).map(Value::Object).unwrap()
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
    fn values_stand_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("address");
        std::fs::write(&path, "postgres://u:p=w@db/\r\n").unwrap();
        let file = format!("database.new_database={}", path.display());
        let read = super::read(&["name=Shop".into()], &files(&[&file])).unwrap();
        let expected =
            json!({"name": "Shop", "database": {"new_database": "postgres://u:p=w@db/"}});
        assert_eq!(Value::Object(read), expected);
        assert!(files(&[&file, "name=-"]).takes_input());
        assert!(!files(&[&file, "name=a=-"]).takes_input());
    }

    #[test]
    fn what_is_no_pair_is_told() {
        for wrong in ["hosts", "=x", "a..b=1"] {
            assert!(super::read(&[wrong.to_owned()], &files(&[])).is_err(), "{wrong}");
            assert!(super::read(&[], &files(&[wrong])).is_err(), "{wrong}");
        }
        assert!(super::read(&["env=1".into(), "env.A=1".into()], &files(&[])).is_err());
        assert!(super::read(&[], &files(&["name=-", "env.A=-"])).is_err());
        assert!(super::read(&[], &files(&["name=/no/file"])).is_err());
    }
}
