//! Reads what one instance prints, and passes it on in whole lines.
//!
//! One task per instance. It reads while a blocking thread writes, so that the app's pipe is empty
//! as long as the disk keeps up.

use std::{io::PipeReader, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{AppLog, OURS, Tail, rotate::count_lines};

/// Bytes that may wait for the disk.
const WAITING: usize = 1024 * 1024;
/// Longest line that is kept whole.
const LONGEST: usize = 64 * 1024;
/// Ends a piece of a longer one.
const CONTINUED: &[u8] = b" [doorbell: line continues]\n";
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// Most bytes that are taken out of a pipe at one look: what it can hold (pipe(7)). Who goes on writing
/// must not keep us there.
const MOST_IN_PIPE: usize = 1024 * 1024;
/// How long an app waits for the disk before its lines are dropped.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of a capture waits for the disk.
const GOODBYE: Duration = Duration::from_secs(5);

/// The capture of one instance's output.
#[derive(Debug)]
pub(crate) struct Capture {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    /// Write a line of ours.
    Say(String),
    /// Read what is there, then answer.
    Settle(oneshot::Sender<()>),
    /// Read what is there, write it, and end.
    Finish,
}

impl Capture {
    pub(crate) fn start(
        output: PipeReader,
        log: Arc<AppLog>,
        tail: Arc<Tail>,
    ) -> std::io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let (orders, inbox) = mpsc::channel(8);
        let reader = Reader {
            pipe: Some(pipe),
            log,
            tail,
            unfinished: BytesMut::new(),
            waiting: Vec::new(),
            writing: None,
            lost: 0,
        };
        Ok(Self { orders, task: tokio::spawn(reader.run(inbox)) })
    }

    /// Adds a line of ours to the log.
    pub(crate) async fn say(&self, line: String) {
        // A capture that has ended has nothing to add to.
        let _ = self.orders.send(Order::Say(line)).await;
    }

    /// Returns when all that was printed so far is in the tail.
    pub(crate) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        if self.orders.send(Order::Settle(done)).await.is_ok() {
            // An error means that the capture ended, so it has settled for good.
            let _ = settled.await;
        }
    }

    /// Writes what was printed so far and ends, even if somebody still holds the pipe.
    pub(crate) async fn finish(self) {
        let _ = self.orders.send(Order::Finish).await;
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the capture of an app's output failed");
        }
    }
}

struct Reader {
    /// `None` once every writer has closed it.
    pipe: Option<pipe::Receiver>,
    log: Arc<AppLog>,
    tail: Arc<Tail>,
    unfinished: BytesMut,
    /// Whole lines for the next write.
    waiting: Vec<u8>,
    writing: Option<Writing>,
    /// Lines dropped during this write.
    lost: u64,
}

struct Writing {
    task: JoinHandle<()>,
    since: Instant,
}

impl Reader {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            self.write();
            let patience_ends = self.patience_ends();
            let is_full = self.waiting.len() >= WAITING;
            let is_stalled = patience_ends.is_some_and(|end| end <= Instant::now());
            // Dropping the losing branches loses nothing: a read that did not finish took nothing.
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Say(line)) => self.pass_on(format!("{OURS}{line}\n").as_bytes()),
                    Some(Order::Settle(done)) => {
                        self.read_rest();
                        let _ = done.send(());
                    }
                    Some(Order::Finish) | None => return self.finish().await,
                },
                () = written(&mut self.writing) => self.writing = None,
                () = read(&mut self.pipe, &mut self.unfinished), if !is_full || is_stalled => {
                    self.split();
                }
                () = until(patience_ends), if is_full && !is_stalled => {}
            }
        }
    }

    /// Starts a write if there is something to write and nothing being written.
    fn write(&mut self) {
        if self.writing.is_some() || (self.waiting.is_empty() && self.lost == 0) {
            return;
        }
        let lines = std::mem::take(&mut self.waiting);
        let lost = std::mem::take(&mut self.lost);
        let log = self.log.clone();
        let task = tokio::task::spawn_blocking(move || {
            if lost > 0 {
                log.count_lost(lost, "the disk did not take them in time");
            }
            log.append(&lines);
        });
        self.writing = Some(Writing { task, since: Instant::now() });
    }

    fn patience_ends(&self) -> Option<Instant> {
        self.writing.as_ref().map(|writing| writing.since + PATIENCE)
    }

    /// Takes the whole lines out of what was read.
    fn split(&mut self) {
        loop {
            let end = self.unfinished.iter().take(LONGEST).position(|byte| *byte == b'\n');
            match end {
                Some(at) => {
                    let line = self.unfinished.split_to(at + 1);
                    self.take_line(&line);
                }
                None if self.unfinished.len() >= LONGEST => {
                    let mut piece = self.unfinished.split_to(LONGEST).to_vec();
                    piece.extend_from_slice(CONTINUED);
                    self.take_line(&piece);
                }
                None => break,
            }
        }
        if self.pipe.is_none() {
            self.end_line();
        }
    }

    /// The last line may lack its end.
    fn end_line(&mut self) {
        if self.unfinished.has_remaining() {
            let mut line = self.unfinished.split().to_vec();
            line.push(b'\n');
            self.take_line(&line);
        }
    }

    fn take_line(&mut self, line: &[u8]) {
        self.tail.push(line);
        self.pass_on(line);
    }

    fn pass_on(&mut self, line: &[u8]) {
        if self.waiting.len() >= WAITING + CHUNK + 2 * LONGEST {
            self.lost += count_lines(line);
        } else {
            self.waiting.extend_from_slice(line);
        }
    }

    /// Reads what is in the pipe now.
    fn read_rest(&mut self) {
        let mut taken = 0;
        while let Some(pipe) = &mut self.pipe
            && taken < MOST_IN_PIPE
        {
            self.unfinished.reserve(CHUNK);
            match pipe.try_read_buf(&mut self.unfinished) {
                Ok(0) => self.pipe = None,
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            self.split();
        }
        self.split();
    }

    async fn finish(mut self) {
        let disk_kept_up = timeout(GOODBYE, async {
            self.read_rest();
            self.end_line();
            while self.writing.is_some() || !self.waiting.is_empty() || self.lost > 0 {
                self.write();
                written(&mut self.writing).await;
                self.writing = None;
            }
        });
        if disk_kept_up.await.is_err() {
            tracing::error!("the disk did not take an app's last output in time");
        }
    }
}

async fn written(writing: &mut Option<Writing>) {
    match writing {
        // A write that panicked took its lines with it; the next one may do better.
        Some(writing) => _ = (&mut writing.task).await,
        None => std::future::pending().await,
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>, unfinished: &mut BytesMut) {
    let Some(open) = pipe else { return std::future::pending().await };
    unfinished.reserve(CHUNK);
    match open.read_buf(unfinished).await {
        Ok(0) | Err(_) => *pipe = None,
        Ok(_) => {}
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
