//! The control process's side of passes: it signs, and says why a start failed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use doorbell_config::name::AppId;
use doorbell_supervisor::{message::Snapshot, protocol::Seed};

use super::{Failure, Key, Kind, Question, Reply, Seal};
use crate::clock::unix_seconds;

/// How long a link may be opened, and a pass be used, in seconds.
const LINK: u64 = 10 * 60;
/// The same of a pass.
pub const PASS: u64 = 8 * 3600;
/// Links that were opened and are not too old yet; more are refused.
const OPENED: usize = 10_000;

/// Gives out passes.
#[derive(Default)]
pub struct Office {
    key: ArcSwapOption<Key>,
    /// Links that are good no more, and until when they would be.
    opened: Mutex<BTreeMap<String, u64>>,
}

impl Office {
    /// Signs with this from here on.
    pub fn is_given(&self, seed: &Seed) {
        self.key.store(Key::of(seed).map(Into::into));
    }

    /// What proxies know our signatures by.
    #[must_use]
    pub fn seal(&self) -> Option<Seal> {
        self.key.load().as_ref().map(|key| key.seal())
    }

    /// A link for an operator.
    #[must_use]
    pub fn link(&self, app: &AppId) -> Option<String> {
        Some(self.key.load().as_ref()?.sign(Kind::Link, app, unix_seconds() + LINK))
    }

    /// Answers a proxy. It may ask for what it likes: what counts is what it shows.
    pub fn answer(
        &self,
        question: &Question,
        snapshot: impl FnOnce(&AppId) -> Option<Snapshot>,
    ) -> Reply {
        let given = match question {
            Question::Redeem(link) => self.redeem(link).map(Reply::Pass),
            Question::Why(pass) => self
                .good(Kind::Pass, pass)
                .and_then(|app| Some(Reply::Why(Failure::of(&snapshot(&app)?)))),
        };
        given.unwrap_or(Reply::Refused)
    }

    fn good(&self, kind: Kind, token: &str) -> Option<AppId> {
        self.seal()?.app_of(kind, token, unix_seconds())
    }

    fn redeem(&self, link: &str) -> Option<String> {
        let app = self.good(Kind::Link, link)?;
        let now = unix_seconds();
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|_, until| *until > now);
        if opened.len() >= OPENED || opened.insert(link.to_owned(), now + LINK).is_some() {
            return None;
        }
        tracing::info!(%app, "an operator opened a link");
        Some(self.key.load().as_ref()?.sign(Kind::Pass, &app, now + PASS))
    }
}

impl Failure {
    fn of(snapshot: &Snapshot) -> Self {
        let step = snapshot.failed_step.map(|step| step.words().to_owned());
        Self {
            step: step.unwrap_or_default(),
            reason: snapshot.reason.as_deref().unwrap_or_default().to_owned(),
            output: snapshot.last_output.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_gives_one_pass() {
        let office = Office::default();
        let app = AppId::parse("blog").unwrap();
        assert_eq!(office.link(&app), None, "no key yet");
        office.is_given(&Seed([1; 32]));
        let link = office.link(&app).unwrap();
        let ask = |question| office.answer(&question, |_| None);
        let Reply::Pass(pass) = ask(Question::Redeem(link.clone())) else { panic!("no pass") };
        assert_eq!(ask(Question::Redeem(link.clone())), Reply::Refused, "opened already");
        assert_eq!(ask(Question::Redeem(pass.clone())), Reply::Refused, "no link");
        assert_eq!(office.seal().unwrap().app_of(Kind::Pass, &pass, unix_seconds()), Some(app));
        assert_eq!(ask(Question::Why(link)), Reply::Refused, "no pass");
    }
}
