//! One thing that is done to a server.

/// Who hears of each step before it is done.
pub type Told<'a> = &'a (dyn Fn(Step) + Send + Sync);

/// One thing that is done to a server: done as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done: "create its database".
    pub what: &'static str,
    /// The right it takes, as the server calls it.
    pub right: &'static str,
}

impl Step {
    pub(super) const fn new(what: &'static str, right: &'static str) -> Self {
        Self { what, right }
    }
}
