//! The end: nobody new, who is there finishes, then the apps, then the operators.

use std::{fs, time::Duration};

use doorbell_config::spec::ListenAddr;
use tokio::time::Instant;

use super::{Event, Hub, launch::Fate, overdue};
use crate::{
    protocol::{Drain, ToControl},
    service_notify,
    supervisor::ShutdownReport,
};

/// Time for stopping apps whatever their own grace, after running requests had theirs.
const STOP_APPS: Duration = Duration::from_secs(20);
/// Time for the control process's last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// How far the end is.
#[derive(Debug)]
pub(super) struct Closing {
    phase: Phase,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Proxies let running exchanges finish.
    Draining,
    /// Apps are stopped.
    Stopping,
    /// The control process says its last.
    Leaving,
    Over,
}

impl Hub {
    pub(super) fn is_over(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.phase == Phase::Over)
    }

    /// Begins the end; asked again, it does not wait for anybody any longer.
    pub(super) fn close(&mut self) {
        if let Some(closing) = &self.closing {
            if closing.phase == Phase::Draining {
                tracing::warn!("asked again: not waiting any longer");
                self.drain(Duration::ZERO);
            }
            return;
        }
        let limit = self.server.as_ref().unwrap_or(&self.options.server).timeouts.shutdown;
        tracing::info!(?limit, "shutting down: no new connections, running requests finish");
        service_notify::say("STOPPING=1");
        self.upgrade_failed("doorbell shuts down");
        self.office.tell(&ToControl::Closing);
        self.expect_nobody();
        self.listeners.drain(..).for_each(|listener| listener.forget_file());
        self.drain(limit);
        self.look_whether_drained();
    }

    fn drain(&mut self, limit: Duration) {
        let deadline = overdue::end_of(limit);
        self.closing = Some(Closing { phase: Phase::Draining, deadline });
        for proxy in self.proxies.values_mut() {
            if proxy.takes_part() {
                proxy.drain(limit, Drain::ForGood);
            } else {
                proxy.peer.runner.tell(Fate::Die);
            }
        }
    }

    pub(super) fn look_whether_drained(&mut self) {
        let Some(closing) = &mut self.closing else { return };
        if closing.phase != Phase::Draining || !self.proxies.is_empty() {
            return;
        }
        closing.phase = Phase::Stopping;
        closing.deadline = Instant::now() + 2 * STOP_APPS;
        let (desk, events) = (self.desk.clone(), self.events.0.clone());
        tokio::spawn(async move {
            let report = desk.shutdown(STOP_APPS).await;
            // An error means that all is over.
            let _ = events.send(Event::DeskClosed(report)).await;
        });
    }

    pub(super) fn desk_closed(&mut self, report: ShutdownReport) {
        tracing::info!(stopped = report.stopped, killed = report.killed, "apps stopped");
        if report.left > 0 {
            tracing::error!(left = report.left, "processes could not be ended");
        }
        self.office.tell(&ToControl::End);
        let deadline = Instant::now() + LAST_ANSWERS;
        self.closing = Some(Closing { phase: Phase::Leaving, deadline });
        self.look_whether_left();
    }

    pub(super) fn look_whether_left(&mut self) {
        if let Some(closing) = &mut self.closing
            && closing.phase == Phase::Leaving
            && self.office.is_empty()
        {
            closing.phase = Phase::Over;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.closing.as_ref().map(|closing| closing.deadline)
    }

    /// Who has not ended in time is ended.
    pub(super) fn deadline_passed(&mut self) {
        let Some(closing) = &mut self.closing else { return };
        closing.deadline = Instant::now() + LAST_ANSWERS;
        match closing.phase {
            Phase::Draining => {
                tracing::error!("a proxy did not end in time");
                self.proxies.values().for_each(|proxy| proxy.peer.runner.tell(Fate::Die));
            }
            Phase::Stopping => tracing::error!("apps take long to stop"),
            Phase::Leaving => self.office.end(Fate::Die),
            Phase::Over => {}
        }
    }

    /// Removes what stands in the file system, and waits for what still runs.
    pub(super) async fn close_all(&mut self) {
        if !self.is_over() {
            self.desk.shutdown(STOP_APPS).await;
        }
        for proxy in self.proxies.values() {
            proxy.peer.runner.tell(Fate::Die);
            proxy.peer.runner.ended().await;
        }
        self.office.end(Fate::Die);
        self.see_killed_end().await;
        if let Some(reception) = &self.reception {
            reception.close();
        }
        for (address, _) in self.office.admin.drain(..) {
            if let ListenAddr::Unix(path) = address {
                // Somebody else may have removed it already.
                let _ = fs::remove_file(path);
            }
        }
    }
}
