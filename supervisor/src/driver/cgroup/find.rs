//! Where we may make groups: below the group that we are in ourselves, in each hierarchy that is
//! mounted.
//!
//! In version 2 a group with processes of its own cannot hand controllers on to groups below (the rule
//! of "no internal processes", cgroups(7)). Where all of them are ours, as in a service with
//! `Delegate=yes`, we make room and move into a group beside those of the apps; where others share it,
//! there is freezing and ending, and nothing is limited by version 2.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Cgroups, Controller, Folder, Version, make_folder, weights::write_weights, write};

/// Where we are ourselves, beside the apps, if we had to make room.
pub(super) const ROLES: &str = "roles";

/// What a group hands on to those below.
pub(super) const HANDED_ON: &str = "cgroup.subtree_control";

/// Where a service manager starts us, beside the apps, if it is told so: then there is room already.
pub(super) const SUBGROUP: &str = "doorbell-roles";

/// What groups are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Purpose {
    /// To make some, and to make room for them where that is needed.
    Use,
    /// To say what there is: nothing is left changed.
    Look,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The group that is seen at `at`.
    root: PathBuf,
    at: PathBuf,
    version: Version,
    /// What it is mounted with: of version 1, its controllers.
    options: String,
}

impl Cgroups {
    /// Looks where groups can be made, and makes a folder of this name there.
    pub(crate) fn find(name: &str, purpose: Purpose) -> Self {
        let mut found = Self::default();
        let (mounts, own) = match (read("/proc/self/mountinfo"), read("/proc/self/cgroup")) {
            (Ok(mounts), Ok(own)) => (mounts, own),
            (Err(error), _) | (_, Err(error)) => {
                found.problems.push(error.to_string());
                return found;
            }
        };
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        if mounts.is_empty() {
            found.problems.push("no control groups are mounted".to_owned());
        }
        for mount in mounts.iter().filter(|mount| mount.version == Version::Two).take(1) {
            found.add_unified(mount, &own, name, purpose);
        }
        for mount in mounts.iter().filter(|mount| mount.version == Version::One) {
            found.add_legacy(mount, &own, name, purpose);
        }
        found
    }

    /// Those of one version alone.
    #[cfg(test)]
    pub(in crate::driver) fn of_version(name: &str, version: Version) -> Self {
        let mut found = Self::default();
        let (mounts, own) =
            (read("/proc/self/mountinfo").unwrap(), read("/proc/self/cgroup").unwrap());
        for mount in mounts.lines().filter_map(Mount::parse).filter(|one| one.version == version) {
            match version {
                Version::One => found.add_legacy(&mount, &own, name, Purpose::Look),
                Version::Two => found.add_unified(&mount, &own, name, Purpose::Look),
            }
        }
        found
    }

    fn add_unified(&mut self, mount: &Mount, own: &str, name: &str, purpose: Purpose) {
        let Some(base) = mount.own_folder(own, None) else {
            let problem = "our own control group is not among those that are mounted";
            return self.problems.push(problem.to_owned());
        };
        let base = without_ours(&base, name);
        let path = base.join(name);
        if let Err(error) = make_folder(&path) {
            return self.problems.push(format!("{}: {error}", path.display()));
        }
        let available = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let handed_on = fs::read_to_string(path.join(HANDED_ON)).unwrap_or_default();
        let mut controllers = Vec::new();
        if path.join("cgroup.freeze").exists() {
            controllers.push(Controller::Freezer);
        }
        for controller in [Controller::Memory, Controller::Cpu, Controller::Processes] {
            if !available.split_ascii_whitespace().any(|one| one == controller.name()) {
                continue;
            }
            let handed = match purpose {
                Purpose::Use => hand_on(&base, &path, controller),
                Purpose::Look => could_hand_on(&base, controller),
            };
            match handed {
                Ok(()) => controllers.push(controller),
                Err(problem) => self.problems.push(problem),
            }
        }
        let limits = controllers.iter().any(|one| *one != Controller::Freezer);
        self.lost_limits = limits && handed_on.trim().is_empty();
        self.add(Folder { path, version: Version::Two, controllers }, purpose);
    }

    fn add_legacy(&mut self, mount: &Mount, own: &str, name: &str, purpose: Purpose) {
        let missing = |controller: &Controller| {
            self.version(*controller).is_none() && mount.has(controller.name())
        };
        let controllers: Vec<_> = Controller::ALL.into_iter().filter(missing).collect();
        let Some(first) = controllers.first() else { return };
        let Some(base) = mount.own_folder(own, Some(first.name())) else { return };
        let path = base.join(name);
        match make_folder(&path) {
            Ok(()) => self.add(Folder { path, version: Version::One, controllers }, purpose),
            Err(error) => self.problems.push(format!("{}: {error}", path.display())),
        }
    }

    fn add(&mut self, folder: Folder, purpose: Purpose) {
        if folder.controllers.contains(&Controller::Cpu)
            && purpose == Purpose::Use
            && let Err(error) = write_weights(&folder)
        {
            self.problems.push(format!("apps may keep requests waiting: {error}"));
        }
        self.folders.push(folder);
    }
}

