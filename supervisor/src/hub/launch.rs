//! How a role becomes a process of its own, or a task of ours, and how its end is seen.

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

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

/// Bytes of an answer of a program that is asked something.
const MOST_ANSWERED: u64 = 256 * 1024;

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
        let mut command = self.command(role, reception, image);
        command.stdin(Stdio::from(connection));
        let (child, pidfd) = start(&mut command)?;
        Ok((child.id(), pidfd))
    }

    /// The program of a role, with all but its connection.
    pub(super) fn command(
        &self,
        role: Role,
        reception: Option<&Reception>,
        image: Image,
    ) -> Command {
        let mut command = match image {
            Image::Ours => Command::new(OWN_IMAGE),
            Image::Successor => Command::new(&self.binary),
        };
        command.arg0(&self.binary);
        // Not in our group: a terminal's Ctrl-C is for us alone, who shut down in order.
        command.process_group(0).stderr(own_stderr());
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
        command
    }
}

/// Starts a program, and gives a handle on it that outlives its number.
fn start(command: &mut Command) -> io::Result<(Child, OwnedFd)> {
    let started = children::spawn_registered(|| {
        let child = command.spawn()?;
        let pid = children::to_rustix(child.id()).ok_or(io::ErrorKind::InvalidData)?;
        io::Result::Ok((child.id(), (child, pidfd_open(pid, PidfdFlags::NONBLOCK)?)))
    });
    started.map(|(_, started)| started)
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

/// Runs a program that answers in JSON on standard output, and ends by itself before a moment.
pub(super) async fn ask<T: DeserializeOwned>(
    mut command: Command,
    until: Instant,
) -> io::Result<T> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let (mut child, pidfd) = start(&mut command)?;
    let mut root = Root::watch(child.id(), pidfd)?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut output = pipe::Receiver::from_owned_fd(output.into())?;
    let mut text = Vec::new();
    let answered = timeout_at(until, async {
        (&mut output).take(MOST_ANSWERED).read_to_end(&mut text).await?;
        io::Result::Ok(root.exit().await)
    });
    let answered = answered.await;
    root.kill();
    root.reap();
    match answered {
        Ok(Ok(exit)) if exit.is_success() => Ok(serde_json::from_slice(&text)?),
        Ok(Ok(exit)) => Err(io::Error::other(exit.to_string())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end")),
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
        let (child, pidfd) = start(&mut command).unwrap();
        let runner = Runner::of(Role::Proxy, child.id(), pidfd).unwrap();
        runner.tell(Fate::Die);
        runner.tell(Fate::Leave);
        timeout(GOODBYE / 2, runner.ended()).await.expect("it is killed");
    }

    #[tokio::test]
    async fn who_is_asked_and_does_not_end_is_ended() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let soon = || Instant::now() + Duration::from_millis(100);
        let late = Instant::now() + GOODBYE;
        let numbers: Vec<u32> = ask(shell("echo '[1, 2]'"), late).await.unwrap();
        assert_eq!(numbers, [1, 2]);
        for (script, until, why) in [
            ("echo 7; exec sleep 1000", soon(), "does not end"),
            ("exec >&-; exec sleep 1000", soon(), "does not end"),
            ("echo 7; exit 3", late, "exited with status 3"),
            ("echo seven", late, "expected"),
            ("yes", soon(), "does not end"),
        ] {
            let error = ask::<u32>(shell(script), until).await.unwrap_err().to_string();
            assert!(error.contains(why), "{script}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_and_stays_is_killed_in_the_end() {
        let mut told = watch::channel(Fate::Live).1;
        // Nobody is left who could say so.
        patience(&mut told).await;
        let (fate, mut told) = watch::channel(Fate::Live);
        fate.send_replace(Fate::Leave);
        let since = Instant::now();
        patience(&mut told).await;
        assert_eq!(since.elapsed(), GOODBYE);
        fate.send_replace(Fate::Die);
        patience(&mut told).await;
        assert_eq!(since.elapsed(), GOODBYE);
    }
}
