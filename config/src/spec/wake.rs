//! Who may wake an app, and who keeps it awake.
//!
//! Plain data that is compared with a request as it came: nothing is allocated or parsed for that. A
//! path is the one that the app sees, a method is compared byte for byte, a `User-Agent` in any case.

use std::fmt;

use memchr::memchr2_iter;
use serde::{Deserialize, Serialize};

use crate::name::{NameError, PathPrefix};

/// Which requests may wake an app, what keeps it awake, and what the others get while it sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct WakeSpec {
    /// Only these paths and what is below them may; `None` is every path.
    pub paths: Option<Vec<PathPrefix>>,
    /// These paths and what is below them may not, whatever `paths` says.
    pub deny_paths: Vec<PathPrefix>,
    /// Only these methods may; `None` is every method.
    pub methods: Option<Vec<MethodName>>,
    /// Clients that say they are one of these may not.
    pub deny_user_agents: Vec<AgentPattern>,
    /// Who keeps awake what is awake.
    pub keeps_awake: KeepsAwake,
    /// What the others get while the app sleeps.
    pub asleep: AsleepSpec,
}

/// Who keeps an app awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeepsAwake {
    /// Every request.
    All,
    /// Requests that may wake it.
    #[default]
    Wakers,
}

/// What those get who may not wake an app that sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct AsleepSpec {
    /// Status: 200 to 299, or 400 to 599.
    pub status: u16,
    /// What is said, in place of Doorbell's own words.
    pub body: Option<String>,
}

/// What a request says of itself that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path in normal form, as the app sees it.
    pub path: &'a str,
    /// Its `User-Agent`, empty if there is none.
    pub user_agent: &'a [u8],
}

/// The name of a method, such as `GET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MethodName(String);

/// Text that is found anywhere in a `User-Agent`, in any case (ASCII); `*` in it stands for any text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentPattern {
    /// Between the stars, in lower case, none empty, at least one.
    parts: Vec<String>,
}

impl WakeSpec {
    /// Whether it keeps anybody from waking the app.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.paths.is_some()
            || self.methods.is_some()
            || !self.deny_paths.is_empty()
            || !self.deny_user_agents.is_empty()
    }

    /// Whether this request may wake the app.
    #[must_use]
    pub fn lets_wake(&self, visitor: &Visitor<'_>) -> bool {
        let covers = |prefix: &PathPrefix| prefix.covers(visitor.path);
        let method = |name: &MethodName| name.0 == visitor.method;
        let agent = |pattern: &AgentPattern| pattern.is_in(visitor.user_agent);
        self.methods.as_ref().is_none_or(|allowed| allowed.iter().any(method))
            && self.paths.as_ref().is_none_or(|allowed| allowed.iter().any(covers))
            && !self.deny_paths.iter().any(covers)
            && !self.deny_user_agents.iter().any(agent)
    }
}

impl Default for AsleepSpec {
    fn default() -> Self {
        Self { status: 503, body: None }
    }
}

impl MethodName {
    /// Reads a method (RFC 9110 section 9.1). Methods are told apart by case, and those in use are
    /// upper case.
    ///
    /// # Errors
    /// Says what is wrong, and what to write.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_token) {
            return Err(NameError("not a method: write `GET`, `HEAD` or `POST`".into()));
        }
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let upper = text.to_ascii_uppercase();
            return Err(NameError(format!("methods are upper case: write `{upper}`")));
        }
        if matches!(text, "TRACE" | "CONNECT") {
            return Err(NameError(
                "such requests never reach an app: write `GET`, `HEAD` or `POST`".into(),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl AgentPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong, and what to write.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(NameError(
                "not in a `User-Agent`: write plain ASCII, such as `UptimeRobot`".into(),
            ));
        }
        let parts = text.split('*').filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.map(str::to_ascii_lowercase).collect();
        if parts.iter().all(|part| part.trim().is_empty()) {
            return Err(NameError(
                "this is in every `User-Agent`: write a part of one, such as `UptimeRobot`".into(),
            ));
        }
        Ok(Self { parts })
    }

    /// Whether the parts stand in the text, one behind the other.
    #[must_use]
    pub fn is_in(&self, agent: &[u8]) -> bool {
        let mut rest = agent;
        self.parts.iter().all(|part| match find(rest, part.as_bytes()) {
            Some(at) => {
                rest = rest.get(at + part.len()..).unwrap_or_default();
                true
            }
            None => false,
        })
    }
}

