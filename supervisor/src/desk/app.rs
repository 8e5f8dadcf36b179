//! What the desk keeps of one app.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, HoursNow, ProcessSpec, StartMode},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::Instant};

use super::needs::Descent;
use crate::{
    driver::{Handle, Vigil},
    lifecycle::{Goal, Life, State, Tenancy, Terms},
    memory::Demotion,
    message::{
        Endpoint, Generation, Snapshot, StartCounts, StartPhase, StartTimes, StateName, UsualStart,
        WaitsFor,
    },
    supervisor::OperateError,
};

pub(super) struct App {
    pub(super) spec: Arc<AppSpec>,
    /// The definition that the life goes by: the last one that has a program.
    pub(super) program: Option<Arc<AppSpec>>,
    pub(super) goal: Goal,
    pub(super) life: Life,
    /// The open gate of a static upstream, or of an app that shares another's instance.
    pub(super) upstream: Option<Generation>,
    /// Ascending.
    pub(super) instances: Vec<Instance>,
    /// How it goes down, if it has to wait for those that need it.
    pub(super) descent: Option<Descent>,
    /// What its hours mean, if it has some.
    pub(super) hours: Option<Box<HoursNow>>,
    pub(super) queued_since: Option<Instant>,
    pub(super) since_unix_seconds: u64,
    pub(super) waiters: Vec<Waiter>,
    pub(super) starts: StartCounts,
    /// Whether a request waits for the next start, which is a cold one then.
    pub(super) is_visited: bool,
    /// The start under way, to be told to visitors.
    pub(super) start: Option<Box<Start>>,
    /// What it is to yield its memory by.
    pub(super) demotion: Option<Demotion>,
    /// What most apps never have.
    pub(super) past: Option<Box<Past>>,
}

/// What happened to an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) last_start: Option<StartTimes>,
    pub(super) reason: Option<String>,
    pub(super) last_output: Vec<String>,
    /// How far the last start was when it failed.
    #[serde(default)]
    pub(super) failed_step: Option<StartPhase>,
    /// How long the last starts took, the newest last.
    #[serde(default)]
    pub(super) start_times: Vec<Duration>,
    /// What it took of the memory when that was looked at last.
    #[serde(default)]
    pub(super) memory_bytes: u64,
    /// How often it was put to sleep before its time.
    #[serde(default)]
    pub(super) yields: u64,
    /// Until then it is not chosen to yield: it was, and is in use by those who do not keep it awake, or it has
    /// just been thawed.
    #[serde(skip)]
    pub(super) stays_until: Option<Instant>,
}

/// How far a start is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) phase: StartPhase,
    /// For what, while it is queued.
    pub(super) waits_for: WaitsFor,
    /// When it joined the line, or was admitted.
    pub(super) since: Instant,
    /// Once it is admitted.
    pub(super) generation: Option<Generation>,
}

impl Past {
    /// Remembers how long a start took; waiting in the line is no part of it.
    pub(super) fn started_in(&mut self, times: &StartTimes) {
        if self.start_times.len() >= UsualStart::REMEMBERED {
            self.start_times.remove(0);
        }
        self.start_times.push(times.total().saturating_sub(times.queued));
    }
}

/// One instance that is not gone yet.
pub(super) struct Instance {
    pub(super) generation: Generation,
    pub(super) handle: Handle,
    pub(super) pid: Option<u32>,
    pub(super) ready: Option<(Endpoint, StartTimes)>,
    /// Whether its upgrade has run, and its own start is yet to come.
    pub(super) is_upgraded: bool,
    /// Whether it is served where it was not told to listen.
    pub(super) is_elsewhere: bool,
    pub(super) warnings: Vec<String>,
    /// What keeps it awake.
    pub(super) vigils: Vec<Vigil>,
    /// Whether it is frozen, and its memory on its way out.
    pub(super) gives_back: bool,
    /// Whether its last lease is back, and only its own work keeps it.
    pub(super) is_drained: bool,
}

