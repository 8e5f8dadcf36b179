//! Where roles that outlived their supervisor find the next one.
//!
//! A supervisor that was killed takes neither the proxy nor the control process with it. They call at
//! a socket in the state folder until somebody answers. Who may come in is decided by what the kernel
//! says of the caller (`SO_PEERCRED`, socket(7)) and the list of roles that the earlier supervisor
//! left: pid and start time, so that a reused pid is nobody.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use doorbell_config::spec::ServerSpec;
use rustix::{
    fs::{CWD, Mode, OFlags},
    net::sockopt::socket_peercred,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::{
    driver::{Process, RUN, boot, has_threads, share_socket},
    protocol::{Listening, Role},
    written,
};

const SOCKET: &str = "roles.sock";
const LIST: &str = "roles.json";
const SETTINGS: &str = "settings.json";
const LISTENERS: &str = "listeners.json";
/// Time between two calls.
const PACE: Duration = Duration::from_millis(20);
/// Calls that may find no folder before there is nobody to expect any more.
const WITHOUT_FOLDER: u32 = 250;

/// A role that runs, as the next supervisor is to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it is.
    pub role: Role,
    /// Its number.
    pub number: u32,
    /// Its process id.
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub began: u64,
    /// The kernel's run, so that pids of before a reboot are nobody's.
    #[serde(default)]
    pub boot: Option<String>,
    /// Whether it was told to end, and only finishes what it has.
    #[serde(default)]
    pub is_draining: bool,
}

/// An address that is listened on, as the next supervisor is to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownListener {
    pub(crate) listening: Listening,
    /// Of its sockets, stat(2): nobody else's has one of these.
    pub(crate) inodes: Vec<u64>,
}

/// The place, in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Reception {
    folder: PathBuf,
}

impl Known {
    /// A role that was just started; `None` if it has ended.
    pub(crate) fn of(role: Role, number: u32, pid: u32) -> Option<Self> {
        let began = Process::read(pid)?.began;
        Some(Self { role, number, pid, began, boot: boot().ok(), is_draining: false })
    }

    /// Whether anything of it still runs, and holds its sockets.
    pub(crate) fn lives(&self) -> bool {
        let is_of_this_boot = self.boot.is_none() || self.boot == boot().ok();
        let process = Process::read(self.pid).filter(|process| process.began == self.began);
        is_of_this_boot
            && process.is_some_and(|process| !process.is_zombie || has_threads(self.pid))
    }
}

