//! What becomes of a request, decided from plain data: its head and the table.

use std::sync::Arc;

use doorbell_config::{route::RouteKind, spec::PrefixRule};
use http::Method;

use crate::{
    answer::Answer,
    app::{App, Table},
    bulletin,
    head::{BodyKind, RequestHead},
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
}

/// Decides.
#[must_use]
pub fn judge(table: &Table, head: &RequestHead) -> Verdict {
    if let Some(page) = bulletin::page_of(head.path()).filter(|_| head.method == Method::GET) {
        let found = table.routes.lookup(head.host.as_deref(), page);
        let app = found.map(|found| Arc::clone(found.target));
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
    Verdict::Forward(Matched { app: Arc::clone(app), stripped })
}

impl Matched {
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
