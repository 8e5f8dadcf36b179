//! Frames between the processes: the way messages and descriptors travel over a Unix socket.
//!
//! A frame is the length of its text (four bytes, little endian), the number of descriptors that
//! come with it (one byte), and the text, which is JSON: processes of two versions talk to each other
//! during an upgrade, so a field that one of them does not know must not matter. Descriptors ride
//! with the frame's first byte (`SCM_RIGHTS`, unix(7)). No frame is sent per request.
//!
//! What comes in is not trusted: a frame that is too long, is no message, or comes with more or
//! fewer descriptors than it says ends the connection.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    marker::PhantomData,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::Arc,
};

use bytes::{Buf, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

use self::outbox::Outbox;

mod outbox;

/// Length and number of descriptors.
const HEAD: usize = 5;
/// Most descriptors of one frame, `SCM_MAX_FD`.
pub const MOST_DESCRIPTORS: usize = 253;
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// A message, ready to be sent; made once, however many it goes to.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Arc<[u8]>,
    descriptors: Vec<Arc<OwnedFd>>,
}

/// Sends frames, in order, without ever waiting; clones send to the same peer. When the last one is
/// dropped, the peer sees the end behind the last frame.
#[derive(Clone, Debug)]
pub struct Sender {
    hold: Arc<Hold>,
}

/// What all senders to one peer have in common.
#[derive(Debug)]
struct Hold(Arc<Outbox>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The peer is gone, or has not read for so long that it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process at the other end is gone")]
pub struct Gone;

/// What one peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one frame's text.
    pub text: usize,
    /// Descriptors of one frame.
    pub descriptors: usize,
}

/// Receives messages.
#[derive(Debug)]
pub struct Receiver<T> {
    stream: Arc<UnixStream>,
    limits: Limits,
    read: BytesMut,
    descriptors: VecDeque<OwnedFd>,
    message: PhantomData<fn() -> T>,
}

impl Frame {
    /// Makes a frame of a message.
    ///
    /// # Errors
    /// If the message is no JSON: a path in it may not be UTF-8.
    pub fn of<T: Serialize>(message: &T) -> io::Result<Self> {
        Self::with(message, Vec::new())
    }

    /// Makes a frame of a message that comes with descriptors.
    ///
    /// # Errors
    /// As [`Frame::of`], and for more than [`MOST_DESCRIPTORS`].
    pub fn with<T: Serialize>(message: &T, descriptors: Vec<Arc<OwnedFd>>) -> io::Result<Self> {
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message)?;
        let length = u32::try_from(bytes.len() - HEAD).map_err(io::Error::other)?;
        let count = u8::try_from(descriptors.len())
            .ok()
            .filter(|count| usize::from(*count) <= MOST_DESCRIPTORS)
            .ok_or_else(|| io::Error::other("too many descriptors for one message"))?;
        let (at, rest) = bytes.split_at_mut(4);
        at.copy_from_slice(&length.to_le_bytes());
        rest.iter_mut().take(1).for_each(|byte| *byte = count);
        Ok(Self { bytes: bytes.into(), descriptors })
    }
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    /// If nobody will ever read it.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), Gone> {
        match Frame::of(message) {
            Ok(frame) => self.send_frame(frame),
            Err(error) => {
                tracing::error!(%error, "a message cannot be sent");
                Err(Gone)
            }
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If nobody will ever read it.
    pub fn send_frame(&self, frame: Frame) -> Result<(), Gone> {
        self.hold.0.send(frame)
    }

    /// Waits until all that was sent is written, or never will be.
    pub async fn flush(&self) {
        self.hold.0.flush().await;
    }

    /// Waits until nobody reads any more.
    pub async fn closed(&self) {
        self.hold.0.closed().await;
    }
}

/// Both ends of a connection to a peer. Needs a Tokio runtime with I/O.
///
/// # Errors
/// If the system does not let the socket be watched.
pub fn open<T>(stream: StdStream, limits: Limits) -> io::Result<(Sender, Receiver<T>)> {
    stream.set_nonblocking(true)?;
    let stream = Arc::new(UnixStream::from_std(stream)?);
    let outbox = Arc::new(Outbox::new(Arc::clone(&stream)));
    // Ends with the last sender, or with the peer.
    tokio::spawn(Arc::clone(&outbox).attend());
    let receiver = Receiver {
        stream,
        limits,
        read: BytesMut::new(),
        descriptors: VecDeque::new(),
        message: PhantomData,
    };
    Ok((Sender { hold: Arc::new(Hold(outbox)) }, receiver))
}

fn try_write(stream: &UnixStream, rest: &[u8], descriptors: &[Arc<OwnedFd>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|one| one.as_fd()).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(rest)], &mut control, flags)?)
}

impl<T: DeserializeOwned> Receiver<T> {
    /// The next message, with its descriptors; `None` at the end. Dropping this future loses none.
    ///
    /// # Errors
    /// If the peer sends what it must not. It is not to be listened to any more.
    pub async fn next(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.take_frame()? {
                return Ok(Some(message));
            }
            let stream = Arc::clone(&self.stream);
            let read = stream.async_io(Interest::READABLE, || self.try_read()).await;
            match read {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn try_read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.stream.as_fd(),
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
        let most = match self.limits.descriptors {
            0 => 0,
            // Those of the next frame may come along.
            allowed => allowed + MOST_DESCRIPTORS,
        };
        if is_cut || self.descriptors.len() > most {
            return Err(forbidden("more descriptors than it may"));
        }
        self.read.extend_from_slice(chunk.get(..received.bytes).unwrap_or_default());
        Ok(received.bytes)
    }

    fn take_frame(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, _)) = self.read.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, count] = *head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let count = usize::from(count);
        if length > self.limits.text {
            return Err(forbidden("a message that is too long"));
        }
        if count > self.limits.descriptors {
            return Err(forbidden("more descriptors than it may"));
        }
        if self.read.len() < HEAD + length {
            return Ok(None);
        }
        if self.descriptors.len() < count {
            return Err(forbidden("fewer descriptors than it says"));
        }
        self.read.advance(HEAD);
        let text = self.read.split_to(length);
        // A large message leaves no large buffer behind.
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        let message = serde_json::from_slice(&text)?;
        Ok(Some((message, self.descriptors.drain(..count).collect())))
    }
}

fn forbidden(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer sent {what}"))
}

#[cfg(test)]
mod tests;
