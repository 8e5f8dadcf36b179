//! `[app.<id>.wake]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    file::{
        format::LineText,
        text::{At, Text},
    },
    name::PathPrefix,
    spec::{AgentPattern, AsleepSpec, KeepsAwake, MethodName},
};

/// Which requests may wake the program; a request may if it passes all that is given here. The others
/// are served like any while the app runs or is being woken; while it sleeps they get `asleep`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WakeKeys {
    /// Only requests for these paths, and for what is below them, may. Paths are those that the app
    /// sees: without a prefix that is taken off.
    #[schemars(extend("x-default" = "every path"))]
    pub paths: Option<At<Vec<At<Text<PathPrefix>>>>>,
    /// Requests for these paths, and for what is below them, may not, even below one of `paths`.
    #[schemars(extend("x-default" = "none"))]
    pub deny_paths: Vec<At<Text<PathPrefix>>>,
    /// Only requests with these methods may.
    #[schemars(extend("x-default" = "every method"))]
    pub methods: Option<At<Vec<At<Text<MethodName>>>>>,
    /// Clients whose `User-Agent` contains one of these texts, in any case, may not. `*` in a text
    /// stands for any text.
    #[schemars(extend("x-default" = "none"))]
    pub deny_user_agents: Vec<At<Text<AgentPattern>>>,
    /// Who keeps the program awake once it runs.
    pub keeps_awake: KeepsAwakeChoice,
    /// What those get who may not wake the app, while it sleeps or is frozen and nobody else has
    /// woken it.
    pub asleep: AsleepKeys,
}

/// Who keeps an app awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepsAwakeChoice {
    /// Requests that may wake it. Others are served, and never cut off by its sleep, but its idle time
    /// goes on.
    #[default]
    Wakers,
    /// Every request.
    All,
}

impl From<KeepsAwakeChoice> for KeepsAwake {
    fn from(choice: KeepsAwakeChoice) -> Self {
        match choice {
            KeepsAwakeChoice::All => Self::All,
            KeepsAwakeChoice::Wakers => Self::Wakers,
        }
    }
}

/// What those get who may not wake the app. Browsers get a page, which may be your own (`pages.asleep`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AsleepKeys {
    /// The status; with 503, `Retry-After` says when to ask again. `200` or `204` spares a monitor
    /// the alarm. None of 300 to 399.
    #[schemars(range(min = 200, max = 599))]
    pub status: At<u16>,
    /// What is said, as text, on Doorbell's page, and as `detail` in JSON.
    #[schemars(extend("x-default" = "Doorbell's own words"))]
    pub body: Option<At<Text<LineText>>>,
}

impl Default for AsleepKeys {
    fn default() -> Self {
        Self { status: At::default(AsleepSpec::default().status), body: None }
    }
}
