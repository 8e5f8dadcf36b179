//! Looks what holds here, and says it.

use std::fs;

use super::{
    cgroup::{Cgroups, Controller, Purpose, Version},
    enclosure::may_mount,
    rank::Rank,
    reclaim, sys,
    wall::{self, Strength},
};
use crate::{
    machine::{Ability, Level},
    memory::{Gauge, Source},
};

/// What to do about control groups.
const DELEGATE: &str = "run Doorbell as a systemd service with `Delegate=yes`, on a machine with control \
                        groups of version 2";

/// What would hold for a supervisor in this process.
pub(crate) fn look() -> Vec<Ability> {
    let name = format!("doorbell-doctor-{}", std::process::id());
    abilities(&Cgroups::find(&name, Purpose::Look))
}

/// What holds with these control groups.
pub(super) fn abilities(cgroups: &Cgroups) -> Vec<Ability> {
    let limit = |what, controller, instead| limited(cgroups, what, controller, instead);
    vec![
        limit("limits.memory", Controller::Memory, "each process alone (RLIMIT_DATA)"),
        limit("limits.cpu", Controller::Cpu, ""),
        limit(
            "limits.processes",
            Controller::Processes,
            "all processes of an app's user together (RLIMIT_NPROC), not without `user`",
        ),
        ability("limits.files", Level::Good, "each process (RLIMIT_NOFILE)", None),
        going_first(Rank::here(cgroups)),
        ending(cgroups),
        freezing(cgroups),
        giving_back(cgroups),
        shortage(),
        listening(),
        enclosing(),
        users(),
    ]
}

fn ability(what: &str, level: Level, how: &str, advice: Option<&str>) -> Ability {
    let (what, how) = (what.to_owned(), how.to_owned());
    Ability { what, level, how, advice: advice.map(str::to_owned) }
}

fn limited(cgroups: &Cgroups, what: &str, controller: Controller, instead: &str) -> Ability {
    let problems = || match cgroups.problems() {
        [] => DELEGATE.to_owned(),
        problems => format!("{}; {DELEGATE}", problems.join("; ")),
    };
    match cgroups.version(controller) {
        Some(version) => ability(what, Level::Good, &in_group(version), None),
        None if instead.is_empty() => {
            ability(what, Level::Missing, "does not hold", Some(&problems()))
        }
        None => ability(what, Level::Partly, instead, Some(&problems())),
    }
}

fn in_group(version: Version) -> String {
    let number = match version {
        Version::One => 1,
        Version::Two => 2,
    };
    format!("all processes of an app together (control groups, version {number})")
}

/// Who waits where the processor is short.
fn going_first(rank: Rank) -> Ability {
    let what = "a noisy neighbour";
    let partly = |how| ability(what, Level::Partly, how, Some(DELEGATE));
    match rank {
        Rank::Group => {
            let how = "Doorbell goes first, and apps share alike (control groups, version 2)";
            ability(what, Level::Good, how, None)
        }
        Rank::Session => partly("apps go behind Doorbell, each session by itself (autogroup)"),
        Rank::Process => partly("apps go behind Doorbell, each process by itself (nice)"),
    }
}

fn ending(cgroups: &Cgroups) -> Ability {
    let what = "ending an app";
    if cgroups.has_unified() {
        ability(what, Level::Good, "with all it started, however it hides (control group)", None)
    } else {
        let how = "with all that can be found by session, environment and output";
        ability(what, Level::Partly, how, Some(DELEGATE))
    }
}

fn freezing(cgroups: &Cgroups) -> Ability {
    let what = "idle.freeze_after";
    match cgroups.version(Controller::Freezer) {
        Some(version) => ability(what, Level::Good, &in_group(version), None),
        None => {
            let how = "each process is stopped (SIGSTOP), which its parent may notice";
            ability(what, Level::Partly, how, Some(DELEGATE))
        }
    }
}

