//! Watches the memory of the machine and of all apps, as long as apps run; without any it sleeps.

use std::{sync::Arc, time::Duration};

use doorbell_config::name::{AppId, ByteSize};
use tokio::{
    sync::{Notify, mpsc, watch as channel},
    time::sleep,
};

use super::gauge::{Gauge, missing};
use crate::{
    driver::{Meter, has_swap},
    message::Usage,
};

/// Between two looks at what apps take against a budget.
const PACE: Duration = Duration::from_secs(5);
/// What follows from one look takes this long to be seen in the next.
const REST: Duration = Duration::from_secs(1);

/// What a look found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shortage {
    /// Bytes that the machine misses; zero if it has enough.
    pub(crate) machine: u64,
    /// Whether memory of frozen apps has somewhere to go.
    pub(crate) has_swap: bool,
    /// What every running app takes.
    pub(crate) apps: Vec<(AppId, Usage)>,
}

/// Watches.
#[derive(Debug)]
pub(crate) struct Warden {
    pub(crate) meter: Arc<Meter>,
    /// What all apps may take together, if that is limited.
    pub(crate) budget: channel::Receiver<Option<ByteSize>>,
    /// Somebody wants to know now.
    pub(crate) asked: Arc<Notify>,
    pub(crate) to: mpsc::Sender<Shortage>,
}

/// Why it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The machine may be short.
    Machine,
    /// It is time, or somebody asked.
    Budget,
}

impl Warden {
    /// Watches until nobody listens any more.
    pub(crate) async fn watch(mut self) {
        let gauge = Gauge::open();
        while !self.to.is_closed() {
            let has_budget = self.budget.borrow_and_update().is_some();
            let by_itself = async {
                self.meter.until_running().await;
                tokio::select! {
                    () = gauge.occasion() => Why::Machine,
                    () = sleep(PACE), if has_budget => Why::Budget,
                }
            };
            // Dropping the losers loses nothing: each says again what is.
            let why = tokio::select! {
                () = self.asked.notified() => Why::Budget,
                why = by_itself => why,
                Ok(()) = self.budget.changed() => continue,
            };
            let machine = missing().unwrap_or_else(|error| {
                tracing::warn!(%error, "nobody knows how much memory there is");
                0
            });
            if why == Why::Machine && machine == 0 {
                continue;
            }
            let apps = self.meter.read().await;
            if self.to.send(Shortage { machine, has_swap: has_swap(), apps }).await.is_err() {
                return;
            }
            sleep(REST).await;
        }
    }
}
