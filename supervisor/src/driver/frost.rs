//! How a ready instance stands still and goes on, as it is told.

use tokio::sync::watch as channel;

use super::{End, Instance, Note};
use crate::{
    driver::{
        freezer::{self, Still},
        record::Phase,
    },
    message::Endpoint,
    probe,
};

impl Instance {
    /// Lets it stand still and go on as it is told, until it does not survive that.
    pub(super) async fn follow_frost(&self, endpoint: &Endpoint) -> End {
        let mut frost = self.wires.frost.clone();
        let mut still = None;
        loop {
            let is_to_stand_still = told(&mut frost).await;
            if is_to_stand_still {
                still = self.stand_still().await;
            } else if let Err(end) = self.go_on(still.take(), endpoint).await {
                return end;
            }
        }
    }

    async fn stand_still(&self) -> Option<Still> {
        // Before it does: who finds it standing still is to know why.
        self.note(Phase::Frozen).await;
        match freezer::stop(&self.wires.witness, &self.driver.scanner).await {
            Ok(still) => Some(still),
            // It goes on, and costs what it costs.
            Err(error) => {
                tracing::error!(app = %self.job.app.id, %error, "cannot be frozen");
                None
            }
        }
    }

    async fn go_on(&self, still: Option<Still>, endpoint: &Endpoint) -> Result<(), End> {
        let gone_on = freezer::go_on(still, &self.wires.witness, &self.driver.scanner).await;
        gone_on.map_err(|error| End::unwatched(&error))?;
        let accepting = async {
            let accepts = probe::accepts(endpoint).await;
            if accepts {
                self.tell(Note::Thawed).await;
            }
            accepts
        };
        let (accepts, ()) = tokio::join!(accepting, self.note(Phase::Ready));
        let failed = || End::crashed("did not accept connections after it was frozen");
        accepts.then_some(()).ok_or_else(failed)
    }
}

/// What it is told next: to stand still, or not to. If the desk is gone, nothing.
async fn told(frost: &mut channel::Receiver<bool>) -> bool {
    if frost.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    *frost.borrow_and_update()
}
