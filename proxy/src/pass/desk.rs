//! The proxy's side of passes: it knows genuine ones, and asks the control process.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use doorbell_config::name::AppId;
use doorbell_supervisor::wire::Sender;
use tokio::sync::oneshot;

use super::{Kind, Question, Reply, Seal};
use crate::{clock::unix_seconds, figures_desk::Told, head::RequestHead};

/// Path of a link, up to what was signed.
pub const FOLDER: &str = "/.well-known/doorbell/pass/";
/// The name of the cookie.
pub const COOKIE: &str = "doorbell_pass";
/// How long an answer may take; then there is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way.
const MOST: usize = 32;

/// Who knows what was signed, and what is waited for.
#[derive(Default)]
pub struct Desk {
    line: ArcSwapOption<(Seal, Sender)>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next: AtomicU64,
}

impl Desk {
    /// Passes are known by this from here on, and asked about there.
    pub fn is_given(&self, seal: Seal, sender: Sender) {
        self.line.store(Some((seal, sender).into()));
    }

    /// What was signed of a link, if it is genuine.
    #[must_use]
    pub fn link<'h>(&self, head: &'h RequestHead) -> Option<(AppId, &'h str)> {
        let token = head.path().strip_prefix(FOLDER)?;
        Some((self.good(Kind::Link, token)?, token))
    }

    /// A genuine pass for this app, among the cookies.
    #[must_use]
    pub fn pass<'h>(&self, head: &'h RequestHead, app: &AppId) -> Option<&'h str> {
        let cookies = head.all_fields("cookie").filter_map(|field| std::str::from_utf8(field).ok());
        let mut pairs = cookies.flat_map(|field| field.split(';')).map(str::trim);
        let ours = |pair: &'h str| pair.strip_prefix(COOKIE)?.strip_prefix('=');
        // More than a few are no browser's.
        let mut passes = pairs.by_ref().filter_map(ours).take(4);
        passes.find(|pass| self.good(Kind::Pass, pass).as_ref() == Some(app))
    }

    fn good(&self, kind: Kind, token: &str) -> Option<AppId> {
        self.line.load().as_ref()?.0.app_of(kind, token, unix_seconds())
    }

    /// Asks the control process; `None` if there is nobody to answer.
    pub async fn ask(&self, question: Question) -> Option<Reply> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, reply) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, done| !done.is_closed());
            if waiting.len() >= MOST {
                return None;
            }
            waiting.insert(number, done);
        }
        let told = Told::question(number, question);
        self.line.load().as_ref()?.1.send(&told).ok()?;
        tokio::time::timeout(PATIENCE, reply).await.ok()?.ok()
    }

    /// Takes an answer.
    pub fn answered(&self, number: u64, reply: Reply) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = waiting.remove(&number) {
            // Whoever asked may have left.
            let _ = done.send(reply);
        }
    }
}
