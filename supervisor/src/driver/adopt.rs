//! Instances that outlived the supervisor that started them: found by their records, and taken up as
//! they are.
//!
//! What they print has waited in their pipes meanwhile; what the control process kept open for them
//! comes back from there, so that nothing is lost even of those that ended.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    sync::{Arc, PoisonError},
};

use doorbell_config::{name::AppId, spec::OutputSpec};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Driver, Handle, Job, Report, children,
    custody::{self, OWN},
    ear::{Ear, Parts},
    endpoint::{Place, socket_folder},
    freezer,
    instance::{self, Instance, Wires},
    leftover::Remains,
    mark::{self, Mark, file_name_of},
    notify::NotifySocket,
    procfs::{self, Pid, ProcessTable},
    record::{Notebook, Phase, Record},
    root::Root,
    tidy,
    tree::Tree,
    vigil::{Vigil, VigilSocket},
};
use crate::{
    message::{Endpoint, Generation, StartTimes},
    output::{Capture, OutputPipe, PipeIdentity, Tail},
};

/// An instance to be taken up.
#[derive(Debug)]
pub(crate) struct Adoptee {
    record: Record,
    pidfd: OwnedFd,
    first: First,
    course: Course,
}

/// Who is watched of an instance that is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Its first process.
    Itself,
    /// The oldest of those that the first one left behind.
    StandIn,
}

/// Whether an instance is as its record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    AsNoted,
    /// It was about to stand still, or to go on: it is to go on, with all that it has.
    Between,
}

impl Adoptee {
    pub(crate) fn generation(&self) -> Generation {
        self.record.generation
    }

    pub(crate) fn pid(&self) -> u32 {
        self.record.pid
    }

    pub(crate) fn phase(&self) -> Phase {
        self.record.phase
    }

    /// The version that an upgrade brings the app's data up to date with.
    pub(super) fn version(&self) -> Option<&str> {
        self.record.upgrade.as_ref().map(|upgrade| &*upgrade.version)
    }

    /// Whether its first process still runs.
    pub(super) fn is_itself(&self) -> bool {
        self.first == First::Itself
    }

    /// Where it serves, and how its start went.
    pub(crate) fn ready(&self) -> Option<(Endpoint, StartTimes)> {
        self.record.ready.clone()
    }

    /// What keeps it awake.
    pub(crate) fn vigils(&self) -> Vec<Vigil> {
        self.record.vigils.clone()
    }

    /// Of the definition that it was started with.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.record.fingerprint
    }
}

