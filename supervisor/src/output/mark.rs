//! What is being written, noted beside the pipe, so that a kill repeats and skips nothing.
//!
//! Bytes leave an app's pipe only when they stand in its log. A kill between the two would bring them
//! again; so before they are written, the mark says how many they are, their sum, and where in which
//! file they begin, and it is cleared when they have left the pipe. Who takes up the pipe looks there
//! (`take_up`): if the front of the pipe has the sum that is noted, it was not taken away yet, and as
//! much of it as stands in the log is taken away now. Nothing is guessed from what lines look like.
//!
//! What a SIGKILL does at each moment:
//!
//! - before the mark: nothing was written, and all is in the pipe;
//! - while the log is written: the lines that are whole in it leave the pipe, a torn one is cut off
//!   (`current`) and comes again with the rest;
//! - before the bytes leave the pipe: they leave it now;
//! - before the mark is cleared: the front of the pipe has another sum, so it is something new.
//!
//! So no line is lost by a kill, and none is repeated. Lines are skipped in one case only: the kill
//! hits between the last two, which are two system calls in a row, and what lies at the front of the
//! pipe by then is byte for byte what was just written. Then that repetition is taken for it.
//!
//! What was given up because the disk hung is dropped, and its number forgotten by a kill. A kill of
//! the machine, and not of us, may lose what the disk does not have yet.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{
    CURRENT,
    cut::Ending,
    rotate::{Spot, rotated_files},
};

/// Numbers in a record, and its bytes. All of it stands in one page, and is written at once.
const NUMBERS: usize = 6;
const RECORD: usize = NUMBERS * 8;

/// The file beside the pipe.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

/// Some bytes at the front of a pipe that are being written to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Bytes in the pipe.
    pub(super) length: u64,
    pub(super) sum: u64,
    pub(super) ending: Ending,
    pub(super) spot: Spot,
}

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Self { file: options.open(path)? })
    }

    /// What is noted; `None` if nothing is under way.
    pub(super) fn read(&self) -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD];
        match self.file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            other => other.map(|()| Record::parse(&bytes)),
        }
    }

    pub(super) fn set(&self, record: &Record) -> io::Result<()> {
        self.file.write_all_at(&record.bytes(), 0)
    }

    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; RECORD], 0)
    }
}

impl Record {
    /// A record of these bytes, which begin in a log at this spot.
    pub(super) fn of(bytes: &[u8], ending: Ending, spot: Spot) -> Self {
        Self { length: bytes.len() as u64, sum: sum(bytes), ending, spot }
    }

    fn bytes(&self) -> [u8; RECORD] {
        let ending = match self.ending {
            Ending::Whole => 0,
            Ending::Continued => 1,
            Ending::Ended => 2,
        };
        let Spot { done, inode, offset } = self.spot;
        let mut bytes = [0; RECORD];
        let numbers = [self.length, self.sum, ending, done, inode, offset];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    fn parse(bytes: &[u8; RECORD]) -> Option<Self> {
        let mut numbers = bytes.as_chunks::<8>().0.iter().map(|place| u64::from_le_bytes(*place));
        let (length, sum) = (numbers.next()?, numbers.next()?);
        let ending = match numbers.next()? {
            0 => Ending::Whole,
            1 => Ending::Continued,
            2 => Ending::Ended,
            _ => return None,
        };
        let (done, inode, offset) = (numbers.next()?, numbers.next()?, numbers.next()?);
        (length > 0).then_some(Self { length, sum, ending, spot: Spot { done, inode, offset } })
    }

    /// How many bytes at the front of a pipe stand in the log and were not taken away.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(super) fn written_of(&self, front: &[u8], folder: &Path) -> io::Result<usize> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let Some(batch) = front.get(..length).filter(|batch| sum(batch) == self.sum) else {
            return Ok(0);
        };
        let text = [batch, self.ending.words()].concat();
        let done = usize::try_from(self.spot.done).unwrap_or(usize::MAX).min(text.len());
        let (before, piece) = text.split_at(done);
        let found = match open_inode(folder, self.spot.inode)? {
            Some(file) => read_at_most(&file, piece.len(), self.spot.offset)?,
            None => Vec::new(),
        };
        let same = piece.iter().zip(&found).take_while(|(one, other)| one == other).count();
        let whole = piece[..same].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let written = before.len() + whole;
        // What we added to a line is no part of the pipe's.
        Ok(if written == text.len() { length } else { written.min(length) })
    }
}

/// A number that tells one batch from the next, and is quickly made. Nobody gains by a collision.
fn sum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let all = words.chain(rest.iter().map(|byte| u64::from(*byte)));
    all.fold(bytes.len() as u64, |sum, word| (sum.rotate_left(23) ^ word).wrapping_mul(FACTOR))
}

