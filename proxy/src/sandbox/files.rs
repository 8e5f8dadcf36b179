//! Which files may be opened, and who may be sent signals: landlock(7), as much of it as the kernel
//! has.
//!
//! Out of scope on purpose: connecting, to any port and any Unix socket with a file that this user may
//! connect to. Apps and upstreams are anywhere.

use std::{
    env, fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{Plan, SandboxError};

/// The rights that are taken away; later ones are weighed before they are.
const KNOWN: ABI = ABI::V5;

/// What resolving names, trusting certificates and telling the time read. Keys stay out of reach:
/// `/etc/ssl` and `/etc/pki` as a whole would have them.
const NEEDED: [&str; 39] = [
    // Names: getaddrinfo(3).
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/run/systemd/resolve",
    "/run/resolvconf",
    // The modules that nsswitch.conf(5) names, and what ld.so(8) finds them by.
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    // Certificate authorities, under the names of various distributions.
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/openssl/certs",
    "/etc/certs",
    "/usr/share/ca-certificates",
    "/usr/share/pki/ca-trust-source",
    "/usr/share/pki/trust",
    "/usr/share/ssl",
    "/usr/local/share/ca-certificates",
    "/usr/local/share/certs",
    "/var/lib/ca-certificates",
    // Time zones.
    "/etc/localtime",
    "/etc/timezone",
    "/usr/share/zoneinfo",
    "/usr/share/lib/zoneinfo",
    // Devices, and how many processors there are (sysconf(3)).
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/sys/devices/system/cpu",
];

/// Holds what is true until the machine stops; links in /etc lead here.
const RUN: &str = "/run";

/// Where certificate authorities are if the operator says so.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What landlock(7) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Only what was granted can be opened. TCP ports are shut from version 4 on (for the proxy),
    /// device ioctls from 5, signals to others from 6.
    Abi(u32),
    /// The kernel has it, but it was not switched on when the machine started.
    SwitchedOff,
    /// The kernel is older than 5.13, or was made without.
    Missing,
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abi(version) => write!(f, "landlock {version}"),
            Self::SwitchedOff => f.write_str("no landlock: it is not among the kernel's `lsm=`"),
            Self::Missing => f.write_str("no landlock: the kernel has none"),
        }
    }
}

/// Shuts the file system, but for what the plan grants.
pub(super) fn restrict(plan: &Plan) -> Result<Landlock, SandboxError> {
    let everything = AccessFs::from_all(KNOWN);
    let ruleset = Ruleset::default()
        .handle_access(everything)?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?;
    let ruleset = match plan {
        Plan::Proxy { .. } => ruleset.handle_access(AccessNet::BindTcp)?,
        Plan::Control { .. } => ruleset,
    };
    let mut ruleset = ruleset.create()?;
    for path in NEEDED.iter().map(PathBuf::from) {
        ruleset = grant_if_there(ruleset, &around(path, Path::new(RUN)))?;
    }
    for path in VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from) {
        ruleset = grant_if_there(ruleset, &path)?;
    }
    let (read, write) = match plan {
        Plan::Proxy { read } => (read, None),
        Plan::Control { read, write } => (read, Some(write)),
    };
    for path in read {
        ruleset = grant(ruleset, path, reading())?;
    }
    for path in write.into_iter().flatten() {
        ruleset = grant(ruleset, path, writing())?;
    }
    Ok(Landlock::from(ruleset.restrict_self()?.landlock))
}

impl From<LandlockStatus> for Landlock {
    fn from(status: LandlockStatus) -> Self {
        match status {
            LandlockStatus::Available { effective_abi, .. } => Self::Abi(effective_abi as u32),
            LandlockStatus::NotEnabled => Self::SwitchedOff,
            LandlockStatus::NotImplemented => Self::Missing,
        }
    }
}

/// No right to execute: the dynamic linker maps what it read.
fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

fn writing() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(KNOWN) & !never
}

/// The folder instead of the file, where it is a link into the folder of what runs: whoever manages
/// the network replaces it there.
fn around(path: PathBuf, running: &Path) -> PathBuf {
    match fs::canonicalize(&path) {
        Ok(target) if target.is_file() => match target.parent() {
            Some(folder) if folder != running && folder.starts_with(running) => folder.into(),
            _ => path,
        },
        _ => path,
    }
}

fn grant_if_there(ruleset: RulesetCreated, path: &Path) -> Result<RulesetCreated, SandboxError> {
    match fs::metadata(path) {
        Ok(_) => grant(ruleset, path, reading()),
        Err(_) => Ok(ruleset),
    }
}

fn grant(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    let failed = |reason: String| SandboxError::Path { path: path.to_path_buf(), reason };
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed("it does not exist".into()),
        _ => failed(error.to_string()),
    })?;
    let rights = if found.is_dir() { rights } else { rights & AccessFs::from_file(KNOWN) };
    let file = PathFd::new(path).map_err(|error| failed(error.to_string()))?;
    Ok(ruleset.add_rule(PathBeneath::new(file, rights))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_what_is_replaced_grants_its_folder_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().canonicalize().unwrap().join("run");
        fs::create_dir_all(run.join("resolver")).unwrap();
        for file in ["resolver/names", "names"] {
            fs::write(run.join(file), "").unwrap();
        }
        let link = |name: &str, target: &str| {
            let link = folder.path().join(name);
            symlink(run.join(target), &link).unwrap();
            link
        };
        let [replaced, alone] = [link("a", "resolver/names"), link("b", "names")];
        assert_eq!(around(replaced, &run), run.join("resolver"));
        for as_it_is in [alone, run.join("resolver"), folder.path().join("missing")] {
            assert_eq!(around(as_it_is.clone(), &run), as_it_is);
        }
    }
}
