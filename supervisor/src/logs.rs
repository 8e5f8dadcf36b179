//! Reading the captured output of apps: the last lines, and what comes after them.
//!
//! This reads the files that `output` writes, and needs nothing else: it works while no Doorbell
//! runs. Reads are of at most 64 KiB that were written a moment ago or are asked for by a person,
//! so they are done in place.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use doorbell_config::name::AppId;

mod mark;
mod replicas;

pub use mark::Marks;
pub use replicas::{FollowAll, Line, follow_all, follow_from, tail_all};

use mark::Mark;

use crate::output::{CURRENT, rotate::rotated_files};

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// Time between two looks at a file that does not grow.
const PACE: Duration = Duration::from_millis(100);

/// The last `lines` lines of an app's output, oldest first, rotated files included. Bytes that are
/// no UTF-8 are replaced.
///
/// # Errors
/// If a file cannot be read. An app without output has no lines.
pub async fn tail(log_dir: &Path, app: &AppId, lines: usize) -> io::Result<Vec<String>> {
    let folder = log_dir.join(&*app.file_name());
    let read = move || {
        let ready = Follow::open(folder, lines)?.ready;
        Ok(ready.into_iter().map(|(line, _)| line).collect())
    };
    tokio::task::spawn_blocking(read).await?
}

/// Follows an app's output: first the last `lines` lines, then each new one, across rotations,
/// none lost and none repeated.
///
/// # Errors
/// If a file cannot be read.
pub async fn follow(log_dir: &Path, app: &AppId, lines: usize) -> io::Result<Follow> {
    let folder = log_dir.join(&*app.file_name());
    tokio::task::spawn_blocking(move || Follow::open(folder, lines)).await?
}

/// Lines as they are written; see [`follow`].
#[derive(Debug)]
pub struct Follow {
    folder: PathBuf,
    /// `None` until there is one.
    file: Option<Open>,
    ready: VecDeque<Read>,
    /// Behind the last line that was given; `None` as long as nothing was ever written.
    mark: Option<Mark>,
}

/// A line, and the place behind it.
type Read = (String, Mark);

/// A file that is read to its end, and may grow.
#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    at: u64,
    /// The beginning of a line that is being written.
    unfinished: Vec<u8>,
}

impl Follow {
    /// The next line, waiting for it if need be. Dropping this future loses none.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn next_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(line) = self.next_read() {
                return Ok(line);
            }
            if !self.read_on()? {
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// The next of those that were read already.
    fn next_read(&mut self) -> Option<String> {
        let (line, mark) = self.ready.pop_front()?;
        self.mark = Some(mark);
        Some(line)
    }

    fn open(folder: PathBuf, lines: usize) -> io::Result<Self> {
        let mut files = open_all(&folder)?;
        let mut ready = VecDeque::new();
        let mut mark = None;
        for open in files.iter_mut().rev() {
            let size = open.file.metadata()?.len();
            let missing = lines - ready.len();
            let (start, end) = last_lines(&open.file, size, missing)?;
            for read in open.read_lines(start, end)?.into_iter().rev() {
                ready.push_front(read);
            }
            mark = Some(Mark { inode: open.inode, at: start });
            open.at = end;
            if ready.len() >= lines {
                break;
            }
        }
        // The newest file may be a rotated one whose successor is not there yet: `read_on` goes on
        // from whichever it is.
        Ok(Self { folder, file: files.pop(), ready, mark })
    }

    /// Goes on where another has stopped.
    fn open_at(folder: PathBuf, mark: Option<Mark>) -> io::Result<Self> {
        let mut files = open_all(&folder)?;
        let mut place = None;
        for (number, open) in files.iter_mut().enumerate() {
            if let Some(mark) = mark
                && open.has(mark)?
            {
                open.at = mark.at;
                place = Some(number);
            }
        }
        // It was removed since, or nothing was there: all that are there are newer.
        let file = (!files.is_empty()).then(|| files.swap_remove(place.unwrap_or(0)));
        Ok(Self { folder, file, ready: VecDeque::new(), mark })
    }

    /// Reads what was written since; whether there was something.
    fn read_on(&mut self) -> io::Result<bool> {
        let Some(open) = &mut self.file else {
            self.file = open_if_there(&oldest_or_current(&self.folder)?)?;
            return Ok(self.file.is_some());
        };
        if open.read_block(&mut self.ready)? {
            return Ok(true);
        }
        if !was_rotated(&self.folder, open.inode)? {
            return Ok(false);
        }
        // It was renamed after its last line was written, which may be after our last look.
        if open.read_block(&mut self.ready)? {
            return Ok(true);
        }
        match successor(&self.folder, open.inode)? {
            Some(next) => {
                self.file = Some(next);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl Open {
    fn of(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode, at: 0, unfinished: Vec::new() })
    }

    /// Whether a mark is in this file, behind a whole line.
    fn has(&self, mark: Mark) -> io::Result<bool> {
        if mark.inode != self.inode || mark.at > self.file.metadata()?.len() {
            return Ok(false);
        }
        let mut last = [b'\n'];
        if mark.at > 0 {
            self.file.read_exact_at(&mut last, mark.at - 1)?;
        }
        Ok(last == [b'\n'])
    }

    fn read_lines(&self, start: u64, end: u64) -> io::Result<Vec<Read>> {
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(split(&bytes, Mark { inode: self.inode, at: start }).collect())
    }

    fn read_block(&mut self, lines: &mut VecDeque<Read>) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.at {
            // A line that was torn by a full disk is cut off, and comes again.
            self.at -= self.unfinished.len() as u64;
            self.unfinished.clear();
        }
        let start = Mark { inode: self.inode, at: self.at - self.unfinished.len() as u64 };
        let mut block = vec![0; BLOCK];
        let read = self.file.read_at(&mut block, self.at)?;
        self.at += read as u64;
        self.unfinished.extend_from_slice(block.get(..read).unwrap_or_default());
        let whole = self.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        lines.extend(split(&self.unfinished[..whole], start));
        self.unfinished.drain(..whole);
        Ok(read > 0)
    }
}

/// Every file of an app, oldest first, each once whatever is rotated meanwhile.
fn open_all(folder: &Path) -> io::Result<Vec<Open>> {
    let newest = open_if_there(&folder.join(CURRENT))?;
    let mut files = Vec::new();
    for path in rotated_if_there(folder)? {
        files.extend(open_if_there(&path)?);
    }
    if let Some(newest) = newest {
        // Rotated in between: then those behind it are newer than our look, and come later.
        match files.iter().position(|open| open.inode == newest.inode) {
            Some(at) => files.truncate(at + 1),
            None => files.push(newest),
        }
    }
    Ok(files)
}

/// Where the last `lines` whole lines of a file begin and end.
pub(crate) fn last_lines(file: &File, size: u64, lines: usize) -> io::Result<(u64, u64)> {
    let mut end = None;
    let mut found = 0;
    let mut block_end = size;
    while block_end > 0 {
        let start = block_end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; usize::try_from(block_end - start).unwrap_or(BLOCK)];
        file.read_exact_at(&mut block, start)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            let end = *end.get_or_insert(after);
            if found == lines {
                return Ok((after, end));
            }
            found += 1;
        }
        block_end = start;
    }
    Ok((0, end.unwrap_or(0)))
}

