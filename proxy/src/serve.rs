//! `doorbell serve`: the supervisor, which starts the other roles.
//!
//! Of the configuration it reads the settings that it needs for itself, and leaves the rest to the
//! control process.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use doorbell_config::{
    file::{Archive, Loaded},
    spec::ServerSpec,
};
use doorbell_supervisor::{
    SupervisorOptions,
    hub::{self, HubOptions, Launcher, Processes, Successor, User},
    protocol::Role,
    reception::settings_that_held,
    wire::MOST_DESCRIPTORS,
};
use tokio::runtime::Runtime;

use crate::{
    allocator,
    control::{self, Place},
    house::House,
    logging,
    sandbox::{self, Plan},
    server::{self, Household},
};

/// Time for what still runs beside the hub when all is over.
const LAST_TASKS: std::time::Duration = std::time::Duration::from_millis(500);

/// The folder of the control process in the state folder.
const REGISTRY: &str = "registry";

/// The option that says so.
const UPGRADED: &str = "--upgraded";

/// Whether roles are processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each is.
    Processes,
    /// All are in this one.
    OneProcess,
}

/// Whether an earlier version became this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It was started.
    Fresh,
    /// It was; this is its state folder, the lock on which is standard input.
    Upgraded(PathBuf),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why Doorbell cannot start; or that it could not end cleanly.
pub fn serve(config_path: PathBuf, split: Split, beginning: &Beginning) -> anyhow::Result<()> {
    let server = settings(&config_path, beginning)?;
    hub::hold_signals().context("cannot hold signals back")?;
    hub::keep_descriptors();
    logging::start(&server.log)?;
    allocator::purge_in_background();
    let lock = match beginning {
        Beginning::Fresh => None,
        Beginning::Upgraded(_) => Some(take_input().context("the state folder's lock")?),
    };
    let options = options(config_path, server, split, lock)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(hub::run(options));
    // A disk that hangs holds threads of the runtime, which would be waited for without end.
    runtime.shutdown_timeout(LAST_TASKS);
    Ok(outcome?)
}

/// The settings that this process needs. Where something lives that an earlier one started, a file that
/// has become wrong meanwhile is no reason to let go of it: then those hold that held before.
pub(crate) fn settings(config_path: &Path, beginning: &Beginning) -> anyhow::Result<ServerSpec> {
    if let Beginning::Upgraded(state_dir) = beginning
        && let Ok(server) = settings_that_held(state_dir)
    {
        // What a reload has said of another folder waits for a restart.
        return Ok(ServerSpec { state_dir: state_dir.clone(), ..server });
    }
    let Loaded { outcome, .. } = House::read(config_path, &mut Archive::default(), &[]);
    match outcome {
        Ok(config) => Ok(config.server),
        Err(problems) => match settings_that_held(&state_dir(config_path)) {
            Ok(server) => {
                eprintln!(
                    "doorbell: {problems}\ndoorbell: going on with the settings that held before"
                );
                Ok(server)
            }
            Err(_) => Err(problems.into()),
        },
    }
}

/// The state folder that a file names in which something else is wrong, as far as it can be told.
fn state_dir(config_path: &Path) -> PathBuf {
    let text = std::fs::read_to_string(config_path).unwrap_or_default();
    let named = match text.parse::<toml::Table>() {
        Ok(file) => {
            file.get("server").and_then(|server| Some(server.get("state_dir")?.as_str()?.into()))
        }
        Err(_) => text.lines().find_map(state_dir_in),
    };
    let folder = config_path.parent().unwrap_or(Path::new("."));
    named.map_or_else(|| ServerSpec::default().state_dir, |named: PathBuf| folder.join(named))
}

/// What a line says of the folder, in a file that is no TOML as a whole.
fn state_dir_in(line: &str) -> Option<PathBuf> {
    let line: toml::Table =
        line.trim_start().strip_prefix("state_dir").and_then(|_| line.parse().ok())?;
    Some(line.get("state_dir")?.as_str()?.into())
}

