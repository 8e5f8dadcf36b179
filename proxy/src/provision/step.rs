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
    /// What is lost by it.
    pub cost: Cost,
}

/// What is lost by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing that the app has stored.
    Nothing,
    /// Some of the app's data, or all.
    Data,
}

impl Step {
    pub(super) const fn new(what: &'static str, right: &'static str) -> Self {
        Self { what, right, cost: Cost::Nothing }
    }

    /// One that data are lost by.
    pub(super) const fn losing(what: &'static str, right: &'static str) -> Self {
        Self { what, right, cost: Cost::Data }
    }
}
