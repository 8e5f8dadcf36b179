//! Names and quantities, parsed once at the edge: a bare `String` never names an app, a host or a
//! path.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    sync::Arc,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

mod host;
mod prefix;
mod quantity;

pub use host::{HostPattern, Hostname};
pub(crate) use prefix::MAX_SEGMENTS;
pub use prefix::PathPrefix;
pub use quantity::{ByteSize, DurationText};

/// An app's id: `[a-z0-9][a-z0-9_-]{0,62}`; or that of one of its further replicas, which has `:2` to `:64`
/// behind it: no file can spell it.
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

    /// Most replicas of one app.
    pub const MOST_REPLICAS: u8 = 64;

    /// Parses the id of an app, or of a replica.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse_replica(text: &str) -> Result<Self, NameError> {
        let Some((app, number)) = text.split_once(':') else { return Self::parse(text) };
        let app = Self::parse(app)?;
        let known = (2..=Self::MOST_REPLICAS).find(|known| known.to_string() == number);
        known.map(|number| app.replica(number)).ok_or_else(|| {
            let most = Self::MOST_REPLICAS;
            NameError(format!("`{text}` is no replica: write `{app}:2` to `{app}:{most}`"))
        })
    }

    /// The id of one of the app's replicas. The first one is the app itself.
    #[must_use]
    pub fn replica(&self, number: u8) -> Self {
        match number {
            0 | 1 => self.first(),
            number => Self(format!("{}:{number}", self.app_str()).into()),
        }
    }

    /// Which replica it is; 1 for the app itself.
    #[must_use]
    pub fn replica_number(&self) -> u8 {
        self.0.split_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(1)
    }

    /// Whether it is a replica beyond the first.
    #[must_use]
    pub fn is_further_replica(&self) -> bool {
        self.0.contains(':')
    }

    /// The app's first replica, which is the app itself.
    #[must_use]
    pub fn first(&self) -> Self {
        if self.is_further_replica() { Self(self.app_str().into()) } else { self.clone() }
    }

    /// The app's own id as text, whichever replica it is.
    #[must_use]
    pub fn app_str(&self) -> &str {
        self.0.split_once(':').map_or(&*self.0, |(app, _)| app)
    }

    /// What its files and folders are called. Programs see such paths, and some take a colon in one for
    /// an address; no id has a dot.
    #[must_use]
    pub fn file_name(&self) -> Cow<'_, str> {
        if self.is_further_replica() { self.0.replace(':', ".").into() } else { (&*self.0).into() }
    }
}

impl JsonSchema for AppId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AppId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}(:[0-9]{1,2})?$"})
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
        Self::parse_replica(&text)
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.0.as_ref().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_have_ids_that_no_file_can_spell() {
        let app = AppId::parse("blog").unwrap();
        let second = app.replica(2);
        assert_eq!((second.as_str(), second.app_str()), ("blog:2", "blog"));
        assert_eq!((second.replica_number(), app.replica_number()), (2, 1));
        assert_eq!(
            (second.first(), second.replica(1), second.replica(3)),
            (app.clone(), app.clone(), app.replica(3))
        );
        assert_eq!((&*second.file_name(), &*app.file_name()), ("blog.2", "blog"));
        assert!(AppId::parse("blog:2").is_err() && AppId::parse("blog.2").is_err());
    }

    #[test]
    fn only_ids_of_replicas_are_read_back() {
        for id in ["blog", "blog:2", "blog:64"] {
            let read: AppId = serde_json::from_str(&format!("\"{id}\"")).unwrap();
            assert_eq!(read.as_str(), id);
        }
        for id in
            ["blog:", "blog:1", "blog:0", "blog:02", "blog:+2", "blog:65", "blog:2:2", ":2", "B:2"]
        {
            assert!(AppId::parse_replica(id).is_err(), "{id}");
        }
    }
}
