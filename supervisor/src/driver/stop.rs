//! The end of an instance: signal, grace, SIGKILL, each to every process it has, until none is
//! left and nobody of it holds its port.

use std::{collections::HashSet, io, time::Duration};

use doorbell_config::spec::StopSpec;
use rustix::process::Signal;
use tokio::{
    sync::watch as channel,
    time::{Instant, sleep, timeout},
};

use super::{
    Order, Witness,
    cgroup::Group,
    listener,
    procfs::{Process, Scanner},
    tree::{self, Tree},
    watch,
};

/// First wait for processes to obey SIGKILL; doubled up to the longest.
const KILL_PACE: Duration = Duration::from_millis(5);
const LONGEST_KILL_PACE: Duration = Duration::from_secs(1);

/// What there is to end.
pub(super) struct Ending<'a> {
    pub(super) app: &'a str,
    pub(super) witness: &'a Witness,
    pub(super) scanner: &'a Scanner,
    pub(super) port: Option<u16>,
}

impl Ending<'_> {
    /// Ends every process of the instance. Returns when none is left, which takes for ever where
    /// the system cannot end one.
    pub(super) async fn end(
        &self,
        spec: StopSpec,
        orders: &mut channel::Receiver<Order>,
    ) -> io::Result<()> {
        let killed = async {
            // An error means that the desk is gone: then nobody will wait for a grace.
            let _ = orders.wait_for(|order| *order == Order::Kill).await;
        };
        // Dropping the ask loses nothing: who was signalled is signalled again at most.
        let asked = tokio::select! {
            asked = timeout(spec.grace, self.ask(spec.signal)) => asked.unwrap_or(Ok(())),
            () = killed => Ok(()),
        };
        asked?;
        loop {
            self.kill().await?;
            if !self.finds_more().await? {
                return Ok(());
            }
        }
    }

    /// Signals everyone once, newcomers too, until all are gone.
    async fn ask(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
        let mut asked = HashSet::new();
        loop {
            let living = watch::living(self.witness, self.scanner).await?;
            if living.is_empty() {
                return Ok(());
            }
            let newcomers: Vec<Process> =
                living.iter().filter(|p| asked.insert((p.pid, p.began))).copied().collect();
            let handles = Tree::handles(&newcomers);
            tree::signal(&handles, signal);
            // Who stands still cannot obey.
            tree::signal(&handles, Signal::CONT);
            self.thaw();
            watch::any_gone(Tree::handles(&living)).await;
        }
    }

    /// Lets everybody go on to their end.
    fn thaw(&self) {
        if let Some(group) = self.witness.group().filter(|group| group.can_freeze())
            && let Err(error) = group.freeze(false)
        {
            tracing::warn!(app = self.app, %error, "cannot be thawed to be ended");
        }
    }

    async fn kill(&self) -> io::Result<()> {
        let begun = Instant::now();
        let mut pace = KILL_PACE;
        loop {
            // All at once, where that is possible: who forks faster than we look has no time to.
            let is_killed = self.witness.group().as_ref().is_some_and(Group::kill);
            self.thaw();
            let living = watch::living(self.witness, self.scanner).await?;
            if living.is_empty() {
                return Ok(());
            }
            let handles = Tree::handles(&living);
            if !is_killed {
                tree::signal(&handles, Signal::KILL);
            }
            // Passing the pace is no error: then they are killed again.
            let _ = timeout(pace, watch::any_gone(handles)).await;
            if pace < LONGEST_KILL_PACE && pace * 2 >= LONGEST_KILL_PACE {
                let pids: Vec<_> = living.iter().map(|process| process.pid).collect();
                let after = begun.elapsed();
                tracing::error!(app = self.app, ?pids, ?after, "processes do not obey SIGKILL");
            }
            pace = (pace * 2).min(LONGEST_KILL_PACE);
        }
    }

    /// Whoever lost its parent and holds the port is one of ours that hid its tracks.
    async fn finds_more(&self) -> io::Result<bool> {
        let Some(port) = self.port else { return Ok(false) };
        let table = self.scanner.table().await?;
        let search = tokio::task::spawn_blocking(move || {
            let listeners = listener::on_port(port)?;
            if listeners.is_empty() {
                return Ok(Vec::new());
            }
            let holders = listener::holders(&listeners, &table);
            let processes = holders.iter().filter_map(|pid| table.process(*pid));
            io::Result::Ok(processes.filter(|p| tree::is_adopted(p)).copied().collect())
        });
        let hidden: Vec<Process> = search.await??;
        for process in &hidden {
            tracing::warn!(app = self.app, pid = process.pid, port, "found a process that hid");
            self.witness.with_tree(|tree| tree.remember(process));
        }
        if !hidden.is_empty() {
            sleep(KILL_PACE).await;
        }
        Ok(!hidden.is_empty())
    }
}
