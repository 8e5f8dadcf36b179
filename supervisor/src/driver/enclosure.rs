//! Where an instance is shut in: `/tmp` of its own, and paths that it cannot change.
//!
//! It gets a mount namespace of its own, which takes the rights of root (CAP_SYS_ADMIN); root itself, as
//! which an app may run, could undo it there. Without these rights an app's `TMPDIR` is its own, which
//! programs heed that ask for it, and what is read-only is so by a `wall`, where there can be one.
//!
//! What is made here is a plan, complete before the child begins: `sys` carries it out.

use std::{
    ffi::{CString, c_ulong},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt, chown},
        },
    },
    path::{Path, PathBuf},
};

use doorbell_config::spec::{EnclosureSpec, ProcessSpec};

use super::{
    sys::Mount,
    wall::{self, Strength, WallError},
};

/// The folders for files that nobody needs for long.
const TMP: [&str; 2] = ["/tmp", "/var/tmp"];
/// What stays as it is though all else is read-only: no files, but the kernel's ways.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];
const CAP_SYS_ADMIN: u32 = 21;

/// What is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    at: PathBuf,
    flags: c_ulong,
}

/// How an instance is shut in.
#[derive(Debug, Default)]
pub(super) struct Enclosure {
    /// In the namespace of its own; none without rights to one.
    pub(super) mounts: Vec<Mount>,
    /// Around all that it cannot change, or why there is none; where it has no mounts of its own for that.
    pub(super) wall: Option<Result<OwnedFd, &'static str>>,
    /// What it is told to use for `/tmp`, where that cannot be its own.
    pub(super) tmpdir: Option<PathBuf>,
}

/// Why there is no enclosure.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnclosureError {
    #[error(
        "{0} is below {1}, which `private_tmp` hides from the app: move it, or remove `private_tmp`"
    )]
    Hidden(PathBuf, &'static str),
    #[error("`{0}` of `read_only_paths` or `read_write_paths`: {1}")]
    Path(PathBuf, io::Error),
    #[error("cannot make a private folder for `/tmp`: {0}")]
    Folder(io::Error),
    #[error("cannot see what is mounted: {0}")]
    Mounts(io::Error),
    #[error("cannot keep the app from changing what is read-only: {0}")]
    Wall(#[from] WallError),
}

/// Whether apps can be given a mount namespace of their own.
pub(super) fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    bits >> CAP_SYS_ADMIN & 1 == 1
}

impl Enclosure {
    /// Prepares it. `own` is the folder for what is the instance's own, `sockets` the one where its sockets are.
    pub(super) fn prepare(
        process: &ProcessSpec,
        own: &Path,
        sockets: &Path,
        owner: Option<u32>,
    ) -> Result<Self, EnclosureError> {
        let (spec, directory) = (&process.enclosure, process.directory.as_path());
        if spec.is_open() {
            return Ok(Self::default());
        }
        let mut enclosure = Self::default();
        let may_mount = may_mount();
        if spec.private_tmp {
            for (outside, inside) in TMP.iter().zip(["tmp", "var-tmp"]) {
                let folder = own.join(inside);
                let own = if may_mount { None } else { Some(owner) };
                make_tmp(&folder, own).map_err(EnclosureError::Folder)?;
                if !may_mount {
                    enclosure.tmpdir.get_or_insert(folder);
                    continue;
                }
                for needed in [sockets, directory] {
                    let real = fs::canonicalize(needed).map_err(EnclosureError::Folder)?;
                    if needed.starts_with(outside) || real.starts_with(outside) {
                        return Err(EnclosureError::Hidden(needed.to_owned(), outside));
                    }
                }
                enclosure.mounts.push(Mount::Bind { from: path(&folder), to: path(outside) });
            }
        }
        if may_mount && !spec.read_only.is_empty() {
            let mounted =
                fs::read_to_string("/proc/self/mountinfo").map_err(EnclosureError::Mounts)?;
            let mounted: Vec<_> = mounted.lines().filter_map(Mounted::parse).collect();
            let plan = Plan::of(spec, sockets, mounted)?;
            enclosure.mounts.extend(plan.mounts());
        }
        if !may_mount && !spec.read_only.is_empty() {
            let plan = Plan::of(spec, sockets, Vec::new())?;
            enclosure.wall = Some(match plan.hindrance(process) {
                Some(why) => Err(why),
                None => {
                    let open = plan.read_write.iter().chain(&enclosure.tmpdir);
                    Ok(wall::build(open.map(PathBuf::as_path).filter(|path| path.exists()))?)
                }
            });
        }
        Ok(enclosure)
    }
}