impl Instance {
    /// One that was just spawned.
    pub(super) fn new(generation: Generation, handle: Handle) -> Self {
        Self {
            generation,
            handle,
            pid: None,
            ready: None,
            is_upgraded: false,
            is_elsewhere: false,
            warnings: Vec::new(),
            vigils: Vec::new(),
            gives_back: false,
            is_drained: false,
        }
    }

    /// Until when its own work keeps it awake, if it does.
    pub(super) fn awake_until(&self) -> Option<Instant> {
        let left = self.vigils.iter().map(Vigil::left).max()?;
        (!left.is_zero()).then(|| Instant::now() + left)
    }
}

/// Somebody who waits for a verb's effect.
pub(super) struct Waiter {
    pub(super) want: Want,
    pub(super) done: oneshot::Sender<Result<(), OperateError>>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Ready, after this many that became ready; and failed starts before.
    Ready { after: u64, failed: u64 },
    /// Not frozen any more; and failed starts before.
    Awake { failed: u64 },
    /// No instance up to this one is left.
    Gone(Generation),
}

impl App {
    pub(super) fn new(spec: Arc<AppSpec>) -> Self {
        Self {
            spec,
            program: None,
            goal: Goal::Down,
            life: Life::default(),
            upstream: None,
            instances: Vec::new(),
            descent: None,
            hours: None,
            queued_since: None,
            since_unix_seconds: unix_seconds(),
            waiters: Vec::new(),
            starts: StartCounts::default(),
            is_visited: false,
            start: None,
            demotion: None,
            past: None,
        }
    }

    /// The program that the life goes by.
    pub(super) fn process(&self) -> Option<&ProcessSpec> {
        match &self.program.as_ref()?.backend {
            Backend::Process(process) => Some(process),
            Backend::Upstream(_) | Backend::Shared(_) => None,
        }
    }

    pub(super) fn terms(&self) -> Option<Terms> {
        let terms = Terms::of(self.process()?, self.goal);
        // Who ignores the port it is given wants the same one again.
        let wants_the_same = self.instances.iter().any(|instance| instance.is_elsewhere);
        let tenancy = if wants_the_same { Tenancy::Exclusive } else { terms.tenancy };
        let instance = self.life.state.generation().and_then(|current| self.instance(current));
        let awake_until = instance.and_then(Instance::awake_until).map(Instant::into_std);
        let (hours, demotion) = (self.hours(), self.demotion);
        Some(Terms { tenancy, hours, awake_until, demotion, ..terms })
    }

    /// How the current definition is started; `None` for one that has no program.
    pub(super) fn start_mode(&self) -> Option<StartMode> {
        start_mode(&self.spec)
    }

    /// Its gate is opened or shut as one without a program: what was wrong before holds no more.
    pub(super) fn lacks_nothing(&mut self) {
        if let Some(past) = &mut self.past {
            past.reason = None;
        }
    }

    pub(super) fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    /// No start is waited for any more.
    pub(super) fn stands_in_no_line(&mut self) {
        self.queued_since = None;
        self.start = None;
    }

    /// Counts a failed start; whether another replica may answer yet who waits for it.
    pub(super) fn start_failed(&mut self, is_another_expected: bool) {
        self.starts.failed += 1;
        if !is_another_expected {
            self.cold_start_failed();
        }
    }

    /// Who waited for a start, waited for nothing.
    pub(super) fn cold_start_failed(&mut self) {
        self.starts.cold_failed += u64::from(std::mem::take(&mut self.is_visited));
    }

