//! The part of a start that blocks: until the program is executed, or failed to be.

use std::{io, sync::PoisonError};

use doorbell_config::spec::{ListenNotice, Probe, ProcessSpec};

use crate::{
    driver::{
        Driver, Job, STARTING,
        endpoint::{EndpointError, Place, create_private, socket_folder},
        launch::{Launch, LaunchError, Surroundings},
        notify::NotifySocket,
        record::Record,
        spawn::{self, Spawned, Wishes},
    },
    output::OutputPipe,
};

/// Why a program could not be spawned.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("cannot execute {program}: {source}")]
    Execute { program: String, source: io::Error },
    #[error("cannot prepare the start: {0}")]
    Prepare(#[from] io::Error),
}

pub(super) fn listen_for_notes(driver: &Driver, job: &Job) -> io::Result<NotifySocket> {
    create_private(&socket_folder(&driver.run_dir(), &job.app.id))?;
    NotifySocket::bind(driver.notify_path(&job.app.id, job.generation))
}

/// The part of a start that blocks: until the program is executed, or failed to be.
pub(super) fn spawn_blocking(
    driver: &Driver,
    job: &Job,
    process: &ProcessSpec,
    notify_socket: Option<&std::path::Path>,
) -> Result<(Place, Spawned, Record), SpawnError> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let sockets = socket_folder(&driver.run_dir(), &job.app.id);
    let probe = &process.ready.probe;
    let mut place =
        Place::prepare(process.endpoint, probe, &driver.ports, &sockets, job.generation)?;
    let around = Surroundings { place: &place, notify_socket, state_dir: &driver.state_dir };
    let launch = Launch::of(&job.app, process, job.generation, &around)?;
    create_private(&sockets)?;
    driver.let_through(&sockets)?;
    let output = OutputPipe::create(&driver.output_path(&job.app.id, job.generation))?;
    let spawned =
        spawn::spawn(&launch, output, place.listener.take(), wishes(driver, job, process)?);
    let spawned = spawned.map_err(|source| SpawnError::Execute {
        program: launch.program.display().to_string(),
        source,
    })?;
    let (app, generation) = (job.app.id.clone(), job.generation);
    let mut record =
        Record::new(app, generation, spawned.pid, place.endpoint.clone(), job.fingerprint)?;
    record.is_heard = spawned.ear.is_some();
    driver.note(&record);
    Ok((place, spawned, record))
}

/// Where readiness depends on it, the kernel is to tell when the app listens; but not if nobody would
/// keep the descriptor after us.
fn wishes(driver: &Driver, job: &Job, process: &ProcessSpec) -> io::Result<Wishes> {
    let matters = match process.ready.probe {
        Probe::Connect | Probe::Http(_) => true,
        Probe::Notify | Probe::SocketActivation => false,
    };
    let is_wanted = process.ready.listen == ListenNotice::Auto;
    let is_heard = matters && is_wanted && driver.has_custodian;
    let heard = is_heard.then(|| driver.advance(job)).transpose()?;
    Ok(Wishes { open_files: driver.open_files, no_new_privs: process.no_new_privs, heard })
}
