//! What other versions of this program say and write down, and this one has to understand: a file for each kind
//! in `tests/fixtures`, with all that there may be in it.
//!
//! "Two versions" in docs/architecture.md says what to do when a test fails that uses this.

use std::{collections::BTreeMap, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// All of a file.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(path.with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All of a file, each of which is understood and said again as it stands there. What is said beyond that is new,
/// and stands in another one of the same kind.
#[track_caller]
pub(crate) fn are_understood<T: Serialize + DeserializeOwned>(name: &str) -> Vec<T> {
    let mut is_said_as_it_stands = BTreeMap::new();
    let mut all = Vec::new();
    for form in read::<Value>(name) {
        let understood: T = serde_json::from_value(form.clone()).unwrap_or_else(|error| {
            panic!("{name}: an older version's is not understood: {error}: {form}")
        });
        let said = serde_json::to_value(&understood).unwrap();
        assert!(
            has(&said, &form),
            "{name}: an older version does not understand\n{said}\nfor\n{form}"
        );
        *is_said_as_it_stands.entry(kind(&form)).or_default() |= said == form;
        all.push(understood);
    }
    let new: Vec<_> = is_said_as_it_stands.iter().filter(|(_, is): &(_, &bool)| !**is).collect();
    assert!(new.is_empty(), "{name}: there are new fields: add one that has them of {new:?}");
    all
}

/// What it is, where it is one of several things.
fn kind(form: &Value) -> String {
    match form {
        Value::Object(members) if members.len() == 1 => members.keys().cloned().collect(),
        Value::String(name) => name.clone(),
        _ => String::new(),
    }
}

/// Whether all of this stands there, perhaps among more.
fn has(there: &Value, this: &Value) -> bool {
    match (there, this) {
        (Value::Object(there), Value::Object(this)) => {
            this.iter().all(|(name, this)| there.get(name).is_some_and(|there| has(there, this)))
        }
        (Value::Array(there), Value::Array(this)) => {
            there.len() == this.len()
                && there.iter().zip(this).all(|(there, this)| has(there, this))
        }
        _ => there == this,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_is_new_and_less_or_other_is_not_understood() {
        let form = json!({ "a": [{ "b": 1 }] });
        assert!(has(&json!({ "a": [{ "b": 1, "c": 2 }], "d": 3 }), &form));
        for other in
            [json!({ "a": [{ "b": 2 }] }), json!({ "a": [] }), json!({ "a": [{ "c": 1 }] })]
        {
            assert!(!has(&other, &form));
        }
    }
}
