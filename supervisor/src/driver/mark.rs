//! What every process of an instance has in its environment, and is known by.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use doorbell_config::name::AppId;

use super::procfs::{self, Pid};
use crate::message::Generation;

/// Names the instance: `<app>.<generation>`.
pub(crate) const INSTANCE: &str = "DOORBELL_INSTANCE";
/// Names the Doorbell: its state folder.
pub(crate) const STATE_DIR: &str = "DOORBELL_STATE_DIR";

/// Entries of an environment, `NAME=value`, that tell processes of one Doorbell, or of one of its
/// instances, from all others.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Vec<Vec<u8>>);

impl Mark {
    /// On all processes of a state folder, which only one Doorbell uses at a time.
    pub(crate) fn of_folder(state_dir: &Path) -> Self {
        Self(vec![entry(STATE_DIR, state_dir.as_os_str())])
    }

    /// On those of one instance. Its name is not enough: a Doorbell that began in the same microsecond
    /// has instances of the same name.
    pub(crate) fn of_instance(state_dir: &Path, app: &AppId, generation: Generation) -> Self {
        let mut mark = Self::of_folder(state_dir);
        mark.0.push(entry(INSTANCE, OsStr::new(&name_of(app, generation))));
        mark
    }

    /// Whether a process has it; `None` if that has ended.
    pub(crate) fn is_on(&self, pid: Pid) -> Option<bool> {
        procfs::has_variables(pid, &self.0)
    }

    /// Whether a process, as far as we may look, has another one or none.
    pub(crate) fn is_missing_on(&self, pid: Pid) -> bool {
        procfs::lacks_variables(pid, &self.0)
    }
}

/// What an instance is called in the environment of its processes.
pub(crate) fn name_of(app: &AppId, generation: Generation) -> String {
    format!("{app}.{}", generation.0)
}

/// Whose name that is.
pub(crate) fn instance_of(name: &str) -> Option<(AppId, Generation)> {
    let (app, generation) = name.rsplit_once('.')?;
    Some((AppId::parse_replica(app).ok()?, Generation(generation.parse().ok()?)))
}

/// What the files and folders of an instance are called.
pub(crate) fn file_name_of(app: &AppId, generation: Generation) -> String {
    format!("{}.{}", app.file_name(), generation.0)
}

fn entry(name: &str, value: &OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}
