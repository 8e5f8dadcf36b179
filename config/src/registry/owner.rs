//! Whose secrets and version something is. Files and the registry may each have an app of one id, of which one is in
//! force: what is kept for either is no business of the other, and where Doorbells share a registry, what is done
//! to an app of it leaves those of their files alone.

use std::borrow::Cow;

use crate::name::AppId;

/// How keys of apps of files begin: no id has a colon there.
const OF_FILE: &str = "file:";

/// An app that secrets and a version are kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// One of the registry: they are moved and deleted with it.
    Registry(AppId),
    /// One of files. Doorbells that share a registry share these, too.
    File(AppId),
}

impl Owner {
    /// Its id.
    #[must_use]
    pub fn app(&self) -> &AppId {
        match self {
            Self::Registry(app) | Self::File(app) => app,
        }
    }

    /// What it is called in a table.
    pub(super) fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Registry(app) => app.as_str().into(),
            Self::File(app) => format!("{OF_FILE}{app}").into(),
        }
    }

    /// What is called so; `None` if it was not written here, and is nobody's.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        match key.strip_prefix(OF_FILE) {
            Some(app) => AppId::parse(app).ok().map(Self::File),
            None => AppId::parse(key).ok().map(Self::Registry),
        }
    }
}
