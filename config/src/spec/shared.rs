//! An app that the program of another one answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HttpProbe;
use crate::name::AppId;

/// A share in the instance of another app, which is its host: it tells its apps apart by `X-App`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SharedSpec {
    /// The host, whose instance answers.
    pub with: AppId,
    /// What a new run of the host is asked before the first requests for this app; `None` is nothing.
    #[serde(default)]
    pub ready: Option<SharedReadySpec>,
}

/// How we learn that a run of the host can answer for an app that shares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SharedReadySpec {
    /// What is asked, with the app's `X-App`.
    pub probe: HttpProbe,
    /// Total, while requests wait for the answer; then they are answered 504.
    pub deadline: Duration,
}
