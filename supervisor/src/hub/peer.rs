//! A role at the other end of a connection.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    Event,
    launch::{Fate, Runner},
    switchboard::Number,
};
use crate::{
    protocol::{FromControl, FromProxy},
    wire::{self, Frame, Limits, Sender},
};

/// How long a role may take to read what is on its way.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a role says.
pub(super) enum Told {
    Proxy(FromProxy, Vec<OwnedFd>),
    Control(FromControl, Vec<OwnedFd>),
    /// Nothing any more. With an error if it said what it must not.
    Gone(Option<io::Error>),
}

/// A role that we are connected to.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) number: Number,
    pub(super) since: Instant,
    pub(super) runner: Runner,
    sender: Sender,
    reader: JoinHandle<()>,
}

impl Peer {
    /// Listens to a role at the other end of a connection.
    pub(super) fn attach<T>(
        connection: UnixStream,
        runner: Runner,
        number: Number,
        limits: Limits,
        events: mpsc::Sender<Event>,
        told: fn(T, Vec<OwnedFd>) -> Told,
    ) -> io::Result<Self>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let (sender, mut receiver) = wire::open::<T>(connection, limits)?;
        let reader = tokio::spawn(async move {
            let end = loop {
                match receiver.next().await {
                    Ok(Some((message, descriptors))) => {
                        let event = Event::Told(number, told(message, descriptors));
                        // An error means that all is over.
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let _ = events.send(Event::Told(number, Told::Gone(end))).await;
        });
        Ok(Self { number, since: Instant::now(), runner, sender, reader })
    }

    /// Sends a message. One that does not read for so long that no more can wait is given up.
    pub(super) fn tell<T: serde::Serialize>(&self, message: &T) {
        match Frame::of(message) {
            Ok(frame) => self.send(frame),
            Err(error) => tracing::error!(%error, "a message cannot be sent"),
        }
    }

    /// Waits until all that was sent is on its way.
    pub(super) async fn flush(&self) {
        // One that does not read is not waited for.
        let _ = timeout(PATIENCE, self.sender.flush()).await;
    }

    /// Sends a message with descriptors.
    pub(super) fn tell_with<T: serde::Serialize>(
        &self,
        message: &T,
        descriptors: Vec<std::sync::Arc<OwnedFd>>,
    ) {
        match Frame::with(message, descriptors) {
            Ok(frame) => self.send(frame),
            Err(error) => tracing::error!(%error, "a message cannot be sent"),
        }
    }

    fn send(&self, frame: Frame) {
        // The end of one that is gone is seen by the reader.
        if self.sender.send_frame(frame).is_err() {
            self.runner.tell(Fate::Die);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
