//! A request's body for the app, kept as long as it may have to be sent again.

use bytes::BytesMut;

/// Most bytes of a request's body that are kept to send it again.
const MOST_KEPT: usize = 64 * 1024;

/// What of a request has to be kept to send it again: its head can be written anew.
pub(super) struct Letter {
    /// What was read of the body; `None` once that is too much to be kept, or of no use.
    pub(super) kept: Option<BytesMut>,
    repeatable: Repeatable,
}

/// When a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeatable {
    /// Also if the app may have acted on it (RFC 9110 section 9.2.2).
    Always,
    /// As long as not a byte of it has left.
    Unsent,
}

impl Letter {
    /// A request of which nothing was read yet.
    pub(super) fn new(repeatable: Repeatable) -> Self {
        Self { kept: Some(BytesMut::new()), repeatable }
    }

    /// Whether it can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// The app has got something of it.
    pub(super) fn has_left(&mut self) {
        if self.repeatable == Repeatable::Unsent {
            self.kept = None;
        }
    }

    pub(super) fn keep(&mut self, piece: &[u8]) {
        match &mut self.kept {
            Some(kept) if kept.len() + piece.len() <= MOST_KEPT => kept.extend_from_slice(piece),
            kept => *kept = None,
        }
    }
}
