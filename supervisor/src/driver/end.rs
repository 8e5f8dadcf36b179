//! How an instance ended by itself, in words for operators.

use std::{future::pending, io};

use tokio::time::Instant;

use super::{Exit, Instance};
use crate::{driver::cgroup::Group, lifecycle::Failure};

/// How an instance ended by itself.
pub(super) struct End {
    pub(super) failure: Failure,
    pub(super) reason: String,
    /// How what ended last of it ended; `None` if some of it may live.
    pub(super) exit: Option<Exit>,
}

impl End {
    pub(super) fn crashed(reason: impl Into<String>) -> Self {
        Self { failure: Failure::Crashed, reason: reason.into(), exit: None }
    }

    pub(super) fn unwatched(error: &io::Error) -> Self {
        Self::crashed(format!("its processes cannot be watched: {error}"))
    }

    pub(super) fn stopped_listening() -> Self {
        Self::crashed("stopped accepting connections")
    }

    /// Of one whose first process ended long before.
    pub(super) fn last_of_all() -> Self {
        Self { exit: Some(Exit::Unknown), ..Self::crashed("the last of its processes ended") }
    }

    /// The kernel may have had a reason to end it, or one of its processes before.
    pub(super) fn or_out_of_memory(self, instance: &Instance) -> Self {
        let group = instance.wires.witness.group();
        if !group.as_ref().is_some_and(Group::ran_out_of_memory) {
            return self;
        }
        let more = instance.more_memory();
        let reason = match self.exit {
            Some(Exit::Signal(libc::SIGKILL) | Exit::Unknown) => {
                format!("needed {more} ({})", self.reason)
            }
            Some(Exit::Signal(_) | Exit::Status(_)) | None => {
                format!("{}; one of its processes had needed {more}", self.reason)
            }
        };
        Self { reason, ..self }
    }

    pub(super) fn of(exit: Exit, since: Instant) -> Self {
        let failure = if exit.is_success() { Failure::Finished } else { Failure::Crashed };
        let reason = format!("{exit} after {:.1} s", since.elapsed().as_secs_f64());
        Self { failure, reason, exit: Some(exit) }
    }
}

impl Instance {
    /// A warning, once the kernel has ended one of its processes for want of memory.
    pub(super) async fn until_out_of_memory(&self) -> String {
        let Some(group) = self.wires.witness.group() else { return pending().await };
        if let Err(error) = group.until_out_of_memory().await {
            tracing::warn!(app = %self.job.app.id, %error, "kills for want of memory are not seen");
            return pending().await;
        }
        format!("one of its processes was ended: it needed {}", self.more_memory())
    }

    /// What it needed that it was ended for.
    fn more_memory(&self) -> String {
        let process = self.job.process().ok();
        match process.and_then(|process| process.resources.memory) {
            Some(limit) => format!("more memory than its limit of {limit}"),
            None => "more memory than the machine had".to_owned(),
        }
    }
}
