//! Where the control process asks a proxy for its figures.

use std::{os::unix::net::UnixStream, sync::Arc};

use doorbell_supervisor::wire::{self, Limits, Receiver, Sender};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    metrics::figures::{AppFigures, Figures},
    shared::Shared,
};

/// What a proxy listens to here: short questions.
const LIMITS: Limits = Limits { text: 1024, descriptors: 0 };
/// What it answers may be long, with many apps, and is bounded all the same.
pub const ANSWER_LIMITS: Limits = Limits { text: 64 * 1024 * 1024, descriptors: 0 };

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its number, for the answer.
    pub number: u64,
}

/// An answer, or the last words of a proxy that ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The question's number; `None` for the last words.
    pub number: Option<u64>,
    /// Everything.
    pub figures: Figures,
}

/// The proxy's end of the connection.
pub struct Desk {
    sender: Sender,
    task: AbortOnDropHandle<()>,
}

impl Desk {
    /// Answers whoever is at the other end, until it leaves.
    ///
    /// # Errors
    /// If the connection is none.
    pub fn open(connection: UnixStream, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (sender, receiver) = wire::open::<Ask>(connection, LIMITS)?;
        let task = tokio::spawn(answer(Arc::clone(shared), sender.clone(), receiver));
        Ok(Self { sender, task: AbortOnDropHandle::new(task) })
    }

    /// Says what was counted in all, as the last thing; tells whether somebody was there to hear it.
    pub async fn say_last(self, shared: &Shared) -> bool {
        // It ends when nobody is left to ask.
        let is_heard = !self.task.is_finished();
        self.task.abort();
        let told = self.sender.send(&Told { number: None, figures: read(shared) });
        self.sender.flush().await;
        is_heard && told.is_ok()
    }
}

async fn answer(shared: Arc<Shared>, sender: Sender, mut asks: Receiver<Ask>) {
    while let Ok(Some((Ask { number }, _))) = asks.next().await {
        let shared = Arc::clone(&shared);
        let reading = tokio::task::spawn_blocking(move || {
            wire::Frame::of(&Told { number: Some(number), figures: read(&shared) })
        });
        let Ok(Ok(frame)) = reading.await else { return };
        if sender.send_frame(frame).is_err() {
            return;
        }
    }
}

fn read(shared: &Shared) -> Figures {
    let table = shared.table.load_full();
    let apps = table.routes.targets().filter_map(|app| {
        let held = u64::try_from(app.gate.held()).unwrap_or(u64::MAX);
        let figures = app.metrics.read();
        let figures = if held > 0 { Some(figures.unwrap_or_default()) } else { figures };
        Some((app.spec.id.clone(), AppFigures { held, ..figures? }))
    });
    Figures {
        server: shared.metrics.read(),
        other: shared.other.read().unwrap_or_default(),
        apps: apps.collect(),
    }
}
