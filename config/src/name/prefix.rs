//! Path prefixes, compared on segment boundaries.

use std::fmt;

use serde::{Deserialize, Serialize};

use smol_str::SmolStr;

use super::NameError;
use crate::path;

/// Most segments of a prefix; bounds what a lookup tries.
pub(crate) const MAX_SEGMENTS: usize = 32;

/// A path prefix in normal form: begins with `/`, ends without one unless it is `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(SmolStr);

impl PathPrefix {
    /// Parses a prefix as an operator writes it. It is brought into the normal form that requests
    /// are brought into, [`path::normalize`].
    ///
    /// # Errors
    /// Says which rule the text breaks, without repeating the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if !text.starts_with('/') {
            return Err(NameError("a path begins with `/`".into()));
        }
        if text.contains(['?', '#']) {
            return Err(NameError("a path prefix has no query and no fragment".into()));
        }
        if text.contains('*') {
            return Err(NameError(
                "a path is a prefix already: write `/api` for `/api` and all below it".into(),
            ));
        }
        let normal = path::normalize(text).map_err(|bad| NameError(bad.to_string()))?;
        let trimmed = normal.trim_end_matches('/');
        let prefix = Self(if trimmed.is_empty() { "/" } else { trimmed }.into());
        if prefix.segments() > MAX_SEGMENTS {
            return Err(NameError(format!("a path prefix has at most {MAX_SEGMENTS} segments")));
        }
        Ok(prefix)
    }

    /// `/`: every path.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Whether `path`, in normal form, is this or below it.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        self.is_root()
            || path
                .strip_prefix(self.0.as_str())
                .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'/')))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Slashes in it; none for `/`.
    pub(crate) fn segments(&self) -> usize {
        if self.is_root() { 0 } else { self.0.bytes().filter(|&b| b == b'/').count() }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> Self {
        prefix.0.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_brought_into_normal_form() {
        for (text, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/blog", "/blog"),
            ("/blog/", "/blog"),
            ("/a/./b/../c/", "/a/c"),
            ("/%7euser", "/~user"),
            ("/café", "/caf%C3%A9"),
        ] {
            assert_eq!(PathPrefix::parse(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn prefixes_that_could_not_match_as_meant_are_refused() {
        let deep = "/a".repeat(MAX_SEGMENTS + 1);
        for text in ["", "blog", "/a?b", "/a#b", "/api/*", "/..", "/a%zz", "/a b", "/a\\b", &deep] {
            assert!(PathPrefix::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        let prefix = PathPrefix::parse("/blog").unwrap();
        assert!(prefix.covers("/blog") && prefix.covers("/blog/") && prefix.covers("/blog/x"));
        assert!(!prefix.covers("/blogger") && !prefix.covers("/") && !prefix.covers("/Blog"));
        assert!(PathPrefix::root().covers("/anything"));
    }
}