/// Memory of frozen apps.
fn giving_back(cgroups: &Cgroups) -> Ability {
    let what = "memory of frozen apps";
    if !reclaim::has_swap() {
        let how = "stays: there is no swap that it could go to";
        let advice = "add swap, or zram where no disk is to be written";
        return ability(what, Level::Missing, how, Some(advice));
    }
    if cgroups.version(Controller::Memory) == Some(Version::Two) {
        return ability(what, Level::Good, "goes to swap (memory.reclaim)", None);
    }
    if may_advise() {
        return ability(what, Level::Good, "goes to swap (process_madvise)", None);
    }
    let how = "stays until the kernel needs it";
    ability(
        what,
        Level::Partly,
        how,
        Some("start Doorbell as root, or with CAP_SYS_NICE and CAP_SYS_PTRACE"),
    )
}

/// How a shortage of memory is noticed.
fn shortage() -> Ability {
    let what = "shortage of memory";
    match Gauge::source() {
        Source::Pressure => ability(what, Level::Good, "the kernel tells (PSI)", None),
        Source::Looks => {
            let advice = "a kernel with PSI (psi=1), and root or Linux 6.5";
            let how = "seen within five seconds, by what is available";
            ability(what, Level::Partly, how, Some(advice))
        }
    }
}

/// How it is learned that an app listens.
fn listening() -> Ability {
    const CAP_SYS_ADMIN: u32 = 21;
    let what = "readiness";
    let looks = "apps are asked in steps of a millisecond until they answer";
    if !sys::can_notify() {
        let advice = "Linux 5.5 or later, with seccomp filters that notify, on x86-64 or arm64";
        return ability(what, Level::Partly, looks, Some(advice));
    }
    if may(&[CAP_SYS_ADMIN]) {
        let how = "the kernel tells when an app listens (seccomp(2))";
        return ability(what, Level::Good, how, None);
    }
    let how = format!("the kernel tells of apps with `no_new_privs`; other {looks}");
    let advice = "set `no_new_privs = true` for apps that need no sudo, or start Doorbell as root";
    ability(what, Level::Partly, &how, Some(advice))
}

/// What is kept from apps of the file system.
fn enclosing() -> Ability {
    let what = "private_tmp, paths";
    if may_mount() {
        ability(what, Level::Good, "mounts of the app's own (mount_namespaces(7))", None)
    } else {
        let paths = match wall::strength() {
            Strength::Nothing => "`read_only_paths` does not hold",
            Strength::Whole | Strength::ButTruncation => {
                "`read_only_paths` of apps with `no_new_privs` (landlock), if `/` is among them"
            }
        };
        let how = format!("`TMPDIR` alone; {paths}");
        ability(what, Level::Partly, &how, Some("start Doorbell as root"))
    }
}

/// Whether we have the rights that process_madvise(2) takes.
fn may_advise() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    const CAP_SYS_NICE: u32 = 23;
    may(&[CAP_SYS_PTRACE, CAP_SYS_NICE])
}

/// Whether we have all these rights, capabilities(7).
fn may(capabilities: &[u32]) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    capabilities.iter().all(|capability| bits >> capability & 1 == 1)
}

fn users() -> Ability {
    if rustix::process::geteuid().is_root() {
        ability("user", Level::Good, "apps can be any user", None)
    } else {
        let advice = "start Doorbell as root, and set `server.user` and each app's `user`";
        ability("user", Level::Missing, "all apps are the user that runs Doorbell", Some(advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_control_groups_it_says_what_is_left_and_what_to_do() {
        let told = abilities(&Cgroups::default());
        let of = |what: &str| told.iter().find(|one| one.what == what).unwrap().clone();
        assert_eq!(of("limits.cpu").level, Level::Missing);
        assert!(of("limits.memory").how.contains("RLIMIT_DATA"));
        assert!(of("idle.freeze_after").how.contains("SIGSTOP"));
        let better = told.iter().filter(|one| one.level != Level::Good);
        assert!(better.clone().count() >= 4);
        assert!(better.into_iter().all(|one| one.advice.is_some()));
    }
}
