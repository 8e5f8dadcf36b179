//! Pages that visitors get from Doorbell in an app's place, as operators wrote them.
//!
//! Their text travels with the definitions, since who shows them may read no file. What the words in
//! braces stand for is filled in there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::interned::Interned;

/// The pages of one app.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppPages {
    /// How long a browser waits for a start before it gets the waiting page; `None` is as long as
    /// everybody.
    pub waiting_after: Option<Duration>,
    /// Those that the app has for itself.
    pub own: OwnPages,
}

/// Texts in the place of Doorbell's own; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnPages {
    /// While an app starts.
    pub waiting: Option<Interned<String>>,
    /// No app for this host and path; never of an app.
    pub not_found: Option<Interned<String>>,
    /// 502.
    pub bad_gateway: Option<Interned<String>>,
    /// 503, but for maintenance.
    pub unavailable: Option<Interned<String>>,
    /// 504.
    pub gateway_timeout: Option<Interned<String>>,
    /// In maintenance.
    pub maintenance: Option<Interned<String>>,
    /// While an app sleeps, for those who may not wake it.
    pub asleep: Option<Interned<String>>,
}

impl Default for AppPages {
    fn default() -> Self {
        Self { waiting_after: Some(Duration::from_millis(800)), own: OwnPages::default() }
    }
}

impl OwnPages {
    /// Bytes of all of them.
    #[must_use]
    pub fn size(&self) -> usize {
        let Self {
            waiting,
            not_found,
            bad_gateway,
            unavailable,
            gateway_timeout,
            maintenance,
            asleep,
        } = self;
        let all =
            [waiting, not_found, bad_gateway, unavailable, gateway_timeout, maintenance, asleep];
        all.into_iter().flatten().map(|page| page.len()).sum()
    }
}
