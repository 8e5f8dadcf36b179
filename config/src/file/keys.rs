//! The keys of the file, as types: the one truth from which the JSON schema, the check of the tree
//! and the reference are made.
//!
//! What a doc comment says here is what an operator reads. A key that is an `Option` is one whose
//! absence means something; `x-default` tells the reference what. Sections are `Option`s where
//! writing them makes a difference.

mod app;
mod database;
mod one_or_many;
mod pages;
mod process;
mod server;
mod tcp;
mod upgrade;
mod upstream;
mod wake;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use app::{AppKeys, AppLimitKeys, AppTimeoutKeys, PrefixChoice};
pub use database::DatabaseKeys;
pub use one_or_many::OneOrMany;
pub use pages::{AppPageKeys, ServerPageKeys, WaitingPageKeys};
pub use process::{
    BackOffKeys, IdleKeys, ListenChoice, OutputKeys, ReadyChoice, ReadyKeys, ReadyWord,
    SecretChoice, SignalChoice, StartChoice, StopKeys,
};
pub use server::{
    AccessLogChoice, AccessLogKeys, LogChoice, LogKeys, ServerKeys, ServerLimitKeys,
    ServerTimeoutKeys,
};
pub use tcp::{TcpEntrance, TcpKeys, TcpLimitKeys, TcpTimeoutKeys};
pub use upgrade::{UpgradeChoice, UpgradeKeys};
pub use upstream::{HealthKeys, UpstreamChoice, UpstreamKeys};
pub use wake::{AsleepKeys, KeepsAwakeChoice, WakeKeys};

use super::{
    format::IncludePattern,
    text::{At, Text},
};

/// Doorbell's configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Doorbell configuration")]
pub struct FileConfig {
    /// Further files, which may hold `[app.<id>]` and `[tcp.<id>]` only; read in alphabetical order, after this
    /// one. `*` stands for any part of a file's or a folder's name.
    pub include: Vec<At<Text<IncludePattern>>>,
    /// Doorbell itself.
    pub server: ServerKeys,
    /// One table per app; its id is what `doorbell` commands, metrics and `/apps/<id>/` call it.
    #[schemars(extend("propertyNames" = {"format": "app-id"}))]
    pub app: BTreeMap<String, AppKeys>,
    /// Programs whose clients speak something else than HTTP; no id may be that of an app.
    #[schemars(extend("propertyNames" = {"format": "app-id"}))]
    pub tcp: BTreeMap<String, TcpKeys>,
}
