//! The step that brings an app's data up to date with its program.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Template;

/// What is run to its end before the first start of a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpgradeSpec {
    /// Program and arguments, never given to a shell.
    pub command: Vec<Template>,
    /// How long it may take; then it is ended, and the start has failed.
    pub deadline: Duration,
}

impl UpgradeSpec {
    /// How long it may take unless the operator says otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(10 * 60);
}
