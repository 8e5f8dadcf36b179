//! What the start of an instance asks the control process for: what only that one may know.

use std::time::Duration;

use doorbell_config::{
    name::AppId,
    spec::{Given, ProcessSpec},
};
use tokio::{sync::oneshot, time::timeout};

use super::{Driver, Job};
use crate::{
    message::Generation,
    protocol::{Question, Upgraded},
};

/// How long a start waits until it is known that it takes its turn no more; then the turn ends by itself.
const GOODBYE: Duration = Duration::from_secs(5);

/// A question of a start, and where its answer is awaited.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    pub(crate) question: Question,
    pub(crate) done: oneshot::Sender<Result<Given, String>>,
}

impl Driver {
    /// What the program is given, and whether its upgrade is to be run before; for most that is nothing, and
    /// nobody is asked. While there is no control process, the start waits for the next one.
    ///
    /// # Errors
    /// In words for operators.
    pub(super) async fn given(
        &self,
        job: &Job,
        process: &ProcessSpec,
        question: Question,
    ) -> Result<Given, String> {
        if !question.is_given && question.version.is_none() {
            return Ok(Given::default());
        }
        match timeout(process.ready.deadline, self.asked(job, question)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("doorbell shuts down".to_owned()),
            Err(_) => Err("what it is given was not told in time: see doorbell's log".to_owned()),
        }
    }

    /// Tells what came of an upgrade behind which no start follows.
    pub(super) async fn tell_upgraded(&self, job: &Job, upgraded: Upgraded) {
        let question = Question { is_given: false, version: None, upgraded: Some(upgraded) };
        if timeout(GOODBYE, self.asked(job, question)).await.is_err() {
            tracing::warn!(app = %job.app.id, "its turn to be upgraded ends by itself");
        }
    }

    /// The answer; `None` if nobody will give one.
    async fn asked(&self, job: &Job, question: Question) -> Option<Result<Given, String>> {
        let (done, answer) = oneshot::channel();
        let (app, generation) = (job.app.id.clone(), job.generation);
        self.errands.send(Errand { app, generation, question, done }).await.ok()?;
        answer.await.ok()
    }
}
