//! The keys of an app that somebody else runs.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer},
    },
};

use super::OneOrMany;
use crate::{
    file::{
        format::{LineText, Positive, ProbeHost, ProbePath},
        text::{At, Text},
    },
    spec::{UpstreamServer, UpstreamSpec},
};

/// Servers that somebody else runs: one, a list, or a table.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum UpstreamChoice {
    /// One server.
    One(Text<UpstreamServer>),
    /// Several; requests go round robin.
    Many(Vec<At<Text<UpstreamServer>>>),
    /// The choice with details.
    Table(Box<UpstreamKeys>),
}

/// Servers that somebody else runs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamKeys {
    /// The servers: one or a list; requests go round robin.
    pub servers: At<OneOrMany<UpstreamServer>>,
    /// Failures in a row after which a server is left out for `fail_timeout`: connections that fail
    /// or break, and silence. An answer is none, whatever its status: that is what `health` is for.
    #[serde(default = "max_fails")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_fails: u32,
    /// How long a failed server is left out.
    #[serde(default = "fail_timeout")]
    pub fail_timeout: Text<Positive>,
    /// Ask each server regularly, and leave out those that do not answer as told.
    #[serde(default)]
    #[schemars(extend("x-default" = "none"))]
    pub health: Option<HealthKeys>,
}

/// Ask each server regularly.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthKeys {
    /// The path to ask for.
    pub path: Text<ProbePath>,
    /// The status that is right.
    #[serde(default)]
    #[schemars(range(min = 100, max = 599), extend("x-default" = "any of 200 to 399"))]
    pub status: Option<At<u16>>,
    /// What a right answer's body contains, within its first 64 KiB.
    #[serde(default)]
    #[schemars(extend("x-default" = "anything"))]
    pub body: Option<Text<LineText>>,
    /// The `Host` to ask for.
    #[serde(default)]
    #[schemars(extend("x-default" = "the app's first host without a wildcard, or `localhost`"))]
    pub host: Option<Text<ProbeHost>>,
    /// Between two questions to one server.
    #[serde(default = "interval")]
    pub interval: At<Text<Positive>>,
    /// For one answer. Not more than `interval`.
    #[serde(default = "timeout")]
    pub timeout: At<Text<Positive>>,
}

fn max_fails() -> u32 {
    UpstreamSpec::new(Vec::new()).max_fails
}

fn fail_timeout() -> Text<Positive> {
    Text(Positive(UpstreamSpec::new(Vec::new()).fail_timeout))
}

fn interval() -> At<Text<Positive>> {
    At::default(Text(Positive(std::time::Duration::from_secs(10))))
}

fn timeout() -> At<Text<Positive>> {
    At::default(Text(Positive(std::time::Duration::from_secs(5))))
}

impl<'de> Deserialize<'de> for UpstreamChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UpstreamVisitor)
    }
}

struct UpstreamVisitor;

impl<'de> Visitor<'de> for UpstreamVisitor {
    type Value = UpstreamChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a server, a list of servers or a table")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<UpstreamChoice, E> {
        Text::deserialize(StrDeserializer::new(text)).map(UpstreamChoice::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<UpstreamChoice, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(UpstreamChoice::Many)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<UpstreamChoice, A::Error> {
        UpstreamKeys::deserialize(MapAccessDeserializer::new(table))
            .map(|keys| UpstreamChoice::Table(keys.into()))
    }
}
