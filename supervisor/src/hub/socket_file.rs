//! Unix sockets in the file system: made whole, and never in the place of something else.
//!
//! A file of a doorbell that is gone is replaced; a file that is no socket, or that somebody listens
//! on, is left alone.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Whose socket may be in the place of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaces {
    /// One of somebody who is gone.
    Nobody,
    /// One that we listen on, whose address goes to somebody else.
    Ours,
}

/// Listens on a socket whose file has a mode (chmod(2)), without blocking. Nobody can connect before
/// the mode is set, and what is found under the name is ready.
///
/// # Errors
/// What the system says, or what is in the file's place.
pub(super) fn listen(path: &Path, mode: u32, replaces: Replaces) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match replaces {
        Replaces::Nobody => check_place(path)?,
        Replaces::Ours => {}
    }
    // Short, as the length of a socket's path is limited.
    let hidden = path.with_file_name(format!(".{}", std::process::id()));
    check_place(&hidden)?;
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&hidden)?)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    fs::rename(&hidden, path)?;
    Ok(OwnedFd::from(socket).into())
}

/// Whether a socket may be put there: nothing is, or a socket that nobody listens on.
fn check_place(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let message = "a file that is no socket is in its place";
            return Err(io::Error::new(ErrorKind::AlreadyExists, message));
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Somebody who has too much to do would keep us waiting.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another program listens on it")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "precious").unwrap();
        symlink(&path, &link).unwrap();
        for place in [&path, &link] {
            assert_eq!(
                listen(place, 0o600, Replaces::Nobody).unwrap_err().kind(),
                ErrorKind::AlreadyExists
            );
        }
        assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_socket_is_replaced_when_nobody_listens_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/socket");
        let first = listen(&path, 0o660, Replaces::Nobody).unwrap();
        assert_eq!(
            listen(&path, 0o600, Replaces::Nobody).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        let second = listen(&path, 0o660, Replaces::Ours).unwrap();
        drop((first, second));
        let _third = listen(&path, 0o600, Replaces::Nobody).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else stays");
    }
}
