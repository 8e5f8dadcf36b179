//! What the start of an instance asks the control process for: what only that one may know.

use doorbell_config::{
    name::AppId,
    spec::{Given, ProcessSpec},
};
use tokio::{sync::oneshot, time::timeout};

use super::{Driver, Job};
use crate::{message::Generation, protocol::Upgraded};

/// A question of a start, and where its answer is awaited.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) app: AppId,
    pub(crate) generation: Generation,
    /// What came of the app's upgrade, if it was run.
    pub(crate) upgraded: Option<Upgraded>,
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
        upgraded: Option<Upgraded>,
    ) -> Result<Given, String> {
        if process.given.is_none() && process.upgrade.is_none() {
            return Ok(Given::default());
        }
        let (done, answer) = oneshot::channel();
        let (app, generation) = (job.app.id.clone(), job.generation);
        let errand = Errand { app, generation, upgraded, done };
        let asked = async {
            self.errands.send(errand).await.ok()?;
            answer.await.ok()
        };
        match timeout(process.ready.deadline, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("doorbell shuts down".to_owned()),
            Err(_) => Err("what it is given was not told in time: see doorbell's log".to_owned()),
        }
    }

    /// Tells what came of an upgrade, and waits for no answer.
    pub(super) fn tell_upgraded(&self, job: &Job, upgraded: Upgraded) {
        let (done, _) = oneshot::channel();
        let (app, generation) = (job.app.id.clone(), job.generation);
        // Where nobody hears of it, its turn ends by itself.
        let upgraded = Some(upgraded);
        let _ = self.errands.try_send(Errand { app, generation, upgraded, done });
    }
}
