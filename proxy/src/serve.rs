//! `doorbell serve`: the supervisor, which starts the other roles.
//!
//! Of the configuration it reads the settings that it needs for itself, and leaves the rest to the
//! control process.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use doorbell_config::{
    file::{Archive, Loaded},
    spec::ServerSpec,
};
use doorbell_supervisor::{
    SupervisorOptions,
    hub::{self, HubOptions, Launcher, Processes},
    protocol::Role,
};
use tokio::runtime::Runtime;

use crate::{
    allocator, control,
    house::House,
    logging,
    sandbox::{self, Plan},
    server::{self, Household},
};

/// Time for what still runs beside the hub when all is over.
const LAST_TASKS: std::time::Duration = std::time::Duration::from_millis(500);

/// Whether roles are processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each is.
    Processes,
    /// All are in this one.
    OneProcess,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why Doorbell cannot start; or that it could not end cleanly.
pub fn serve(config_path: PathBuf, split: Split) -> anyhow::Result<()> {
    let Loaded { outcome, .. } = House::read(&config_path, &mut Archive::default());
    let server = outcome?.server;
    logging::start(&server.log)?;
    allocator::purge_in_background();
    let options = options(config_path, server, split)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(hub::run(options));
    // A disk that hangs holds threads of the runtime, which would be waited for without end.
    runtime.shutdown_timeout(LAST_TASKS);
    Ok(outcome?)
}

fn options(config_path: PathBuf, server: ServerSpec, split: Split) -> anyhow::Result<HubOptions> {
    let supervisor = SupervisorOptions {
        state_dir: server.state_dir.clone(),
        log_dir: server.log_dir.clone(),
        parallel_starts: server.limits.parallel_starts,
        open_files: raise_descriptor_limit(),
    };
    let launcher = match split {
        Split::Processes => Launcher::Processes(Processes {
            binary: std::env::current_exe().context("where is the program?")?,
            control: vec!["control".into(), "--config".into(), config_path.into()],
            proxy: vec!["proxy".into()],
            user: None,
        }),
        Split::OneProcess => tasks(config_path),
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(HubOptions { supervisor, server, launcher, workers })
}

/// Roles as tasks of this process.
fn tasks(config_path: PathBuf) -> Launcher {
    Launcher::Tasks(Arc::new(move |role, connection| {
        let config_path = config_path.clone();
        tokio::spawn(async move {
            let outcome = match role {
                Role::Control => control::run(connection, config_path, Household::Shared).await,
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
pub fn role(role: Role, reception: PathBuf, config_path: Option<PathBuf>) -> anyhow::Result<()> {
    let connection = take_connection().context("this is started by `doorbell serve` alone")?;
    let confined = sandbox::confine(&plan(role))?.to_string();
    allocator::purge_in_background();
    let household = Household::Own { reception, confined };
    let runtime = match role {
        Role::Control => runtime()?,
        Role::Proxy => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let outcome = runtime.block_on(async {
        match role {
            Role::Control => {
                let config_path = config_path.context("no configuration is named")?;
                control::run(connection, config_path, household).await
            }
            Role::Proxy => server::run(connection, household).await,
        }
    });
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

/// What a role may keep. The configuration may name files anywhere, now or after its next change:
/// whether the control process may read them is up to its user.
fn plan(role: Role) -> Plan {
    match role {
        Role::Control => Plan::Control { read: vec!["/".into()], write: Vec::new() },
        Role::Proxy => Plan::Proxy { read: Vec::new() },
    }
}

/// Takes the connection to the supervisor from standard input, and puts nothing there.
fn take_connection() -> std::io::Result<std::os::unix::net::UnixStream> {
    use std::os::fd::AsFd;
    let connection = std::io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_domain(&connection)? != rustix::net::AddressFamily::UNIX {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(connection.into())
}

fn runtime() -> anyhow::Result<Runtime> {
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
