//! `[server.pages]`, `[app.<id>.pages]` and `waiting_page`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    file::{
        format::{FilePath, OrNever},
        text::{At, Text},
    },
    spec::AppPages,
};

/// HTML files in the place of Doorbell's own pages, each at most 256KiB. Browsers get them; other
/// clients get text or JSON as ever. `{app}`, `{status}`, `{retry_after}`, `{request_id}` and
/// `{estimate}` in them are filled in.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerPageKeys {
    /// While an app starts. It comes with a `Refresh` header, and so shows the app by itself.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub waiting: Option<At<Text<FilePath>>>,
    /// No app has this host and path: 404. An app's own 404 is never replaced.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub not_found: Option<At<Text<FilePath>>>,
    /// The app could not be reached, or answered nonsense: 502.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub bad_gateway: Option<At<Text<FilePath>>>,
    /// The app is disabled, could not be started, or too many wait for it: 503.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub unavailable: Option<At<Text<FilePath>>>,
    /// The app did not start or answer in time: 504.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub gateway_timeout: Option<At<Text<FilePath>>>,
    /// The app is in maintenance: 503.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub maintenance: Option<At<Text<FilePath>>>,
    /// The app sleeps, and this request may not wake it (`wake`): the status of `wake.asleep`.
    #[schemars(extend("x-default" = "Doorbell's own"))]
    pub asleep: Option<At<Text<FilePath>>>,
}

/// The same for this app alone; they go before those of `[server.pages]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppPageKeys {
    /// While the app starts.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub waiting: Option<At<Text<FilePath>>>,
    /// 502.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub bad_gateway: Option<At<Text<FilePath>>>,
    /// 503, but for maintenance and sleep.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub unavailable: Option<At<Text<FilePath>>>,
    /// 504.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub gateway_timeout: Option<At<Text<FilePath>>>,
    /// In maintenance.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub maintenance: Option<At<Text<FilePath>>>,
    /// While the app sleeps, for requests that may not wake it.
    #[schemars(extend("x-default" = "that of `[server.pages]`"))]
    pub asleep: Option<At<Text<FilePath>>>,
}

/// What a browser shows while the app starts. Clients that are no browsers wait for the app's answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaitingPageKeys {
    /// How long a browser waits before it gets the page; `never` lets browsers wait like everyone.
    pub after: Text<OrNever>,
}

impl Default for WaitingPageKeys {
    fn default() -> Self {
        Self { after: Text(OrNever(AppPages::default().waiting_after)) }
    }
}
