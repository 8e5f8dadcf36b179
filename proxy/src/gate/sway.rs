//! What a request does to an app's sleep.

/// Whether a request wakes an app, and keeps it awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sway {
    /// It wakes the app, and keeps it awake.
    Wakes,
    /// It keeps awake an app that is.
    Keeps,
    /// Neither: it is served as any while the app runs.
    Neither,
}

impl Sway {
    /// Whether it may wake the app.
    #[must_use]
    pub fn wakes(self) -> bool {
        match self {
            Self::Wakes => true,
            Self::Keeps | Self::Neither => false,
        }
    }

    /// Whether it keeps the app awake.
    #[must_use]
    pub fn keeps_awake(self) -> bool {
        match self {
            Self::Wakes | Self::Keeps => true,
            Self::Neither => false,
        }
    }
}
