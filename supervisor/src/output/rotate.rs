//! One app's log files: appended to in whole lines, rotated by size.
//!
//! Everything here blocks on the disk, and is called from blocking threads.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use doorbell_config::spec::OutputSpec;

use super::{CURRENT, OURS, calendar::utc, current::Current, moves::Moves, whereabouts::Place};

/// The log files of one app.
#[derive(Debug)]
pub(crate) struct AppLog {
    /// Held while a disk takes its time.
    file: Mutex<RotatingFile>,
    /// Never held for long.
    pub(super) spec: Arc<Mutex<OutputSpec>>,
    /// Where the files are; the app may be renamed.
    pub(super) place: Arc<Place>,
}

#[derive(Debug)]
struct RotatingFile {
    moves: Arc<Moves>,
    place: Arc<Place>,
    spec: Arc<Mutex<OutputSpec>>,
    current: Option<Current>,
    /// Whether the last line may have no end: a write failed, or an earlier Doorbell was killed while it wrote.
    is_torn: bool,
    lost: Lost,
}

/// Where a part of what is appended begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Bytes that stand before it, in other files.
    pub(crate) done: u64,
    /// The file that takes it.
    pub(crate) inode: u64,
    pub(crate) offset: u64,
}

/// Lines that were not written, and why not.
#[derive(Debug, Default)]
struct Lost {
    lines: u64,
    reason: String,
}

impl AppLog {
    pub(super) fn new(moves: &Arc<Moves>, folder: PathBuf, spec: OutputSpec) -> Self {
        let spec = Arc::new(Mutex::new(spec));
        let place = Place::at(folder);
        let file = RotatingFile {
            moves: Arc::clone(moves),
            place: place.clone(),
            spec: spec.clone(),
            current: None,
            is_torn: true,
            lost: Lost::default(),
        };
        Self { file: Mutex::new(file), spec, place }
    }

    /// Appends whole lines, and tells before each write where it begins: one file may take some of them,
    /// and the next one the rest. Gives the bytes of those that stand there, and why the others do not.
    pub(crate) fn write(
        &self,
        lines: &[u8],
        note: &mut dyn FnMut(Spot),
    ) -> (usize, io::Result<()>) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(lines, note)
    }

    /// The files are kept like this from here on.
    pub(super) fn keep_as(&self, spec: OutputSpec) {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
    }

    /// The folder of the files.
    pub(super) fn folder(&self) -> PathBuf {
        self.place.folder()
    }

    /// Counts lines that were dropped before they came here.
    pub(crate) fn count_lost(&self, lines: u64, reason: &str) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).lost.add(lines, reason);
    }
}

impl Lost {
    fn add(&mut self, lines: u64, reason: &str) {
        self.lines += lines;
        self.reason = reason.into();
    }
}

