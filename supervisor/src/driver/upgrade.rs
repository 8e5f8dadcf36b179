//! The step before the first start of a version: a program that brings the app's data up to date, run to its
//! end. It is run as the app is, by the same means: what it prints is in the app's log, its tree is ended as an
//! app's is, and a supervisor that comes after this one takes it up.
//!
//! Whether it is to be run is the control process's to say, which asks the registry whose turn it is
//! (`house/upgrades` there). Here one is run at a time for each app, so that a Doorbell never waits for itself,
//! and a turn that was had is given back before the next one asks.
//!
//! Who is killed together with it leaves it half done: then it is run again.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use doorbell_config::{
    name::AppId,
    spec::{Backend, Given, ListenNotice, Probe, ProcessSpec, ReadySpec, UpgradeSpec, UpgradeTurn},
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};

use super::{Adoptee, Driver, End, Instance, Job, Note, Order, SpawnError, Wires, Work, ordered};
use crate::{
    driver::{record::Phase, root::Exit},
    protocol::{Outcome, Question, Upgraded, WantedVersion},
};

/// Between two looks whether another Doorbell is done with it.
const PAUSE: Duration = Duration::from_millis(500);

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
        let mut app = (*self.app).clone();
        app.backend = Backend::Process(process);
        Some(Self { app: Arc::new(app), work: Work::Upgrade, ..self.clone() })
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
    let (begun, held) = begun.map_or((None, None), |begun| (Some(begun.adoptee), begun.turn));
    let version = process.version.as_deref().zip(process.upgrade.as_deref());
    let Some((version, upgrade)) = version else {
        if let Some(begun) = begun {
            end_begun(driver, job, begun).await;
        }
        let mut inbox = wires.inbox.clone();
        return tokio::select! {
            given = driver.given(job, process, Question::given(process)) => {
                given.map_err(SpawnError::Given)
            }
            // Who is to end need not be told anything.
            _ = ordered(&mut inbox) => Err(SpawnError::NotWanted),
        };
    };
    let mut step = Step { driver, job, wires, process, version, upgrade, is_told: false };
    let _turn = step.turn(held).await?;
    let upgraded = match begun {
        Some(begun) => step.go_on(begun).await,
        None => None,
    };
    step.given(upgraded).await
}

/// Its definition asks for no upgrade any more.
async fn end_begun(driver: &Driver, job: &Job, begun: Adoptee) {
    driver.end_leftovers_of(job).await;
    driver.forget(job);
    if let Some(version) = begun.version() {
        driver.tell_upgraded(job, Upgraded::called_off(version)).await;
    }
}

impl Question {
    fn given(process: &ProcessSpec) -> Self {
        Self { is_given: process.given.is_some(), ..Self::default() }
    }
}

/// A start that may have to wait for an upgrade.
struct Step<'s> {
    driver: &'s Arc<Driver>,
    job: &'s Job,
    wires: &'s Wires,
    process: &'s ProcessSpec,
    version: &'s str,
    upgrade: &'s UpgradeSpec,
    /// Whether it was told that somebody else is at it.
    is_told: bool,
}

