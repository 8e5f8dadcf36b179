//! Where the control process asks a proxy for its figures, and the proxy what an operator may see.

use std::{os::unix::net::UnixStream, sync::Arc};

use doorbell_supervisor::wire::{self, Limits, Receiver, Sender};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    metrics::figures::{AppFigures, Figures},
    pass::{Question, Reply, Seal},
    shared::Shared,
};

/// What a proxy listens to here: short questions, and what an app said last.
const LIMITS: Limits = Limits { text: 256 * 1024, descriptors: 0 };
/// What it answers may be long, with many apps, and is bounded all the same.
pub const ANSWER_LIMITS: Limits = Limits { text: 64 * 1024 * 1024, descriptors: 0 };

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its number, for the answer.
    pub number: u64,
    /// Something else than a question for figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about_passes: Option<AboutPasses>,
}

/// What the control process says of passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AboutPasses {
    /// They are known by this.
    Seal(Seal),
    /// The answer to the question of this number.
    Reply(u64, Reply),
}

/// An answer, or the last words of a proxy that ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The question's number; `None` for the last words.
    pub number: Option<u64>,
    /// Everything.
    pub figures: Figures,
    /// Instead of all that: a question, which only who has said something of passes is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
}

impl Told {
    fn figures(number: Option<u64>, figures: Figures) -> Self {
        Self { number, figures, question: None }
    }

    /// A question.
    #[must_use]
    pub fn question(number: u64, question: Question) -> Self {
        let question = Some(question);
        Self { number: Some(number), figures: Figures::default(), question }
    }
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
        let told = self.sender.send(&Told::figures(None, read(shared)));
        self.sender.flush().await;
        is_heard && told.is_ok()
    }
}

async fn answer(shared: Arc<Shared>, sender: Sender, mut asks: Receiver<Ask>) {
    while let Ok(Some((Ask { number, about_passes }, _))) = asks.next().await {
        match about_passes {
            Some(AboutPasses::Seal(seal)) => {
                shared.passes.is_given(seal, sender.clone());
                continue;
            }
            Some(AboutPasses::Reply(number, reply)) => {
                shared.passes.answered(number, reply);
                continue;
            }
            None => {}
        }
        let shared = Arc::clone(&shared);
        let reading = tokio::task::spawn_blocking(move || {
            wire::Frame::of(&Told::figures(Some(number), read(&shared)))
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
