//! What another version of this program is to know of apps beyond their instances: how often they
//! failed, what operators did, figures.
//!
//! It is written right before an upgrade, and read once. After a kill there is none of it: then apps
//! begin anew, but for their instances.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use doorbell_config::name::AppId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Desk, app::Past};
use crate::{
    lifecycle::{BackingOff, Because, Goal, State},
    message::StartCounts,
    written,
};

const FILE: &str = "carried.json";

/// What is known of one app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Carried {
    pub(super) failures: u32,
    /// Until the next try.
    pub(super) back_off: Option<Duration>,
    /// An operator stopped an app that always runs, or that is to be warm.
    pub(super) rests: bool,
    /// A new instance was to start beside the one that serves, and had not begun to.
    pub(super) awaits_successor: bool,
    pub(super) starts: StartCounts,
    pub(super) past: Past,
    pub(super) since_unix_seconds: u64,
}

impl Desk {
    /// Writes down what is known, and gives the lock on the state folder.
    pub(super) fn carry(&self) -> io::Result<OwnedFd> {
        let now = Instant::now().into_std();
        let carried = self.apps.iter().map(|(id, app)| {
            let back_off = match &app.life.state {
                State::BackingOff(BackingOff { until, because: Because::Itself }) => {
                    Some(until.saturating_duration_since(now))
                }
                // What it needs knows by itself when it is tried again.
                State::BackingOff(BackingOff { because: Because::Needs, .. })
                | State::Stopped
                | State::Provisioning(_)
                | State::Starting(_)
                | State::Ready(_)
                | State::Frozen(_)
                | State::Draining(_)
                | State::Stopping(_)
                | State::Failed => None,
            };
            let wanted = app.start_mode().map(|mode| app.goal_by_definition(mode));
            let rests = app.goal == Goal::Down && wanted == Some(Goal::Up);
            let carried = Carried {
                failures: app.life.failures,
                back_off,
                rests,
                awaits_successor: app.life.awaits_successor(),
                starts: app.starts,
                past: app.past.as_deref().cloned().unwrap_or_default(),
                since_unix_seconds: app.since_unix_seconds,
            };
            (id, carried)
        });
        let blank = Carried::default();
        let said = |one: &(&AppId, Carried)| {
            let since_unix_seconds = one.1.since_unix_seconds;
            one.1 != Carried { since_unix_seconds, ..blank.clone() }
        };
        let carried: HashMap<&AppId, Carried> = carried.filter(said).collect();
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(path(&self.driver.run_dir()))?;
        file.write_all(&serde_json::to_vec(&carried)?)?;
        self.state_dir.lock()
    }
}

/// What an earlier version wrote down; it is not read twice.
pub(super) fn read(run_dir: &Path) -> HashMap<AppId, Carried> {
    let path = path(run_dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "what was known of apps is lost");
            }
            return HashMap::new();
        }
    };
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "a file stays behind");
    }
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "what was known of apps is not understood");
        HashMap::new()
    })
}

/// Whether it could be read.
pub(super) fn understand(run_dir: &Path) -> io::Result<()> {
    written::read::<HashMap<AppId, Carried>>(&path(run_dir)).map(drop)
}

/// Nobody took over after all.
pub(crate) fn forget(run_dir: &Path) {
    // It may not be there.
    let _ = fs::remove_file(path(run_dir));
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms;

    #[test]
    fn what_another_version_knew_of_apps_is_understood() {
        let all = forms::are_understood::<HashMap<AppId, Carried>>("run/carried");
        assert!(all.iter().all(|known| known.len() == 1));
    }
}
