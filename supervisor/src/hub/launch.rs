//! How a role becomes a process of its own, or a task of ours, and how its end is seen.

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{PidfdFlags, pidfd_open};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch, task::JoinHandle, time::timeout};

use crate::{
    driver::{Exit, Root, children},
    protocol::Role,
    reception::Reception,
};

/// Time between a role's goodbye and its end.
const GOODBYE: Duration = Duration::from_secs(10);
/// What a proxy gets of our environment: nothing that says more than where things are.
const FOR_PROXIES: [&str; 7] =
    ["SSL_CERT_FILE", "SSL_CERT_DIR", "NO_COLOR", "TZ", "LANG", "RUST_BACKTRACE", "LOCALDOMAIN"];

/// The verb by which a binary tells what it takes over from, as a list of numbers in JSON.
pub const SPEAKS: &str = "takes-over-from";
/// Bytes of such a list.
const MOST_SPOKEN: u64 = 4096;

/// The program that we are, also when another one stands in its place by now.
const OWN_IMAGE: &str = "/proc/self/exe";

/// Whose program a role is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// The one that we run.
    Ours,
    /// The one that stands where ours did, which is to take over.
    Successor,
}

/// How roles are started.
#[derive(Clone)]
pub enum Launcher {
    /// As processes.
    Processes(Processes),
    /// As tasks of this process. The closure starts one with its end of the connection.
    Tasks(StartTask),
}

/// Starts a role as a task.
pub type StartTask = Arc<dyn Fn(Role, UnixStream) -> JoinHandle<()> + Send + Sync>;

/// How roles are started as processes. The connection is their standard input.
#[derive(Clone, Debug)]
pub struct Processes {
    /// The program.
    pub binary: PathBuf,
    /// Arguments of the control process.
    pub control: Vec<OsString>,
    /// Arguments of proxies.
    pub proxy: Vec<OsString>,
    /// Who they run as, if not as ourselves.
    pub user: Option<User>,
}

/// A user that roles run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
}

/// What is to become of a role that runs, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Live,
    /// It said goodbye: it may take its time to end, within bounds.
    Leave,
    Die,
}

/// A running role.
#[derive(Debug)]
pub(super) struct Runner {
    /// `None` for a task of ours.
    pub(super) pid: Option<u32>,
    fate: watch::Sender<Fate>,
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processes(processes) => processes.fmt(f),
            Self::Tasks(_) => f.write_str("Tasks"),
        }
    }
}

impl Launcher {
    /// Who roles run as, if not as ourselves.
    pub(super) fn user(&self) -> Option<u32> {
        match self {
            Self::Processes(processes) => processes.user.map(|user| user.uid),
            Self::Tasks(_) => None,
        }
    }

    /// Starts a role at the other end of `connection`. It finds a later supervisor at `reception`.
    pub(super) fn start(
        &self,
        role: Role,
        connection: UnixStream,
        reception: Option<&Reception>,
        image: Image,
    ) -> io::Result<Runner> {
        match self {
            Self::Processes(processes) => {
                let (pid, pidfd) = processes.spawn(role, connection.into(), reception, image)?;
                Runner::of(role, pid, pidfd)
            }
            Self::Tasks(start) => Ok(Runner::task(role, start(role, connection))),
        }
    }
}

impl Processes {
    fn spawn(
        &self,
        role: Role,
        connection: OwnedFd,
        reception: Option<&Reception>,
        image: Image,
    ) -> io::Result<(u32, OwnedFd)> {
        let mut command = match image {
            Image::Ours => Command::new(OWN_IMAGE),
            Image::Successor => Command::new(&self.binary),
        };
        command.arg0(&self.binary);
        // Not in our group: a terminal's Ctrl-C is for us alone, who shut down in order.
        command.process_group(0).stdin(Stdio::from(connection)).stderr(own_stderr());
        match role {
            Role::Control => command.args(&self.control),
            Role::Proxy => {
                let kept =
                    FOR_PROXIES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
                let kept: Vec<_> = kept.collect();
                command.args(&self.proxy).env_clear().envs(kept)
            }
        };
        if let Some(reception) = reception {
            command.arg("--reception").arg(reception.path());
        }
        if let Some(user) = self.user {
            // Without further groups: setgroups(2) is called too.
            command.gid(user.gid).uid(user.uid);
        }
        children::spawn_registered(|| {
            let pid = command.spawn()?.id();
            let raw = children::to_rustix(pid).ok_or(io::ErrorKind::InvalidData)?;
            io::Result::Ok((pid, pidfd_open(raw, PidfdFlags::NONBLOCK)?))
        })
    }
}

/// Standard error, opened anew where it is a pipe or a terminal: a role that made ours non-blocking
/// (fcntl(2)) would make our own lines get lost.
fn own_stderr() -> Stdio {
    const OURS: &str = "/proc/self/fd/2";
    let kind = fs::metadata(OURS).map(|found| found.file_type());
    if kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device())
        && let Ok(file) = fs::OpenOptions::new().append(true).open(OURS)
    {
        return file.into();
    }
    Stdio::inherit()
}

