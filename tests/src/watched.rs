//! A server of a test's own: in a folder of its own, as a user that may run it, and gone with the test.
//!
//! Its life hangs on a pipe that this process holds: a shell reads it, and ends the server and its folder when
//! the pipe does, however this process came to its end.

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
};

use crate::Authority;

/// A server, and where it lives.
pub(crate) struct Watched {
    pub(crate) folder: PathBuf,
    /// Whose it is, if not ours: databases refuse to be run by root.
    user: Option<(u32, u32)>,
    running: Mutex<Option<Child>>,
}

impl Watched {
    /// One in this folder, which does not run yet.
    pub(crate) fn in_folder(folder: PathBuf) -> Self {
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group)).expect("to give it away");
        }
        Self { folder, user, running: Mutex::new(None) }
    }

    /// A new folder for one.
    pub(crate) fn folder(prefix: &str) -> PathBuf {
        tempfile::Builder::new().prefix(prefix).tempdir().expect("a folder").keep()
    }

    /// Puts a file into its folder that only it may read.
    pub(crate) fn put(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        if let Some((user, group)) = self.user {
            chown(&path, Some(user), Some(group)).expect("to give it away");
        }
        path
    }

    /// Puts a key and a certificate of this authority for `localhost` there; tells where.
    pub(crate) fn put_certificate(&self, authority: &Authority) -> [String; 2] {
        let (key, certificate) = authority.certify("DNS:localhost");
        [("key.pem", key), ("certificate.pem", certificate)]
            .map(|(name, from)| self.put(name, &fs::read(from).expect("it")).display().to_string())
    }

    /// Runs it by a script, which ends it when its input ends, and with it the folder, unless it reads
    /// "keep" before.
    pub(crate) fn run(&self, script: &str, program: &Path) {
        let mut watched = Command::new("sh");
        watched.arg("-c").arg(script).arg(program).arg(&self.folder);
        let child = self.as_user(&mut watched).stdin(Stdio::piped()).spawn().expect("sh");
        *self.running.lock().expect("the server") = Some(child);
    }

    /// Ends it at once, without a goodbye, and keeps the folder.
    pub(crate) fn stop(&self) {
        let mut running = self.running.lock().expect("the server");
        if let Some(mut child) = running.take() {
            let mut input = child.stdin.take().expect("its input");
            input.write_all(b"keep\n").expect("to tell it");
            drop(input);
            child.wait().expect("its end");
        }
    }

    /// A program that is run as who the server is.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.as_user(&mut command);
        command
    }

    fn as_user<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.folder)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let running = self.running.get_mut().map(Option::take);
        match running {
            Ok(Some(mut child)) => {
                drop(child.stdin.take());
                let _ = child.wait();
            }
            _ => drop(fs::remove_dir_all(&self.folder)),
        }
    }
}

/// The number and group of a user who is not root.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let number_of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    number_of("postgres").or_else(|| number_of("nobody")).expect("a user beside root")
}

/// What a program printed, which must have succeeded.
pub(crate) fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