/// Where a text in lower case begins in another, whatever its case.
fn find(text: &[u8], lower: &[u8]) -> Option<usize> {
    let first = *lower.first()?;
    let begins = memchr2_iter(first, first.to_ascii_uppercase(), text);
    begins.into_iter().find(|at| {
        text.get(*at..*at + lower.len()).is_some_and(|found| found.eq_ignore_ascii_case(lower))
    })
}

impl TryFrom<String> for MethodName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<MethodName> for String {
    fn from(name: MethodName) -> Self {
        name.0
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AgentPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<AgentPattern> for String {
    fn from(pattern: AgentPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(patterns: &[&str], agent: &str) -> bool {
        patterns.iter().any(|one| AgentPattern::parse(one).unwrap().is_in(agent.as_bytes()))
    }

    #[test]
    fn a_user_agent_is_known_by_any_part_in_any_case() {
        let robot = "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)";
        for pattern in ["uptimerobot", "UPTIMEROBOT/2", "*bot*", "mozilla*robot", "moz*2.0*.com"] {
            assert!(agents(&[pattern], robot), "{pattern}");
        }
        for pattern in ["pingdom", "robot*mozilla", "uptimerobot/3", "x*bot", "robots"] {
            assert!(!agents(&[pattern], robot), "{pattern}");
        }
        assert!(!agents(&["curl"], "") && !agents(&["curl"], "cur"));
        assert!(agents(&["a*a"], "aa") && !agents(&["a*a"], "a"), "each part has text of its own");
    }

    #[test]
    fn patterns_that_could_not_match_as_meant_are_refused() {
        for text in ["", "*", "**", " ", "* *", "b\u{f6}t", "a\nb"] {
            assert!(AgentPattern::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "get", "Get", "G T", "GET,POST", "TRACE", "CONNECT"] {
            assert!(MethodName::parse(text).is_err(), "{text:?}");
        }
        assert!(MethodName::parse("M-SEARCH").is_ok());
    }

    #[test]
    fn a_request_wakes_if_it_passes_all_that_is_given() {
        let path = |text| PathPrefix::parse(text).unwrap();
        let spec = WakeSpec {
            paths: Some(vec![path("/app"), path("/login")]),
            deny_paths: vec![path("/app/metrics")],
            methods: Some(vec![MethodName::parse("GET").unwrap()]),
            deny_user_agents: vec![AgentPattern::parse("bot").unwrap()],
            ..WakeSpec::default()
        };
        let wakes = |method, path, agent: &str| {
            let user_agent = agent.as_bytes();
            spec.lets_wake(&Visitor { method, path, user_agent })
        };
        assert!(wakes("GET", "/app", "Firefox") && wakes("GET", "/login/x", ""));
        for (method, path, agent) in [
            ("HEAD", "/app", "Firefox"),
            ("GET", "/", "Firefox"),
            ("GET", "/apple", "Firefox"),
            ("GET", "/app/metrics", "Firefox"),
            ("GET", "/app/metrics/x", "Firefox"),
            ("GET", "/app", "GoogleBot"),
        ] {
            assert!(!wakes(method, path, agent), "{method} {path} {agent}");
        }
        assert!(wakes("GET", "/app/metricsx", "Firefox"), "whole segments only");
    }

    #[test]
    fn without_rules_everybody_wakes() {
        let spec = WakeSpec::default();
        assert!(!spec.has_rules());
        assert!(spec.lets_wake(&Visitor { method: "PUT", path: "/x", user_agent: b"bot" }));
    }
}
