//! Looks into a pipe without taking anything out: tee(2) into a pipe of our own, which is read
//! instead. One such pipe serves the whole process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use rustix::{
    buffer::spare_capacity,
    io::{Errno, retry_on_intr},
    pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee},
};

use super::pipe::CAPACITY;

/// Invariant: empty whenever nobody holds the lock.
static SCRATCH: Mutex<Option<Scratch>> = Mutex::new(None);

struct Scratch {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Copies the first bytes of a pipe, at most so many, into an empty buffer. There are none in an
/// empty pipe, whether somebody may write to it or not.
pub(super) fn peek(pipe: impl AsFd, most: usize, into: &mut Vec<u8>) -> io::Result<()> {
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    // One that fails is not put back: it may hold something.
    let able = match scratch.take() {
        Some(scratch) => scratch,
        None => Scratch::new()?,
    };
    able.peek(pipe, most, into)?;
    *scratch = Some(able);
    Ok(())
}

/// The bytes that can be looked at, at most.
pub(super) fn capacity() -> io::Result<usize> {
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let able = match scratch.take() {
        Some(scratch) => scratch,
        None => Scratch::new()?,
    };
    Ok(fcntl_getpipe_size(&scratch.insert(able).reader)?)
}

impl Scratch {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Who may not have a large one has the one there is.
        let _ = fcntl_setpipe_size(&reader, CAPACITY);
        Ok(Self { reader, writer })
    }

    fn peek(&self, pipe: impl AsFd, most: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let teed = retry_on_intr(|| tee(&pipe, &self.writer, most, SpliceFlags::NONBLOCK));
        let length = match teed {
            Err(Errno::AGAIN) => return Ok(()),
            other => other?,
        };
        into.reserve(length);
        while into.len() < length {
            if retry_on_intr(|| rustix::io::read(&self.reader, spare_capacity(into)))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
