//! What has to be kept elsewhere before a program begins.
//!
//! A program whose listen(2) depends on us must not run for an instant with nobody but us to keep its
//! ear. So the child itself, before it executes, puts the ear's descriptors into a socket that the control
//! process has the other end of: there they are safe, whether that reads them soon or late. It reads when
//! it is told of an instance, or when the supervisor is gone.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use doorbell_config::name::AppId;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::message::Generation;

/// Bytes of a message: the longest id, and a number.
const WORDS: usize = 256;
/// Most descriptors of a message.
const DESCRIPTORS: usize = 2;

/// Where one program's ear is put in advance.
#[derive(Clone, Debug)]
pub(super) struct Advance {
    /// `None` while there is no control process: then there is only us.
    pub(super) socket: Option<Arc<OwnedFd>>,
    /// Whose it is.
    pub(super) words: Vec<u8>,
}

/// The control process's end.
#[derive(Debug)]
pub struct Advances(OwnedFd);

impl Advance {
    pub(super) fn of(
        socket: Option<Arc<OwnedFd>>,
        app: &AppId,
        generation: Generation,
    ) -> io::Result<Self> {
        Ok(Self { socket, words: serde_json::to_vec(&(app, generation))? })
    }
}

impl Advances {
    /// The other end of the pair that is handed to the control process.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// What waits, without waiting for more.
    #[must_use]
    pub fn next(&self) -> Option<(AppId, Generation, Vec<OwnedFd>)> {
        let mut words = [0; WORDS];
        let (length, descriptors) = receive(&self.0, &mut words).ok()?;
        let words = words.get(..length)?;
        let (app, generation) = serde_json::from_slice(words).ok()?;
        Some((app, generation, descriptors))
    }
}

/// A socket for messages, each with descriptors: the end that they are put into, and the other.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// A message that is there: its length, and what came with it.
pub(super) fn receive(socket: &OwnedFd, words: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let parts = &mut [io::IoSliceMut::new(words)];
    let length = recvmsg(socket.as_fd(), parts, &mut control, flags)?.bytes;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    Ok((length, descriptors))
}
