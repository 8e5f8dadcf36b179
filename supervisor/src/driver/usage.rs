//! Memory and CPU of running apps: read when somebody asks, at most once a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use doorbell_config::name::AppId;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::Instant,
};

use super::{
    Witness,
    procfs::{self, ProcessTable, Scanner},
};
use crate::message::{Generation, Usage};

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);

/// Reads what running apps use.
#[derive(Debug)]
pub(crate) struct Meter {
    scanner: Arc<Scanner>,
    running: Mutex<HashMap<AppId, (Generation, Arc<Witness>)>>,
    last: AsyncMutex<Reading>,
    /// The first app runs.
    begun: Notify,
}

#[derive(Debug, Default)]
struct Reading {
    at: Option<Instant>,
    apps: HashMap<AppId, (Generation, Usage)>,
}

impl Meter {
    pub(crate) fn new(scanner: Arc<Scanner>) -> Self {
        Self {
            scanner,
            running: Mutex::default(),
            last: AsyncMutex::default(),
            begun: Notify::new(),
        }
    }

    /// Waits until some app runs.
    pub(crate) async fn until_running(&self) {
        while self.with_running(|running| running.is_empty()) {
            self.begun.notified().await;
        }
    }

    /// From here on the app's usage is that of this instance.
    pub(crate) fn watch(&self, app: &AppId, generation: Generation, witness: Arc<Witness>) {
        self.with_running(|running| running.insert(app.clone(), (generation, witness)));
        self.begun.notify_one();
    }

    /// The instance is gone.
    pub(crate) fn forget(&self, app: &AppId, generation: Generation) {
        self.with_running(|running| {
            if running.get(app).is_some_and(|(watched, _)| *watched == generation) {
                running.remove(app);
            }
        });
    }

    fn with_running<T>(
        &self,
        look: impl FnOnce(&mut HashMap<AppId, (Generation, Arc<Witness>)>) -> T,
    ) -> T {
        look(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What every running app uses.
    pub(crate) async fn read(&self) -> Vec<(AppId, Usage)> {
        let mut last = self.last.lock().await;
        if last.at.is_none_or(|at| at.elapsed() >= FRESH) {
            self.refresh(&mut last).await;
        }
        last.apps.iter().map(|(app, (_, usage))| (app.clone(), *usage)).collect()
    }

    async fn refresh(&self, last: &mut Reading) {
        let running: Vec<_> = self.with_running(|running| {
            let entries = running.iter();
            entries.map(|(app, (generation, w))| (app.clone(), *generation, w.clone())).collect()
        });
        let table = match self.scanner.table().await {
            Ok(table) => table,
            Err(error) => return tracing::warn!(%error, "cannot read what apps use"),
        };
        let measuring = tokio::task::spawn_blocking(move || {
            let measured = running.into_iter().filter_map(|(app, generation, witness)| {
                Some((app, (generation, measure(&witness, &table)?)))
            });
            measured.collect::<HashMap<_, _>>()
        });
        let mut apps = match measuring.await {
            Ok(apps) => apps,
            Err(error) => return tracing::warn!(%error, "cannot read what apps use"),
        };
        for (app, (generation, usage)) in &mut apps {
            // The time of a process that nobody waited for is lost; a counter must not fall.
            if let Some((before, old)) = last.apps.get(app)
                && before == generation
            {
                usage.cpu_seconds = usage.cpu_seconds.max(old.cpu_seconds);
            }
        }
        *last = Reading { at: Some(Instant::now()), apps };
    }
}

fn measure(witness: &Witness, table: &ProcessTable) -> Option<Usage> {
    let living = witness.with_tree(|tree| tree.refresh(table))??;
    let ticks: u64 = living.iter().map(|process| process.cpu_ticks).sum();
    #[expect(clippy::cast_precision_loss, reason = "a rounding error of 2^-53 is none")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(Usage {
        memory_bytes: living.iter().map(|process| procfs::memory_bytes(process.pid)).sum(),
        cpu_seconds,
        processes: u32::try_from(living.len()).unwrap_or(u32::MAX),
    })
}