/// Which paths are what.
struct Plan {
    read_only: Vec<PathBuf>,
    /// What is not, though a shorter path of it is.
    read_write: Vec<PathBuf>,
    mounted: Vec<Mounted>,
    /// Paths at which something is to be mounted, so that it can be what its surroundings are not.
    bound: Vec<PathBuf>,
}

impl Plan {
    fn of(
        spec: &EnclosureSpec,
        sockets: &Path,
        mounted: Vec<Mounted>,
    ) -> Result<Self, EnclosureError> {
        let real = |path: &PathBuf| {
            fs::canonicalize(path).map_err(|error| EnclosureError::Path(path.clone(), error))
        };
        let read_only = spec.read_only.iter().map(real).collect::<Result<Vec<_>, _>>()?;
        let mut read_write = spec.read_write.iter().map(real).collect::<Result<Vec<_>, _>>()?;
        // It makes its own socket there.
        read_write.push(sockets.to_owned());
        if spec.private_tmp {
            read_write.extend(TMP.map(PathBuf::from));
        }
        read_write.extend(KERNELS.map(PathBuf::from));
        let is_mount = |path: &PathBuf| mounted.iter().any(|one| one.at == *path);
        let kernels = KERNELS.map(Path::new);
        let mut bound: Vec<_> = read_write.iter().chain(&read_only).cloned().collect();
        bound.retain(|path| {
            !is_mount(path)
                && !kernels.contains(&path.as_path())
                && !TMP.map(Path::new).contains(&path.as_path())
        });
        // What is within another comes after it.
        bound.sort();
        bound.dedup();
        Ok(Self { read_only, read_write, mounted, bound })
    }

    fn mounts(&self) -> Vec<Mount> {
        let binds = self.bound.iter().map(|at| Mount::Bind { from: path(at), to: path(at) });
        let inherited = |at: &PathBuf| Mounted { at: at.clone(), flags: self.flags_at(at) };
        let all = self.mounted.iter().cloned().chain(self.bound.iter().map(inherited));
        let shut = all.filter(|one| self.is_read_only(&one.at));
        let shut = shut.map(|one| {
            let is_asked_for = self.read_only.contains(&one.at);
            Mount::ReadOnly { at: path(&one.at), flags: one.flags, is_asked_for }
        });
        binds.chain(shut).collect()
    }

    /// Why no wall can hold it, if so.
    fn hindrance(&self, process: &ProcessSpec) -> Option<&'static str> {
        if wall::strength() == Strength::Nothing {
            return Some("this kernel has no landlock");
        }
        if !process.no_new_privs {
            return Some("landlock takes `no_new_privs = true`");
        }
        (!self.is_all_but_some())
            .then_some("landlock takes `/`, and none below what can be changed")
    }

    /// Whether all is read-only but some paths, with all below them.
    fn is_all_but_some(&self) -> bool {
        let is_below = |path: &PathBuf| {
            self.read_write.iter().any(|open| path != open && path.starts_with(open))
        };
        self.read_only.iter().any(|path| path == Path::new("/"))
            && !self.read_only.iter().any(is_below)
    }

    /// The longest path that leads there decides; of equal ones, the one that allows.
    fn is_read_only(&self, at: &Path) -> bool {
        let longest = |paths: &[PathBuf]| {
            let leading = paths.iter().filter(|path| at.starts_with(path));
            leading.map(|path| path.components().count()).max()
        };
        match (longest(&self.read_only), longest(&self.read_write)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(only), Some(write)) => only > write,
        }
    }

    /// The flags of whatever a path is on.
    fn flags_at(&self, at: &Path) -> c_ulong {
        let on = self.mounted.iter().filter(|one| at.starts_with(&one.at));
        on.max_by_key(|one| one.at.components().count()).map_or(0, |one| one.flags)
    }
}

