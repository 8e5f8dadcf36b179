//! What a caller has seen, and what it wants of that: ETags, conditions and patches.

use axum::http::{HeaderMap, StatusCode, header};
use doorbell_config::registry::{Expect, Revision};
use serde_json::{Map, Value};

use super::Problem;

/// RFC 9110, section 8.8.3.
pub(super) fn tag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

/// What a caller expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) expect: Expect,
    /// Whether the caller said so, or it goes without saying.
    pub(super) is_said: bool,
}

impl Condition {
    /// What is so wherever nothing is said.
    pub(super) fn unsaid(expect: Expect) -> Self {
        Self { expect, is_said: false }
    }

    /// RFC 9110, sections 13.1.1 and 13.1.2.
    pub(super) fn read(headers: &HeaderMap, otherwise: Expect) -> Result<Self, Problem> {
        let is_said =
            headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH);
        Ok(Self { expect: expected(headers, otherwise)?, is_said })
    }
}

fn expected(headers: &HeaderMap, otherwise: Expect) -> Result<Expect, Problem> {
    let field = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (field(header::IF_MATCH), field(header::IF_NONE_MATCH)) {
        (None, None) => Ok(otherwise),
        (None, Some("*")) => Ok(Expect::Absent),
        (Some("*"), None) => Ok(Expect::Present),
        (Some(tag), None) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            // A tag that we never gave fits nothing.
            let number = number.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
            Ok(Expect::Revision(Revision::new(number)))
        }
        (None, Some(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            &"`If-None-Match` can be `*` here, for an app that is not there yet",
        )),
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            &"`If-Match` and `If-None-Match` exclude each other",
        )),
    }
}

/// RFC 7396, section 2.
pub(crate) fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => _ = target.remove(key),
            Value::Object(patch) => {
                let inner = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            other => _ = target.insert(key.clone(), other.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_expected_is_read_from_the_head() {
        let read =
            |fields: &[_]| expected(&headers(fields), Expect::Anything).map_err(|p| p.status);
        assert_eq!(read(&[]), Ok(Expect::Anything));
        assert_eq!(read(&[("if-none-match", "*")]), Ok(Expect::Absent));
        assert_eq!(read(&[("if-match", "*")]), Ok(Expect::Present));
        assert_eq!(read(&[("if-match", "\"7\"")]), Ok(Expect::Revision(Revision::new(7))));
        for never in ["7", "W/\"7\"", "\"x\"", "\""] {
            let revision = Revision::new(u64::MAX);
            assert_eq!(read(&[("if-match", never)]), Ok(Expect::Revision(revision)), "{never}");
        }
        assert_eq!(read(&[("if-none-match", "\"7\"")]), Err(400));
        assert_eq!(read(&[("if-match", "*"), ("if-none-match", "*")]), Err(400));
    }

    #[test]
    fn a_patch_is_merged() {
        // The examples of RFC 7396, appendix A, that are objects.
        for (target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": "foo"}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ] {
            let mut result = target.as_object().unwrap().clone();
            merge(&mut result, patch.as_object().unwrap());
            assert_eq!(Value::Object(result), merged);
        }
    }
}
