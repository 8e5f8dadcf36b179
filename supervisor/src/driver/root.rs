//! An instance's first process: its end, and its last rites.

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_send_signal, waitid,
    },
};
use tokio::io::unix::AsyncFd;

use super::{children, procfs::Pid, sys};

/// How long a process that was killed may take to end while everything is torn down.
const LAST_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How a process ended, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    /// Somebody else waited for it.
    Unknown,
}

/// A process of ours. Its pid stays taken until [`Root::reap`].
#[derive(Debug)]
pub(crate) struct Root {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    is_reaped: bool,
}

impl Root {
    pub(crate) fn watch(pid: Pid, pidfd: OwnedFd) -> io::Result<Self> {
        match sys::watch(pidfd) {
            Ok(pidfd) => Ok(Self { pid, pidfd, is_reaped: false }),
            Err(error) => {
                kill_group(pid);
                if let Some(pid) = children::to_rustix(pid) {
                    // It is killed and ours, so this does not wait for long.
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                }
                children::forget(pid);
                Err(error)
            }
        }
    }

    /// Ends it and its group, without asking.
    pub(crate) fn kill(&self) {
        if !self.is_reaped {
            // Errors mean that it ended in this moment.
            let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
            kill_group(self.pid);
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end, and leaves it to be reaped. May be asked again.
    pub(crate) async fn exit(&self) -> Exit {
        // A pidfd is readable once the process has ended, and for ever after.
        if self.pidfd.readable().await.is_err() {
            return Exit::Unknown;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => Exit::of(&status),
            Ok(None) | Err(_) => Exit::Unknown,
        }
    }

    /// Waits for it if it has ended, which frees its pid.
    pub(crate) fn reap(&mut self) {
        if self.is_reaped {
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            // It still runs.
            Ok(None) => {}
            // An error means that somebody else waited for it.
            Ok(Some(_)) | Err(_) => {
                self.is_reaped = true;
                children::forget(self.pid);
            }
        }
    }
}

impl Drop for Root {
    /// Only reached unreaped when the runtime is torn down: better dead than orphaned.
    fn drop(&mut self) {
        self.reap();
        if !self.is_reaped {
            self.kill();
            self.wait_a_little();
            children::forget(self.pid);
        }
    }
}

impl Root {
    /// Waits for what was killed. A process that hangs in the kernel is left to whoever inherits it.
    fn wait_a_little(&self) {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // Errors mean that it is looked at too early, or that somebody else waited for it.
        let _ = poll(&mut ended, Some(&LAST_WAIT));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
    }
}

/// Ends a group whose leader has not been waited for, so that its number is still its own.
fn kill_group(leader: Pid) {
    if let Some(group) = children::to_rustix(leader) {
        // An error means that all of it has ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Self::Status(status),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    pub(crate) fn is_success(self) -> bool {
        self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was killed by {name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// The signals that people meet, signal(7).
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [(Signal, &str); 12] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}
