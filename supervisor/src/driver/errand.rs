//! What the start of an instance asks the control process for: what only that one may know.

use doorbell_config::{
    name::AppId,
    spec::{Given, ProcessSpec},
};
use tokio::{sync::oneshot, time::timeout};

use super::{Driver, Job};
use crate::message::Generation;

/// A question of a start, and where its answer is awaited.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    pub(crate) done: oneshot::Sender<Result<Given, String>>,
}

impl Driver {
    /// What the program is given; for most that is nothing, and nobody is asked. While there is no control
    /// process, the start waits for the next one.
    ///
    /// # Errors
    /// In words for operators.
    pub(super) async fn given(&self, job: &Job, process: &ProcessSpec) -> Result<Given, String> {
        if process.given.is_none() {
            return Ok(Given::default());
        }
        let (done, answer) = oneshot::channel();
        let errand = Errand { app: job.app.id.clone(), generation: job.generation, done };
        let asked = async {
            self.errands.send(errand).await.ok()?;
            answer.await.ok()
        };
        match timeout(process.ready.deadline, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("doorbell shuts down".to_owned()),
            Err(_) => Err("its secrets were not told in time: see doorbell's log".to_owned()),
        }
    }
}
