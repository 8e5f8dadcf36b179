//! What becomes of a request, decided from plain data: its head and the table.

use std::sync::Arc;

use doorbell_config::{
    route::RouteKind,
    spec::{AppSpec, KeepsAwake, PrefixRule, Visitor},
};
use http::Method;

use crate::{
    answer::Answer,
    app::{App, Table},
    bulletin,
    gate::{Denial, Sway},
    head::{BodyKind, RequestHead},
    look::X_APP,
    sharing::selectors::{self, Certain},
    transport::Trouble,
};

/// A decision.
pub enum Verdict {
    /// For this app.
    Forward(Matched),
    /// Answered by us; the app, if one matched, is named for the figures.
    Answer(Answer, Option<Arc<App>>),
}

/// The app a request is for, and what happens to its path.
#[derive(Clone)]
pub struct Matched {
    /// The app.
    pub app: Arc<App>,
    /// Bytes at the start of the path that the app does not see.
    pub stripped: usize,
    /// Bytes at the start of the path to which the app's cookies are kept: those that it does not see, or
    /// more.
    pub scoped: usize,
    /// What it does to the app's sleep.
    pub sway: Sway,
}

/// Decides.
#[must_use]
pub fn judge(table: &Table, head: &RequestHead) -> Verdict {
    if let Some(page) = bulletin::page_of(head.path()).filter(|_| head.method == Method::GET) {
        let found = table.routes.lookup(head.host.as_deref(), page);
        let app = found.map(|found| Arc::clone(found.target)).filter(|app| app.speaks_http());
        return match app {
            Some(app) => Verdict::Answer(Answer::Bulletin, Some(app)),
            None => Verdict::Answer(Answer::NoRoute, None),
        };
    }
    if head.path() == "*" {
        return Verdict::Answer(Answer::ServerOptions, None);
    }
    let Some(found) = table.routes.lookup(head.host.as_deref(), head.path()) else {
        return Verdict::Answer(Answer::NoRoute, None);
    };
    let app = found.target;
    if !app.speaks_http() {
        // It has no routes, but for its id.
        return Verdict::Answer(Answer::NoRoute, None);
    }
    let Some(app) = chosen(table, app, head) else {
        return Verdict::Answer(Answer::NoRoute, Some(Arc::clone(app)));
    };
    let is_folder = found.prefix_len == head.path().len();
    if found.kind == RouteKind::PathAccess && is_folder && found.rule == PrefixRule::Strip {
        let location = format!("{}/{}", head.path(), head.query());
        return Verdict::Answer(Answer::Redirect(location), Some(Arc::clone(app)));
    }
    if let (BodyKind::Length(length), Some(limit)) = (head.body, app.spec.limits.body)
        && length > limit.0
    {
        return Verdict::Answer(Answer::Body(Trouble::TooLarge), Some(Arc::clone(app)));
    }
    if app.spec.maintenance {
        return Verdict::Answer(Answer::Maintenance, Some(Arc::clone(app)));
    }
    let stripped = match found.rule {
        PrefixRule::Keep => 0,
        PrefixRule::Strip => found.prefix_len,
    };
    let scoped = match found.kind {
        RouteKind::PathAccess => found.prefix_len,
        _ if found.prefix_len > stripped && app.spec.routes.scope_cookies => found.prefix_len,
        _ => stripped,
    };
    let sway = sway(&app.spec, head, stripped);
    Verdict::Forward(Matched { app: Arc::clone(app), stripped, scoped, sway })
}

/// The app that a request is for, of those that share the program of the one it came to, where its clients may choose;
/// `None` if they name no such app. Costs others a look at a flag.
fn chosen<'t>(table: &'t Table, app: &'t Arc<App>, head: &RequestHead) -> Option<&'t Arc<App>> {
    if !app.spec.client_app_headers || !app.is_host() {
        return Some(app);
    }
    let named = |name: &str| table.inside(app, name);
    if let Some(name) = selectors::in_path(head.path()) {
        return named(&name);
    }
    let files = selectors::files_in(head.path()).filter(|_| app.is_told_by_folders());
    for (certain, name) in files {
        match (certain, named(&name)) {
            (Certain::No, None) => {}
            (Certain::Yes | Certain::No, found) => return found,
        }
    }
    let by_field = || Some(String::from_utf8_lossy(head.field(X_APP)?));
    let name = selectors::in_query(head.query()).or_else(by_field).filter(|name| !name.is_empty());
    name.map_or(Some(app), |name| named(&name))
}

