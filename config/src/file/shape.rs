//! What the tree of a file may look like, read from the JSON schema that the types make.
//!
//! So the check knows no key by itself: a new field of [`super::keys`] is checked as soon as it is
//! there.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::format::Format;
use crate::schema::json_schema;

/// The shape of the whole file.
pub(super) static FILE: LazyLock<Shape> = LazyLock::new(|| {
    let schema = json_schema();
    Shape::of(&schema, &schema)
});

/// What a value may be.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A string, of a format.
    Text(Option<&'static Format>),
    /// One of these words.
    Word(Vec<String>),
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range, perhaps with a fraction.
    Number(f64, f64),
    Bool,
    List(Box<Shape>),
    /// A table with these keys.
    Table(Table),
    /// A table with keys of the author's choice.
    Map(Map),
    /// One of these, told apart by their TOML types.
    OneOf(Vec<Shape>),
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) keys: BTreeMap<String, Shape>,
    pub(super) required: Vec<String>,
    /// Whether what is written in the place of a key or of it all may be secret too.
    pub(super) is_secret: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) value: Box<Shape>,
    pub(super) key: Option<&'static Format>,
    pub(super) is_secret: bool,
}

impl Shape {
    /// Reads a schema of the kind that [`json_schema`] makes, references looked up in `root`.
    fn of(schema: &Value, root: &Value) -> Self {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
            return Self::of(&with_marks_of(target, schema), root);
        }
        if let Some(words) = words(schema) {
            return Self::Word(words);
        }
        let choices = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
        if let Some(choices) = choices {
            return Self::OneOf(choices.iter().map(|choice| Self::of(choice, root)).collect());
        }
        match schema["type"].as_str() {
            Some("integer") => Self::Integer(
                schema["minimum"].as_i64().unwrap_or(i64::MIN),
                schema["maximum"].as_i64().unwrap_or(i64::MAX),
            ),
            Some("number") => Self::Number(
                schema["minimum"].as_f64().unwrap_or(f64::MIN),
                schema["maximum"].as_f64().unwrap_or(f64::MAX),
            ),
            Some("boolean") => Self::Bool,
            Some("array") => Self::List(Self::of(&schema["items"], root).into()),
            Some("object") => Self::of_object(schema, root),
            _ => Self::Text(schema["format"].as_str().and_then(Format::named)),
        }
    }

    fn of_object(schema: &Value, root: &Value) -> Self {
        if schema["additionalProperties"].is_object() {
            return Self::Map(Map {
                value: Self::of(&schema["additionalProperties"], root).into(),
                key: schema["propertyNames"]["format"].as_str().and_then(Format::named),
                is_secret: schema["x-secret"] == true,
            });
        }
        let keys = schema["properties"].as_object().into_iter().flatten();
        let required = schema["required"].as_array().into_iter().flatten();
        Self::Table(Table {
            keys: keys.map(|(key, value)| (key.clone(), Self::of(value, root))).collect(),
            required: required.filter_map(|key| key.as_str().map(str::to_owned)).collect(),
            is_secret: schema["x-secret"] == true,
        })
    }

    /// What it is, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Text(_) => "a string".into(),
            Self::Word(words) => listed(words),
            Self::Integer(..) => "a whole number".into(),
            Self::Number(..) => "a number".into(),
            Self::Bool => "true or false".into(),
            Self::List(_) => "a list".into(),
            Self::Table(_) | Self::Map(_) => "a table".into(),
            Self::OneOf(shapes) => either(&shapes.iter().map(Self::words).collect::<Vec<_>>()),
        }
    }
}

/// `"a", "b" or "c"`.
pub(super) fn listed(words: &[String]) -> String {
    either(&words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>())
}

/// `a, b or c`.
fn either(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// The words of an enum, written as `enum`, as `const`, or as a choice of such.
fn words(schema: &Value) -> Option<Vec<String>> {
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word.into()]);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
    }
    let choices = schema["oneOf"].as_array()?;
    choices.iter().map(words).collect::<Option<Vec<_>>>().map(|words| words.concat())
}

/// A referenced schema with what stands beside the reference.
fn with_marks_of(target: &Value, reference: &Value) -> Value {
    let mut merged = target.clone();
    if let (Some(merged), Some(marks)) = (merged.as_object_mut(), reference.as_object()) {
        for (key, value) in marks.iter().filter(|(key, _)| *key != "$ref") {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let format = map.get("format").and_then(Value::as_str);
                found.extend(
                    format
                        .filter(|_| map.get("type").is_none_or(|kind| kind == "string"))
                        .map(str::to_owned),
                );
                map.values().for_each(|value| formats(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| formats(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_format_of_the_schema_is_known() {
        let mut found = Vec::new();
        formats(&json_schema(), &mut found);
        assert!(found.len() > 20);
        for format in found {
            assert!(Format::named(&format).is_some(), "{format}");
        }
    }

    #[test]
    fn the_file_is_a_table_of_tables() {
        let Shape::Table(file) = &*FILE else { panic!("no table: {:?}", *FILE) };
        assert!(matches!(&file.keys["server"], Shape::Table(_)));
        let Shape::Map(apps) = &file.keys["app"] else { panic!("{:?}", file.keys["app"]) };
        let Shape::Table(app) = &*apps.value else { panic!("{:?}", apps.value) };
        assert!(apps.key.is_some());
        assert!(matches!(&app.keys["start"], Shape::Word(words) if words.len() == 4));
        assert!(matches!(&app.keys["port"], Shape::Integer(1, 65535)), "{:?}", app.keys["port"]);
        assert!(matches!(&app.keys["env"], Shape::Map(map) if map.is_secret));
        assert!(matches!(&app.keys["upstream"], Shape::OneOf(choices) if choices.len() == 3));
    }
}