/// Whose a file is, if it is not ours.
fn owner_of(path: &Path) -> Option<u32> {
    let owner = fs::symlink_metadata(path).ok()?.uid();
    (owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

fn mark_of(state_dir: &Path, record: &Record) -> Mark {
    Mark::of_instance(state_dir, &record.app, record.generation)
}

impl Driver {
    /// Instances of an earlier supervisor that still run, by app. Records of others are forgotten;
    /// what they printed last is written by [`Driver::finish_outputs`].
    pub(crate) fn adoptees(&self) -> io::Result<Vec<(AppId, Adoptee)>> {
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        let table = ProcessTable::read()?;
        // Only looked for where a first process is gone, which is seldom.
        let mut remains = None;
        for record in Record::read_all(&self.run_dir())? {
            let (app, generation) = (record.app.clone(), record.generation);
            let found = Adoptee::itself(&self.state_dir, &record).or_else(|| {
                let has_output = |pid, instance: &str| self.has_output(pid, instance);
                let remains =
                    remains.get_or_insert_with(|| Remains::of(&self.state_dir, has_output));
                Adoptee::stand_in(&self.state_dir, record, remains)
            });
            match found {
                Some(mut adoptee) => {
                    self.see_whether_still(&mut adoptee, &table);
                    living.push((app, adoptee));
                }
                None => dead.push((app, generation)),
            }
        }
        for (app, generation) in &dead {
            for path in [self.vigil_path(app, *generation), self.notify_path(app, *generation)] {
                // Few have both.
                let _ = fs::remove_file(path);
            }
            let folder = socket_folder(&self.run_dir(), app);
            if let Err(error) = Record::remove(&folder, *generation) {
                tracing::warn!(%app, %error, "a record of an instance stays behind");
            }
        }
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).extend(dead);
        let names = living.iter().map(|(app, one)| file_name_of(app, one.record.generation));
        self.remove_own_of_others(&names.collect());
        living.sort_by_key(|(_, adoptee)| adoptee.record.generation);
        Ok(living)
    }

    /// The task of an instance that is taken up, and the hold on it.
    pub(crate) fn adopted(
        self: &Arc<Self>,
        job: Job,
        adoptee: Adoptee,
        reports: mpsc::Sender<Report>,
    ) -> (Handle, impl Future<Output = ()> + Send + 'static) {
        let (handle, wires) = Handle::new(reports);
        let is_upgrade = adoptee.phase() == Phase::Upgrading;
        let turn = is_upgrade.then(|| self.turn_at_once(&job.app.id)).flatten();
        match adoptee.course {
            Course::AsNoted => {}
            Course::Between => handle.stand_still(false),
        }
        (handle, instance::take_up(Arc::clone(self), job, wires, adoptee, turn))
    }

    /// Who is noted as frozen is so from before it stands still until after it goes on: one that does not
    /// stand still may have visitors.
    fn see_whether_still(&self, adoptee: &mut Adoptee, table: &ProcessTable) {
        let record = &adoptee.record;
        if record.phase != Phase::Frozen {
            return;
        }
        let group = self.cgroups.find_again(&record.app, record.generation);
        match freezer::stands_still(&group, record.pid, table) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(app = %record.app, %error, "cannot see whether it stands still");
            }
        }
        (adoptee.record.phase, adoptee.course) = (Phase::Ready, Course::Between);
    }

    /// Removes what instances had of their own that are not among these.
    fn remove_own_of_others(&self, living: &HashSet<String>) {
        for entry in fs::read_dir(self.state_dir.join(OWN)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let removed = match name.to_str() {
                Some(name) if living.contains(name) => continue,
                Some(name) if tidy::is_gone(name) => tidy::remove_later(&entry.path()),
                Some(_) | None => tidy::remove(&entry.path()),
            };
            if let Err(error) = removed {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "temporary files stay behind");
            }
        }
    }

    /// Whether a process has the output of the instance that it says it is of.
    fn has_output(&self, pid: Pid, instance: &str) -> bool {
        let Some((app, generation)) = mark::instance_of(instance) else { return false };
        let found = fs::metadata(self.output_path(&app, generation));
        found.is_ok_and(|found| {
            procfs::writes_to(pid, PipeIdentity { device: found.dev(), inode: found.ino() })
        })
    }

    /// Whether an instance is of an earlier app of its id, which was deleted or renamed.
    pub(crate) fn is_strange(&self, app: &AppId, generation: Generation) -> bool {
        self.logs.is_elsewhere(app, &self.output_path(app, generation))
    }

    /// Writes what instances printed that ended while there was no supervisor. `spec_of` tells how an
    /// app's output is kept, if the app is still defined.
    pub(crate) fn finish_outputs(
        self: &Arc<Self>,
        spec_of: impl Fn(&AppId) -> Option<OutputSpec>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let dead: HashSet<_> = {
            let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *dead).into_iter().collect()
        };
        let work: Vec<_> = dead
            .into_iter()
            .map(|(app, generation)| {
                let held = self.take_held(&app, generation).into_iter().next();
                let is_strange = self.is_strange(&app, generation);
                let spec = spec_of(&app).or_else(|| is_strange.then(OutputSpec::default));
                (app, generation, held, spec)
            })
            .collect();
        let driver = Arc::clone(self);
        async move {
            for (app, generation, held, spec) in work {
                let path = driver.output_path(&app, generation);
                if let (Some(held), Some(spec)) = (held, spec) {
                    let finished = driver.finish_output(&app, held, &path, spec);
                    if let Err(error) = finished.await {
                        tracing::error!(%app, %error, "the last output of an app is lost");
                    }
                }
                if let Err(error) = OutputPipe::remove(&path) {
                    tracing::warn!(%app, %error, "a pipe stays behind");
                }
                driver.release(&app, generation);
            }
        }
    }

    async fn finish_output(
        &self,
        app: &AppId,
        held: OwnedFd,
        path: &Path,
        spec: OutputSpec,
    ) -> io::Result<()> {
        let pipe = OutputPipe::from_held(held, path)?;
        let log = self.logs.reopen(app, spec, path);
        let capture = Capture::start(pipe, log, Arc::new(Tail::default()))?;
        capture.say("ended while doorbell was being restarted".to_owned()).await;
        capture.finish().await;
        Ok(())
    }
}

