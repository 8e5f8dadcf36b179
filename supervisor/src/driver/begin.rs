//! The part of a start that blocks: until the program is executed, or failed to be.

use std::{io, os::unix::fs::chown, sync::PoisonError};

use doorbell_config::spec::{Given, ListenNotice, Probe, ProcessSpec};

use crate::{
    driver::{
        Driver, Job, STARTING, Work,
        account::{Account, AccountError},
        advance::Advance,
        cgroup::Group,
        enclosure::{Enclosure, EnclosureError},
        endpoint::{EndpointError, Place, create_private, socket_folder},
        launch::{Launch, LaunchError, Surroundings},
        notify::NotifySocket,
        outfit::Outfit,
        record::{Phase, Record, Upgrading, Walled},
        spawn::{self, Spawned},
        vigil::VigilSocket,
    },
    lifecycle::Failure,
    output::OutputPipe,
};

/// Why a program could not be spawned.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Enclosure(#[from] EnclosureError),
    #[error("cannot make its control group: {0}")]
    Group(io::Error),
    #[error("{program} {source}")]
    Execute { program: String, source: io::Error },
    #[error("{0}")]
    Given(String),
    #[error("its upgrade to version {version:?} failed: {why}")]
    Upgrade { version: String, why: String },
    #[error("it is not wanted any more")]
    NotWanted,
    #[error("cannot prepare the start: {0}")]
    Prepare(#[from] io::Error),
}

impl SpawnError {
    /// How the instance failed that was to be.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Upgrade { .. } => Failure::Upgrade,
            Self::Endpoint(_)
            | Self::Launch(_)
            | Self::Account(_)
            | Self::Enclosure(_)
            | Self::Group(_)
            | Self::Execute { .. }
            | Self::Given(_)
            | Self::NotWanted
            | Self::Prepare(_) => Failure::Crashed,
        }
    }
}

pub(super) fn listen_for_notes(driver: &Driver, job: &Job) -> io::Result<NotifySocket> {
    create_private(&socket_folder(&driver.run_dir(), &job.app.id))?;
    NotifySocket::bind(driver.notify_path(&job.app.id, job.generation))
}

/// What there is of an instance once its program is executed.
pub(super) struct Prepared {
    pub(super) place: Place,
    pub(super) spawned: Spawned,
    pub(super) record: Record,
    pub(super) group: Group,
    /// Where it asks to be kept awake, if there is a way.
    pub(super) vigils: Option<VigilSocket>,
}

/// The part of a start that blocks: until the program is executed, or failed to be.
pub(super) fn spawn_blocking(
    driver: &Driver,
    job: &Job,
    process: &ProcessSpec,
    notify_socket: Option<&std::path::Path>,
    given: &Given,
) -> Result<Prepared, SpawnError> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let account = process.user.as_deref().map(Account::find).transpose()?.flatten();
    let owner = account.as_ref().map(|account| account.who.user);
    let sockets = socket_folder(&driver.run_dir(), &job.app.id);
    let probe = &process.ready.probe;
    create_private(&sockets)?;
    driver.let_through(&sockets)?;
    if owner.is_some() {
        driver.let_everybody_through(&sockets)?;
    }
    let mut place =
        Place::prepare(process.endpoint, probe, &driver.ports, &sockets, job.generation, owner)?;
    let state_dir = &driver.state_dir;
    let vigils = door(driver, job, owner);
    let own = driver.own_path(&job.app.id, job.generation);
    let enclosure = Enclosure::prepare(process, &own, &sockets, owner)?;
    let around = Surroundings {
        place: &place,
        notify_socket,
        own_socket: vigils.as_ref().map(VigilSocket::path),
        tmpdir: enclosure.tmpdir.as_deref(),
        state_dir,
        account: account.as_ref(),
        given,
    };
    let launch = Launch::of(&job.app, process, job.generation, &around)?;
    if let (Some(_), Some(path)) = (owner, notify_socket) {
        chown(path, owner, None)?;
    }
    let may_freeze = process.idle_freeze_after.is_some();
    let made = driver.cgroups.make(&job.app.id, job.generation, &process.resources, may_freeze);
    let group = made.map_err(SpawnError::Group)?;
    let (wall, walled) = match enclosure.wall {
        None => (None, None),
        Some(Ok(wall)) => (Some(wall), Some(Walled::In)),
        Some(Err(why)) => (None, Some(Walled::Not(why.to_owned()))),
    };
    let outfit = Outfit {
        listener: place.listener.take(),
        limits: driver.limits(process),
        groups: group.entrance().map_err(SpawnError::Group)?,
        rank: driver.rank,
        mounts: enclosure.mounts,
        wall,
        user: account.map(|account| account.who),
        no_new_privs: process.no_new_privs,
        heard: heard(driver, job, process)?,
    };
    let output = OutputPipe::create(&driver.output_path(&job.app.id, job.generation))?;
    let spawned = spawn::spawn(&launch, output, outfit);
    let spawned = spawned.map_err(|source| SpawnError::Execute {
        program: launch.program.display().to_string(),
        source,
    })?;
    let (app, generation) = (job.app.id.clone(), job.generation);
    let (pid, endpoint) = (spawned.root.pid(), place.endpoint.clone());
    let record = Record::new(app, generation, pid, endpoint, job.fingerprint);
    // Nobody could take it up, and it ends here.
    let mut record = record.inspect_err(|_| drop(OutputPipe::remove(spawned.output.path())))?;
    record.is_heard = spawned.ear.is_some();
    record.walled = walled;
    if job.work == Work::Upgrade {
        record.phase = Phase::Upgrading;
        let version = process.version.as_deref().zip(process.upgrade.as_deref());
        record.upgrade =
            version.map(|(version, upgrade)| Upgrading::new(version, upgrade.deadline));
    }
    driver.note(&record);
    Ok(Prepared { place, spawned, record, group, vigils })
}

/// Where the instance asks to be kept awake. Most never do, so that one which cannot starts none the less.
pub(in crate::driver) fn door(
    driver: &Driver,
    job: &Job,
    owner: Option<u32>,
) -> Option<VigilSocket> {
    let path = driver.vigil_path(&job.app.id, job.generation);
    let made = VigilSocket::bind(path).and_then(|socket| {
        if owner.is_some() {
            chown(socket.path(), owner, None)?;
        }
        Ok(socket)
    });
    made.inspect_err(|error| {
        tracing::warn!(app = %job.app.id, %error, "it cannot ask to be kept awake");
    })
    .ok()
}

/// Where readiness depends on it, the kernel is to tell when the app listens; but not if nobody would
/// keep the descriptor after us.
fn heard(driver: &Driver, job: &Job, process: &ProcessSpec) -> io::Result<Option<Advance>> {
    let matters = match process.ready.probe {
        Probe::Connect | Probe::Http(_) => true,
        Probe::Notify | Probe::SocketActivation => false,
    };
    let is_wanted = process.ready.listen == ListenNotice::Auto;
    let is_heard = matters && is_wanted && driver.has_custodian;
    is_heard.then(|| driver.advance(job)).transpose()
}