impl Mounted {
    /// A line of proc(5), `/proc/[pid]/mountinfo`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(4);
        let (at, options) = (fields.next()?, fields.next()?);
        let flags = options.split(',').map(|option| match option {
            "nosuid" => libc::MS_NOSUID,
            "nodev" => libc::MS_NODEV,
            "noexec" => libc::MS_NOEXEC,
            "noatime" => libc::MS_NOATIME,
            "nodiratime" => libc::MS_NODIRATIME,
            "relatime" => libc::MS_RELATIME,
            _ => 0,
        });
        Some(Self { at: unescape(at), flags: flags.fold(0, |all, one| all | one) })
    }
}

/// Spaces and the like are written in octal.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..3).and_then(|code| str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// Makes a folder for what is needed for a while: everybody's of those who see it as `/tmp`, or of the app's
/// user alone, who has to get there then.
fn make_tmp(folder: &Path, own: Option<Option<u32>>) -> io::Result<()> {
    let above = folder.ancestors().skip(1).take(2);
    if let Some(above) = folder.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    fs::create_dir(folder)?;
    match own {
        None => fs::set_permissions(folder, fs::Permissions::from_mode(0o1777)),
        Some(None) => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)),
        Some(owner) => {
            for above in above {
                fs::set_permissions(above, fs::Permissions::from_mode(0o711))?;
            }
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
            chown(folder, owner, None)
        }
    }
}

/// A path for the kernel. None of ours has a NUL: they come from the kernel, or from text that is checked.
fn path(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(read_only: &[&str], read_write: &[&str]) -> Plan {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mut read_write = paths(read_write);
        read_write.extend(KERNELS.map(PathBuf::from));
        let mounts = "1 0 8:1 / / rw,relatime - ext4 /dev/a rw\n2 1 0:5 / /proc rw,nosuid,nodev - proc p rw\n\
                      3 1 8:2 / /srv rw,nodev,noexec - ext4 /dev/b rw";
        let mounted = mounts.lines().filter_map(Mounted::parse).collect();
        let read_only = paths(read_only);
        let bound = read_only.iter().chain(&read_write).filter(|p| p.components().count() > 2);
        Plan { bound: bound.cloned().collect(), read_only, read_write, mounted }
    }

    fn shut(plan: &Plan) -> Vec<(String, c_ulong)> {
        let shut = plan.mounts().into_iter().filter_map(|mount| match mount {
            Mount::ReadOnly { at, flags, .. } => Some((at.into_string().unwrap(), flags)),
            Mount::Bind { .. } => None,
        });
        shut.collect()
    }

    #[test]
    fn the_longest_path_decides() {
        let plan = plan(&["/", "/srv/app/data/old"], &["/srv/app/data"]);
        assert_eq!(
            shut(&plan),
            [
                ("/".to_owned(), libc::MS_RELATIME),
                ("/srv".to_owned(), libc::MS_NODEV | libc::MS_NOEXEC),
                ("/srv/app/data/old".to_owned(), libc::MS_NODEV | libc::MS_NOEXEC),
            ]
        );
    }

    #[test]
    fn what_a_wall_can_hold_is_all_but_some_paths() {
        let holds =
            |read_only: &[&str], read_write: &[&str]| plan(read_only, read_write).is_all_but_some();
        assert!(holds(&["/"], &[]) && holds(&["/", "/etc"], &["/srv/app/data", "/var/cache/app"]));
        assert!(holds(&["/", "/srv/app"], &["/srv/app"]), "of equal ones, the one that allows");
        assert!(!holds(&["/etc"], &[]) && !holds(&[], &["/srv"]));
        assert!(!holds(&["/", "/srv/app/old"], &["/srv/app"]));
        assert!(!holds(&["/", "/dev/shm"], &[]), "below what is always open");
    }

    #[test]
    fn what_is_not_asked_for_stays_as_it_is() {
        assert_eq!(
            shut(&plan(&["/srv/app"], &[])),
            [("/srv/app".to_owned(), libc::MS_NODEV | libc::MS_NOEXEC)]
        );
        assert!(shut(&plan(&[], &["/srv/app"])).is_empty());
    }

    #[test]
    fn places_with_spaces_are_read() {
        let mounted =
            Mounted::parse(r"9 1 8:1 /x /mnt/a\040b\134c ro,noatime - ext4 /dev/a rw").unwrap();
        assert_eq!(mounted.at, Path::new(r"/mnt/a b\c"));
        assert_eq!(mounted.flags, libc::MS_NOATIME);
    }
}
