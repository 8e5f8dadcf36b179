//! One line per request, for people and their tools: Nginx's `combined`, or JSON with Caddy's keys.
//!
//! A request never waits for the disk. It appends its line to a buffer in memory, under a lock held
//! for one copy; a thread of its own writes the buffer out. If the disk stalls for so long that the
//! buffer is full, lines are dropped, counted, and the loss is a metric. SIGHUP opens the file anew
//! ([`AccessLog::reopen`]), so that logrotate can move it.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use doorbell_config::spec::{AccessLogFormat, AccessLogSpec, LogOutput};
use tracing::{error, info};

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
    reopen: AtomicBool,
    metrics: Arc<ServerMetrics>,
}

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    closed: bool,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// If the file cannot be opened, or no thread started.
    pub fn open(spec: &AccessLogSpec, metrics: Arc<ServerMetrics>) -> io::Result<Self> {
        let output = Output::open(&spec.output)?;
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            wake: Condvar::new(),
            reopen: AtomicBool::new(false),
            metrics,
        });
        let for_writer = Arc::clone(&shared);
        let target = spec.output.clone();
        let (ending, done) = channel::<()>();
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            write_out(&for_writer, &target, output);
            drop(ending);
        })?;
        Ok(Self { format: spec.format, shared, done: Mutex::new(Some(done)) })
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

    /// Opens the file anew before the next write.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
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

fn write_out(shared: &Shared, target: &LogOutput, mut output: Output) {
    let mut batch = Vec::new();
    let mut complaint: Option<Instant> = None;
    loop {
        let closed = take_batch(shared, &mut batch);
        if shared.reopen.swap(false, Ordering::Relaxed) {
            match Output::open(target) {
                Ok(fresh) => {
                    output = fresh;
                    info!("access log opened anew");
                }
                Err(error) => error!(%error, "cannot open the access log anew; the old file stays"),
            }
        }
        match output.write_all(&batch) {
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

/// Waits for lines and takes them; true when the log is closed.
fn take_batch(shared: &Shared, batch: &mut Vec<u8>) -> bool {
    let mut buffer = shared.lock();
    while buffer.lines.is_empty() && !buffer.closed && !shared.reopen.load(Ordering::Relaxed) {
        buffer = shared.wake.wait(buffer).unwrap_or_else(PoisonError::into_inner);
    }
    if buffer.lines.len() < EAGER && !buffer.closed {
        buffer = wait(shared, buffer);
    }
    std::mem::swap(&mut buffer.lines, batch);
    buffer.closed
}

fn wait<'a>(shared: &'a Shared, buffer: MutexGuard<'a, Buffer>) -> MutexGuard<'a, Buffer> {
    shared.wake.wait_timeout(buffer, PAUSE).map_or_else(|e| e.into_inner().0, |(guard, _)| guard)
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Output {
    fn open(target: &LogOutput) -> io::Result<Self> {
        match target {
            LogOutput::Stdout => Ok(Self::Stdout(io::stdout())),
            LogOutput::File(path) => open_file(path).map(Self::File),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

/// Readable by the owner and the group, as log readers expect.
fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests;
