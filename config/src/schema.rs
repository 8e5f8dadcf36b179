//! The file's JSON schema and its reference, both made from the types of [`crate::file::keys`].

mod reference;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use crate::file::{
    KIND,
    keys::{AppKeys, FileConfig, TcpKeys},
};

pub use reference::reference_markdown;

/// The JSON Schema (draft 2020-12) of the configuration file, for editors.
#[must_use]
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<FileConfig>().to_value();
    tidy(&mut schema);
    schema
}

/// The schema of an app of the registry: the keys of `[app.<id>]`, or with `kind` those of `[tcp.<id>]`; and beside them
/// these, which must be there. What it refers to is known to the generator.
#[must_use]
pub fn app(generator: &mut SchemaGenerator, beside: &[(&str, Value)]) -> Schema {
    let kinds = [kind::<AppKeys>(generator, "http"), kind::<TcpKeys>(generator, "tcp")];
    let kinds = kinds.map(|mut keys| {
        for (name, schema) in beside {
            keys["properties"][*name] = schema.clone();
            require(&mut keys, name);
        }
        keys
    });
    json_schema!({ "anyOf": kinds })
}

/// The schema of a change of an app of the registry (RFC 7396): any keys of either kind; null removes one.
#[must_use]
pub fn app_patch(generator: &mut SchemaGenerator) -> Schema {
    let mut properties: Map<String, Value> = Map::new();
    for keys in [kind::<AppKeys>(generator, "http"), kind::<TcpKeys>(generator, "tcp")] {
        for (name, schema) in keys["properties"].as_object().into_iter().flatten() {
            let any =
                properties.entry(name).or_insert_with(|| json!({ "anyOf": [{ "type": "null" }] }));
            let Some(choices) = any["anyOf"].as_array_mut() else { continue };
            choices.push(schema.clone());
            if may_be_table(schema, generator) {
                // Of a table only what is to change is said.
                choices.push(json!({ "type": "object" }));
            }
        }
    }
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// Whether tables are valid by a schema.
fn may_be_table(schema: &Value, generator: &SchemaGenerator) -> bool {
    let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    if let Some(referred) = name.and_then(|name| generator.definitions().get(name)) {
        return may_be_table(referred, generator);
    }
    let is_table = |name: &Value| name == "object";
    let types = &schema["type"];
    is_table(types)
        || types.as_array().is_some_and(|types| types.iter().any(is_table))
        || ["anyOf", "oneOf"].iter().any(|of| {
            let choices = schema[*of].as_array().into_iter().flatten();
            choices.into_iter().any(|choice| may_be_table(choice, generator))
        })
}

/// The keys of one kind of app, told apart by `kind`.
fn kind<T: JsonSchema>(generator: &mut SchemaGenerator, kind: &str) -> Value {
    let mut keys = T::json_schema(generator).to_value();
    keys["properties"][KIND] = json!({ "const": kind });
    if kind != "http" {
        require(&mut keys, KIND);
    }
    keys
}

fn require(keys: &mut Value, name: &str) {
    if !keys["required"].is_array() {
        keys["required"] = json!([]);
    }
    if let Some(required) = keys["required"].as_array_mut() {
        required.push(name.into());
    }
}

/// TOML knows no null: a key that may be absent is not one that may be null. Defaults of whole
/// tables say again what their keys say.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(description)) = map.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            map.retain(|key, value| key != "default" || !(value.is_null() || value.is_object()));
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [only] = choices.as_mut_slice() {
                    let only = only.take();
                    map.shift_remove("anyOf");
                    map.extend(only.as_object().cloned().unwrap_or_default());
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