/// Whole lines that begin here.
fn split(bytes: &[u8], mut mark: Mark) -> impl Iterator<Item = Read> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        mark.at += line.len() as u64;
        (as_text(line), mark)
    })
}

fn as_text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned()
}

fn was_rotated(folder: &Path, inode: u64) -> io::Result<bool> {
    match folder.join(CURRENT).metadata() {
        Ok(current) => Ok(current.ino() != inode),
        // Renamed, and the next one not made yet; or all of it removed.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// The file that was begun after this one.
fn successor(folder: &Path, inode: u64) -> io::Result<Option<Open>> {
    let mut files = open_all(folder)?;
    match files.iter().position(|open| open.inode == inode) {
        Some(at) if at + 1 < files.len() => Ok(Some(files.swap_remove(at + 1))),
        Some(_) => Ok(None),
        // It was removed already, so all that are there are newer.
        None if files.is_empty() => Ok(None),
        None => Ok(Some(files.swap_remove(0))),
    }
}

fn oldest_or_current(folder: &Path) -> io::Result<PathBuf> {
    let oldest = rotated_if_there(folder)?.into_iter().next();
    Ok(oldest.unwrap_or_else(|| folder.join(CURRENT)))
}

fn rotated_if_there(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match rotated_files(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<Open>> {
    match File::open(path) {
        Ok(file) => Open::of(file).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use doorbell_config::{name::ByteSize, spec::OutputSpec};

    use super::*;
    use crate::output::{AppLog, Logs};

    fn app() -> AppId {
        AppId::parse("blog").unwrap()
    }

    fn log(folder: &Path, max_size: u64, keep: usize) -> Arc<AppLog> {
        let logs = Logs::new(folder.into());
        logs.open(&app(), OutputSpec { max_size: ByteSize(max_size), keep })
    }

    fn write(log: &AppLog, numbers: std::ops::Range<u32>) {
        for n in numbers {
            log.write(format!("line {n}\n").as_bytes(), &mut |_| {}).1.unwrap();
        }
    }

    fn lines(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|n| format!("line {n}")).collect()
    }

    #[tokio::test]
    async fn tail_spans_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(tail(folder.path(), &app(), 5).await.unwrap().is_empty());
        write(&log(folder.path(), 40, 100), 0..50);
        assert_eq!(tail(folder.path(), &app(), 12).await.unwrap(), lines(38..50));
        assert_eq!(tail(folder.path(), &app(), 1).await.unwrap(), lines(49..50));
        assert_eq!(tail(folder.path(), &app(), 0).await.unwrap(), lines(0..0));
        assert_eq!(tail(folder.path(), &app(), 1000).await.unwrap(), lines(0..50));
    }

    #[tokio::test]
    async fn follow_loses_and_repeats_nothing_across_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 200, 1000);
        write(&log, 0..10);
        let mut follow = follow(folder.path(), &app(), 3).await.unwrap();
        let writer = tokio::task::spawn_blocking(move || write(&log, 10..3000));
        for n in 7..3000 {
            assert_eq!(follow.next_line().await.unwrap(), format!("line {n}"));
        }
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn follow_waits_for_an_app_that_never_ran() {
        let folder = tempfile::tempdir().unwrap();
        let mut follow = follow(folder.path(), &app(), 10).await.unwrap();
        write(&log(folder.path(), 20, 100), 0..10);
        for n in 0..10 {
            assert_eq!(follow.next_line().await.unwrap(), format!("line {n}"));
        }
    }
}
