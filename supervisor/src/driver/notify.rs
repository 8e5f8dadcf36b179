//! What an app says of itself: sd_notify(3), on a socket in a private folder.
//!
//! Only processes of the instance's own tree are believed; the kernel says who sends
//! (`SCM_CREDENTIALS`, unix(7)).

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use tokio::{io::Interest, net::UnixDatagram};

use super::procfs::Pid;

/// Longest message that is read; the rest of a longer one is cut off.
const MESSAGE: usize = 4096;

/// The instance's end of `NOTIFY_SOCKET`.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

/// What was said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sender: Pid,
    pub(super) is_ready: bool,
    /// For operators.
    pub(super) status: Option<String>,
    /// The process that the app takes for its main one.
    pub(super) main_pid: Option<Pid>,
}

impl NotifySocket {
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        set_socket_passcred(socket.as_fd(), true)?;
        Ok(Self { socket, path })
    }

    /// A socket that another process kept open.
    pub(super) fn from_held(socket: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message. Dropping this future loses none.
    pub(super) async fn receive(&self) -> io::Result<Message> {
        self.socket.async_io(Interest::READABLE, || self.try_receive()).await
    }

    fn try_receive(&self) -> io::Result<Message> {
        let mut text = [0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.socket.as_fd(),
            &mut [io::IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(who) => u32::try_from(who.pid.as_raw_pid()).ok(),
            _ => None,
        });
        let text = text.get(..received.bytes).unwrap_or_default();
        Ok(Message { sender: sender.unwrap_or(0), ..Message::parse(text) })
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket file stays behind");
        }
    }
}

impl Message {
    fn parse(text: &[u8]) -> Self {
        let mut message = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => message.is_ready = true,
                Some(("STATUS", status)) => message.status = Some(status.into()),
                Some(("MAINPID", pid)) => message.main_pid = pid.parse().ok(),
                Some(_) | None => {}
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_what_was_said_and_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(folder.path().join("n")).unwrap();
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(b"STATUS=almost\nMAINPID=7\nREADY=1\nX", socket.path()).unwrap();
        let expected = Message {
            sender: std::process::id(),
            is_ready: true,
            status: Some("almost".into()),
            main_pid: Some(7),
        };
        assert_eq!(socket.receive().await.unwrap(), expected);
    }
}
