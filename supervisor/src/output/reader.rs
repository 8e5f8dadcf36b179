//! Passes on what one instance prints, in whole lines.
//!
//! One task per instance. It looks at the front of the app's pipe and has a blocking thread write
//! what can be passed on; only then are the bytes taken out of the pipe, so that whoever kills us
//! takes no line with us (`mark`). Meanwhile the app goes on into the rest of the pipe.
//!
//! A line that has not ended stays in the pipe. The system does not announce what a large write adds
//! behind it, so the task looks again by itself as long as one lies there, ever more seldom.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    AppLog, OURS, OutputPipe, Tail,
    batch::{self, Batch, Work, Written},
    capture::{Order, PATIENCE},
    cut::{self, Cut, Rest},
    intake::Intake,
    mark::Record,
    rotate::count_lines,
    whereabouts::Link,
};

/// Bytes of lines of ours that may wait for the disk.
const SAID: usize = 64 * 1024;
/// How long the end of a capture waits for the disk.
const GOODBYE: Duration = Duration::from_secs(5);
/// Between two tries to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// Between two looks at a line that has not ended, or at a disk that hangs: the first pause, and the
/// longest, after doubling.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// The task's state.
pub(super) struct Reader {
    intake: Arc<Intake>,
    log: Arc<AppLog>,
    /// Tells who takes up the pipe where that is.
    #[expect(dead_code, reason = "it is held")]
    link: Link,
    tail: Arc<Tail>,
    news: News,
    /// Somebody may still write.
    is_open: bool,
    /// Bytes at the front that were looked at, and hold no end of a line.
    unfinished: usize,
    /// Bytes behind those in flight whose lines are in the tail already.
    told: usize,
    pause: Duration,
    /// What goes with the next write, but for the batch.
    next: Work,
    writing: Option<Writing>,
    /// The last write failed.
    stuck: Option<Stuck>,
    /// Memory for a batch.
    spare: Vec<u8>,
}

/// Whether a look is worth it.
enum News {
    None,
    Possible,
    /// The system says so.
    Announced,
}

struct Writing {
    task: JoinHandle<Written>,
    since: Instant,
}

/// What cannot be written waits in the pipe, as long as that has room.
struct Stuck {
    since: Instant,
    next_try: Instant,
    because: String,
}

impl Reader {
    pub(super) fn of(pipe: OutputPipe, log: Arc<AppLog>, tail: Arc<Tail>) -> io::Result<Self> {
        let link = log.place.link(pipe.path());
        Ok(Self {
            intake: Arc::new(Intake::of(pipe)?),
            link,
            log,
            tail,
            news: News::Possible,
            is_open: true,
            unfinished: 0,
            told: 0,
            pause: PAUSE,
            next: Work::default(),
            writing: None,
            stuck: None,
            spare: Vec::new(),
        })
    }

