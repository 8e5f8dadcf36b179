//! The file's JSON schema and its reference, both made from the types of [`crate::file::keys`].

mod reference;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::file::keys::FileConfig;

pub use reference::reference_markdown;

/// The JSON Schema (draft 2020-12) of the configuration file, for editors.
#[must_use]
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<FileConfig>().to_value();
    tidy(&mut schema);
    schema
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
