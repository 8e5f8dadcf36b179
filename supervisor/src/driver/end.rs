//! How an instance ended by itself, in words for operators.

use std::io;

use tokio::time::Instant;

use super::{Exit, Instance};
use crate::{driver::cgroup::Group, lifecycle::Failure};

/// How an instance ended by itself.
pub(super) struct End {
    pub(super) failure: Failure,
    pub(super) reason: String,
}

impl End {
    pub(super) fn crashed(reason: impl Into<String>) -> Self {
        Self { failure: Failure::Crashed, reason: reason.into() }
    }

    pub(super) fn unwatched(error: &io::Error) -> Self {
        Self::crashed(format!("its processes cannot be watched: {error}"))
    }

    pub(super) fn stopped_listening() -> Self {
        Self::crashed("stopped accepting connections")
    }

    /// The kernel may have had a reason to end it, or one of its processes before.
    pub(super) fn or_out_of_memory(self, exit: Exit, instance: &Instance) -> Self {
        let group = instance.wires.witness.group();
        if !group.as_ref().is_some_and(Group::ran_out_of_memory) {
            return self;
        }
        let process = instance.job.process().ok();
        let limit = process.and_then(|process| process.resources.memory);
        let more = match limit {
            Some(limit) => format!("more memory than its limit of {limit}"),
            None => "more memory than the machine had".to_owned(),
        };
        let reason = match exit {
            Exit::Signal(libc::SIGKILL) | Exit::Unknown => {
                format!("needed {more} ({})", self.reason)
            }
            Exit::Signal(_) | Exit::Status(_) => {
                format!("{}; one of its processes had needed {more}", self.reason)
            }
        };
        Self { reason, ..self }
    }

    pub(super) fn of(exit: Exit, since: Instant) -> Self {
        let failure = if exit.is_success() { Failure::Finished } else { Failure::Crashed };
        Self { failure, reason: format!("{exit} after {:.1} s", since.elapsed().as_secs_f64()) }
    }
}