/// What a request does to its app's sleep. Most apps have no rules, and cost a look at that.
fn sway(spec: &AppSpec, head: &RequestHead, stripped: usize) -> Sway {
    let Some(rules) = &spec.wake else { return Sway::Wakes };
    let rest = head.path().get(stripped..).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let user_agent = match rules.deny_user_agents.as_slice() {
        [] => None,
        [..] => head.field("user-agent"),
    };
    let user_agent = user_agent.unwrap_or_default();
    let visitor = Visitor { method: head.method.as_str(), path, user_agent };
    match (rules.lets_wake(&visitor), rules.keeps_awake) {
        (true, _) => Sway::Wakes,
        (false, KeepsAwake::All) => Sway::Keeps,
        (false, KeepsAwake::Wakers) => Sway::Neither,
    }
}

impl Matched {
    /// Of a request that the app does not see: we answer it.
    #[must_use]
    pub fn without_app(app: Arc<App>) -> Self {
        Self { app, stripped: 0, scoped: 0, sway: Sway::Neither }
    }

    /// The answer to a request that got no lease.
    #[must_use]
    pub fn denied(&self, denial: Denial) -> Answer {
        if let (Denial::Asleep, Some(rules)) = (&denial, &self.app.spec.wake) {
            return Answer::Asleep(rules.clone());
        }
        Answer::Denied(denial)
    }

    /// The prefix that the app does not see; empty if it sees all.
    #[must_use]
    pub fn stripped_prefix<'h>(&self, head: &'h RequestHead) -> &'h str {
        head.path().get(..self.stripped).unwrap_or_default()
    }

    /// Path and query as the app sees them.
    #[must_use]
    pub fn sent_target(&self, head: &RequestHead) -> String {
        let rest = head.target().get(self.stripped..).unwrap_or_default();
        if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use doorbell_config::{
        name::{AppId, PathPrefix},
        spec::{AgentPattern, Backend, RouteSpec, UpstreamSpec, WakeSpec},
    };

    use super::*;

    fn spec(wake: Option<WakeSpec>) -> AppSpec {
        let backend = Backend::Upstream(UpstreamSpec::new(Vec::new()).into());
        let routes = RouteSpec::new(Vec::new(), Vec::new());
        let id = AppId::parse("app").unwrap();
        AppSpec { wake: wake.map(Into::into), ..AppSpec::new(id, routes, backend) }
    }

    fn head(line: &str, agent: &str) -> RequestHead {
        let text = format!("{line} HTTP/1.1\r\nHost: h\r\nUser-Agent: {agent}\r\n\r\n");
        RequestHead::parse(Bytes::from(text), 8192).unwrap()
    }

    fn rules(keeps_awake: KeepsAwake) -> WakeSpec {
        WakeSpec {
            paths: Some(vec![PathPrefix::parse("/in").unwrap()]),
            deny_user_agents: vec![AgentPattern::parse("robot").unwrap()],
            keeps_awake,
            ..WakeSpec::default()
        }
    }

    #[test]
    fn an_app_without_rules_is_woken_by_everybody() {
        assert_eq!(sway(&spec(None), &head("GET /x", "robot"), 0), Sway::Wakes);
    }

    #[test]
    fn rules_are_held_against_what_the_app_sees() {
        let spec = spec(Some(rules(KeepsAwake::Wakers)));
        for (line, agent, stripped, expected) in [
            ("GET /in", "Firefox", 0, Sway::Wakes),
            ("GET /in/x?y", "Firefox", 0, Sway::Wakes),
            ("GET /out?/in", "Firefox", 0, Sway::Neither),
            ("GET /in", "a Robot", 0, Sway::Neither),
            ("GET /apps/app/in", "Firefox", 9, Sway::Wakes),
            ("GET /apps/app", "Firefox", 9, Sway::Neither),
        ] {
            assert_eq!(sway(&spec, &head(line, agent), stripped), expected, "{line} {agent}");
        }
    }

    #[test]
    fn who_may_not_wake_an_app_may_keep_it_awake() {
        let spec = spec(Some(rules(KeepsAwake::All)));
        assert_eq!(sway(&spec, &head("GET /out", "Firefox"), 0), Sway::Keeps);
    }
}
