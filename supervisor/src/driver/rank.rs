//! How apps come after Doorbell's own processes where no control group of version 2 sees to it: by session or
//! by process.
//!
//! The kernel shares the processor out among sessions (autogroup, sched(7)) where nobody else says how, so
//! that the session of an app, however many threads it has, is one among others; it needs no rights to be put
//! behind them. Elsewhere each process is nicer than we are, nice(2), which helps most requests and not all.
//! Neither limits an app as long as there is enough for all.

use std::fs;

use super::cgroup::{Cgroups, Controller, Version};

/// How much nicer apps are than we are: a tenth of our weight, sched(7).
pub(super) const NICER: u8 = 10;

/// What puts an app's processes behind ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// The weight of its control group.
    Group,
    /// The niceness of its session.
    Session,
    /// The niceness of each process.
    Process,
}

impl Rank {
    /// What does here.
    pub(super) fn here(cgroups: &Cgroups) -> Self {
        if cgroups.version(Controller::Cpu) == Some(Version::Two) {
            return Self::Group;
        }
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (enabled, own) =
            (read("/proc/sys/kernel/sched_autogroup_enabled"), read("/proc/self/cgroup"));
        if enabled.trim() == "1" && may_be_by_session(&own) { Self::Session } else { Self::Process }
    }
}

/// Whether sessions count for us, from the text of `/proc/[pid]/cgroup`: not inside of a group that shares
/// the processor out itself.
fn may_be_by_session(own: &str) -> bool {
    own.lines().all(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_cpu = fields.next().is_some_and(|list| list.split(',').any(|one| one == "cpu"));
        !is_cpu || fields.next() == Some("/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_count_outside_of_groups_that_share_the_processor_out() {
        assert!(may_be_by_session("0::/user.slice/a.scope\n"));
        assert!(may_be_by_session("4:cpuset:/a\n3:cpu,cpuacct:/\n0::/\n"));
        assert!(!may_be_by_session("3:cpu,cpuacct:/docker/a\n0::/\n"));
    }
}