impl Step<'_> {
    /// How long a turn lasts at most: from when it is given until the last process of the upgrade has ended.
    fn lasts(&self) -> Duration {
        self.process.ready.deadline + self.upgrade.deadline + self.process.stop.grace
    }

    /// Waits until no replica of the app is at it.
    async fn turn(&mut self, held: Option<Turn>) -> Result<Turn, SpawnError> {
        if let Some(held) = held {
            return Ok(held);
        }
        let turn = self.driver.turn_of(&self.job.app.id);
        if let Ok(free) = Arc::clone(&turn).try_lock_owned() {
            return Ok(free);
        }
        self.waits().await;
        let mut inbox = self.wires.inbox.clone();
        tokio::select! {
            turn = turn.lock_owned() => Ok(turn),
            _ = ordered(&mut inbox) => Err(SpawnError::NotWanted),
        }
    }

    /// Tells, once, that somebody else is at it.
    async fn waits(&mut self) {
        if !std::mem::replace(&mut self.is_told, true) {
            self.wires.tell(self.job, Note::AwaitsUpgrade { limit: self.lasts() }).await;
        }
    }

    /// What the program is given, behind its upgrade if that is to be run.
    async fn given(&mut self, mut upgraded: Option<Upgraded>) -> Result<Given, SpawnError> {
        let mut inbox = self.wires.inbox.clone();
        let mut has_run = false;
        loop {
            let ours = upgraded.as_ref().filter(|upgraded| upgraded.version == self.version);
            match ours.map(|upgraded| &upgraded.outcome) {
                Some(Outcome::Failed(why)) => return Err(self.fail(why.clone()).await),
                Some(Outcome::CalledOff) => {
                    self.call_off(None).await;
                    return Err(SpawnError::NotWanted);
                }
                Some(Outcome::Reached) | None => {}
            }
            let question = self.question(upgraded.clone());
            let given = tokio::select! {
                biased;
                _ = ordered(&mut inbox) => Err(SpawnError::NotWanted),
                given = self.driver.given(self.job, self.process, question) => {
                    given.map_err(SpawnError::Given)
                }
            };
            let given = match given {
                Ok(given) => given,
                Err(error) => {
                    self.call_off(upgraded).await;
                    return Err(error);
                }
            };
            upgraded = None;
            match given.upgrade {
                UpgradeTurn::Nothing => return Ok(given),
                UpgradeTurn::Failed(why) => return Err(self.failed(why)),
                UpgradeTurn::Others => {
                    self.waits().await;
                    // An order that comes meanwhile is seen right behind it.
                    sleep(PAUSE).await;
                }
                // It took longer than its turn, and another Doorbell had one meanwhile.
                UpgradeTurn::Yours if has_run => {
                    return Err(self.fail("it took longer than it may".to_owned()).await);
                }
                UpgradeTurn::Yours => {
                    has_run = true;
                    match self.run(&given).await {
                        Ok(outcome) => upgraded = Some(self.upgraded(outcome)),
                        // Nothing was run.
                        Err(error) => {
                            self.call_off(None).await;
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Tells the registry that it failed, so that nobody tries again.
    async fn fail(&self, why: String) -> SpawnError {
        self.call_off(Some(self.upgraded(Outcome::Failed(why.clone())))).await;
        self.failed(why)
    }

    fn failed(&self, why: String) -> SpawnError {
        SpawnError::Upgrade { version: self.version.to_owned(), why }
    }

    fn upgraded(&self, outcome: Outcome) -> Upgraded {
        Upgraded { version: self.version.to_owned(), outcome }
    }

    fn question(&self, upgraded: Option<Upgraded>) -> Question {
        let version = WantedVersion { version: self.version.to_owned(), lasts: self.lasts() };
        Question { version: Some(version), upgraded, ..Question::given(self.process) }
    }

    /// Gives the turn back, which may or may not have been had.
    async fn call_off(&self, upgraded: Option<Upgraded>) {
        let upgraded = upgraded.unwrap_or_else(|| Upgraded::called_off(self.version));
        self.driver.tell_upgraded(self.job, upgraded).await;
    }

    async fn run(&self, given: &Given) -> Result<Outcome, SpawnError> {
        let Some(job) = self.job.for_upgrade() else { return Ok(Outcome::Reached) };
        let (driver, wires) = (Arc::clone(self.driver), self.wires.clone());
        let spawned = Instance::spawn(driver, job.clone(), wires, given).await;
        let outcome = match spawned {
            Ok(instance) => Ok(instance.complete().await.1),
            // That is for whoever wrote it.
            Err(error @ (SpawnError::Execute { .. } | SpawnError::Launch(_))) => {
                Ok(Outcome::Failed(error.to_string()))
            }
            Err(error) => Err(error),
        };
        self.driver.forget(&job);
        outcome
    }

    /// Takes up an upgrade that an earlier supervisor began; `None` if nobody can tell what came of it.
    async fn go_on(&self, begun: Adoptee) -> Option<Upgraded> {
        let (version, is_itself) = (begun.version().map(str::to_owned), begun.is_itself());
        let (driver, wires) = (Arc::clone(self.driver), self.wires.clone());
        let adopted = match (self.job.for_upgrade(), &version) {
            (Some(job), Some(_)) => Instance::adopt(driver, job, wires, begun),
            _ => Err(io::Error::other("its record says nothing of it")),
        };
        let ended = match adopted {
            Ok(instance) => Some(instance.complete().await),
            Err(error) => {
                tracing::warn!(app = %self.job.app.id, %error, "an upgrade cannot be taken up");
                self.driver.end_leftovers_of(self.job).await;
                None
            }
        };
        self.driver.forget(self.job);
        let (exit, outcome) = ended?;
        let is_known = is_itself && exit != Some(Exit::Unknown);
        version.filter(|_| is_known).map(|version| Upgraded { version, outcome })
    }
}

impl Instance {
    /// Runs an upgrade to its end: how it ended, if it did by itself, and what came of it.
    async fn complete(mut self) -> (Option<Exit>, Outcome) {
        self.started = None;
        let record = self.notebook.record();
        let (version, left) = record.upgrade.as_ref().map_or_else(
            || (String::new(), Duration::ZERO),
            |upgrade| (upgrade.version.clone(), upgrade.left()),
        );
        let pid = self.root.pid();
        self.tell(Note::Upgrading { pid, limit: left + self.stop.grace }).await;
        if !self.is_adopted {
            self.say(format!("upgrade to version {version:?} started, pid {pid}")).await;
        }
        let mut inbox = self.wires.inbox.clone();
        let since = self.spawned_at;
        // Dropping the losers loses nothing: an end can be asked for again, an order stays.
        let (exit, order, outcome) = tokio::select! {
            biased;
            order = ordered(&mut inbox) => (None, order, Outcome::CalledOff),
            exit = self.root.exit() => {
                let outcome = if exit.is_success() {
                    Outcome::Reached
                } else {
                    Outcome::Failed(End::of(exit, since).or_out_of_memory(&self).reason)
                };
                (Some(exit), Order::Stop(self.stop), outcome)
            }
            () = sleep(left) => {
                let why = "it was ended at its deadline".to_owned();
                (None, Order::Stop(self.stop), Outcome::Failed(why))
            }
            never = self.keep_vigils() => match never {},
        };
        if exit.is_none() {
            // Whoever takes it up now ends it.
            self.note(Phase::Leaving).await;
        }
        // What it printed last is to be seen with the news.
        self.capture.settle().await;
        let (app, took) = (self.job.app.id.clone(), Instant::now() - since);
        self.end(order).await;
        match &outcome {
            Outcome::Reached => tracing::info!(%app, version, ?took, "upgraded"),
            Outcome::Failed(why) => tracing::warn!(%app, version, why, "its upgrade failed"),
            Outcome::CalledOff => tracing::info!(%app, version, "its upgrade was called off"),
        }
        (exit, outcome)
    }
}