impl Runner {
    /// A process, which need not be our child.
    pub(super) fn of(role: Role, pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        let root = Root::watch(pid, pidfd)?;
        let (fate, told) = watch::channel(Fate::Live);
        tokio::spawn(attend(role, root, told));
        Ok(Self { pid: Some(pid), fate })
    }

    fn task(role: Role, mut task: JoinHandle<()>) -> Self {
        let (fate, mut told) = watch::channel(Fate::Live);
        tokio::spawn(async move {
            // An error means that the hub is gone, and so is everything.
            let ended = tokio::select! {
                ended = &mut task => ended,
                () = dies(&mut told) => {
                    task.abort();
                    task.await
                }
            };
            match ended {
                Err(error) if error.is_panic() => tracing::error!(?role, %error, "a role failed"),
                Err(_) | Ok(()) => {}
            }
        });
        Self { pid: None, fate }
    }

    /// Who is to die is not let live any more.
    pub(super) fn tell(&self, fate: Fate) {
        self.fate.send_if_modified(|now| {
            let is_worse = fate > *now;
            *now = fate.max(*now);
            is_worse
        });
    }

    /// Whether it has ended, as far as can be awaited.
    pub(super) async fn ended(&self) {
        self.fate.closed().await;
    }
}

/// Waits until a role is to end at once. Without a hub it is.
async fn dies(told: &mut watch::Receiver<Fate>) {
    // Either way it is to end.
    let _ = told.wait_for(|fate| *fate == Fate::Die).await;
}

/// Waits until a role is to be ended, as long as it may take to end by itself. Without a hub nobody
/// waits.
async fn patience(told: &mut watch::Receiver<Fate>) {
    let leaves = told.wait_for(|fate| *fate != Fate::Live).await.map(|fate| *fate);
    if leaves.is_ok_and(|fate| fate == Fate::Leave) {
        // Passing it is no error: nor is a hub that is gone, which said so on purpose.
        let dies = async { drop(told.wait_for(|fate| *fate == Fate::Die).await) };
        let _ = timeout(GOODBYE, dies).await;
    }
}

/// Asks a binary which versions of the protocol it can take over from.
pub(super) async fn ask_what_it_speaks(binary: &Path) -> io::Result<Vec<u32>> {
    let mut command = Command::new(binary);
    command.arg(SPEAKS).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut output = None;
    let (pid, pidfd) = children::spawn_registered(|| {
        let mut child = command.spawn()?;
        output = child.stdout.take();
        let raw = children::to_rustix(child.id()).ok_or(io::ErrorKind::InvalidData)?;
        io::Result::Ok((child.id(), pidfd_open(raw, PidfdFlags::NONBLOCK)?))
    })?;
    let mut root = Root::watch(pid, pidfd)?;
    let output = output.ok_or(io::ErrorKind::BrokenPipe)?;
    let mut output = pipe::Receiver::from_owned_fd(output.into())?;
    let mut text = Vec::new();
    let answered = timeout(GOODBYE, async {
        (&mut output).take(MOST_SPOKEN).read_to_end(&mut text).await?;
        io::Result::Ok(root.exit().await)
    });
    let answered = answered.await;
    root.kill();
    root.reap();
    match answered {
        Ok(Ok(exit)) if exit.is_success() => Ok(serde_json::from_slice(&text)?),
        Ok(Ok(exit)) => Err(io::Error::other(exit.to_string())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Waits for a process's end, and brings it about if it is to die.
async fn attend(role: Role, mut root: Root, mut told: watch::Receiver<Fate>) {
    let pid = root.pid();
    let exit = tokio::select! {
        exit = root.exit() => exit,
        () = patience(&mut told) => {
            root.kill();
            root.exit().await
        }
    };
    root.reap();
    let is_known = exit != Exit::Unknown;
    if is_known && !exit.is_success() {
        tracing::warn!(?role, pid, "{exit}");
    } else {
        tracing::debug!(?role, pid, "{exit}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_to_die_is_given_no_time_by_a_later_word() {
        let mut command = Command::new("sleep");
        command.arg("100");
        let (pid, pidfd) = children::spawn_registered(|| {
            let pid = command.spawn()?.id();
            let raw = children::to_rustix(pid).ok_or(io::ErrorKind::InvalidData)?;
            io::Result::Ok((pid, pidfd_open(raw, PidfdFlags::NONBLOCK)?))
        })
        .unwrap();
        let runner = Runner::of(Role::Proxy, pid, pidfd).unwrap();
        runner.tell(Fate::Die);
        runner.tell(Fate::Leave);
        timeout(GOODBYE / 2, runner.ended()).await.expect("it is killed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_and_stays_is_killed_in_the_end() {
        let mut told = watch::channel(Fate::Live).1;
        // Nobody is left who could say so.
        patience(&mut told).await;
        let (fate, mut told) = watch::channel(Fate::Live);
        fate.send_replace(Fate::Leave);
        let since = tokio::time::Instant::now();
        patience(&mut told).await;
        assert_eq!(since.elapsed(), GOODBYE);
        fate.send_replace(Fate::Die);
        patience(&mut told).await;
        assert_eq!(since.elapsed(), GOODBYE);
    }
}
