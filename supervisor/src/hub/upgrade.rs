//! Another version takes over, and nobody notices.
//!
//! The new binary is asked what it speaks, its proxy is started beside the old one, with the same
//! sockets, and only when that serves the old one is told to finish what it has and this process
//! becomes the new binary (execve(2)): same pid, same children. From there on it goes as after a kill:
//! roles come back, instances are adopted. Whatever fails before that changes nothing.

use std::{ffi::OsString, io, path::PathBuf, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Event, Hub, Launcher,
    launch::{self, Fate, Image},
    proxies::{Proxy, Stage},
    switchboard::Number,
};
use crate::{
    driver,
    protocol::{Answer, Drain, IN_A_MOMENT, VERSION},
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

/// How this process becomes another version of itself.
#[derive(Clone, Debug)]
pub struct Successor {
    /// The program.
    pub binary: PathBuf,
    /// Its arguments, which make it take up what this one leaves.
    pub arguments: Vec<OsString>,
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
        let hindrance = match (&self.options.launcher, &self.upgrade) {
            (Launcher::Tasks(_), _) => Some("everything is in one process: restart it".to_owned()),
            _ if self.closing.is_some() => Some("doorbell shuts down".to_owned()),
            (_, Some(_)) => Some("another upgrade is under way".to_owned()),
            _ if !self.returning.is_over()
                || self.is_first_start()
                || !self.office.is_settled() =>
            {
                Some(format!("doorbell has only just begun: {IN_A_MOMENT}"))
            }
            (Launcher::Processes(_), None) => None,
        };
        if let Some(hindrance) = hindrance {
            return self.answer_upgrade(asker, Err(hindrance));
        }
        let Some(binary) = self.options.successor.as_ref().map(|one| one.binary.clone()) else {
            return self.answer_upgrade(asker, Err("it is not known where the program is".into()));
        };
        tracing::info!(binary = %binary.display(), "upgrading");
        let deadline = Instant::now() + PATIENCE;
        self.upgrade = Some(Upgrade { asker, proxy: None, deadline });
        let events = self.events.0.clone();
        tokio::spawn(async move {
            let spoken = launch::ask_what_it_speaks(&binary).await;
            // An error means that all is over.
            let _ = events.send(Event::Speaks(spoken)).await;
        });
    }

    /// The new binary has said what it speaks.
    pub(super) fn binary_speaks(&mut self, spoken: io::Result<Vec<u32>>) {
        match spoken {
            Ok(versions) if versions.contains(&VERSION) => {}
            Ok(versions) => {
                let words = format!("it takes over from {versions:?}, and this is {VERSION}");
                return self.upgrade_failed(&words);
            }
            Err(error) => return self.upgrade_failed(&format!("the new binary: {error}")),
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
