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
    figures_desk::{ANSWER_LIMITS, AboutPasses, Ask, Told},
    metrics::figures::Figures,
    pass::{Question, Reply, Seal},
};

/// How long a proxy may take to answer; then its last answer stands.
const PATIENCE: Duration = Duration::from_secs(5);

/// Proxies that are gone whose figures are known by number.
const NUMBERS: usize = 4;

/// Answers what a proxy asks.
pub type Answering = Box<dyn Fn(&Question) -> Reply + Send>;

/// What a proxy is told of passes.
pub struct Passes {
    /// What they are known by; `None` if there are none.
    pub seal: Option<Seal>,
    /// Answers what is asked of them.
    pub answer: Answering,
}

/// Proxies that are asked, and what they said.
#[derive(Default)]
pub struct Scraper {
    next: AtomicU64,
    /// In one place: a proxy that goes or comes back between two looks would be counted twice, or not at all.
    known: Mutex<Known>,
}

/// Whose figures are known.
#[derive(Default)]
struct Known {
    lines: BTreeMap<u32, Line>,
    gone: GoneFigures,
}

/// Figures of proxies that are gone.
#[derive(Default)]
struct GoneFigures {
    /// What an earlier control process knew.
    kept: Figures,
    /// By their numbers: one may be taken for gone while its connection is made anew.
    proxies: BTreeMap<u32, Figures>,
}

/// A connection to one proxy.
struct Line {
    sender: Sender,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    last: Arc<Mutex<Figures>>,
    /// Cancelled when it says nothing any more.
    over: CancellationToken,
}

impl GoneFigures {
    /// Of proxies that are gone for long their sum is enough.
    fn forget_numbers(&mut self) {
        while self.proxies.len() > NUMBERS
            && let Some((_, figures)) = self.proxies.pop_first()
        {
            self.kept.add(&figures);
        }
    }

    fn sum(&self) -> Figures {
        let mut sum = self.kept.clone();
        self.proxies.values().for_each(|figures| sum.add(figures));
        sum
    }
}

impl Known {
    /// One is there, perhaps after all: what it said before stands until it says more.
    fn join(&mut self, number: u32, line: Line) {
        let earlier = self.lines.get(&number).map(|before| lock(&before.last).clone());
        let gone = self.gone.proxies.remove(&number);
        *lock(&line.last) = earlier.or(gone).unwrap_or_default();
        self.lines.insert(number, line);
    }

    fn sum(&self) -> Figures {
        let mut sum = self.gone.sum();
        self.lines.values().for_each(|line| sum.add(&lock(&line.last)));
        sum
    }
}

impl Scraper {
    /// Asks this proxy too from here on. What comes back resolves when it says nothing any more.
    ///
    /// # Errors
    /// If the connection is none.
    pub fn connect(
        &self,
        number: u32,
        connection: UnixStream,
        passes: Passes,
    ) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        let (sender, receiver) = wire::open::<Told>(connection, ANSWER_LIMITS)?;
        let (asked, over) = (Arc::default(), CancellationToken::new());
        let line = Line {
            sender: sender.clone(),
            asked: Arc::clone(&asked),
            last: Arc::default(),
            over: over.clone(),
        };
        let (last, done) = (Arc::clone(&line.last), over.clone().drop_guard());
        self.known().join(number, line);
        if let Some(seal) = passes.seal {
            let (number, about_passes) = (0, Some(AboutPasses::Seal(seal)));
            // One that is gone asks nothing.
            let _ = sender.send(&Ask { number, about_passes });
        }
        let answers = (sender, passes.answer);
        tokio::spawn(async move {
            hear(receiver, asked, last, answers).await;
            drop(done);
        });
        Ok(over.cancelled_owned())
    }

    /// The proxy says nothing any more: what it counted of known apps stays. Gives all that is to be kept, if that
    /// is news.
    pub fn settle(&self, number: u32, is_known: impl Fn(&AppId) -> bool) -> Option<Figures> {
        let mut known = self.known();
        let is_over = known.lines.get(&number).is_some_and(|line| line.over.is_cancelled());
        let line = is_over.then(|| known.lines.remove(&number)).flatten()?;
        let mut figures = lock(&line.last).clone();
        figures.settle();
        figures.apps.retain(|app, _| is_known(app));
        known.gone.proxies.insert(number, figures);
        known.gone.forget_numbers();
        Some(known.gone.sum())
    }

    /// What proxies that are gone have counted.
    #[must_use]
    pub fn gone(&self) -> Figures {
        self.known().gone.sum()
    }

    /// What an earlier control process knew of proxies that were gone.
    pub fn remember(&self, figures: Figures) {
        self.known().gone.kept = figures;
    }

    /// Apps that are no more count nothing any more.
    pub fn forget(&self, apps: &[AppId]) {
        let mut known = self.known();
        for app in apps {
            known.gone.kept.apps.remove(app);
            for figures in known.gone.proxies.values_mut() {
                figures.apps.remove(app);
            }
        }
    }

    /// Asks every proxy, and adds up.
    pub async fn figures(&self) -> Figures {
        let asking: Vec<_> = self.known().lines.values().map(|line| self.ask(line)).collect();
        // One that does not answer has said something before.
        let _ = timeout(PATIENCE, join_all(asking)).await;
        self.known().sum()
    }

    fn ask(&self, line: &Line) -> oneshot::Receiver<()> {
        let (done, answered) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut asked = lock(&line.asked);
        // Nobody waits for questions that were given up.
        asked.retain(|_, done| !done.is_closed());
        if line.sender.send(&Ask { number, about_passes: None }).is_ok() {
            asked.insert(number, done);
        }
        answered
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

async fn hear(
    mut receiver: Receiver<Told>,
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    last: Arc<Mutex<Figures>>,
    (sender, answer): (Sender, Answering),
) {
    loop {
        match receiver.next().await {
            Ok(Some((Told { number: Some(number), question: Some(question), .. }, _))) => {
                let about_passes = Some(AboutPasses::Reply(number, answer(&question)));
                // One that is gone waits for nothing.
                let _ = sender.send(&Ask { number: 0, about_passes });
            }
            Ok(Some((mut told, _))) => {
                told.figures.keep_within_bounds();
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
