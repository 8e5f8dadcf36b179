//! What this machine lets Doorbell do, and why not more: for `doorbell doctor`.
//!
//! A [`Supervisor`](crate::Supervisor) tells what holds for itself. [`look`] tells what would hold for one
//! that is started from here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing that Doorbell does, as well as this machine lets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ability {
    /// What it is about, such as `limits.memory`.
    pub what: String,
    /// How well it goes.
    pub level: Level,
    /// How it is done here.
    pub how: String,
    /// What would make it better, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How well something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As well as anywhere.
    Good,
    /// With less than there could be.
    Partly,
    /// Not at all.
    Missing,
}

/// Looks at the machine from this process.
#[must_use]
pub fn look() -> Vec<Ability> {
    crate::driver::look()
}
