//! What a program is given that nobody else may see: asked for at each start, and kept in no definition.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a program is to be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GivenSpec {
    /// Whether `{secret}` is a text that was generated for the app, once.
    pub secret: bool,
    /// Environment variables whose values operators have stored, sealed.
    pub secrets: Vec<String>,
    /// Whether it has a database: how to get there is in `{database_url}` and the like.
    #[serde(default)]
    pub database: bool,
}

/// What a program is given at a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// For `{secret}`.
    pub secret: Option<Secret>,
    /// Environment variables.
    pub env: Vec<(String, Secret)>,
    /// For `{database_url}` and the like, by what stands between the braces.
    #[serde(default)]
    pub database: Vec<(String, Secret)>,
    /// Whether its upgrade is to be run first: then whoever asked asks again when that has ended.
    #[serde(default)]
    pub upgrade: UpgradeTurn,
}

/// Whose turn it is to bring an app's data up to date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeTurn {
    /// There is nothing to do.
    #[default]
    Nothing,
    /// That of whoever asks.
    Yours,
    /// Another Doorbell's.
    Others,
    /// Nobody's: it has failed, and an operator decides what is next. Why, for operators.
    Failed(String),
}

/// A text that is not printed. It is serialised, for the way between Doorbell's own processes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being printed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Words of somebody else, without this.
    #[must_use]
    pub fn hidden_in(&self, words: &str) -> String {
        if self.0.is_empty() { words.to_owned() } else { words.replace(&self.0, "********") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
