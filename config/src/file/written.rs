//! An app of a file, as it could stand in the registry: its keys as they were written, but for what means
//! something in that file only. `${NAME}` is filled in, and paths are whole.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    Environment,
    entry::KIND,
    environment::settled,
    format::FilePath,
    load_raw, open,
    shape::{FILE, Shape},
    source::Source,
    text::FromText,
};
use crate::{name::AppId, spec::Template};

/// The keys of an app that stands in the file at `path`, or in one that it includes; `None` if there is none
/// that can be read.
#[must_use]
pub fn written(
    path: &Path,
    id: &AppId,
    environment: &Environment<'_>,
) -> Option<Map<String, Value>> {
    let (main, seen) = open(path).ok()?;
    let (raw, _) = load_raw(main, seen, environment, None);
    raw.sources.iter().find_map(|source| in_source(source, id, environment))
}

fn in_source(
    source: &Source,
    id: &AppId,
    environment: &Environment<'_>,
) -> Option<Map<String, Value>> {
    let file: toml::Table = source.text.parse().ok()?;
    ["app", "tcp"].into_iter().find_map(|family| {
        let keys = file.get(family)?.as_table()?.get(id.as_str())?;
        let mut keys = serde_json::to_value(keys).ok()?;
        let settling = Settling { folder: source.folder(), environment };
        settling.value(&mut keys, shape(family)?);
        let Value::Object(mut keys) = keys else { return None };
        if keys.contains_key("command") && !keys.contains_key("directory") {
            keys.insert("directory".into(), source.folder().to_str()?.into());
        }
        if family != "app" {
            keys.insert(KIND.into(), family.into());
        }
        Some(keys)
    })
}

/// What the keys of an app are like.
fn shape(family: &str) -> Option<&'static Shape> {
    let Shape::Table(file) = &*FILE else { return None };
    match file.keys.get(family) {
        Some(Shape::Map(apps)) => Some(&apps.value),
        _ => None,
    }
}

/// What the words of a file are relative to.
struct Settling<'a> {
    folder: &'a Path,
    environment: &'a Environment<'a>,
}

impl Settling<'_> {
    fn value(&self, value: &mut Value, shape: &Shape) {
        match (value, shape) {
            (value, Shape::OneOf(shapes)) => {
                if let Some(shape) = shapes.iter().find(|shape| is_like(value, shape)) {
                    self.value(value, shape);
                }
            }
            (Value::String(text), shape) => self.text(text, shape),
            (Value::Array(list), Shape::List(shape)) => {
                list.iter_mut().for_each(|item| self.value(item, shape));
            }
            (Value::Object(keys), Shape::Table(table)) => {
                for (key, value) in keys {
                    if let Some(shape) = table.keys.get(key) {
                        self.value(value, shape);
                    }
                }
            }
            (Value::Object(keys), Shape::Map(map)) => {
                keys.values_mut().for_each(|value| self.value(value, &map.value));
            }
            _ => {}
        }
    }

    fn text(&self, text: &mut String, shape: &Shape) {
        let format = if let Shape::Text(format) = shape { *format } else { None };
        let is = |name| format.is_some_and(|format| format.name == name);
        if text.contains("${") {
            *text = settled(text, self.environment, is(<Template as FromText>::FORMAT));
        }
        if is(<FilePath as FromText>::FORMAT) {
            *text = self.folder.join(&*text).display().to_string();
        }
    }
}

fn is_like(value: &Value, shape: &Shape) -> bool {
    match shape {
        Shape::Table(_) | Shape::Map(_) => value.is_object(),
        Shape::List(_) => value.is_array(),
        Shape::Text(_) | Shape::Word(_) => value.is_string(),
        Shape::Integer(..) | Shape::Number(..) => value.is_number(),
        Shape::Bool => value.is_boolean(),
        Shape::OneOf(shapes) => shapes.iter().any(|shape| is_like(value, shape)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "X").then(|| "a{b}${c}".to_owned())
    }

    #[test]
    fn what_means_something_in_its_file_alone_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doorbell.toml");
        fs::create_dir(folder.path().join("apps")).unwrap();
        fs::write(
            &path,
            "include = [\"apps/*.toml\"]\n[tcp.db]\nlisten = \":5432\"\ncommand = [\"x\"]\n",
        )
        .unwrap();
        let app = "[app.blog]\nhosts = [\"a.test\"]\ncommand = [\"./x\", \"{port}\"]\ndirectory = \"blog\"\n\
            env = { A = \"${X}{port}\", B = \"$${X}\", C = \"${NONE:-y}\" }\nname = \"${X}\"\n";
        fs::write(folder.path().join("apps/blog.toml"), app).unwrap();
        let keys =
            |id: &str| written(&path, &AppId::parse(id).unwrap(), &environment).map(Value::Object);
        assert_eq!(
            keys("blog").unwrap(),
            json!({
                "hosts": ["a.test"], "command": ["./x", "{port}"],
                "directory": folder.path().join("apps/blog"), "name": "a{b}$${c}",
                "env": {"A": "a{{b}}$${c}{port}", "B": "$${X}", "C": "y"},
            })
        );
        assert_eq!(
            keys("db").unwrap(),
            json!({
                "kind": "tcp", "listen": ":5432", "command": ["x"], "directory": folder.path(),
            })
        );
        assert_eq!(keys("other"), None);
    }
}
