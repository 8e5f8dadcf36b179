//! What an app's processes see of the file system, and may change there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where an instance is shut in. The longest path that leads to a file decides whether it can be changed;
/// without any, whoever the app is may what it may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnclosureSpec {
    /// Whether `/tmp` and `/var/tmp` are its own, and gone with it.
    pub private_tmp: bool,
    /// Files and folders, with all below them, that cannot be changed.
    pub read_only: Vec<PathBuf>,
    /// Those below them that can.
    pub read_write: Vec<PathBuf>,
}

impl EnclosureSpec {
    /// Whether nothing is kept from the app.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.private_tmp && self.read_only.is_empty()
    }
}
