//! What becomes of a start, for those who do not wait at the gate: pages in browsers.
//!
//! A gate keeps it only while somebody wants to know, and tells it when it changes; nobody asks again
//! and again. Wanting to know is no visit: it neither wakes an app nor keeps it awake.

use std::{
    sync::atomic::AtomicUsize,
    time::{Duration, Instant},
};

use doorbell_supervisor::message::{Refusal, StartProgress};
use tokio::sync::watch;

use super::{Door, Gate, Mode};

/// What a gate is, for those who wait elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The app serves.
    Open,
    /// It is being woken; how far that is, once somebody has said it.
    Waking(Option<Progress>),
    /// It sleeps, and nobody has asked for it since.
    Asleep,
    /// Who comes is refused.
    Refused(Refusal),
}

/// What was said of a start, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    said: StartProgress,
    at: Instant,
}

#[derive(Default)]
pub(super) struct News {
    /// Of the start under way.
    progress: Option<Box<Progress>>,
    listeners: Option<watch::Sender<View>>,
}

impl Progress {
    /// How far it is now.
    #[must_use]
    pub fn now(&self) -> StartProgress {
        StartProgress { elapsed: self.elapsed(), ..self.said }
    }

    fn elapsed(&self) -> Duration {
        self.said.elapsed + self.at.elapsed()
    }
}

impl News {
    /// Something else changed that those who listen look at.
    pub(super) fn look_again(&self) {
        if let Some(listeners) = &self.listeners {
            listeners.send_modify(|_| {});
        }
    }
}

impl Gate {
    /// Order `Progress`: for those who want to know.
    pub fn progressed(&self, said: StartProgress) {
        let mut door = self.lock();
        door.news.progress = Some(Box::new(Progress { said, at: Instant::now() }));
        self.announce(&mut door);
    }

    /// How many listen, for a bound on them.
    pub(crate) fn listeners(&self) -> &AtomicUsize {
        &self.listeners
    }

    /// What it is now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view_of(&self.lock())
    }

    /// What it is now, and whenever that changes.
    pub fn listen(&self) -> watch::Receiver<View> {
        let mut door = self.lock();
        let view = self.view_of(&door);
        let sender = door.news.listeners.get_or_insert_with(|| watch::Sender::new(view.clone()));
        // Nobody may have listened for a while.
        sender.send_replace(view);
        sender.subscribe()
    }

    pub(super) fn announce(&self, door: &mut Door) {
        let view = self.view_of(door);
        if !matches!(view, View::Waking(_)) {
            door.news.progress = None;
        }
        let Some(sender) = &door.news.listeners else { return };
        if sender.receiver_count() == 0 {
            door.news.listeners = None;
            return;
        }
        sender.send_if_modified(|known| {
            let is_new = *known != view;
            *known = view;
            is_new
        });
    }

    fn view_of(&self, door: &Door) -> View {
        if self.open.load().is_some() {
            return View::Open;
        }
        match &door.mode {
            Mode::Refuse(refusal, since) => View::Refused(refusal.after(since.elapsed())),
            Mode::Hold if door.wanted => View::Waking(door.news.progress.as_deref().copied()),
            Mode::Hold => View::Asleep,
        }
    }
}
