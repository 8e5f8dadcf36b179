//! Reading an app's pipe: looks at its front, and takes away only what was dealt with.
//!
//! The front of the pipe is `in_flight` bytes that are being written, then what is new. Two take
//! them away: the writer when they stand in the log (`batch`), or the reader when it gives up
//! waiting for that (`capture`); the lock sees to it that one does, once. They are taken by one
//! read(2) into memory that is in use, which a SIGKILL does not tear.

use std::{
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::{Errno, ioctl_fionread, retry_on_intr},
};
use tokio::net::unix::pipe;

use super::{
    cut::LONGEST,
    mark::Mark,
    pipe::{OutputPipe, capacity},
    scratch,
};

/// The reading end of a pipe in use.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) mark: Mark,
    pipe: pipe::Receiver,
    path: PathBuf,
    capacity: usize,
    longest: usize,
    in_flight: Mutex<usize>,
}

impl Intake {
    pub(super) fn of(output: OutputPipe) -> io::Result<Self> {
        let path = output.path().to_owned();
        let capacity = capacity(&output.reader)?;
        // What cannot be seen whole, or finds no room in the pipe, is passed on in pieces.
        let longest = LONGEST.min(capacity).min(scratch::capacity()? / 2);
        let pipe = pipe::Receiver::from_owned_fd(output.reader)?;
        Ok(Self { mark: output.mark, pipe, path, capacity, longest, in_flight: Mutex::new(0) })
    }

    /// Longest line that is kept whole.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Bytes that the pipe holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Waits until the system announces news. It does so once for each write, and not for what goes
    /// on within a large one while something is in the pipe already.
    pub(super) async fn news(&self) -> io::Result<()> {
        self.pipe.readable().await
    }

    /// Looks after such news; `WouldBlock` waits for the next.
    pub(super) fn after_news<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.pipe.try_io(look)
    }

    /// Copies the first bytes, at most so many, into an empty buffer. Only while none is in flight.
    pub(super) fn peek(&self, most: usize, into: &mut Vec<u8>) -> io::Result<()> {
        scratch::peek(&self.pipe, most, into)
    }

    /// Copies everything into an empty buffer, and returns how much of it is in flight.
    pub(super) fn peek_all(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let in_flight = self.lock();
        scratch::peek(&self.pipe, self.capacity, into)?;
        Ok(*in_flight)
    }

    /// The first bytes are being written from here on.
    pub(super) fn depart(&self, bytes: usize) {
        *self.lock() = bytes;
    }

    /// Takes away what is in flight, if nobody did so yet. `seen` are these bytes, and are read again.
    pub(super) fn take_in_flight(&self, seen: &mut [u8]) {
        let mut in_flight = self.lock();
        let bytes = std::mem::take(&mut *in_flight);
        if let Some(seen) = seen.get_mut(..bytes) {
            self.read(seen);
        }
    }

    /// Takes away the first bytes of what is in flight. The others are in flight no more; tells how many.
    /// `None` if somebody took all of it before. `seen` are these bytes, and are read again.
    pub(super) fn take_of_flight(&self, bytes: usize, seen: &mut [u8]) -> Option<usize> {
        let mut in_flight = self.lock();
        let all = std::mem::take(&mut *in_flight);
        let taken = bytes.min(all);
        if let Some(seen) = seen.get_mut(..taken) {
            self.read(seen);
        }
        (all > 0).then_some(all - taken)
    }

    /// Takes the first bytes away, which were seen. Only while none is in flight.
    pub(super) fn take(&self, seen: &mut [u8]) {
        self.read(seen);
    }

    fn read(&self, mut seen: &mut [u8]) {
        while !seen.is_empty() {
            match retry_on_intr(|| rustix::io::read(&self.pipe, &mut *seen)) {
                // The app has both ends, and may have read some of it itself.
                Ok(0) | Err(Errno::AGAIN) => return,
                Ok(taken) => seen = seen.get_mut(taken..).unwrap_or_default(),
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "cannot read a pipe");
                    return;
                }
            }
        }
    }

    /// Bytes in the pipe.
    pub(super) fn available(&self) -> usize {
        let bytes = ioctl_fionread(&self.pipe).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Whether nobody can write any more. Who asks this before a look sees all that came.
    pub(super) fn has_ended(&self) -> bool {
        let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
        let polled = retry_on_intr(|| poll(&mut pipe, Some(&Timespec::default())));
        polled.is_ok() && pipe[0].revents().contains(PollFlags::HUP)
    }

    /// Whether who writes has to wait. Bytes do not tell: a pipe is full when its pages are, and these
    /// need not be. So a writing end is asked, for a moment.
    pub(super) fn is_full(&self) -> bool {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.pipe.as_raw_fd());
        let Ok(writer) = open(path, flags, Mode::empty()) else {
            return self.available() >= self.capacity / 2;
        };
        let mut writer = [PollFd::new(&writer, PollFlags::OUT)];
        let polled = retry_on_intr(|| poll(&mut writer, Some(&Timespec::default())));
        polled.is_ok() && !writer[0].revents().contains(PollFlags::OUT)
    }

    /// Whether who writes has to wait although there is nothing but these bytes, which were seen.
    pub(super) fn is_full_of(&self, seen: &[u8]) -> bool {
        // In this order: if it is full of what came since the look, that is counted.
        self.is_full() && self.available() == seen.len()
    }

    /// Whether who writes has to wait soon.
    pub(super) fn is_crowded(&self) -> bool {
        self.available() >= self.capacity / 4 * 3 || self.is_full()
    }

    /// Removes the pipe's name, and what stands beside it.
    pub(super) fn remove(&self) {
        if let Err(error) = OutputPipe::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a pipe");
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
