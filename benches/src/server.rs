//! A server process, from its start to its end.

use std::{
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    machine::{self, Core},
    wait,
};

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running server; ended when dropped, by its own process id.
pub struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    /// Starts a command on a core; what it says goes into a file.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(mut command: Command, core: Core, output: &Path) -> anyhow::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(output);
        let log = log.context("a file for a server's output")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = machine::on(core, || command.spawn())?
            .with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child, output: output.to_owned() })
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// If it ends or does not listen in time.
    pub fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let outcome = wait::until(PATIENCE, || match self.child.try_wait() {
            Ok(None) => TcpStream::connect(address).ok().map(|_| Ok(())),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("server ended with {status}"))),
            Err(error) => Some(Err(error.into())),
        });
        let outcome = outcome.with_context(|| format!("nobody listens on {address}"));
        outcome.flatten().with_context(|| fs::read_to_string(&self.output).unwrap_or_default())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by SIGKILL and waits for its end.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        if wait::until(PATIENCE, || self.child.try_wait().ok().flatten()).is_none() {
            self.signal(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// A loopback port that nobody listens on.
///
/// # Errors
/// If there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