/// The file of a log that has this inode.
fn open_inode(folder: &Path, inode: u64) -> io::Result<Option<File>> {
    // The current one first: if it is rotated meanwhile, it is among the others.
    if let Some(file) = open_if(&folder.join(CURRENT), inode)? {
        return Ok(Some(file));
    }
    let rotated = match rotated_files(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut found = rotated.iter().rev().filter_map(|path| open_if(path, inode).transpose());
    found.next().transpose()
}

/// Opens a file if it has this inode, and was not removed for its age.
fn open_if(path: &Path, inode: u64) -> io::Result<Option<File>> {
    let opened = path.metadata().and_then(|found| {
        let is_it = found.is_file() && found.ino() == inode;
        is_it.then(|| File::open(path)).transpose()
    });
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

fn read_at_most(file: &File, most: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut found = vec![0; most];
    let mut read = 0;
    while let Some(left) = found.get_mut(read..).filter(|left| !left.is_empty()) {
        match file.read_at(left, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    found.truncate(read);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BATCH: &[u8] = b"one\ntwo\nthree\n";

    /// A log that holds this text, and a record of a batch that begins at the offset.
    fn written(log: &str, offset: u64, front: &[u8]) -> usize {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CURRENT), log).unwrap();
        let inode = fs::metadata(folder.path().join(CURRENT)).unwrap().ino();
        let record = Record::of(BATCH, Ending::Whole, Spot { done: 0, inode, offset });
        record.written_of(front, folder.path()).unwrap()
    }

    #[test]
    fn is_read_as_it_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark::open(&folder.path().join("1.mark")).unwrap();
        assert_eq!(mark.read().unwrap(), None);
        let spot = Spot { done: 7, inode: u64::MAX, offset: 9 };
        for ending in [Ending::Whole, Ending::Continued, Ending::Ended] {
            let record = Record::of(BATCH, ending, spot);
            mark.set(&record).unwrap();
            assert_eq!(mark.read().unwrap(), Some(record));
        }
        mark.clear().unwrap();
        assert_eq!(mark.read().unwrap(), None);
    }

    #[test]
    fn what_stands_in_the_log_is_known_however_much_it_is() {
        let front = b"one\ntwo\nthree\nfour\n";
        assert_eq!(written("zero\none\ntwo\nthree\n", 5, front), BATCH.len());
        assert_eq!(written("zero\none\ntwo\nthree\n[doorbell] x\n", 5, front), BATCH.len());
        assert_eq!(written("zero\none\ntw", 5, front), 4);
        assert_eq!(written("zero\none\n[doorbell] x\n", 5, front), 4);
        assert_eq!(written("zero\n", 5, front), 0);
        assert_eq!(written("", 5, front), 0);
    }

    #[test]
    fn equal_lines_that_were_written_before_do_not_count() {
        assert_eq!(written("one\ntwo\nthree\n", 14, BATCH), 0);
    }

    #[test]
    fn what_was_taken_away_already_is_not_taken_twice() {
        let log = "one\ntwo\nthree\n";
        assert_eq!(written(log, 0, b"four\n"), 0);
        assert_eq!(written(log, 0, b"one\ntwo\ntree\nsix\n"), 0);
        assert_eq!(written(log, 0, b""), 0);
    }

    #[test]
    fn a_batch_may_straddle_files() {
        let folder = tempfile::tempdir().unwrap();
        let inode = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            fs::metadata(folder.path().join(name)).unwrap().ino()
        };
        let rotated = inode("20260131T235959.000000Z.log", "one\n");
        let current = inode(CURRENT, "two\nthree\n");
        let written = |done, inode| {
            let record = Record::of(BATCH, Ending::Whole, Spot { done, inode, offset: 0 });
            record.written_of(BATCH, folder.path()).unwrap()
        };
        assert_eq!(written(4, current), BATCH.len());
        assert_eq!(written(0, rotated), 4);
        // Noted, rotated, and removed since.
        assert_eq!(written(4, u64::MAX), 4);
    }

    #[test]
    fn a_piece_counts_when_all_of_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CURRENT);
        let written = |text: &str| {
            fs::write(&path, text).unwrap();
            let spot = Spot { done: 0, inode: path.metadata().unwrap().ino(), offset: 0 };
            let record = Record::of(b"piece", Ending::Continued, spot);
            record.written_of(b"pieces", folder.path()).unwrap()
        };
        assert_eq!(written("piece [doorbell: line continues]\n"), 5);
        assert_eq!(written("piece [doorb"), 0);
    }
}
