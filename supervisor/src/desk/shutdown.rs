//! The end of the desk: every app goes down, behind those that need it, and whoever waits is told.

use std::time::Duration;

use doorbell_config::name::AppId;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Desk, Outgoing, needs::Descent};
use crate::{
    lifecycle::{Goal, Off},
    supervisor::ShutdownReport,
};

/// How long killed processes are waited for at the end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A shutdown under way.
pub(super) struct Shutdown {
    pub(super) deadline: Instant,
    running: usize,
    killed: usize,
    done: Vec<oneshot::Sender<ShutdownReport>>,
}

impl Desk {
    pub(super) fn shut_down(
        &mut self,
        deadline: Duration,
        done: Option<oneshot::Sender<ShutdownReport>>,
    ) {
        // What nobody defined by now is not to outlive us.
        if std::mem::take(&mut self.is_adopting) {
            self.end_adoption();
        }
        let running = self.apps.values().map(|app| app.instances.len()).sum();
        tracing::info!(instances = running, "stopping all apps");
        self.shutdown = Some(Shutdown {
            deadline: Instant::now() + deadline.min(Duration::from_secs(24 * 3600)),
            running,
            killed: 0,
            done: done.into_iter().collect(),
        });
        let apps: Vec<AppId> = self.apps.keys().cloned().collect();
        for id in &apps {
            self.close_upstream(id, Off::Shutdown);
            if let Some(app) = self.apps.get_mut(id) {
                app.goal = Goal::Disabled(Off::Shutdown);
                app.overtake_waiters();
            }
        }
        // Nobody starts any more, and each goes down behind those that need it.
        for id in &apps {
            self.descend(id, Descent::Forbidden);
        }
        self.settle();
    }

    /// The shutdown's deadline passed: once for everyone still running, then for good.
    pub(super) fn kill_all(&mut self) {
        let Some(shutdown) = &mut self.shutdown else { return };
        if shutdown.killed > 0 {
            self.tasks.abort_all();
            self.instances.clear();
            self.sweep = None;
            return;
        }
        shutdown.killed = self.instances.len().max(1);
        shutdown.deadline = Instant::now() + LAST_WAIT;
        for app in self.apps.values() {
            app.instances.iter().for_each(|instance| instance.handle.kill());
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.shutdown.is_some() && self.instances.is_empty() && self.sweep.is_none()
    }

    pub(super) async fn finish(mut self) {
        let left = self.tasks.len();
        self.tasks.shutdown().await;
        self.keep_start_times();
        // Those who wait for an app get their answer by its end, and what is being kept is kept.
        self.apps.clear();
        let kept = async { while self.errands.join_next().await.is_some() {} };
        if timeout(LAST_WAIT, kept).await.is_err() {
            tracing::error!("the state folder did not take the last changes in time");
        }
        for outgoing in self.outbox.drain(..) {
            let Outgoing::Order(order) = outgoing else { continue };
            if self.channels.orders.try_send(order).is_err() {
                break;
            }
        }
        // The next one may come as soon as this one is said to be over.
        drop(self.state_dir);
        let Some(shutdown) = self.shutdown else { return };
        let killed = shutdown.killed.min(shutdown.running);
        let stopped = shutdown.running - killed;
        let report = ShutdownReport { stopped, killed: killed.saturating_sub(left), left };
        tracing::info!(stopped, killed = report.killed, left, "all apps are stopped");
        for done in shutdown.done {
            // The one who asked may have left.
            let _ = done.send(report);
        }
    }
}
