//! How a ready instance stands still and goes on, as it is told.

use std::time::Duration;

use tokio::{
    sync::watch as channel,
    time::{sleep, timeout},
};

use super::{End, Instance, Note};
use crate::{
    driver::{
        freezer::{self, Still},
        record::Phase,
    },
    message::Endpoint,
    probe,
};

/// Until what follows a thaw, and no visitor waits for.
const VISITORS_FIRST: Duration = Duration::from_millis(1);
/// How long it is waited for that memory is given back, which goes on behind that.
const GIVING_BACK: Duration = Duration::from_secs(10);

impl Instance {
    /// Lets it stand still and go on as it is told, until it does not survive that. The next word ends what
    /// the last one began: a visitor does not wait until all stand still who are to go on.
    pub(super) async fn follow_frost(&self, endpoint: &Endpoint) -> End {
        let mut frost = self.wires.frost.clone();
        let mut still = None;
        let mut is_to_stand_still = told(&mut frost).await;
        loop {
            let followed = async {
                if is_to_stand_still {
                    still = self.stand_still().await;
                    self.gave_back(still.as_mut()).await;
                } else if let Err(end) = self.go_on(still.take(), endpoint).await {
                    return end;
                }
                std::future::pending().await
            };
            // Dropping loses nothing: a group, or each process, is told anew, and the record is written as
            // it is then. Invariant: whoever is to go on is told nothing else before it has said that it
            // does (`lifecycle/frost`).
            is_to_stand_still = tokio::select! {
                biased;
                end = followed => return end,
                word = told(&mut frost) => word,
            };
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

    /// Tells when its memory is given back, as far as that can be waited for.
    async fn gave_back(&self, still: Option<&mut Still>) {
        if let Some(still) = still
            && timeout(GIVING_BACK, still.gave_back()).await.is_err()
        {
            tracing::debug!(app = %self.job.app.id, "it takes its time to give its memory back");
        }
        self.tell(Note::GaveBack).await;
    }

    async fn go_on(&self, still: Option<Still>, endpoint: &Endpoint) -> Result<(), End> {
        let gone_on = freezer::go_on(still, &self.wires.witness, &self.driver.scanner).await;
        gone_on.map_err(|error| End::unwatched(&error))?;
        // Its socket has accepted connections all the time, and a visitor's own shows whether it still does.
        self.tell(Note::Thawed).await;
        // The rest is nothing that he should wait for. Of one that goes on while its record has it stand
        // still, the next supervisor sees that it does (`adopt`).
        sleep(VISITORS_FIRST).await;
        self.note(Phase::Ready).await;
        if probe::refuses(endpoint).await {
            return Err(End::crashed("did not accept connections after it was frozen"));
        }
        Ok(())
    }
}

/// What it is told next: to stand still, or not to. If the desk is gone, nothing.
async fn told(frost: &mut channel::Receiver<bool>) -> bool {
    if frost.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    *frost.borrow_and_update()
}
