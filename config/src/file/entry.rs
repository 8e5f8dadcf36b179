//! An app that stands in no file: its keys as the registry has them.
//!
//! It is written out as the file of its own that it could be, and goes the way of all files from there
//! on: the same keys, the same checks, the same words. Only the environment of Doorbell is no business
//! of whoever adds an app: `${NAME}` is not filled in.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::source::Source;
use crate::name::AppId;

/// The key that tells what an app's clients speak; in a file it is the name of the table.
pub const KIND: &str = "kind";

/// An app of the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    id: AppId,
    text: String,
}

/// Why keys cannot be those of any app.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A kind that there is not.
    #[error("`{KIND}` is \"http\" or \"tcp\"")]
    Kind,
    /// Tables or lists in each other that nobody could read back.
    #[error("its keys are nested too deeply")]
    Depth,
    /// `null` in a list.
    #[error("`{0}` has a null in a list: leave it out")]
    Null(String),
}

impl Entry {
    /// An app with these keys; one that is `null` counts as not there.
    ///
    /// # Errors
    /// What no app could have. Everything else is told when it is loaded.
    pub fn new(id: AppId, keys: &Map<String, Value>) -> Result<Self, EntryError> {
        let text = as_file(&id, keys)?;
        Self::of_file(id, text).ok_or(EntryError::Depth)
    }

    /// An app as [`Entry::as_file`] told it; `None` if that is not it.
    #[must_use]
    pub fn of_file(id: AppId, text: String) -> Option<Self> {
        let entry = Self { id, text };
        entry.read().is_some().then_some(entry)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &AppId {
        &self.id
    }

    /// The app as the file of its own that it could be.
    #[must_use]
    pub fn as_file(&self) -> &str {
        &self.text
    }

    /// Its keys, but for those that were `null`.
    ///
    /// # Panics
    /// Never: every entry was written here, or has been read once.
    #[must_use]
    pub fn keys(&self) -> Map<String, Value> {
        self.read().expect("a file with one app")
    }

    fn read(&self) -> Option<Map<String, Value>> {
        let file: toml::Table = self.text.parse().ok()?;
        let (family, apps) = file.into_iter().next()?;
        let Ok(Value::Object(mut apps)) = serde_json::to_value(apps) else { return None };
        let Some(Value::Object(mut keys)) = apps.remove(self.id.as_str()) else { return None };
        if family == "tcp" {
            keys.insert(KIND.into(), family.into());
        }
        Some(keys)
    }

    /// What stands in the place of a file's path in what is told of it.
    #[must_use]
    pub fn place(id: &AppId) -> PathBuf {
        format!("registry:{id}").into()
    }

    /// Paths in it are relative to the folder of the main file.
    pub(super) fn source(&self, folder: &Path) -> Source {
        let (path, text) = (Self::place(&self.id), self.text.clone());
        Source { path, text, folder: folder.into() }
    }
}

/// The file that has just this app.
///
/// # Errors
/// What no app could have.
pub fn as_file(id: &AppId, keys: &Map<String, Value>) -> Result<String, EntryError> {
    let mut keys = keys.clone();
    let family = match keys.remove(KIND) {
        None | Some(Value::Null) => "app",
        Some(Value::String(kind)) if kind == "http" => "app",
        Some(Value::String(kind)) if kind == "tcp" => "tcp",
        Some(_) => return Err(EntryError::Kind),
    };
    let app = toml::Table::from_iter([(id.to_string(), table(&keys)?.into())]);
    let file = toml::Table::from_iter([(family.to_owned(), app.into())]);
    Ok(file.to_string())
}

fn table(keys: &Map<String, Value>) -> Result<toml::Table, EntryError> {
    let there = keys.iter().filter(|(_, value)| !value.is_null());
    there.map(|(key, value)| Ok((key.clone(), toml_of(key, value)?))).collect()
}

fn toml_of(key: &str, value: &Value) -> Result<toml::Value, EntryError> {
    Ok(match value {
        Value::Null => return Err(EntryError::Null(key.to_owned())),
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            // Beyond all that a key could be; as a number it is told so.
            (None, number) => number.unwrap_or(f64::MAX).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => {
            let list = list.iter().map(|value| toml_of(key, value));
            toml::Value::Array(list.collect::<Result<_, _>>()?)
        }
        Value::Object(keys) => table(keys)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(keys: Value) -> Result<String, EntryError> {
        let Value::Object(keys) = keys else { panic!("no table") };
        as_file(&AppId::parse("blog").unwrap(), &keys)
    }

    #[test]
    fn keys_are_written_as_in_a_file() {
        let keys = json!({
            "hosts": ["a.test"], "env": {"A": "x\"\n]", "B": null}, "port": 80, "start": null,
        });
        let read: toml::Table = file(keys).unwrap().parse().unwrap();
        let app = &read["app"]["blog"];
        assert_eq!(app["env"]["A"].as_str(), Some("x\"\n]"));
        assert_eq!((app["port"].as_integer(), app.get("start")), (Some(80), None));
    }

    #[test]
    fn keys_are_read_back() {
        let keys = json!({
            "kind": "tcp", "listen": ":1", "env": {"A": "x"}, "limits": {"cpu": 1.5}, "e": "", "l": [],
        });
        let id = AppId::parse("blog").unwrap();
        let entry = Entry::new(id, keys.as_object().unwrap()).unwrap();
        assert_eq!(Value::Object(entry.keys()), keys);
    }

    #[test]
    fn a_key_cannot_break_out() {
        for key in ["a]\n[server", "\"", "a.b", "", "ä\u{202e}", "x = 1\n[tcp.y]\nz"] {
            let read: toml::Table = file(json!({ (key): 1 })).unwrap().parse().unwrap();
            assert_eq!(read.keys().collect::<Vec<_>>(), ["app"], "{key:?}");
            assert_eq!(read["app"]["blog"][key].as_integer(), Some(1), "{key:?}");
        }
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        let keys = json!({"hosts": deep});
        let id = AppId::parse("blog").unwrap();
        assert_eq!(Entry::new(id, keys.as_object().unwrap()), Err(EntryError::Depth));
    }

    #[test]
    fn the_kind_is_the_table() {
        assert!(file(json!({"kind": "tcp", "listen": ":1"})).unwrap().starts_with("[tcp.blog]"));
        assert!(file(json!({"kind": "http"})).unwrap().starts_with("[app.blog]"));
        assert_eq!(file(json!({"kind": 1})), Err(EntryError::Kind));
        assert_eq!(file(json!({"hosts": [null]})), Err(EntryError::Null("hosts".into())));
    }
}
