//! Names and quantities, parsed once at the edge: a bare `String` never names an app, a host or a
//! path.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

mod host;
mod prefix;
mod quantity;

pub use host::{HostPattern, Hostname};
pub(crate) use prefix::MAX_SEGMENTS;
pub use prefix::PathPrefix;
pub use quantity::{ByteSize, DurationText};

/// An app's id: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId(Arc<str>);

/// What is wrong with a name, in words for the one who wrote it; after `: ` what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

impl NameError {
    /// What is wrong, and what to write instead.
    pub(crate) fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once(": ") {
            Some((wrong, instead)) => (wrong, Some(instead)),
            None => (&self.0, None),
        }
    }
}

impl AppId {
    /// Parses an id.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if first && rest && text.len() <= 63 {
            Ok(Self(text.into()))
        } else {
            Err(NameError(format!(
                "`{text}` is no app id: use 1 to 63 of a-z, 0-9, - and _, beginning with a letter \
                 or digit"
            )))
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AppId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.0.as_ref().into()
    }
}
