//! One line per request, for people and their tools: Nginx's `combined`, or JSON with Caddy's keys.
//!
//! A request never waits for the disk. It appends its line to a buffer in memory, under a lock held
//! for one copy; a thread of its own writes the buffer out. If the disk stalls for so long that the
//! buffer is full, lines are dropped, counted, and the loss is a metric. The file is opened by the
//! supervisor; after SIGHUP a new one comes ([`AccessLog::turn_to`]), so that logrotate can move it.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use doorbell_config::spec::AccessLogFormat;
use tracing::error;

use crate::metrics::ServerMetrics;

mod line;
mod user;

pub use line::AccessRecord;

/// Most bytes that wait for the disk.
const BUFFER: usize = 16 * 1024 * 1024;
/// A waiting buffer larger than this is written at once.
const EAGER: usize = 64 * 1024;
/// Longest time a line waits otherwise.
const PAUSE: Duration = Duration::from_millis(200);
/// What a thread keeps to make its lines in.
const USUAL_LINE: usize = 4 * 1024;
/// How long the last lines may take to write when Doorbell ends.
const LAST_WRITE: Duration = Duration::from_secs(5);

thread_local! {
    /// Where a thread makes its lines.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The access log.
pub struct AccessLog {
    format: AccessLogFormat,
    shared: Arc<Shared>,
    /// Ends when the writer has written everything.
    done: Mutex<Option<Receiver<()>>>,
}

struct Shared {
    buffer: Mutex<Buffer>,
    wake: Condvar,
    metrics: Arc<ServerMetrics>,
}

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    /// Where lines go from the next ones on.
    next: Option<LogSink>,
    closed: bool,
}

/// Where lines go.
#[derive(Debug)]
pub enum LogSink {
    /// Standard output.
    Stdout,
    /// A file, opened for appending.
    File(File),
}

impl AccessLog {
    /// Starts a writer to a sink.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        format: AccessLogFormat,
        sink: LogSink,
        metrics: Arc<ServerMetrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { buffer: Mutex::default(), wake: Condvar::new(), metrics });
        let for_writer = Arc::clone(&shared);
        let (ending, done) = channel::<()>();
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            write_out(&for_writer, sink);
            drop(ending);
        })?;
        Ok(Self { format, shared, done: Mutex::new(Some(done)) })
    }

    /// How its lines look.
    #[must_use]
    pub fn format(&self) -> AccessLogFormat {
        self.format
    }

    /// Appends one record.
    pub fn record(&self, record: &AccessRecord<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            record.write(self.format, line);
            self.append(line);
            line.shrink_to(USUAL_LINE);
        });
    }

    fn append(&self, line: &[u8]) {
        let mut buffer = self.shared.lock();
        if buffer.lines.len() + line.len() > BUFFER {
            self.shared.metrics.log_lines_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = buffer.lines.len();
        buffer.lines.extend_from_slice(line);
        // The first line, and the crossing of the mark: two wake-ups per batch, not one per line.
        let wake = before == 0 || (before < EAGER && buffer.lines.len() >= EAGER);
        drop(buffer);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what comes to another sink; lines that wait go there too.
    pub fn turn_to(&self, sink: LogSink) {
        self.shared.lock().next = Some(sink);
        self.shared.wake.notify_one();
    }

    /// Writes what waits, and ends the writer; a disk that hangs is not waited for.
    pub fn close(&self) {
        self.end();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if done.is_some_and(|done| done.recv_timeout(LAST_WRITE) == Err(RecvTimeoutError::Timeout))
        {
            error!("the access log's last lines cannot be written");
        }
    }

    fn end(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for AccessLog {
    /// The writer ends by itself; whoever drops the log may be serving requests, and does not wait.
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_out(shared: &Shared, mut sink: LogSink) {
    let mut batch = Vec::new();
    let mut complaint: Option<Instant> = None;
    loop {
        let (closed, next) = take_batch(shared, &mut batch);
        if let Some(next) = next {
            sink = next;
        }
        match sink.write_all(&batch) {
            Ok(()) => complaint = None,
            Err(error) => {
                let lost = batch.iter().filter(|b| **b == b'\n').count() as u64;
                shared.metrics.log_lines_dropped.fetch_add(lost, Ordering::Relaxed);
                if complaint.is_none_or(|since| since.elapsed() > Duration::from_secs(60)) {
                    complaint = Some(Instant::now());
                    error!(%error, lost, "cannot write the access log");
                }
            }
        }
        batch.clear();
        batch.shrink_to(2 * EAGER);
        if closed {
            return;
        }
    }
}

/// Waits for lines and takes them; true when the log is closed. Gives the sink to turn to, if any.
fn take_batch(shared: &Shared, batch: &mut Vec<u8>) -> (bool, Option<LogSink>) {
    let mut buffer = shared.lock();
    while buffer.lines.is_empty() && !buffer.closed && buffer.next.is_none() {
        buffer = shared.wake.wait(buffer).unwrap_or_else(PoisonError::into_inner);
    }
    if buffer.lines.len() < EAGER && !buffer.closed {
        buffer = wait(shared, buffer);
    }
    std::mem::swap(&mut buffer.lines, batch);
    (buffer.closed, buffer.next.take())
}

fn wait<'a>(shared: &'a Shared, buffer: MutexGuard<'a, Buffer>) -> MutexGuard<'a, Buffer> {
    shared.wake.wait_timeout(buffer, PAUSE).map_or_else(|e| e.into_inner().0, |(guard, _)| guard)
}

impl LogSink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
