//! The hold on the capture of one instance's output. What it does is in `reader`.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{AppLog, OutputPipe, Tail, reader::Reader};

/// How long an app waits for the disk before its lines are dropped.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The capture of one instance's output. Dropped, it lets go of the pipe as it is, for another to
/// take up.
#[derive(Debug)]
pub(crate) struct Capture {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// What a capture is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Write a line of ours.
    Say(String),
    /// See what is there, then answer.
    Settle(oneshot::Sender<()>),
    /// Write what is there, and end.
    Finish,
}

impl Capture {
    /// Begins to read, from where an earlier reader stopped.
    pub(crate) fn start(
        mut pipe: OutputPipe,
        log: Arc<AppLog>,
        tail: Arc<Tail>,
    ) -> io::Result<Self> {
        let unsettled = pipe.unsettled.take();
        let reader = Reader::of(pipe, log, tail)?;
        let (orders, inbox) = mpsc::channel(8);
        Ok(Self { orders, task: tokio::spawn(reader.run(inbox, unsettled)) })
    }

    /// Adds a line of ours to the log.
    pub(crate) async fn say(&self, line: String) {
        // A capture that has ended has nothing to add to.
        let _ = self.orders.send(Order::Say(line)).await;
    }

    /// Returns when all that was printed so far is in the tail.
    pub(crate) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        if self.orders.send(Order::Settle(done)).await.is_ok() {
            // An error means that the capture ended, so it has settled for good.
            let _ = settled.await;
        }
    }

    /// Writes what was printed so far and ends, even if somebody still holds the pipe, which loses its
    /// name.
    pub(crate) async fn finish(self) {
        let _ = self.orders.send(Order::Finish).await;
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the capture of an app's output failed");
        }
    }
}
