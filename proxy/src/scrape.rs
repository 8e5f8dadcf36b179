//! The figures of all proxies together, those that are gone included.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use doorbell_config::name::AppId;
use doorbell_supervisor::wire::{self, Receiver, Sender};
use futures_util::future::join_all;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    figures_desk::{ANSWER_LIMITS, Ask, Told},
    metrics::figures::Figures,
};

/// How long a proxy may take to answer; then its last answer stands.
const PATIENCE: Duration = Duration::from_secs(5);

/// Proxies that are asked, and what they said.
#[derive(Default)]
pub struct Scraper {
    next: AtomicU64,
    lines: Mutex<BTreeMap<u32, Line>>,
    /// Of proxies that are gone.
    gone: Mutex<Figures>,
}

/// A connection to one proxy.
struct Line {
    sender: Sender,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    last: Arc<Mutex<Figures>>,
    /// Cancelled when it says nothing any more.
    over: CancellationToken,
}

impl Scraper {
    /// Asks this proxy too from here on.
    ///
    /// # Errors
    /// If the connection is none.
    pub fn connect(self: &Arc<Self>, number: u32, connection: UnixStream) -> std::io::Result<()> {
        let (sender, receiver) = wire::open::<Told>(connection, ANSWER_LIMITS)?;
        let (asked, last) = (Arc::default(), Arc::default());
        let over = CancellationToken::new();
        let (to, done) = ((Arc::clone(&asked), Arc::clone(&last)), over.clone().drop_guard());
        tokio::spawn(async move {
            hear(receiver, to.0, to.1).await;
            drop(done);
        });
        self.lines().insert(number, Line { sender, asked, last, over });
        Ok(())
    }

    /// Waits for the last words of a proxy that is gone, which may be on their way.
    pub async fn heard_out(&self, number: u32) {
        let over = self.lines().get(&number).map(|line| line.over.clone());
        if let Some(over) = over {
            // One that is gone says nothing for ever, so this does not take long.
            let _ = timeout(PATIENCE, over.cancelled()).await;
        }
    }

    /// The proxy is gone: what it counted stays. Gives all that is to be kept.
    pub fn disconnect(&self, number: u32) -> Option<Figures> {
        let line = self.lines().remove(&number)?;
        let mut figures = lock(&line.last).clone();
        figures.settle();
        let mut gone = lock(&self.gone);
        gone.add(&figures);
        Some(gone.clone())
    }

    /// What an earlier control process knew of proxies that were gone.
    pub fn remember(&self, figures: Figures) {
        *lock(&self.gone) = figures;
    }

    /// Apps that are no more count nothing any more.
    pub fn forget(&self, apps: &[AppId]) {
        let mut gone = lock(&self.gone);
        for app in apps {
            gone.apps.remove(app);
        }
    }

    /// Asks every proxy, and adds up.
    pub async fn figures(&self) -> Figures {
        let asking: Vec<_> = self.lines().values().map(|line| self.ask(line)).collect();
        // One that does not answer has said something before.
        let _ = timeout(PATIENCE, join_all(asking)).await;
        let mut sum = lock(&self.gone).clone();
        for line in self.lines().values() {
            sum.add(&lock(&line.last));
        }
        sum
    }

    fn ask(&self, line: &Line) -> oneshot::Receiver<()> {
        let (done, answered) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut asked = lock(&line.asked);
        // Nobody waits for questions that were given up.
        asked.retain(|_, done| !done.is_closed());
        if line.sender.send(&Ask { number }).is_ok() {
            asked.insert(number, done);
        }
        answered
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<u32, Line>> {
        lock(&self.lines)
    }
}

async fn hear(
    mut receiver: Receiver<Told>,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    last: Arc<Mutex<Figures>>,
) {
    loop {
        match receiver.next().await {
            Ok(Some((told, _))) => {
                *lock(&last) = told.figures;
                if let Some(done) = told.number.and_then(|number| lock(&asked).remove(&number)) {
                    // Whoever asked may have left.
                    let _ = done.send(());
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "the figures of a proxy are not understood");
                break;
            }
        }
    }
    // Nobody is to wait for what will not come.
    lock(&asked).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