/// Lets a controller through to the groups in our folder; an error is a problem in words.
fn hand_on(base: &Path, ours: &Path, controller: Controller) -> Result<(), String> {
    let order = format!("+{}", controller.name());
    let mut handed = write(base, HANDED_ON, &order);
    if handed.is_err() && make_room(base, ours).is_ok_and(|room| room == Room::Made) {
        handed = write(base, HANDED_ON, &order);
    }
    handed.and_then(|()| write(ours, HANDED_ON, &order)).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => shared(base, controller),
        _ => error.to_string(),
    })
}

fn shared(base: &Path, controller: Controller) -> String {
    let (name, base) = (controller.name(), base.display());
    format!("{name} is not limited by version 2: control group {base} holds other processes")
}

/// The same without doing it.
fn could_hand_on(base: &Path, controller: Controller) -> Result<(), String> {
    let holds = |file: &str, what: &str| {
        let text = fs::read_to_string(base.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|one| one == what)
    };
    let own = std::process::id().to_string();
    let inhabitants = fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default();
    let is_ours = inhabitants.lines().all(|pid| pid == own);
    // Only the group of all has no events.
    let is_root = !base.join("cgroup.events").exists();
    let could = holds(HANDED_ON, controller.name()) || is_ours || is_root;
    could.then_some(()).ok_or_else(|| shared(base, controller))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Made,
    /// Others are there.
    Shared,
}

/// Moves us out of the way, if nobody else is in it.
fn make_room(base: &Path, ours: &Path) -> io::Result<Room> {
    let own = std::process::id().to_string();
    let inhabitants = fs::read_to_string(base.join("cgroup.procs"))?;
    if inhabitants.lines().any(|pid| pid != own) {
        return Ok(Room::Shared);
    }
    let roles = ours.join(ROLES);
    make_folder(&roles)?;
    write(&roles, "cgroup.procs", &own)?;
    Ok(Room::Made)
}

/// The group that we were started in: we may be in one that an earlier version of us made.
fn without_ours(base: &Path, name: &str) -> PathBuf {
    let up = match base {
        _ if base.ends_with(Path::new(name).join(ROLES)) => 2,
        _ if base.ends_with(SUBGROUP) => 1,
        _ => 0,
    };
    base.ancestors().nth(up).unwrap_or(base).to_owned()
}

/// Our own group of version 2, where it can be seen.
pub(super) fn own_unified() -> io::Result<Option<PathBuf>> {
    let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let mut mounts = mounts.lines().filter_map(Mount::parse);
    let mount = mounts.find(|mount| mount.version == Version::Two);
    Ok(mount.and_then(|mount| mount.own_folder(&own, None)))
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

impl Mount {
    /// A line of `/proc/[pid]/mountinfo`, proc(5), if it is about control groups.
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => Version::Two,
            "cgroup" => Version::One,
            _ => return None,
        };
        let options = kind.nth(1)?.to_owned();
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (unescaped(mount.next()?), unescaped(mount.next()?));
        Some(Self { root, at, version, options })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// Where our own group is seen, from the text of `/proc/[pid]/cgroup`, cgroups(7).
    fn own_folder(&self, text: &str, controller: Option<&str>) -> Option<PathBuf> {
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let is_it = match controller {
                None => controllers.is_empty(),
                Some(name) => controllers.split(',').any(|one| one == name),
            };
            is_it.then_some(path)
        })?;
        let inside = Path::new(path).strip_prefix(&self.root).ok()?;
        let is_below = inside.components().all(|part| part.as_os_str() != "..");
        is_below.then(|| self.at.join(inside))
    }
}

/// Blanks and backslashes are written as octal numbers there.
fn unescaped(path: &str) -> PathBuf {
    let names = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    names.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let line =
            "36 25 0:31 / /sys/fs/cgroup/a\\040b rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(
            (mount.version, mount.at.as_path()),
            (Version::One, Path::new("/sys/fs/cgroup/a b"))
        );
        assert!(mount.has("cpu") && !mount.has("memory"));
        assert_eq!(Mount::parse("22 1 0:20 / /proc rw - proc proc rw"), None);
        assert_eq!(Mount::parse("nonsense"), None);
    }

    #[test]
    fn our_own_group_is_found_where_it_is_mounted() {
        let mount = |root: &str| {
            let line = format!("30 25 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
            Mount::parse(&line).unwrap()
        };
        let own = "4:memory:/m\n0::/system.slice/doorbell.service\n";
        let found = |root| mount(root).own_folder(own, None);
        let whole = PathBuf::from("/sys/fs/cgroup/system.slice/doorbell.service");
        assert_eq!(found("/"), Some(whole));
        assert_eq!(found("/system.slice"), Some("/sys/fs/cgroup/doorbell.service".into()));
        assert_eq!(found("/user.slice"), None);
        assert_eq!(mount("/").own_folder("0::/../other\n", None), None);
        assert_eq!(mount("/").own_folder(own, Some("memory")), Some("/sys/fs/cgroup/m".into()));
    }

    #[test]
    fn a_group_that_an_earlier_version_made_is_left_out() {
        let base = Path::new("/sys/fs/cgroup/unit.service");
        assert_eq!(without_ours(base, "doorbell"), base);
        assert_eq!(without_ours(&base.join("doorbell/roles"), "doorbell"), base);
        assert_eq!(without_ours(&base.join("other/roles"), "doorbell"), base.join("other/roles"));
        assert_eq!(without_ours(&base.join(SUBGROUP), "doorbell"), base);
    }
}
