//! What an app's processes may take of the machine, and who they are.

use serde::{Deserialize, Serialize};

use crate::name::ByteSize;

/// Caps over all processes of one instance; `None` is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceSpec {
    /// Memory; an instance that needs more is ended.
    pub memory: Option<ByteSize>,
    /// Processor time.
    pub cpu: Option<MilliCores>,
    /// Processes and threads at once.
    pub processes: Option<u32>,
    /// Files that each process may have open at once.
    pub files: Option<u64>,
}

/// Thousandths of one core's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MilliCores(pub u32);

/// Whom an app's processes run as.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserSpec {
    /// A name of the user database, or a number.
    pub name: String,
    /// A group's name or number; `None` is the user's own, with all that the user is in.
    pub group: Option<String>,
}