impl RotatingFile {
    fn spec(&self) -> OutputSpec {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&mut self, lines: &[u8], note: &mut dyn FnMut(Spot)) -> (usize, io::Result<()>) {
        let mut rest = lines;
        let Err(error) = self.own_up().and_then(|()| self.write_all(&mut rest, note)) else {
            return (lines.len(), Ok(()));
        };
        // It may have been the file, or its folder. A line that was torn is cut off when it is opened anew.
        self.current = None;
        self.is_torn = true;
        let done = lines.get(..lines.len() - rest.len()).unwrap_or_default();
        (done.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1), Err(error))
    }

    /// Says what was lost, now that something can be written again.
    fn own_up(&mut self) -> io::Result<()> {
        if self.lost.lines == 0 {
            return Ok(());
        }
        let words = format!("{OURS}{} lines lost: {}\n", self.lost.lines, self.lost.reason);
        self.write_all(&mut words.as_bytes(), &mut |_| {})?;
        self.lost = Lost::default();
        Ok(())
    }

    /// Writes whole lines; what is left of `lines` afterwards was not written.
    fn write_all(&mut self, lines: &mut &[u8], note: &mut dyn FnMut(Spot)) -> io::Result<()> {
        let all = lines.len();
        while !lines.is_empty() {
            let max = self.spec().max_size.0;
            let size = self.current()?.size;
            let fitting = whole_lines(lines, max.saturating_sub(size));
            if fitting == 0 && size > 0 {
                self.rotate()?;
                continue;
            }
            // A line that is larger than a file gets one of its own.
            let piece = if fitting == 0 { first_line(lines) } else { fitting };
            let done = (all - lines.len()) as u64;
            let current = self.current()?;
            note(Spot { done, inode: current.inode, offset: current.size });
            self.write_piece(lines, piece)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, lines: &mut &[u8], piece: usize) -> io::Result<()> {
        let end = lines.len() - piece;
        while lines.len() > end {
            let (ready, _) = lines.split_at(lines.len() - end);
            let current = self.current()?;
            match current.file.write(ready) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    current.size += written as u64;
                    *lines = lines.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn current(&mut self) -> io::Result<&mut Current> {
        let current = match self.current.take() {
            Some(current) => current,
            None => {
                let _still = self.moves.hold();
                Current::open(&self.folder(), self.is_torn)?
            }
        };
        self.is_torn = false;
        Ok(self.current.insert(current))
    }

    fn folder(&self) -> PathBuf {
        self.place.folder()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.current = None;
        let moves = Arc::clone(&self.moves);
        let _still = moves.hold();
        let folder = self.folder();
        fs::rename(folder.join(CURRENT), free_name(&folder)?)?;
        let rotated = rotated_files(&folder)?;
        let surplus = rotated.len().saturating_sub(self.spec().keep);
        for old in rotated.iter().take(surplus) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// A name that sorts behind every other.
fn free_name(folder: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let newest = rotated_files(folder)?.pop();
    // The clock may have been set back, or stand still between two small files.
    let mut micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    loop {
        let name = folder.join(format!("{}.log", utc(Duration::from_micros(micros))));
        match &newest {
            Some(newest) if name <= *newest => micros += step_past(&name, newest),
            Some(_) | None => return Ok(name),
        }
    }
}

/// Microseconds to go on by: little for an equal name, a day at a time behind a clock set back.
fn step_past(name: &Path, newest: &Path) -> u64 {
    const DAY: u64 = 86_400_000_000;
    let day = |path: &Path| {
        path.file_name().map(|name| name.as_encoded_bytes().get(..8).map(<[u8]>::to_vec))
    };
    if day(name) == day(newest) { 1 } else { DAY }
}

/// Rotated files, oldest first.
pub(crate) fn rotated_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && path.file_name().is_some_and(|name| name != CURRENT) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes of the whole lines that fit.
fn whole_lines(lines: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    let fitting = lines.get(..room).unwrap_or_default();
    fitting.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1)
}

pub(super) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use doorbell_config::name::ByteSize;

    use super::*;

    fn log(folder: &Path, max_size: u64, keep: usize) -> AppLog {
        let moves = Arc::new(Moves::within(folder.into()));
        AppLog::new(&moves, folder.into(), OutputSpec { max_size: ByteSize(max_size), keep })
    }

    fn append(log: &AppLog, lines: &str) {
        let (written, outcome) = log.write(lines.as_bytes(), &mut |_| {});
        outcome.unwrap();
        assert_eq!(written, lines.len());
    }

    fn read_all(folder: &Path) -> String {
        let mut files = rotated_files(folder).unwrap();
        files.push(folder.join(CURRENT));
        files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
    }

    #[test]
    fn lines_stay_whole_and_in_order_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 100, 1000);
        let lines: Vec<String> = (0..500).map(|n| format!("line {n}\n")).collect();
        for batch in lines.chunks(7) {
            append(&log, &batch.concat());
        }
        assert_eq!(read_all(folder.path()), lines.concat());
        for file in rotated_files(folder.path()).unwrap() {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.len() <= 100 && text.ends_with('\n'), "{text:?}");
        }
    }

    #[test]
    fn the_oldest_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 10, 2);
        for n in 0..9 {
            append(&log, &format!("line {n}..\n"));
        }
        assert_eq!(read_all(folder.path()), "line 6..\nline 7..\nline 8..\n");
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 10, 0);
        append(&log, "one line\ntwo line\n");
        assert_eq!(read_all(folder.path()), "two line\n");
    }

    #[test]
    fn a_line_larger_than_a_file_has_one_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 10, 9);
        append(&log, "a\nbbbbbbbbbbbbbbbbbbbb\nc\n");
        assert_eq!(read_all(folder.path()), "a\nbbbbbbbbbbbbbbbbbbbb\nc\n");
        assert_eq!(rotated_files(folder.path()).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_written_is_left_and_what_was_lost_is_owned_up_to() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        fs::write(&app, "in the way").unwrap();
        let log = log(&app, 1000, 1);
        let (written, outcome) = log.write(b"one\ntwo\n", &mut |_| {});
        assert_eq!((written, outcome.unwrap_err().kind()), (0, io::ErrorKind::AlreadyExists));
        log.count_lost(3, "slow");
        fs::remove_file(&app).unwrap();
        append(&log, "one\n");
        assert_eq!(read_all(&app), "[doorbell] 3 lines lost: slow\none\n");
    }

    #[test]
    fn a_line_that_a_kill_tore_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CURRENT), "one\ntwo\nthr").unwrap();
        let mut spots = Vec::new();
        let log = log(folder.path(), 14, 9);
        let note = &mut |spot: Spot| spots.push((spot.done, spot.offset));
        log.write(b"three\nfour\n", note).1.unwrap();
        assert_eq!(read_all(folder.path()), "one\ntwo\nthree\nfour\n");
        assert_eq!(spots, [(0, 8), (6, 0)]);
    }

    #[test]
    fn files_are_for_owner_and_group_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        append(&log(&app, 1000, 1), "x\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&app.join(CURRENT)) & !0o640, 0);
        assert_eq!(mode(&app) & !0o750, 0);
    }
}
