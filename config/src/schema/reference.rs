//! `docs/configuration.md`: an introduction by hand, and a table for each section of the schema.

use std::fmt::Write;

use serde_json::Value;

use super::json_schema;
use crate::file::FORMATS;

/// The example of the reference; a test loads it.
const EXAMPLE: &str = include_str!("example.toml");

/// The reference of the configuration file, as Markdown.
#[must_use]
pub fn reference_markdown() -> String {
    let root = json_schema();
    let mut page = Page { root: &root, text: String::new() };
    page.text += include_str!("intro.md");
    page.text += &format!("```toml\n{EXAMPLE}```\n");
    page.text += include_str!("rules.md");
    page.section("", &root);
    page.formats();
    page.text
}

struct Page<'a> {
    root: &'a Value,
    text: String,
}

impl<'a> Page<'a> {
    /// A section for a table, then one for each table in it.
    fn section(&mut self, path: &str, table: &'a Value) {
        let keys = || table["properties"].as_object().into_iter().flatten();
        let title = if path.is_empty() { "Top of the file".into() } else { format!("`[{path}]`") };
        self.add(format_args!("\n## {title}\n\n{}\n", sentence(table)));
        self.add(format_args!("\n| key | type | default | meaning |\n|---|---|---|---|\n"));
        for (key, schema) in keys() {
            let required = table["required"].as_array().into_iter().flatten();
            let is_required = required.into_iter().any(|name| name == key);
            self.row(path, key, schema, is_required);
        }
        for (key, schema) in keys() {
            self.words(key, schema);
        }
        for (key, schema) in keys() {
            if let Some(inner) = self.table_of(schema) {
                let name = match key.as_str() {
                    "app" if path.is_empty() => "app.<id>",
                    "tcp" if path.is_empty() => "tcp.<id>",
                    key => key,
                };
                self.section(&join(path, name), inner);
            }
        }
    }

    fn row(&mut self, path: &str, key: &str, schema: &Value, is_required: bool) {
        let default = match (&schema["x-default"], &schema["default"]) {
            _ if is_required => "required".into(),
            (Value::String(words), _) => words.clone(),
            (_, Value::Null) => String::new(),
            (_, value) => format!("`{value}`"),
        };
        let kind = self.kind(&join(path, key), schema);
        let meaning = sentence(schema);
        self.add(format_args!("| `{key}` | {} | {default} | {meaning} |\n", cell(&kind)));
    }

    /// What may be written, in words.
    fn kind(&self, path: &str, schema: &Value) -> String {
        let schema = self.resolved(schema);
        if let Some(words) = words_of(schema) {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
            return words.join(", ");
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let kinds: Vec<_> = choices.iter().map(|choice| self.kind(path, choice)).collect();
            return kinds.join(", or ");
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("integer"), _) => {
                let range = (schema["minimum"].as_u64(), schema["maximum"].as_u64());
                match range {
                    (Some(min), Some(max)) => format!("number, {min} to {max}"),
                    (Some(min), None) => format!("number, {min} or more"),
                    _ => "number".into(),
                }
            }
            (Some("number"), _) => match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
                (Some(min), Some(max)) => format!("number, {min} to {max}, `1.5` too"),
                _ => "number, `1.5` too".into(),
            },
            (Some("boolean"), _) => "`true`, `false`".into(),
            (Some("array"), _) => format!("list of {}", self.kind(path, &schema["items"])),
            (Some("object"), _) if schema["properties"].is_object() => {
                format!("table `[{path}]`")
            }
            (Some("object"), _) if matches!(path, "app" | "tcp") => {
                format!("tables `[{path}.<id>]`")
            }
            (Some("object"), _) => {
                format!("table of {}", self.kind(path, &schema["additionalProperties"]))
            }
            (_, Some(format)) => format!("[{format}](#{format})"),
            _ => "string".into(),
        }
    }

    /// The meaning of each word, where it has one.
    fn words(&mut self, key: &str, schema: &'a Value) {
        let resolved = self.resolved(schema);
        let choices = resolved["anyOf"].as_array().into_iter().flatten();
        let all: Vec<_> =
            [resolved].into_iter().chain(choices).map(|one| self.resolved(one)).collect();
        for (word, meaning) in all.into_iter().filter_map(words_of).flatten() {
            if !meaning.is_empty() {
                self.add(format_args!("\n- `{key} = \"{word}\"`: {meaning}"));
            }
        }
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// The table that the key may be, if any.
    fn table_of(&self, schema: &'a Value) -> Option<&'a Value> {
        let schema = self.resolved(schema);
        if schema["properties"].is_object() {
            return Some(schema);
        }
        if schema["additionalProperties"].is_object() {
            return self.table_of(&schema["additionalProperties"]);
        }
        schema["anyOf"].as_array()?.iter().find_map(|choice| self.table_of(choice))
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => {
                self.root.pointer(reference.trim_start_matches('#')).unwrap_or(schema)
            }
            None => schema,
        }
    }

    fn formats(&mut self) {
        self.add(format_args!("\n## Formats of strings\n"));
        let mut formats = FORMATS.to_vec();
        formats.sort_by_key(|format| format.name);
        for format in formats {
            let (first, rest) = format.meaning.split_at(1);
            let meaning = first.to_uppercase() + rest;
            self.add(format_args!("\n### {}\n\n{meaning}.\n", format.name));
        }
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// Each word of an enum with its meaning.
fn words_of(schema: &Value) -> Option<Vec<(&str, &str)>> {
    let choices = schema["oneOf"].as_array()?;
    choices
        .iter()
        .map(|choice| {
            Some((choice["const"].as_str()?, choice["description"].as_str().unwrap_or_default()))
        })
        .collect()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The description in one line, fit for a cell.
fn sentence(schema: &Value) -> String {
    cell(schema["description"].as_str().unwrap_or_default())
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
