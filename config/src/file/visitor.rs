//! By what requests are told apart: methods and clients.

use super::text::FromText;
use crate::{
    name::NameError,
    spec::{AgentPattern, MethodName},
};

impl FromText for MethodName {
    const FORMAT: &'static str = "method";
    const MEANING: &'static str = "a method such as `GET`; `HEAD` is one of its own";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for AgentPattern {
    const FORMAT: &'static str = "user-agent";
    const MEANING: &'static str = "a part of a `User-Agent` such as `UptimeRobot`, in any case; `*` \
                                   in it stands for any text";
    fn from_text(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}
