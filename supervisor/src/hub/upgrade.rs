//! Another version takes over, and nobody notices.
//!
//! The new binary is asked what it speaks and shows that it comes up here (`rehearsal`). Its proxy is started
//! beside the old one, with the same sockets, and only when that serves the old one is told to finish what it
//! has and this process becomes the new binary (execve(2)): same pid, same children. From there on it goes as
//! after a kill: roles come back, instances are adopted. Whatever fails before that changes nothing.

use std::{io, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Event, Hub, Launcher,
    launch::{Fate, Image},
    proxies::{Proxy, Stage},
    rehearsal::{Rehearsal, Successor},
    switchboard::Number,
};
use crate::{
    driver,
    protocol::{Answer, Drain, IN_A_MOMENT},
};

/// How long the new proxy may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who wants to know how an upgrade goes: a control process, and the number of its wish.
type Asker = Option<(Number, u64)>;

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    asker: Asker,
    /// The new proxy, once the binary was asked.
    proxy: Option<Number>,
    deadline: Instant,
}

impl Upgrade {
    pub(super) fn is(&self, proxy: Number) -> bool {
        self.proxy == Some(proxy)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Hub {
    /// Begins an upgrade.
    pub(super) fn upgrade(&mut self, asker: Asker) {
        let rehearsal = match self.may_upgrade() {
            Ok(rehearsal) => rehearsal,
            Err(hindrance) => return self.answer_upgrade(asker, Err(hindrance)),
        };
        tracing::info!(binary = %rehearsal.successor.binary.display(), "upgrading");
        self.upgrade = Some(Upgrade { asker, proxy: None, deadline: Instant::now() + PATIENCE });
        let events = self.events.0.clone();
        tokio::spawn(async move {
            let rehearsed = rehearsal.hold(Instant::now() + PATIENCE / 2).await;
            // An error means that all is over.
            let _ = events.send(Event::Rehearsed(rehearsed)).await;
        });
    }

    /// The rehearsal that an upgrade begins with, or what stands in its way.
    fn may_upgrade(&self) -> Result<Rehearsal, String> {
        let Launcher::Processes(processes) = &self.options.launcher else {
            return Err("everything is in one process: restart it".to_owned());
        };
        if self.closing.is_some() {
            return Err("doorbell shuts down".to_owned());
        }
        if self.upgrade.is_some() {
            return Err("another upgrade is under way".to_owned());
        }
        if !self.returning.is_over() || self.is_first_start() || !self.office.is_settled() {
            return Err(format!("doorbell has only just begun: {IN_A_MOMENT}"));
        }
        let successor = self.options.successor.clone();
        Ok(Rehearsal {
            successor: successor.ok_or("it is not known where the program is")?,
            processes: processes.clone(),
            reception: self.reception.clone(),
            desk: self.desk.clone(),
        })
    }

    /// The new binary has shown whether it can take over.
    pub(super) fn rehearsed(&mut self, rehearsed: Result<(), String>) {
        if let Err(why) = rehearsed {
            return self.upgrade_failed(&format!("the new binary: {why}"));
        }
        // It may have been given up meanwhile.
        let Some(mut upgrade) = self.upgrade.take() else { return };
        let started = self.start_proxy(Image::Successor);
        upgrade.proxy = started.as_ref().ok().copied();
        self.upgrade = Some(upgrade);
        if let Err(error) = started {
            self.upgrade_failed(&format!("its proxy cannot be started: {error}"));
        }
    }

    /// Once the new proxy serves, and no configuration or answer is on its way: what may fail is done first, and the
    /// last is what cannot be taken back.
    pub(super) async fn look_whether_upgraded(&mut self) {
        let Some(proxy) = self.upgrade.as_ref().and_then(|upgrade| upgrade.proxy) else { return };
        let serves = self.proxies.get(&proxy).is_some_and(|proxy| proxy.stage == Stage::Serving);
        if !serves || !self.turns.is_empty() || !self.echoes.is_empty() {
            return;
        }
        let Some(successor) = self.options.successor.clone() else { return };
        let (held, is_held) = oneshot::channel();
        let (go, may_go) = oneshot::channel();
        let open_files = self.options.supervisor.open_files;
        let becoming = tokio::task::spawn_blocking(move || {
            // No program may be between its start and its record. One that hangs there is not waited for.
            let nobody_starts = driver::nobody_starts()
                .ok_or_else(|| io::Error::other("an app hangs in its start: try again"))?;
            // Who does not hear of it is not there any more.
            let _ = held.send(());
            let lock = may_go.blocking_recv().map_err(io::Error::other)??;
            let Successor { binary, arguments } = successor;
            driver::become_another(&binary, &arguments, &lock, open_files, &nobody_starts)
        });
        if is_held.await.is_ok() {
            let carried = self.desk.carry().await;
            if carried.is_ok() {
                self.drain_all_but(proxy).await;
            }
            // Or it has panicked, and says so below.
            let _ = go.send(carried);
        }
        let error = match becoming.await {
            Ok(Err(error)) => error,
            Ok(Ok(never)) => match never {},
            Err(error) => error.into(),
        };
        self.desk.forget_carried();
        self.upgrade_failed(&format!("it cannot become the new binary: {error}"));
        self.settle_on_one(proxy);
    }

    /// One of the proxies is enough: the new one goes on with this supervisor, if the others have been told to leave.
    fn settle_on_one(&mut self, proxy: Number) {
        let goes_on = |(number, old): (&Number, &Proxy)| {
            *number != proxy && old.takes_part() && old.stage != Stage::Draining
        };
        if !self.proxies.iter().any(goes_on) {
            return;
        }
        let limit = self.server.as_ref().unwrap_or(&self.options.server).timeouts.upgrade;
        if let Some(new) = self.proxies.get_mut(&proxy) {
            new.drain(limit, Drain::ForAnother);
        }
        self.note_roles();
    }

    /// All proxies but the new one finish what they have.
    async fn drain_all_but(&mut self, proxy: Number) {
        let limit = self.server.as_ref().unwrap_or(&self.options.server).timeouts.upgrade;
        for (number, old) in &mut self.proxies {
            if *number != proxy && old.takes_part() && old.stage != Stage::Draining {
                old.drain(limit, Drain::ForAnother);
            }
        }
        self.note_roles();
        for proxy in self.proxies.values() {
            proxy.peer.flush().await;
        }
        self.office.flush().await;
    }

    /// Nothing has changed, and whoever asked is told why.
    pub(super) fn upgrade_failed(&mut self, why: &str) {
        let Some(Upgrade { asker, proxy, .. }) = self.upgrade.take() else { return };
        tracing::error!("not upgraded: {why}");
        if let Some(proxy) = proxy.and_then(|proxy| self.proxies.get(&proxy))
            && proxy.stage != Stage::Serving
        {
            proxy.peer.runner.tell(Fate::Die);
        }
        self.answer_upgrade(asker, Err(why.to_owned()));
    }

    fn answer_upgrade(&mut self, asker: Asker, outcome: Result<(), String>) {
        match asker {
            Some((control, wish)) => self.answer(control, wish, Answer::Upgraded(outcome)),
            None => {
                if let Err(why) = outcome {
                    tracing::error!("not upgraded: {why}");
                }
            }
        }
    }
}