impl Adoptee {
    /// An instance whose first process still runs.
    fn itself(state_dir: &Path, record: &Record) -> Option<Self> {
        open(state_dir, record).map(|pidfd| Self {
            record: record.clone(),
            pidfd,
            first: First::Itself,
            course: Course::AsNoted,
        })
    }

    /// An instance whose first process is gone, as that of a daemon, and left others.
    fn stand_in(state_dir: &Path, record: Record, remains: &Remains) -> Option<Self> {
        let oldest = remains.oldest(&record.app, record.generation)?;
        let record = Record { pid: oldest.pid, began: oldest.began, ..record };
        let pidfd = record.is_of_this_boot().then(|| open(state_dir, &record))??;
        Some(Self { record, pidfd, first: First::StandIn, course: Course::AsNoted })
    }
}

/// A handle for exactly the process of this record.
fn open(state_dir: &Path, record: &Record) -> Option<OwnedFd> {
    let pid = children::to_rustix(record.pid)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    // After the handle: it is that of the process which is looked at now.
    record.lives(&mark_of(state_dir, record)).then_some(pidfd)
}

impl Instance {
    /// Takes up an instance as it is.
    pub(super) fn adopt(
        driver: Arc<Driver>,
        job: Job,
        wires: Wires,
        adoptee: Adoptee,
    ) -> io::Result<Self> {
        let Adoptee { record, pidfd, first, course: _ } = adoptee;
        let (app, generation) = (job.app.id.clone(), job.generation);
        let process = job.process()?;
        let (stop, logs) = (*process.stop, *process.logs);
        let resources = process.resources.clone();
        let mut held = driver.take_held(&app, generation);
        let ear = Parts::among(&mut held);
        let path = driver.vigil_path(&app, generation);
        let vigils = match VigilSocket::among(&mut held, path.clone()) {
            Some(socket) => Some(socket),
            None if path.exists() => instance::door(&driver, &job, owner_of(&path)),
            // An earlier version gave it none.
            None => None,
        };
        let mut held = held.into_iter();
        let path = driver.output_path(&app, generation);
        let output = match held.next() {
            Some(held) => OutputPipe::from_held(held, &path)?,
            None => OutputPipe::reopen(&path)?,
        };
        let path = driver.notify_path(&app, generation);
        let notify = match held.next() {
            Some(held) => Some(NotifySocket::from_held(held, path)?),
            None if path.exists() => Some(NotifySocket::bind(path)?),
            None => None,
        };
        let kept = custody::keep(&output, notify.as_ref(), ear.as_ref(), vigils.as_ref())?;
        let ear = ear.map(Ear::open).transpose()?;
        let place = Place::adopt(&driver.ports, &record.place)?;
        // After an upgrade it is our own child still.
        children::register(record.pid);
        let root = Root::watch(record.pid, pidfd)?;
        let mark = mark_of(&driver.state_dir, &record);
        let tree = Tree::adopted(record.pid, mark, output.identity());
        let group = driver.cgroups.take_up(&app, generation, &resources);
        wires.witness.is_of(tree, group);
        let door = vigils.map(|vigils| vigils.open(wires.witness.clone())).transpose()?;
        let log = driver.logs.reopen(&app, logs, &driver.output_path(&app, generation));
        let capture = Capture::start(output, log, wires.witness.tail.clone())?;
        driver.hold(&job, kept);
        if first == First::StandIn {
            // What is left may not be what served.
            wires.check.notify_one();
            driver.note(&record);
        }
        let started = (record.phase == Phase::Starting).then(|| driver.pace.start());
        let spawned_at = Instant::now();
        Ok(Self {
            driver,
            job,
            stop,
            place,
            notify,
            ear,
            root,
            capture,
            wires,
            started,
            spawned_at,
            is_adopted: true,
            notebook: Arc::new(Notebook::new(record)),
            door,
        })
    }
}

impl Instance {
    /// A warning if listening depends on somebody who has died with all that he kept.
    pub(super) fn deafness(&self) -> Option<String> {
        (self.notebook.record().is_heard && self.ear.is_none()).then(|| {
            "doorbell's processes were killed together: the app serves on, but cannot listen anew until \
             it is restarted"
                .to_owned()
        })
    }
}
