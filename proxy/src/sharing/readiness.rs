//! Whether a run of a shared instance can answer for one of its apps.
//!
//! The first requests after a start wait while one of them asks, in the name of all; who asks and leaves
//! hands that on, so that nobody asks when nobody waits. What was answered holds for the whole run, also
//! when it was frozen meanwhile: its memory is as it was. An app that is not ready in time is left alone
//! for a moment, and asked again when somebody comes. The others of the instance know nothing of it.

use std::{
    io::ErrorKind,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use doorbell_config::{
    interned::Interned,
    name::AppId,
    spec::{AppSpec, HttpProbe, SharedReadySpec, SharedSpec},
};
use doorbell_supervisor::{
    message::{GateReport, Generation, Refusal, RefusalReason},
    pace::patience,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    gate::{Denial, Gate, Instance, ReportSink},
    look::{Asked, HttpVersion, Problem, look_at},
};

/// Longest, for one look.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between the first two looks; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest time between two looks at the app, before it is one that takes long.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long an app that was not ready in time is left alone.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Those who come within this time behind one who left, as browsers do that look again, go on with his
/// deadline.
const GAP: Duration = Duration::from_secs(5);
/// What came where nothing did.
const NO_ANSWER: &str = "no answer";
/// A run that there is not.
const NONE: u64 = u64::MAX;

/// What is known of one app in the instance that it shares.
pub struct Readiness {
    app: AppId,
    shared: Interned<SharedSpec>,
    /// `Host` to ask for.
    host: Box<str>,
    http2: bool,
    /// The run that has answered as wanted.
    answered: AtomicU64,
    /// Whoever has it asks.
    turn: tokio::sync::Mutex<()>,
    line: Mutex<Line>,
    reports: ReportSink,
}

/// Those who wait for the answer.
#[derive(Default)]
struct Line {
    waiting: usize,
    run: Generation,
    /// When it was asked first, for the deadline.
    since: Option<Instant>,
    /// When the last of those who waited left.
    left: Option<Instant>,
    /// When it was not ready in time.
    failed: Option<Instant>,
    /// Whether operators may have been told that it lacks something.
    is_told: bool,
}

/// Why a request does not get to the app.
#[derive(Debug, PartialEq, Eq)]
pub enum Unready {
    /// The instance gives no leases any more: the next one is to be asked.
    Moved,
    /// The app cannot be had now.
    Denied(Denial),
}

/// A place among those who wait; given back by `Drop`.
struct Seat<'a> {
    readiness: &'a Readiness,
    since: Instant,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut line = self.readiness.line();
        line.waiting -= 1;
        line.left = Some(Instant::now());
    }
}

impl Readiness {
    pub(super) fn new(spec: &AppSpec, shared: Interned<SharedSpec>, reports: ReportSink) -> Self {
        Self {
            app: spec.id.clone(),
            host: host_of(spec, &shared).into(),
            http2: spec.http2,
            shared,
            answered: AtomicU64::new(NONE),
            turn: tokio::sync::Mutex::default(),
            // What another one has told holds until it is told otherwise.
            line: Mutex::new(Line { is_told: true, ..Line::default() }),
            reports,
        }
    }

    /// Whether by this definition the same is asked.
    pub(super) fn asks_as(&self, spec: &AppSpec) -> bool {
        self.http2 == spec.http2 && *self.host == *host_of(spec, &self.shared)
    }

    /// Whether this run has answered as wanted.
    #[must_use]
    pub fn has_answered(&self, run: Generation) -> bool {
        self.answered.load(Ordering::Acquire) == run.0
    }

