//! What is kept of an instance as long as it runs, so that it outlives us: descriptors, which another process holds
//! too, and what stands beside its sockets.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use doorbell_config::name::AppId;

use super::{
    Driver, Job,
    advance::Advance,
    ear::Parts,
    endpoint::{base36, socket_folder},
    mark::file_name_of,
    notify::NotifySocket,
    record::Record,
    tidy,
    vigil::VigilSocket,
};
use crate::{message::Generation, output::OutputPipe};

/// The folder for what instances have of their own, in the state folder.
pub(super) const OWN: &str = "own";

/// What another process is to keep open for an instance, so that it outlives us.
#[derive(Debug)]
pub(crate) enum Custody {
    /// The read end of its output, its notify socket if it has one, its ear, and where it asks to be kept
    /// awake.
    Hold(AppId, Generation, Vec<Arc<OwnedFd>>),
    /// The instance is gone.
    Release(AppId, Generation),
}

impl Driver {
    /// What is kept for an instance, once.
    pub(super) fn take_held(&self, app: &AppId, generation: Generation) -> Vec<OwnedFd> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&(app.clone(), generation)).unwrap_or_default()
    }

    /// Where an instance's ear is to be put before it begins.
    pub(super) fn advance(&self, job: &Job) -> io::Result<Advance> {
        let socket = self.advances.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Advance::of(socket, &job.app.id, job.generation)
    }

    /// Another process takes such things from here on, or none.
    pub(crate) fn put_advances(&self, socket: Option<Arc<OwnedFd>>) {
        *self.advances.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Asks for what an instance needs to be kept open elsewhere too.
    pub(super) fn hold(&self, job: &Job, descriptors: Vec<Arc<OwnedFd>>) {
        self.tell_custodian(Custody::Hold(job.app.id.clone(), job.generation, descriptors));
    }

    /// The instance is gone: nobody needs to keep anything.
    pub(super) fn forget(&self, job: &Job) {
        self.release(&job.app.id, job.generation);
        self.cgroups.find_again(&job.app.id, job.generation).remove();
        if let Err(error) = tidy::remove(&self.own_path(&job.app.id, job.generation)) {
            tracing::warn!(app = %job.app.id, %error, "temporary files of an instance stay behind");
        }
        let folder = socket_folder(&self.run_dir(), &job.app.id);
        if let Err(error) = Record::remove(&folder, job.generation) {
            tracing::warn!(app = %job.app.id, %error, "a record of an instance stays behind");
        }
    }

    /// Nobody needs to keep anything of an instance.
    pub(crate) fn release(&self, app: &AppId, generation: Generation) {
        drop(self.take_held(app, generation));
        self.tell_custodian(Custody::Release(app.clone(), generation));
    }

    fn tell_custodian(&self, custody: Custody) {
        // Nobody may be there, as in tests. One that does not keep up misses an instance, whose
        // output then survives us only as long as the instance itself.
        let _ = self.custodian.try_send(custody);
    }

    /// Writes down how far an instance is. That it cannot be is no reason to end it.
    pub(super) fn note(&self, record: &Record) {
        let folder = socket_folder(&self.run_dir(), &record.app);
        if let Err(error) = record.write(&folder) {
            tracing::error!(app = %record.app, %error, "this instance will not outlive doorbell");
        }
    }

    /// Where an instance's output goes through.
    pub(super) fn output_path(&self, app: &AppId, generation: Generation) -> PathBuf {
        let name = format!("{}.out", base36(generation.0));
        socket_folder(&self.run_dir(), app).join(name)
    }

    /// Where an instance says how it is.
    pub(super) fn notify_path(&self, app: &AppId, generation: Generation) -> PathBuf {
        let name = format!("{}.notify", base36(generation.0));
        socket_folder(&self.run_dir(), app).join(name)
    }

    /// What an instance has of its own, and nobody else gets to.
    pub(super) fn own_path(&self, app: &AppId, generation: Generation) -> PathBuf {
        self.state_dir.join(OWN).join(file_name_of(app, generation))
    }

    /// Where an instance asks to be kept awake.
    pub(super) fn vigil_path(&self, app: &AppId, generation: Generation) -> PathBuf {
        let name = format!("{}.awake", base36(generation.0));
        socket_folder(&self.run_dir(), app).join(name)
    }
}

/// What is to be kept open elsewhere for an instance.
pub(super) fn keep(
    output: &OutputPipe,
    notify: Option<&NotifySocket>,
    ear: Option<&Parts>,
    vigils: Option<&VigilSocket>,
) -> io::Result<Vec<Arc<OwnedFd>>> {
    let mut kept = vec![Arc::new(output.try_clone()?)];
    if let Some(notify) = notify {
        kept.push(Arc::new(notify.as_fd().try_clone_to_owned()?));
    }
    if let Some(ear) = ear {
        kept.extend(ear.kept()?);
    }
    if let Some(vigils) = vigils {
        kept.push(Arc::new(vigils.as_fd().try_clone_to_owned()?));
    }
    Ok(kept)
}