    pub(super) fn instance(&self, generation: Generation) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.generation == generation)
    }

    pub(super) fn instance_mut(&mut self, generation: Generation) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.generation == generation)
    }

    pub(super) fn is_disabled(&self) -> bool {
        matches!(self.goal, Goal::Disabled(_))
    }

    /// Tells those who wait that something else was asked for.
    pub(super) fn overtake_waiters(&mut self) {
        let app = self.spec.id.clone();
        for waiter in self.waiters.drain(..) {
            // The one who asked may have left.
            let _ = waiter.done.send(Err(OperateError::Overtaken(app.clone())));
        }
    }

    /// Tells those who wait for what has come true.
    pub(super) fn answer_waiters(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            match self.outcome(waiter.want) {
                // The one who asked may have left.
                Some(outcome) => _ = waiter.done.send(outcome),
                None => self.waiters.push(waiter),
            }
        }
    }

    fn outcome(&self, want: Want) -> Option<Result<(), OperateError>> {
        let app = || self.spec.id.clone();
        match want {
            Want::Gone(last) => {
                let is_gone = self.instances.iter().all(|i| i.generation > last);
                (is_gone && self.descent.is_none()).then_some(Ok(()))
            }
            Want::Ready { after, .. } if self.starts.ready > after => Some(Ok(())),
            Want::Ready { failed, .. } | Want::Awake { failed } if self.starts.failed > failed => {
                let reason = self.past.as_ref().and_then(|past| past.reason.clone());
                let reason = reason.unwrap_or_else(|| "no reason is known".into());
                Some(Err(OperateError::StartFailed { app: app(), reason }))
            }
            Want::Ready { .. } if self.life.state == State::Stopped => {
                Some(Err(OperateError::Overtaken(app())))
            }
            Want::Ready { .. } => None,
            Want::Awake { .. } => match self.life.state {
                State::Ready(_) => Some(Ok(())),
                State::Frozen(_) | State::Provisioning(_) | State::Starting(_) => None,
                State::Stopped
                | State::Draining(_)
                | State::Stopping(_)
                | State::BackingOff(_)
                | State::Failed => Some(Err(OperateError::Overtaken(app()))),
            },
        }
    }

    /// What outsiders may see; `awaits` are the apps that it waits for.
    pub(super) fn snapshot(&self, awaits: Vec<AppId>) -> Snapshot {
        let generation = self.upstream.or(self.life.state.generation());
        let instance = generation.and_then(|generation| self.instance(generation));
        let endpoint = match self.upstream {
            Some(_) => Some(Endpoint::Upstream),
            None => instance.and_then(|i| Some(i.ready.as_ref()?.0.clone())),
        };
        let past = self.past.as_deref();
        Snapshot {
            app: self.id().clone(),
            goal: self.goal.name(),
            state: self.state_name(),
            reason: past.and_then(|past| past.reason.as_deref().map(Box::from)),
            since_unix_seconds: self.since_unix_seconds,
            start: self.start_mode(),
            generation,
            pid: instance.and_then(|instance| instance.pid),
            endpoint: endpoint.map(Box::new),
            starts: self.starts,
            last_start: past.and_then(|past| past.last_start).map(Box::new),
            warnings: instance
                .map(|instance| instance.warnings.as_slice().into())
                .unwrap_or_default(),
            last_output: past.map(|past| past.last_output.as_slice().into()).unwrap_or_default(),
            failed_step: past.and_then(|past| past.failed_step),
            usual_start: past.and_then(|past| UsualStart::of(&past.start_times)).map(Box::new),
            yields: past.map(|past| past.yields).unwrap_or_default(),
            vigils: instance.map(Instance::vigils_now).unwrap_or_default(),
            hours: self.hours_snapshot(),
            awaits: awaits.into(),
        }
    }

    fn id(&self) -> &AppId {
        &self.spec.id
    }

    pub(super) fn state_name(&self) -> StateName {
        match self.upstream {
            Some(_) => StateName::Ready,
            None => self.life.state.name(),
        }
    }
}

pub(super) fn start_mode(spec: &AppSpec) -> Option<StartMode> {
    match &spec.backend {
        Backend::Process(process) => Some(process.start),
        Backend::Upstream(_) | Backend::Shared(_) => None,
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