    /// Reads until it is told to finish, or nobody is left to tell it.
    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        unsettled: Option<Record>,
    ) {
        if let Some(record) = unsettled {
            self.take_up(record).await;
        }
        loop {
            self.write();
            let wake = self.wake();
            let listens = self.writing.is_none() && self.stuck.is_none() && self.is_open;
            // Dropping the losing branches loses nothing: what is in the pipe stays.
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Say(line)) => self.say(&line),
                    Some(Order::Settle(done)) => {
                        self.settle().await;
                        let _ = done.send(());
                    }
                    Some(Order::Finish) => return self.finish().await,
                    None => return,
                },
                written = written(&mut self.writing) => self.written(written),
                readable = self.intake.news(), if listens => match readable {
                    Ok(()) => self.news = News::Announced,
                    Err(_) => self.is_open = false,
                },
                () = until(wake) => self.wait_over(),
            }
        }
    }

    /// Takes away what an earlier reader had written when it ended.
    async fn take_up(&mut self, record: Record) {
        let (intake, log) = (self.intake.clone(), self.log.clone());
        let settle = move || batch::settle(&intake, &log, &record);
        match tokio::task::spawn_blocking(settle).await.map_err(io::Error::from).flatten() {
            Ok(lines) => self.tail.push(&lines),
            Err(error) => tracing::warn!(%error, "output of an app may be written twice"),
        }
    }

    fn say(&mut self, line: &str) {
        let line = format!("{OURS}{line}\n");
        if self.next.said.len() < SAID {
            self.next.said.extend_from_slice(line.as_bytes());
        } else {
            self.next.lost += 1;
        }
    }

    /// Starts a write if there is something to write and nothing being written.
    fn write(&mut self) {
        let waits = |stuck: &Stuck| Instant::now() < stuck.next_try;
        if self.writing.is_some() || self.stuck.as_ref().is_some_and(waits) {
            return;
        }
        self.next.batch = self.next_batch();
        let has_more =
            self.next.batch.is_some() || !self.next.said.is_empty() || self.next.lost > 0;
        // What was dropped while the disk was away is owed still, though nothing more comes.
        if has_more || self.stuck.is_some() {
            self.start_writing();
        }
    }

    fn start_writing(&mut self) {
        let work = std::mem::take(&mut self.next);
        if let Some(batch) = &work.batch {
            self.tell(&batch.bytes, batch.cut.length);
            self.intake.depart(batch.cut.length);
            self.leave(batch.cut.length);
        }
        let (intake, log) = (self.intake.clone(), self.log.clone());
        let task = tokio::task::spawn_blocking(move || work.perform(&intake, &log));
        self.writing = Some(Writing { task, since: Instant::now() });
    }

    fn written(&mut self, written: Option<Written>) {
        self.writing = None;
        self.pause = PAUSE;
        self.news = News::Possible;
        // A write that panicked takes its lines with it; the next one may do better.
        let Some(Written { memory, mut said, left, stuck }) = written else {
            self.intake.take_in_flight(&mut vec![0; self.intake.capacity()]);
            return;
        };
        self.spare = memory;
        // They are in the tail, and come again.
        self.told += left;
        said.append(&mut self.next.said);
        self.next.said = said;
        self.stuck = stuck.map(|error| self.stuck_by(&error));
    }

    fn stuck_by(&mut self, error: &io::Error) -> Stuck {
        let now = Instant::now();
        let before = self.stuck.take();
        if before.is_none() {
            let folder = self.log.folder();
            let folder = folder.display();
            tracing::error!(%folder, %error, "output of the app waits until this is mended");
        }
        let since = before.map_or(now, |before| before.since);
        Stuck { since, next_try: now + RETRY, because: error.to_string() }
    }

    /// The next bytes to write, if there is reason to look.
    fn next_batch(&mut self) -> Option<Batch> {
        if !self.is_open {
            return None;
        }
        let intake = self.intake.clone();
        let looked = match std::mem::replace(&mut self.news, News::None) {
            News::None => return None,
            News::Possible => self.look(),
            News::Announced => intake.after_news(|| self.look()),
        };
        match looked {
            Ok(batch) => {
                self.is_open = batch.is_some();
                batch
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::error!(%error, "cannot read the output of an app");
                self.news = News::Possible;
                None
            }
        }
    }

    /// Looks at the front of the pipe; `None` if nothing is left and nothing will come, `WouldBlock`
    /// if there is nothing to pass on now.
    fn look(&mut self) -> io::Result<Option<Batch>> {
        // Half of the pipe: the app fills the other half meanwhile.
        let most = (self.intake.capacity() / 2).max(self.intake.longest());
        let has_ended = self.intake.has_ended();
        let mut bytes = std::mem::take(&mut self.spare);
        self.intake.peek(most, &mut bytes)?;
        let known = std::mem::replace(&mut self.unfinished, bytes.len());
        let cut = cut::cut(&bytes, known, self.intake.longest(), || {
            if has_ended {
                Rest::Ends
            } else if bytes.len() == known && self.intake.is_full_of(&bytes) {
                Rest::Crowds
            } else {
                Rest::Waits
            }
        });
        match cut {
            Some(cut) => Ok(Some(Batch { bytes, cut, is_last: false })),
            None if bytes.is_empty() && has_ended => Ok(None),
            None => {
                if self.intake.available() > known {
                    self.pause = PAUSE;
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Puts the lines up to here into the tail, but for those that are there.
    fn tell(&mut self, bytes: &[u8], end: usize) {
        if let Some(new) = bytes.get(self.told..end) {
            self.tail.push(new);
            self.told = end;
        }
    }

    /// The first bytes are somebody else's from here on.
    fn leave(&mut self, bytes: usize) {
        self.told = self.told.saturating_sub(bytes);
        self.unfinished = 0;
    }

    /// Puts everything into the tail that was printed.
    async fn settle(&mut self) {
        // What it has left in the pipe is in the tail.
        if self.writing.as_ref().is_some_and(|writing| writing.task.is_finished()) {
            self.until_written().await;
        }
        let has_ended = self.intake.has_ended();
        let mut bytes = Vec::new();
        match self.intake.peek_all(&mut bytes) {
            Ok(in_flight) => {
                let behind = bytes.get(in_flight..).unwrap_or_default();
                let rest = if has_ended { Rest::Ends } else { Rest::Waits };
                self.tell(behind, cut::cut_all(behind, self.intake.longest(), rest));
            }
            Err(error) => tracing::error!(%error, "cannot see the output of an app"),
        }
    }

    /// When to look without being told.
    fn wake(&self) -> Option<Instant> {
        match &self.writing {
            Some(writing) if writing.since.elapsed() < PATIENCE => Some(writing.since + PATIENCE),
            Some(_) => Some(Instant::now() + self.pause),
            None if self.stuck.is_some() => self.stuck.as_ref().map(|stuck| {
                let may_drop = stuck.since.elapsed() >= PATIENCE;
                let soon = Instant::now() + self.pause;
                if may_drop { stuck.next_try.min(soon) } else { stuck.next_try }
            }),
            None if self.is_curious() => Some(Instant::now() + self.pause),
            None => None,
        }
    }

    /// Whether something may come, or be there, that nobody announces.
    fn is_curious(&self) -> bool {
        self.is_open && (self.unfinished > 0 || matches!(self.news, News::Possible))
    }

    fn wait_over(&mut self) {
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        self.news = News::Possible;
        let is_stuck = self.stuck.as_ref().is_some_and(|stuck| stuck.since.elapsed() >= PATIENCE);
        if (self.writing.is_some() || is_stuck) && self.intake.is_crowded() {
            self.make_room();
            self.pause = PAUSE;
        }
    }

    /// Drops lines, since the disk hangs or is full and the app must go on.
    fn make_room(&mut self) {
        self.next.lost_because = self.stuck.as_ref().map(|stuck| stuck.because.clone());
        self.intake.take_in_flight(&mut vec![0; self.intake.capacity()]);
        let (most, longest) = (self.intake.capacity(), self.intake.longest());
        let mut dropped = 0;
        // Who goes on writing must not keep us here.
        while dropped < most {
            let mut bytes = Vec::new();
            if self.intake.peek(most, &mut bytes).is_err() {
                return;
            }
            let cut = cut::cut(&bytes, 0, longest, || {
                if self.intake.is_full_of(&bytes) { Rest::Crowds } else { Rest::Waits }
            });
            let Some(Cut { length, ending }) = cut else { return };
            self.tell(&bytes, length);
            self.leave(length);
            bytes.truncate(length);
            self.next.lost += count_lines(&bytes) + count_lines(ending.words());
            self.intake.take(&mut bytes);
            dropped += length;
        }
    }

    async fn finish(mut self) {
        let disk_kept_up = timeout(GOODBYE, self.write_rest()).await;
        if disk_kept_up.is_err() {
            tracing::error!("the disk did not take an app's last output in time");
        }
        self.intake.remove();
    }

    /// Writes what is in the pipe now, and no more: who goes on writing must not keep us here. Ours
    /// are the last words.
    async fn write_rest(&mut self) {
        let said = std::mem::take(&mut self.next.said);
        self.until_written().await;
        let mut left = self.intake.available();
        while let Some(batch) = self.last_batch(left) {
            left -= batch.cut.length;
            self.next.batch = Some(batch);
            self.start_writing();
            self.until_written().await;
        }
        self.next.said.extend(said);
        self.start_writing();
        self.until_written().await;
        if let Some(stuck) = &self.stuck {
            self.log.count_lost(count_lines(&self.next.said), &stuck.because);
        }
    }

    async fn until_written(&mut self) {
        if self.writing.is_some() {
            let written = written(&mut self.writing).await;
            self.written(written);
        }
    }

    /// The next of the last bytes, whether a line ends there or not.
    fn last_batch(&mut self, left: usize) -> Option<Batch> {
        let mut bytes = std::mem::take(&mut self.spare);
        self.intake.peek(left.min(self.intake.capacity()), &mut bytes).ok()?;
        let rest = if bytes.len() == left { Rest::Ends } else { Rest::Crowds };
        let cut = cut::cut(&bytes, 0, self.intake.longest(), || rest)?;
        Some(Batch { bytes, cut, is_last: true })
    }
}

/// What came of a write; `None` if it panicked.
async fn written(writing: &mut Option<Writing>) -> Option<Written> {
    match writing {
        Some(writing) => (&mut writing.task).await.ok(),
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use doorbell_config::{
        name::{AppId, ByteSize},
        spec::OutputSpec,
    };

    use super::*;
    use crate::output::{CURRENT, Logs};

    #[tokio::test]
    async fn what_was_dropped_while_the_disk_was_away_is_told_though_nothing_more_comes() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, _apps) = OutputPipe::create(&folder.path().join("1.out")).unwrap();
        let spec = OutputSpec { max_size: ByteSize(1000), keep: 1 };
        let log = Logs::new(folder.path().join("log")).open(&AppId::parse("app").unwrap(), spec);
        let mut reader = Reader::of(pipe, Arc::clone(&log), Arc::default()).unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::fs::write(folder.path().join("log/app"), "in the way").unwrap();
        // All that was in the pipe, and the disk is still away when that is to be told.
        reader.next.lost = 3;
        reader.write();
        reader.until_written().await;
        assert!(reader.stuck.is_some());
        std::fs::remove_file(folder.path().join("log/app")).unwrap();
        sleep_until(reader.wake().unwrap()).await;
        reader.write();
        reader.until_written().await;
        assert!(reader.stuck.is_none());
        let written = std::fs::read_to_string(folder.path().join("log/app").join(CURRENT));
        assert!(written.unwrap().starts_with("[doorbell] 3 lines lost"));
        reader.write();
        assert!(reader.writing.is_none(), "that is all");
    }
}