impl Reception {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Where to call.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// Opens for those who call, and are of this group if they are another user.
    pub(crate) fn open(&self, group: Option<u32>) -> io::Result<UnixListener> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let folder = open_folder(&self.folder)?;
        let listener = UnixListener::bind(short(&folder, SOCKET))?;
        if let Some(group) = group {
            share_socket(&path, group)?;
        }
        Ok(listener)
    }

    /// Roles of the earlier supervisor that still run, and the highest number that it gave.
    pub(crate) fn known(&self) -> (Vec<Known>, u32) {
        let mut known = self.noted();
        let highest = known.iter().map(|known| known.number).max().unwrap_or(0);
        known.retain(Known::lives);
        (known, highest)
    }

    fn noted(&self) -> Vec<Known> {
        let text = match fs::read(self.folder.join(LIST)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, "cannot read which roles an earlier supervisor had");
                return Vec::new();
            }
        };
        match serde_json::from_slice::<Vec<Known>>(&text) {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(%error, "cannot understand which roles an earlier supervisor had");
                Vec::new()
            }
        }
    }

    /// Writes down who runs.
    pub(crate) fn note(&self, known: &[Known]) -> io::Result<()> {
        let (path, fresh) = (self.folder.join(LIST), self.folder.join("roles.new"));
        fs::write(&fresh, serde_json::to_vec(known)?)?;
        fs::rename(fresh, path)
    }

    /// Writes down what is listened on, so that sockets which come back are known.
    pub(crate) fn note_listeners(&self, listeners: &[KnownListener]) -> io::Result<()> {
        let (path, fresh) = (self.folder.join(LISTENERS), self.folder.join("listeners.new"));
        fs::write(&fresh, serde_json::to_vec(listeners)?)?;
        fs::rename(fresh, path)
    }

    /// What an earlier supervisor listened on.
    pub(crate) fn known_listeners(&self) -> Vec<KnownListener> {
        let text = fs::read(self.folder.join(LISTENERS)).unwrap_or_default();
        // Without the list nothing that comes back is believed, and all is opened anew.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes down the settings that hold.
    pub(crate) fn note_settings(&self, server: &ServerSpec) -> io::Result<()> {
        let (path, fresh) = (self.folder.join(SETTINGS), self.folder.join("settings.new"));
        fs::write(&fresh, serde_json::to_vec(server)?)?;
        fs::rename(fresh, path)
    }

    /// Whether all that is written down here could be read.
    pub(crate) fn understand(&self) -> io::Result<()> {
        written::read::<Vec<Known>>(&self.folder.join(LIST))?;
        written::read::<Vec<KnownListener>>(&self.folder.join(LISTENERS))?;
        written::read::<ServerSpec>(&self.folder.join(SETTINGS))?;
        Ok(())
    }

    /// Forgets everybody: a shutdown in order.
    pub(crate) fn close(&self) {
        for name in [LIST, LISTENERS, SETTINGS, SOCKET] {
            // They may not be there.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

/// The settings that held under an earlier supervisor with this state folder, if roles or apps of it
/// may live.
///
/// # Errors
/// If there are none that can be read.
pub fn settings_that_held(state_dir: &Path) -> io::Result<ServerSpec> {
    let text = fs::read(state_dir.join(RUN).join(SETTINGS))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Who calls, as the kernel says.
pub(crate) fn caller(stream: &StdStream) -> io::Result<u32> {
    let pid = socket_peercred(stream.as_fd())?.pid.as_raw_pid();
    u32::try_from(pid).map_err(io::Error::other)
}

/// Calls until a supervisor answers; `None` when there is no place any more where one could.
pub async fn call(path: &Path) -> Option<StdStream> {
    let folder = path.parent()?;
    let mut without_folder = 0;
    while without_folder < WITHOUT_FOLDER {
        // First of all: whoever is turned away comes again, and not in a hurry.
        tokio::time::sleep(PACE).await;
        match open_folder(folder).and_then(|folder| StdStream::connect(short(&folder, SOCKET))) {
            Ok(stream) => return Some(stream),
            Err(_) if folder.exists() => without_folder = 0,
            Err(_) => without_folder += 1,
        }
    }
    None
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A confined role may call this one, and not open(2).
    Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
}

/// A path for sockets in a folder that is open, short enough for unix(7) wherever the folder is.
fn short(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms;

    #[tokio::test]
    async fn who_calls_is_answered_however_long_the_path_is() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("long".repeat(40));
        fs::create_dir_all(&folder).unwrap();
        let reception = Reception::new(&folder);
        // An earlier one left its socket.
        drop(reception.open(None).unwrap());
        let path = reception.path();
        let calling = tokio::spawn(async move { call(&path).await });
        let listener = reception.open(None).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(caller(&stream.into_std().unwrap()).unwrap(), std::process::id());
        assert!(calling.await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_calls_for_ever_where_nobody_can_answer() {
        assert!(call(Path::new("/nowhere/at/all/roles.sock")).await.is_none());
    }

    #[test]
    fn a_pid_that_is_another_process_now_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let reception = Reception::new(folder.path());
        assert_eq!(reception.known(), (Vec::new(), 0));
        let me = Known::of(Role::Proxy, 7, std::process::id()).unwrap();
        let reused = Known { began: me.began + 1, number: 9, ..me.clone() };
        let before = Known { boot: Some("of another day".into()), number: 8, ..me };
        reception.note(&[me.clone(), reused, before]).unwrap();
        assert_eq!(reception.known(), (vec![me], 9));
        fs::write(folder.path().join(LIST), "[{").unwrap();
        assert_eq!(reception.known(), (Vec::new(), 0));
        reception.close();
        assert_eq!(reception.known(), (Vec::new(), 0));
    }

    #[test]
    fn another_versions_roles_sockets_and_settings_are_understood() {
        let roles = forms::are_understood::<Vec<Known>>("run/roles");
        let there: Vec<_> = roles.iter().flatten().map(|known| known.role).collect();
        assert_eq!(there, [Role::Control, Role::Proxy]);
        forms::are_understood::<Vec<KnownListener>>("run/listeners");
        forms::are_understood::<ServerSpec>("run/settings");
    }
}
