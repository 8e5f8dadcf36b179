//! What is to be done.

use std::time::Instant;

use crate::message::{Generation, Refusal};

/// Something to be done for an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Join the line for a start; `Admitted` answers.
    Enqueue,
    /// Leave the line.
    Withdraw,
    /// Leave the line, to wait elsewhere.
    StepBack,
    /// Say that it waits for the apps that it needs. They start because it does.
    AwaitNeeds,
    /// It waits for them no more.
    ForgoNeeds,
    /// Count a failed start, and say which of the apps that it needs is to blame.
    BlameNeeds,
    /// Spawn the instance and watch for its readiness.
    Spawn(Generation),
    /// Its start is over: the next in line may go.
    EndStart(Generation, StartOutcome),
    /// End its whole process tree: signal, grace, SIGKILL.
    Signal(Generation),
    /// End it at once: SIGKILL.
    Kill(Generation),
    /// See whether it still listens.
    Check(Generation),
    /// Let its whole process tree stand still, and give its memory back.
    Freeze(Generation),
    /// Let it go on, and see whether it still listens; `Thawed` or `Failed` answers.
    Thaw(Generation),
    /// Let requests in.
    OpenGate(Generation),
    /// Let them in, to a gate that seems to have forgotten.
    ReopenGate(Generation),
    /// Let them in again, after the gate has retired the instance.
    OpenGateAgain(Generation),
    /// Let no more in; `Drained` answers.
    ShutGate(Generation),
    /// Ask whether it is idle; `Retired` or `Busy` answers.
    AskRetire(Generation),
    /// Answer waiting and coming requests.
    Refuse(Refusal),
    /// Let them wait.
    Hold,
    /// Send `Event::Timer` at that time; in place of an equal timer.
    SetTimer(Timer, Instant),
    /// Forget this timer.
    CancelTimer(Timer),
    /// Show outsiders what is now.
    Publish,
}

/// How a start went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartOutcome {
    Ready,
    Failed,
    /// The instance did not answer in time.
    TooLate,
    /// Nobody wanted it any more.
    Abandoned,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The instance should be ready by now.
    StartDeadline(Generation),
    /// The instance may be idle by now.
    Idle(Generation),
    /// The instance should be drained by now.
    Drain(Generation),
    /// A drained instance's own work should be done by now.
    Vigil(Generation),
    /// The back-off is over.
    BackOff,
}
