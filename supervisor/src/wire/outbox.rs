//! What is on its way to a peer: written at once where there is room, and by a task that waits for room
//! where there is none. A message that somebody waits for is not handed to another thread first.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::net::Shutdown;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Notify, oneshot},
};

use super::{Frame, Gone, try_write};

/// Frames that may wait for a peer that does not read. More, and it is given up.
const WAITING: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Outbox {
    stream: Arc<UnixStream>,
    state: Mutex<State>,
    /// Rung for the task: there is something to wait for room for, or nothing more will come.
    bell: Notify,
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Bytes of the first one that are written.
    sent: usize,
    end: End,
}

#[derive(Debug)]
enum Item {
    Frame(Frame),
    /// Answered when all before it is written.
    Flush(oneshot::Sender<()>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// More may come.
    #[default]
    Open,
    /// Nobody is left who could send.
    Behind,
    /// The peer does not listen.
    Gone,
}

impl Outbox {
    pub(super) fn new(stream: Arc<UnixStream>) -> Self {
        let (state, bell, gone) = (Mutex::default(), Notify::new(), Notify::new());
        Self { stream, state, bell, gone }
    }

    pub(super) fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.put(Item::Frame(frame))
    }

    /// Waits until all that was sent is written, or never will be.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.put(Item::Flush(done)).is_ok() {
            // An error means that the peer is gone.
            let _ = flushed.await;
        }
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        loop {
            let gone = self.gone.notified();
            if self.lock().end == End::Gone {
                return;
            }
            gone.await;
        }
    }

    /// Nobody is left who could send.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        if state.end == End::Open {
            state.end = End::Behind;
        }
        self.bell.notify_one();
    }

    fn put(&self, item: Item) -> Result<(), Gone> {
        let mut state = self.lock();
        if state.end == End::Gone || state.waiting.len() >= WAITING {
            return Err(Gone);
        }
        state.waiting.push_back(item);
        if state.waiting.len() > 1 {
            // The task is at it.
            return Ok(());
        }
        match self.write(&mut state) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.bell.notify_one();
                Ok(())
            }
            Err(error) => {
                self.give_up(&mut state, &error);
                Err(Gone)
            }
        }
    }

    /// Writes all that waits; fails with `WouldBlock` if there is no room for it.
    fn write(&self, state: &mut State) -> io::Result<()> {
        while let Some(item) = state.waiting.front() {
            if let Item::Frame(frame) = item {
                let rest = frame.bytes.get(state.sent..).unwrap_or_default();
                let descriptors: &[_] = if state.sent == 0 { &frame.descriptors } else { &[] };
                let (length, left) = (frame.bytes.len(), rest.len());
                state.sent = length - left + try_write(&self.stream, rest, descriptors)?;
                if state.sent < length {
                    continue;
                }
            }
            state.sent = 0;
            if let Some(Item::Flush(done)) = state.waiting.pop_front() {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
        Ok(())
    }

    fn give_up(&self, state: &mut State, error: &io::Error) {
        // The one who reads from the peer sees its end too.
        tracing::debug!(%error, "a process at the other end does not listen");
        state.end = End::Gone;
        state.waiting.clear();
        self.gone.notify_waiters();
        self.bell.notify_one();
    }

    /// Writes what had to wait, until nobody is left to send or to listen.
    pub(super) async fn attend(self: Arc<Self>) {
        loop {
            self.bell.notified().await;
            let write = || self.write(&mut self.lock());
            let written = self.stream.async_io(Interest::WRITABLE, write).await;
            let mut state = self.lock();
            if let Err(error) = written {
                self.give_up(&mut state, &error);
            }
            match state.end {
                End::Open => {}
                End::Behind if !state.waiting.is_empty() => self.bell.notify_one(),
                End::Behind => {
                    // An error means that the peer has closed its end already.
                    let _ = rustix::net::shutdown(self.stream.as_fd(), Shutdown::Write);
                    return;
                }
                End::Gone => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
