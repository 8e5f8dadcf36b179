//! The committed reference and schema are those that the types make. `UPDATE_DOCS=1 cargo test -p
//! doorbell-config --test docs` writes them anew.

use std::{fs, path::Path};

use doorbell_config::{
    file::load_text,
    schema::{json_schema, reference_markdown},
};

fn assert_committed(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, made).expect("the docs can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "docs/{name} is stale: run with UPDATE_DOCS=1");
}

#[test]
fn the_reference_is_made_from_the_types() {
    assert_committed("configuration.md", &reference_markdown());
}

#[test]
fn the_published_schema_is_made_from_the_types() {
    let schema = serde_json::to_string_pretty(&json_schema()).expect("a schema is JSON");
    assert_committed("doorbell.schema.json", &format!("{schema}\n"));
}

#[test]
fn the_example_of_the_reference_loads() {
    let reference = reference_markdown();
    let example = reference.split("```").nth(1).and_then(|text| text.strip_prefix("toml\n"));
    let example = example.expect("the reference has an example").to_owned();
    let without_include = example.replace("include = [\"apps/*.toml\"]", "");
    let path = Path::new("/etc/doorbell/doorbell.toml");
    let config =
        load_text(path, without_include, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(config.apps.len(), 4);
    assert_eq!(config.warnings, []);
}

#[test]
fn every_key_has_a_meaning() {
    fn without_meaning(path: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            if value["description"].as_str().unwrap_or_default().is_empty() {
                found.push(format!("{path}.{key}"));
            }
        }
        for (name, value) in schema["$defs"].as_object().into_iter().flatten() {
            without_meaning(name, value, found);
        }
    }
    let mut found = Vec::new();
    without_meaning("", &json_schema(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}
