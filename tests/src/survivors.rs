//! What of a doorbell outlives its supervisor, and how tests end each part of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Connection, Doorbell, wait::poll};

/// How long a part of it may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part that is a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Faces operators.
    Control,
    /// Faces clients.
    Proxy,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Proxy => "proxy",
        }
    }
}

/// A process as a supervisor writes it down.
struct Noted {
    role: String,
    number: u64,
    pid: u32,
}

/// When a process began, in clock ticks since boot; `None` if it does not run. A zombie does not.
#[must_use]
pub fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, parentheses too.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    // The first thread may have ended before the others, which hold sockets until they have too.
    let has_threads =
        || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1);
    (words.next()? != "Z" || has_threads()).then_some(())?;
    words.nth(18)?.parse().ok()
}

/// Sends a process a signal, if it is there.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may just have ended.
        let _ = kill_process(pid, signal);
    }
}

/// Ends a process by SIGKILL and waits until it runs no more.
pub fn kill(pid: u32) {
    let before = began(pid);
    signal(pid, Signal::KILL);
    let ended = poll(PATIENCE, || (before.is_none() || began(pid) != before).then_some(()));
    assert!(ended.is_some(), "{pid} outlives SIGKILL");
}

/// Processes of apps that were started by the doorbell of this state folder.
#[must_use]
pub fn apps_of(state_dir: &Path) -> Vec<u32> {
    let Ok(state_dir) = state_dir.canonicalize() else { return Vec::new() };
    let wanted = format!("DOORBELL_STATE_DIR={}", state_dir.display());
    let is_ours = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
            && began(*pid).is_some()
    };
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_ours).collect()
}

impl Doorbell {
    /// Its state folder.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The list of the parts that are processes of their own.
    #[must_use]
    pub fn list_of_roles(&self) -> PathBuf {
        self.state_path().join("run/roles.json")
    }

    /// Those of them that still run.
    fn noted(&self) -> Vec<Noted> {
        let text = fs::read(self.list_of_roles()).unwrap_or_default();
        let list: Value = serde_json::from_slice(&text).unwrap_or_default();
        let read = |one: &Value| {
            let pid = u32::try_from(one["pid"].as_u64()?).ok()?;
            let role = one["role"].as_str()?.to_owned();
            let noted = Noted { role, number: one["number"].as_u64()?, pid };
            (began(pid)? == one["began"].as_u64()?).then_some(noted)
        };
        list.as_array().into_iter().flatten().filter_map(read).collect()
    }

    /// Process ids of the parts that are processes of their own.
    #[must_use]
    pub fn role_pids(&self) -> Vec<u32> {
        self.noted().into_iter().map(|noted| noted.pid).collect()
    }

    /// The process of a part, the youngest if there are two; the only process if all is in one.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn role_pid(&self, role: Role) -> u32 {
        if !self.list_of_roles().exists() {
            return self.pid();
        }
        // One may be on its way to take another's place.
        let found = poll(PATIENCE, || self.find_role(role));
        found.unwrap_or_else(|| panic!("no {role:?}:\n{}", self.log()))
    }

    fn find_role(&self, role: Role) -> Option<u32> {
        let noted = self.noted().into_iter().filter(|noted| noted.role == role.name());
        noted.max_by_key(|noted| noted.number).map(|noted| noted.pid)
    }

    /// The process that clients talk to.
    #[must_use]
    pub fn proxy_pid(&self) -> u32 {
        self.role_pid(Role::Proxy)
    }

    /// The process that operators talk to.
    #[must_use]
    pub fn control_pid(&self) -> u32 {
        self.role_pid(Role::Control)
    }

    /// All of its own processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.role_pids();
        pids.push(self.pid());
        pids
    }

    /// Processes of its apps.
    #[must_use]
    pub fn app_pids(&self) -> Vec<u32> {
        apps_of(&self.state_path())
    }

    /// Ends a part by SIGKILL and waits until its successor serves.
    pub fn kill_role(&self, role: Role) {
        let before = self.role_pid(role);
        kill(before);
        self.wait_for_successor(role, before);
    }

    /// Waits until another process plays a part, and serves.
    pub fn wait_for_successor(&self, role: Role, before: u32) {
        let serves = poll(PATIENCE, || {
            self.find_role(role).filter(|now| *now != before)?;
            let (port, path) = match role {
                Role::Control => (self.metrics_port, "/readyz"),
                Role::Proxy => (self.port, "/"),
            };
            let answer = Connection::try_open(port).ok()?.try_get("localhost", path)?;
            (role == Role::Proxy || answer.status == 200).then_some(())
        });
        assert!(serves.is_some(), "no successor of the {role:?}:\n{}", self.log());
    }

    /// Ends the supervisor by SIGKILL; all else lives on.
    pub fn kill_supervisor(&mut self) {
        self.child.kill().expect("to kill");
        self.child.wait().expect("its end");
    }

    /// Ends all of its own processes by SIGKILL; apps live on.
    pub fn kill_all(&mut self) {
        self.kill_supervisor();
        self.role_pids().into_iter().for_each(kill);
    }

    /// Ends what a supervisor that was killed has left, apps included.
    pub(crate) fn end_remains(&self) {
        self.role_pids().into_iter().for_each(kill);
        // One may fork while we look.
        let ended = poll(PATIENCE, || {
            let left = self.app_pids();
            left.iter().for_each(|pid| signal(*pid, Signal::KILL));
            left.is_empty().then_some(())
        });
        if ended.is_none() {
            eprintln!("apps outlive their test: {:?}", self.app_pids());
        }
    }
}
