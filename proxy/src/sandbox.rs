//! What a process gives up for good before it does anything else.
//!
//! Doorbell's unprivileged roles read what strangers send. Whoever takes one of them over should
//! find nothing there: no privilege, no file, no program to run, no other process to look into. A
//! role calls [`confine`] at the beginning of its `main`, while it has one thread: every later
//! thread inherits what was given up, and an earlier one would not.
//!
//! `privileges` gives up capabilities, `files` shuts the file system and TCP ports (landlock(7)),
//! `syscalls` shuts the kernel (seccomp(2)). Descriptors that the process holds, or is sent later,
//! are not affected: that is how it gets its listening sockets and logs.
//!
//! Files are granted as they are found. One that is replaced later (`/etc/resolv.conf`, by a rename)
//! is another file, and stays out of reach until the role is started anew.

use std::{fmt, io, path::PathBuf};

mod files;
mod privileges;
mod syscalls;

pub use files::Landlock;
pub use privileges::BoundingSet;
pub use syscalls::Seccomp;

/// What a process may keep.
#[derive(Clone, Debug)]
pub enum Plan {
    /// For the role that faces the internet: it connects to anywhere, accepts from listening sockets
    /// that it is given, and reads what resolving names and trusting certificates takes.
    Proxy {
        /// Files and folders that may be read besides.
        read: Vec<PathBuf>,
    },
    /// For the role that reads the configuration and answers operators: it executes nothing, and has
    /// no use for the stranger parts of the kernel.
    Control {
        /// Files and folders that may be read, besides what the proxy may.
        read: Vec<PathBuf>,
        /// Files and folders that may be read, written, made and removed.
        write: Vec<PathBuf>,
    },
}

/// What was given up, for the log and for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Whether the kernel let us empty the bounding set. All other capabilities are gone, nothing
    /// gives new ones, and other processes of the user cannot look into this one.
    pub bounding_set: BoundingSet,
    /// What holds for files and ports.
    pub landlock: Landlock,
    /// What holds for system calls.
    pub seccomp: Seccomp,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Ours to mend: threads that exist already would stay as they are.
    #[error("the process has {0} threads, and can be confined only while it has one")]
    Threads(usize),
    /// The process cannot be looked at.
    #[error("cannot count our threads in /proc/self/task: {0}")]
    Proc(#[source] io::Error),
    /// A privilege could not be given up.
    #[error("cannot give up {what}: {source}")]
    Privilege {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The operator's to mend: a path of the plan.
    #[error("cannot grant {}: {reason}", path.display())]
    Path {
        /// Of the plan.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kernel has landlock, but refused.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// Ours to mend: the filter is wrong.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel has seccomp, but refused.
    #[error("{0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Gives up, for good, what the plan does not keep. An old kernel gives up less, which the result
/// tells; what it could have given up and did not is an error.
///
/// # Errors
/// Part may have been given up already, so that the process should end.
pub fn confine(plan: &Plan) -> Result<Confinement, SandboxError> {
    check_threads()?;
    privileges::lock()?;
    // Needs to open what is granted, which the capabilities of a role that has some may help.
    let landlock = files::restrict(plan)?;
    let bounding_set = privileges::drop_capabilities()?;
    // Last: it refuses all of the above.
    let seccomp = syscalls::filter(plan)?;
    Ok(Confinement { bounding_set, landlock, seccomp })
}

fn check_threads() -> Result<(), SandboxError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(SandboxError::Proc)?.count();
    if threads == 1 { Ok(()) } else { Err(SandboxError::Threads(threads)) }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bounding_set, landlock, seccomp } = self;
        write!(f, "no capabilities ({bounding_set}); {landlock}; {seccomp}")
    }
}
