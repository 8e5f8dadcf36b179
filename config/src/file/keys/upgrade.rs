//! `[app.<id>.upgrade]`: a command, or a table with details.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer,
    },
};

use crate::{
    file::{
        format::Positive,
        text::{At, Text},
    },
    spec::{Template, UpgradeSpec},
};

/// What is run before the first start of a version: a command, or a table.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum UpgradeChoice {
    /// Program and arguments.
    Command(Vec<At<Text<Template>>>),
    /// The same with details.
    Table(UpgradeKeys),
}

/// What is run, to its end, before the first start of a version.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeKeys {
    /// The program and its arguments, run without a shell, as the app is: in its folder, as its user, with its
    /// environment and limits.
    pub command: Vec<At<Text<Template>>>,
    /// How long it may take; then it is ended, and the start has failed.
    #[serde(default = "deadline")]
    pub deadline: Text<Positive>,
}

fn deadline() -> Text<Positive> {
    Text(Positive(UpgradeSpec::DEADLINE))
}

impl UpgradeChoice {
    /// How long it may take.
    pub(crate) fn deadline(&self) -> Duration {
        match self {
            Self::Command(_) => UpgradeSpec::DEADLINE,
            Self::Table(keys) => keys.deadline.0.0,
        }
    }

    /// Program and arguments.
    pub(crate) fn command(&self) -> &[At<Text<Template>>] {
        match self {
            Self::Command(command) | Self::Table(UpgradeKeys { command, .. }) => command,
        }
    }
}

impl<'de> Deserialize<'de> for UpgradeChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = UpgradeChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command, as a list, or a table")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<UpgradeChoice, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(UpgradeChoice::Command)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<UpgradeChoice, A::Error> {
        UpgradeKeys::deserialize(MapAccessDeserializer::new(table)).map(UpgradeChoice::Table)
    }
}
