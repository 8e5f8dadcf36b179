//! The step before the first start of a version: a program that brings the app's data up to date, run to its
//! end. It is run as the app is, by the same means: what it prints is in the app's log, its tree is ended as an
//! app's is, and a supervisor that comes after this one takes it up.
//!
//! Whether it is to be run is the control process's to say, which asks the registry whose turn it is
//! (`house/upgrades` there). Here one is run at a time for each app, so that a Doorbell never waits for itself.
//!
//! Who is killed together with it leaves it half done: then it is run again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use doorbell_config::{
    name::AppId,
    spec::{Backend, Given, ListenNotice, Probe, ReadySpec, UpgradeSpec},
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};

use super::{Adoptee, Driver, End, Instance, Job, Note, Order, SpawnError, Wires, Work, ordered};
use crate::{driver::root::Exit, protocol::Upgraded};

/// Which apps are being upgraded.
pub(in crate::driver) type Turns = Mutex<HashMap<AppId, Arc<tokio::sync::Mutex<()>>>>;

/// Held while an app is upgraded: its replicas wait for that.
pub(in crate::driver) type Turn = OwnedMutexGuard<()>;

/// An upgrade that an earlier supervisor began.
pub(super) struct Begun {
    pub(super) adoptee: Adoptee,
    pub(super) turn: Option<Turn>,
}

impl Driver {
    /// The turn that all replicas of an app take.
    fn turn_of(&self, app: &AppId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.upgrades.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(app.first()).or_default())
    }

    /// The turn of an app whose upgrade is taken up: nobody has it yet.
    pub(in crate::driver) fn turn_at_once(&self, app: &AppId) -> Option<Turn> {
        self.turn_of(app).try_lock_owned().ok()
    }
}

impl Job {
    /// The same, to run the upgrade.
    fn for_upgrade(&self) -> Option<Self> {
        let Backend::Process(process) = &self.app.backend else { return None };
        let mut process = process.clone();
        process.command = process.upgrade.as_deref()?.command.clone().into();
        // Nobody waits for it to listen.
        let (probe, listen) = (Probe::Connect, ListenNotice::Never);
        process.ready = ReadySpec { probe, listen, ..ReadySpec::clone(&process.ready) }.into();
        process.idle_freeze_after = None;
        let mut app = (*self.app).clone();
        app.backend = Backend::Process(process);
        Some(Self { app: Arc::new(app), work: Work::Upgrade, ..self.clone() })
    }

    /// What is told of its upgrade.
    fn upgraded(&self, outcome: Result<(), String>) -> Option<Upgraded> {
        let version = self.process().ok()?.version.as_deref()?.to_owned();
        Some(Upgraded { version, outcome })
    }
}

/// What the program is given. Where its data is to be brought up to date first, that is done when this returns.
pub(super) async fn prepare(
    driver: &Arc<Driver>,
    job: &Job,
    wires: &Wires,
    begun: Option<Begun>,
) -> Result<Given, SpawnError> {
    let process = job.process()?;
    let mut inbox = wires.inbox.clone();
    let (begun, held) = begun.map_or((None, None), |begun| (Some(begun.adoptee), begun.turn));
    let _turn = match (&process.upgrade, held) {
        (Some(_), None) => tokio::select! {
            turn = driver.turn_of(&job.app.id).lock_owned() => Some(turn),
            _ = ordered(&mut inbox) => return Err(SpawnError::NotWanted),
        },
        (_, held) => held,
    };
    let mut upgraded = match begun {
        Some(adoptee) => go_on(driver, job, wires, adoptee).await,
        None => None,
    };
    let mut has_run = false;
    loop {
        let given = tokio::select! {
            biased;
            // Who is to end need not be told anything.
            _ = ordered(&mut inbox) => {
                if let Some(upgraded) = upgraded {
                    driver.tell_upgraded(job, upgraded);
                }
                return Err(SpawnError::NotWanted);
            }
            given = driver.given(job, process, upgraded.clone()) => given,
        };
        let given = given.map_err(SpawnError::Given)?;
        let Some(version) = &given.needs_upgrade else { return Ok(given) };
        if Some(version.as_str()) != process.version.as_deref()
            || std::mem::replace(&mut has_run, true)
        {
            return Err(SpawnError::Given("its version has changed meanwhile".into()));
        }
        upgraded = run(driver, job, wires, &given).await;
    }
}

async fn run(driver: &Arc<Driver>, job: &Job, wires: &Wires, given: &Given) -> Option<Upgraded> {
    let job = job.for_upgrade()?;
    let spawned = Instance::spawn(Arc::clone(driver), job.clone(), wires.clone(), given).await;
    let outcome = match spawned {
        Ok(instance) => instance.complete().await.1,
        Err(error) => Err(error.to_string()),
    };
    driver.forget(&job);
    job.upgraded(outcome)
}

/// Takes up an upgrade that an earlier supervisor began; `None` if nobody can tell what came of it.
async fn go_on(driver: &Arc<Driver>, job: &Job, wires: &Wires, begun: Adoptee) -> Option<Upgraded> {
    let job = job.for_upgrade()?;
    let is_itself = begun.is_itself();
    let adopted = Instance::adopt(Arc::clone(driver), job.clone(), wires.clone(), begun);
    let outcome = match adopted {
        Ok(instance) => Some(instance.complete().await),
        Err(error) => {
            tracing::warn!(app = %job.app.id, %error, "an upgrade cannot be taken up");
            driver.end_leftovers_of(&job).await;
            None
        }
    };
    driver.forget(&job);
    let (exit, outcome) = outcome?;
    if !is_itself || exit == Some(Exit::Unknown) {
        return None;
    }
    job.upgraded(outcome)
}

impl Instance {
    /// Runs an upgrade to its end: how it ended, if it did by itself, and what came of it.
    async fn complete(mut self) -> (Option<Exit>, Result<(), String>) {
        self.started = None;
        let process = self.job.process().ok();
        let limit = process.and_then(|process| process.upgrade.as_ref());
        let limit = limit.map_or(UpgradeSpec::DEADLINE, |upgrade| upgrade.deadline);
        let version = process.and_then(|process| process.version.clone()).unwrap_or_default();
        let pid = self.root.pid();
        self.tell(Note::Upgrading { pid, limit }).await;
        if !self.is_adopted {
            self.say(format!("upgrade to version {version:?} started, pid {pid}")).await;
        }
        let mut inbox = self.wires.inbox.clone();
        let since = self.spawned_at;
        // Dropping the losers loses nothing: an end can be asked for again, an order stays.
        let (exit, order, outcome) = tokio::select! {
            biased;
            order = ordered(&mut inbox) => (None, order, Err("it was called off".to_owned())),
            exit = self.root.exit() => {
                let outcome = if exit.is_success() {
                    Ok(())
                } else {
                    Err(End::of(exit, since).or_out_of_memory(exit, &self).reason)
                };
                (Some(exit), Order::Stop(self.stop), outcome)
            }
            () = sleep(limit) => {
                (None, Order::Stop(self.stop), Err(format!("it was ended after {limit:?}")))
            }
            never = self.keep_vigils() => match never {},
        };
        // What it printed last is to be seen with the news.
        self.capture.settle().await;
        let (app, took) = (self.job.app.id.clone(), Instant::now() - since);
        self.end(order).await;
        match &outcome {
            Ok(()) => tracing::info!(%app, version, ?took, "upgraded"),
            Err(why) => tracing::warn!(%app, version, why, "its upgrade failed"),
        }
        (exit, outcome)
    }
}
