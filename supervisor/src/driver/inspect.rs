//! Whose listeners there are: on the instance's port, and of the instance beyond loopback.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{End, Instance};
use crate::{
    driver::{
        ear::Ear,
        listener::{self, Listener},
        procfs::{Pid, ProcessTable},
        record::Phase,
        tree, watch,
    },
    message::Endpoint,
};

/// When, after it became ready, an instance is looked at for listeners beyond loopback. Each further
/// look comes after twice the time, and the last pause is kept; or when the kernel tells.
const INSPECT_AFTER: Duration = Duration::from_millis(500);
const INSPECT_SELDOM: Duration = Duration::from_secs(300);

impl Instance {
    /// Looks again and again: an app may open a port for debugging or a cluster at any time, but not while it
    /// stands still.
    pub(super) async fn until_beyond_loopback(&self) -> String {
        let mut heard = self.ear.as_ref().map(Ear::heard);
        let mut frost = self.wires.frost.clone();
        if self.notebook.record().phase == Phase::Frozen {
            // It was taken up so. If the desk is gone, nobody is warned any more.
            let _ = frost.changed().await;
        }
        let (mut pause, mut is_first) = (INSPECT_AFTER, true);
        loop {
            // What was told of comes a moment later, and rarely alone.
            sleep(pause).await;
            // As above.
            let _ = frost.wait_for(|stands_still| !stands_still).await;
            let seen = heard.as_mut().map_or(0, |heard| heard.borrow_and_update().beyond);
            // Many may have started at once, who need not all look at all processes of the machine.
            let grouped = self.wires.witness.with_tree(|tree| tree.in_group()).flatten();
            let grouped = grouped.filter(|_| std::mem::take(&mut is_first));
            if let Some(warning) = self.listens_beyond_loopback(grouped).await {
                return warning;
            }
            match &mut heard {
                Some(heard) => {
                    let more = heard.wait_for(|heard| heard.beyond != seen);
                    // Passing the time is no error, and nobody who tells any more is as much.
                    let _ = timeout(INSPECT_SELDOM, more).await;
                }
                None => pause = (2 * pause).min(INSPECT_SELDOM),
            }
        }
    }

    /// An error if somebody else answers at the endpoint. Where we may not look, and it is a user of
    /// ours, we believe it.
    pub(super) async fn belongs_to_us(&self, endpoint: &Endpoint) -> Result<(), End> {
        let Endpoint::Tcp(address) = endpoint else { return Ok(()) };
        let port = address.port();
        match self.strangers_at(*address).await {
            Ok(None) => Ok(()),
            Ok(Some(strangers)) => {
                let holder = listener::describe(&strangers);
                Err(End::crashed(format!("port {port} is already in use by {holder}")))
            }
            Err(error) => {
                let app = &self.job.app.id;
                tracing::warn!(%app, port, %error, "cannot see who listens");
                Ok(())
            }
        }
    }

    /// Who listens there, if that is not the instance: as far as we may look, so there may be none.
    async fn strangers_at(&self, address: SocketAddr) -> io::Result<Option<Vec<Pid>>> {
        let root = self.root.pid();
        let listeners = listener::at(address)?;
        // Most apps are one process, and need no further search.
        if listeners.is_empty() || listener::is_held_by(&listeners, [root]) {
            return Ok(None);
        }
        let us = rustix::process::geteuid();
        let are_foreign = !us.is_root() && listeners.iter().all(|one| one.user != us.as_raw());
        let living = watch::living(&self.wires.witness, &self.driver.scanner).await?;
        let pids: Vec<Pid> = living.iter().map(|process| process.pid).collect();
        let table = self.driver.scanner.table().await?;
        let search = tokio::task::spawn_blocking(move || search(&listeners, &pids, &table));
        let strangers = search.await?;
        let is_ours =
            |pid: &Pid| self.wires.witness.with_tree(|tree| tree.includes(*pid)).unwrap_or(false);
        let strangers: Vec<Pid> = strangers.into_iter().filter(|pid| !is_ours(pid)).collect();
        Ok((are_foreign || !strangers.is_empty()).then_some(strangers))
    }

    /// Has its ear know what was told to an earlier supervisor.
    pub(super) async fn remember_listeners(&self, ear: &Ear) -> io::Result<()> {
        let living = watch::living(&self.wires.witness, &self.driver.scanner).await?;
        let pids: Vec<Pid> = living.iter().map(|process| process.pid).collect();
        let search =
            tokio::task::spawn_blocking(move || Ok(listener::held_by(&listener::all()?, pids)));
        let found: io::Result<Vec<Listener>> = search.await?;
        for listener in found? {
            ear.remember(SocketAddr::new(listener.address.to_canonical(), listener.port));
        }
        Ok(())
    }

    /// A warning if the instance can be reached from other machines, around us: by these processes, or all that
    /// are its own.
    async fn listens_beyond_loopback(&self, grouped: Option<Vec<Pid>>) -> Option<String> {
        let pids = match grouped {
            Some(pids) => pids,
            None => {
                let living = watch::living(&self.wires.witness, &self.driver.scanner).await.ok()?;
                living.iter().map(|process| process.pid).collect()
            }
        };
        let search = tokio::task::spawn_blocking(move || {
            Some(listener::beyond_loopback(&listener::all().ok()?, pids))
        });
        let open = search.await.ok()??;
        if open.is_empty() {
            return None;
        }
        let named: Vec<_> = open
            .iter()
            .map(|listener| SocketAddr::from((listener.address, listener.port)).to_string())
            .collect();
        Some(format!(
            "the app listens on {}, beyond loopback: clients can reach it around doorbell",
            named.join(", ")
        ))
    }
}

/// Who holds these listeners, unless it is one of these processes or one that came to us.
fn search(listeners: &[Listener], ours: &[Pid], table: &Arc<ProcessTable>) -> Vec<Pid> {
    if listener::is_held_by(listeners, ours.iter().copied()) {
        return Vec::new();
    }
    let holders = listener::holders(listeners, table);
    let is_adopted = |pid: &Pid| table.process(*pid).is_some_and(tree::is_adopted);
    if holders.iter().any(is_adopted) { Vec::new() } else { holders }
}
