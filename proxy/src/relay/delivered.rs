//! An answer on its way to the client.

use crate::framing::BodyTracker;

/// An answer whose head has gone to the client.
pub(super) struct Delivered {
    pub(super) status: u16,
    /// Whether the client was told that its connection ends.
    pub(super) closes: bool,
    /// Whether the connection is no longer HTTP.
    pub(super) switched: bool,
    pub(super) body: Flow,
    /// Whether the app keeps its connection.
    pub(super) app_keeps: bool,
}

/// Where its body ends.
pub(super) enum Flow {
    Tracked(BodyTracker),
    UntilClose { bytes: u64, ended: bool },
}

impl Delivered {
    /// Content bytes so far.
    pub(super) fn content(&self) -> u64 {
        match &self.body {
            Flow::Tracked(body) => body.content(),
            Flow::UntilClose { bytes, .. } => *bytes,
        }
    }

    /// Whether only the connection's end tells the client that the answer is complete.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.body, Flow::UntilClose { .. })
    }

    /// Whether all of it has come.
    pub(super) fn is_complete(&self) -> bool {
        match &self.body {
            Flow::Tracked(body) => body.is_done(),
            Flow::UntilClose { ended, .. } => *ended,
        }
    }
}