pub(crate) fn options(
    config_path: PathBuf,
    server: ServerSpec,
    split: Split,
    lock: Option<OwnedFd>,
) -> anyhow::Result<HubOptions> {
    let is_upgraded = lock.is_some();
    let user = server.user.as_deref().map(user).transpose()?.flatten();
    if server.user.is_none() && rustix::process::geteuid().is_root() {
        tracing::warn!("the proxy runs as root: name another user for it in `server.user`");
    }
    let supervisor = SupervisorOptions {
        state_dir: server.state_dir.clone(),
        log_dir: server.log_dir.clone(),
        parallel_starts: server.limits.parallel_starts,
        memory: server.limits.memory,
        open_files: raise_descriptor_limit(),
        group: user.map(|user| user.gid),
        has_custodian: split == Split::Processes,
        lock: lock.map(Arc::new),
    };
    let control_dir = server.state_dir.join(REGISTRY);
    let binary = binary()?;
    let successor = Successor {
        binary: binary.clone(),
        arguments: vec![
            "serve".into(),
            "--config".into(),
            config_path.clone().into(),
            UPGRADED.into(),
            server.state_dir.clone().into(),
        ],
    };
    let launcher = match split {
        Split::Processes => Launcher::Processes(Processes {
            binary,
            control: vec![
                "control".into(),
                "--config".into(),
                config_path.into(),
                "--registry".into(),
                control_dir.clone().into(),
            ],
            proxy: vec!["proxy".into()],
            user,
        }),
        Split::OneProcess => tasks(config_path, control_dir.clone()),
    };
    // Sockets of a listener, one for each worker, travel in one message.
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = workers.min(MOST_DESCRIPTORS);
    let successor = Some(successor);
    Ok(HubOptions { supervisor, server, launcher, workers, successor, is_upgraded, control_dir })
}

/// Where the program stands, also when another has been put in its place since.
fn binary() -> anyhow::Result<PathBuf> {
    const REPLACED: &str = " (deleted)";
    let binary = std::env::current_exe().context("where is the program?")?;
    let name = binary.to_string_lossy();
    Ok(name.strip_suffix(REPLACED).map_or_else(|| binary.clone(), PathBuf::from))
}

/// The user of this name; `None` if that is who we are.
fn user(name: &str) -> anyhow::Result<Option<User>> {
    let found = nix::unistd::User::from_name(name)
        .with_context(|| format!("cannot look up `server.user` \"{name}\""))?
        .with_context(|| {
            format!("there is no user \"{name}\": make it, or change `server.user`")
        })?;
    let user = User { uid: found.uid.as_raw(), gid: found.gid.as_raw() };
    let own = rustix::process::geteuid();
    if own.as_raw() == user.uid {
        return Ok(None);
    }
    anyhow::ensure!(
        own.is_root(),
        "`server.user` is \"{name}\", but only root can run processes as somebody else: start \
         doorbell as root or as \"{name}\", or leave the setting out"
    );
    Ok(Some(user))
}

/// Roles as tasks of this process.
fn tasks(config_path: PathBuf, control_dir: PathBuf) -> Launcher {
    Launcher::Tasks(Arc::new(move |role, connection| {
        let place = Place { config_path: config_path.clone(), folder: control_dir.clone() };
        tokio::spawn(async move {
            let outcome = match role {
                Role::Control => control::run(connection, place, Household::Shared).await,
                Role::Proxy => server::run(connection, Household::Shared).await,
            };
            if let Err(error) = outcome {
                tracing::error!(?role, "{error:#}");
            }
        })
    }))
}

/// Runs a role in a process of its own. Its connection is standard input.
///
/// # Errors
/// Why it cannot start, or does not understand what it is told.
pub fn role(role: Role, reception: PathBuf, place: Option<Place>) -> anyhow::Result<()> {
    let connection = take_connection().context("this is started by `doorbell serve` alone")?;
    hub::let_signals_in().context("cannot let signals in")?;
    // What we are executed as is no name for people.
    rustix::thread::set_name(c"doorbell")?;
    let confined = sandbox::confine(&plan(role, place.as_ref()))?.to_string();
    allocator::purge_in_background();
    let household = Household::Own { reception, confined };
    let runtime = match role {
        Role::Control => runtime()?,
        Role::Proxy => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let outcome = runtime.block_on(async {
        match role {
            Role::Control => {
                let place = place.context("no configuration is named")?;
                control::run(connection, place, household).await
            }
            Role::Proxy => server::run(connection, household).await,
        }
    });
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

/// What a role may keep. The configuration may name files anywhere, now or after its next change:
/// whether the control process may read them is up to its user.
#[must_use]
pub fn plan(role: Role, place: Option<&Place>) -> Plan {
    match role {
        Role::Control => Plan::Control {
            read: vec!["/".into()],
            // Where it could not be made, the log has said so.
            write: place.iter().map(|place| place.folder.clone()).filter(|f| f.is_dir()).collect(),
        },
        Role::Proxy => Plan::Proxy { read: Vec::new() },
    }
}

/// Takes the connection to the supervisor from standard input, and puts nothing there.
fn take_connection() -> std::io::Result<std::os::unix::net::UnixStream> {
    let connection = take_input()?;
    if rustix::net::sockopt::socket_domain(&connection)? != rustix::net::AddressFamily::UNIX {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    Ok(connection.into())
}

/// Takes what standard input is, and puts nothing there.
fn take_input() -> std::io::Result<OwnedFd> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(input)
}

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot make a runtime")
}

/// As many descriptors as we may have: two per proxied connection. Gives the limit from before.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, ..before };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    before.current
}