    /// Waits until the instance answers for the app, asking it where nobody else does. Whoever waits has
    /// a lease on it. `own` is the opening of the app's own gate, `host` the instance's gate.
    ///
    /// # Errors
    /// If it does not.
    pub async fn wait(
        &self,
        instance: &Arc<Instance>,
        own: Generation,
        host: &Gate,
    ) -> Result<(), Unready> {
        let run = instance.generation;
        let seat = self.sit(run)?;
        let _turn = self.turn.lock().await;
        if self.has_answered(run) {
            return Ok(());
        }
        let failed = self.line().failed.filter(|failed| *failed >= seat.since);
        if failed.is_some() {
            return Err(refused(RefusalReason::StartDeadline, BACK_OFF));
        }
        let Some(ready) = &self.shared.ready else { return Ok(()) };
        let asked = tokio::select! {
            biased;
            () = instance.shut() => Err(Unready::Moved),
            asked = self.ask(ready, instance, own, host) => asked,
        };
        if asked.is_ok() {
            self.answered.store(run.0, Ordering::Release);
            let was_told = std::mem::take(&mut self.line().is_told);
            if was_told {
                self.tell(own, None);
            }
        }
        asked
    }

    fn sit(&self, run: Generation) -> Result<Seat<'_>, Unready> {
        let now = Instant::now();
        let mut line = self.line();
        if line.run != run {
            *line = Line { waiting: line.waiting, run, is_told: line.is_told, ..Line::default() };
        }
        if let Some(failed) = line.failed {
            let rest = BACK_OFF.saturating_sub(now - failed);
            if !rest.is_zero() {
                return Err(refused(RefusalReason::BackingOff, rest));
            }
        }
        if line.waiting == 0 && line.left.is_none_or(|left| now - left > GAP) {
            line.since = None;
        }
        line.since.get_or_insert(now);
        line.waiting += 1;
        Ok(Seat { readiness: self, since: now })
    }

    /// Asks until the answer is right, or it is too late.
    async fn ask(
        &self,
        ready: &SharedReadySpec,
        instance: &Arc<Instance>,
        own: Generation,
        host: &Gate,
    ) -> Result<(), Unready> {
        let begun = self.line().since.unwrap_or_else(Instant::now);
        let mut pause = FIRST_PAUSE;
        let mut words = NO_ANSWER.to_owned();
        loop {
            let left = ready.deadline.saturating_sub(begun.elapsed());
            let looked = timeout(left.min(ATTEMPT), self.look(&ready.probe, instance)).await;
            match looked {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Problem::Connect(error))) if is_refused(error.kind()) => {
                    host.unreachable(instance);
                    return Err(Unready::Moved);
                }
                Ok(Err(problem)) => words = problem.to_string(),
                Err(_) if left >= ATTEMPT => NO_ANSWER.clone_into(&mut words),
                // The last look is cut short: what came before says more.
                Err(_) => {}
            }
            let left = ready.deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let (path, deadline) = (&ready.probe.path, ready.deadline);
                let words = format!("not ready within {deadline:?}: GET {path}: {words}");
                return Err(self.failed(own, words));
            }
            sleep(pause.max(patience(begun.elapsed())).min(left)).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn look(&self, probe: &HttpProbe, instance: &Instance) -> Result<(), Problem> {
        let question = Asked { probe, host: &self.host, app: Some(self.app.as_str()) };
        look_at(&instance.endpoint, HttpVersion::of(self.http2, false), question).await
    }

    fn failed(&self, own: Generation, words: String) -> Unready {
        {
            let mut line = self.line();
            line.failed = Some(Instant::now());
            line.since = None;
            line.left = None;
            line.is_told = true;
        }
        self.tell(own, Some(words));
        refused(RefusalReason::StartDeadline, BACK_OFF)
    }

    fn tell(&self, own: Generation, words: Option<String>) {
        (self.reports)(GateReport::Lacks { app: self.app.clone(), generation: own, words });
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing panics while holding it, and it is valid at every point.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host_of<'s>(spec: &'s AppSpec, shared: &'s SharedSpec) -> &'s str {
    let given = shared.ready.as_ref().and_then(|ready| ready.probe.host.as_deref());
    given.unwrap_or_else(|| spec.default_host())
}

fn refused(reason: RefusalReason, retry_after: Duration) -> Unready {
    Unready::Denied(Denial::Refusal(Refusal { reason, retry_after }))
}

fn is_refused(kind: ErrorKind) -> bool {
    kind == ErrorKind::ConnectionRefused || kind == ErrorKind::NotFound
}
