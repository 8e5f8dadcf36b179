//! A capture from the pipe to the files, with an earlier one that was killed at each moment.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use doorbell_config::{
    name::{AppId, ByteSize},
    spec::OutputSpec,
};
use rustix::io::ioctl_fionread;
use tempfile::TempDir;

use super::{
    AppLog, CURRENT, Capture, Logs, OutputPipe, Tail,
    cut::Ending,
    mark::Record,
    rotate::{Spot, rotated_files},
};

/// An app's end of its pipe, and what is kept of it.
struct Stage {
    folder: TempDir,
    max_size: u64,
    apps: File,
    tail: Arc<Tail>,
}

impl Stage {
    fn new() -> (Self, OutputPipe) {
        Self::with_files_of(1_000_000)
    }

    fn with_files_of(max_size: u64) -> (Self, OutputPipe) {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, apps) = OutputPipe::create(&folder.path().join("1.out")).unwrap();
        (Self { folder, max_size, apps: apps.into(), tail: Arc::default() }, pipe)
    }

    fn print(&mut self, text: impl AsRef<[u8]>) {
        self.apps.write_all(text.as_ref()).unwrap();
    }

    /// More than the pipe takes: 5,000 lines.
    async fn print_much(mut self) -> Self {
        let line = "x".repeat(99);
        let printing = tokio::task::spawn_blocking(move || {
            for _ in 0..5000 {
                self.print(format!("{line}\n"));
            }
            self
        });
        printing.await.unwrap()
    }

    fn log(&self) -> Arc<AppLog> {
        let logs = Logs::new(self.folder.path().join("log"));
        let spec = OutputSpec { max_size: ByteSize(self.max_size), keep: 1000 };
        logs.open(&AppId::parse("app").unwrap(), spec)
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("log/app")
    }

    fn capture(&self, pipe: OutputPipe) -> Capture {
        Capture::start(pipe, self.log(), self.tail.clone()).unwrap()
    }

    fn reopen(&self) -> OutputPipe {
        OutputPipe::reopen(&self.folder.path().join("1.out")).unwrap()
    }

    /// A later capture, from its beginning to its end.
    async fn take_up(&self) -> String {
        self.capture(self.reopen()).finish().await;
        self.written()
    }

    fn written(&self) -> String {
        read_all(&self.logs())
    }

    async fn until_written(&self, text: &str) {
        until(|| self.written().contains(text)).await;
    }

    fn waiting(&self) -> u64 {
        ioctl_fionread(self.apps.as_fd()).unwrap()
    }
}

/// Every file of a log in one.
pub(super) fn read_all(folder: &Path) -> String {
    let mut files = rotated_files(folder).unwrap_or_default();
    files.push(folder.join(CURRENT));
    let read = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
    read.collect()
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let seen = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("it comes true");
}

#[tokio::test]
async fn lines_stay_whole_and_in_order_however_they_are_printed() {
    let (mut stage, pipe) = Stage::with_files_of(5000);
    let capture = stage.capture(pipe);
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let printed = text.clone();
    let printing = tokio::task::spawn_blocking(move || {
        let mut left = printed.as_bytes();
        for size in [1, 7, 100, 5000, 3, 40_000].into_iter().cycle() {
            let (piece, rest) = left.split_at(usize::min(size, left.len()));
            stage.print(piece);
            left = rest;
            if left.is_empty() {
                return stage;
            }
        }
        unreachable!("it goes round for ever")
    });
    let stage = printing.await.unwrap();
    capture.finish().await;
    assert_eq!(stage.written(), text);
    assert_eq!(stage.tail.lines().last().unwrap(), "line 19999");
    assert_eq!(fs::read_dir(stage.folder.path()).unwrap().count(), 1, "only the log is left");
}

#[tokio::test]
async fn a_line_waits_in_the_pipe_for_its_end() {
    let (mut stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    stage.print("one\ntw");
    stage.until_written("one\n").await;
    until(|| stage.waiting() == 2).await;
    capture.settle().await;
    assert_eq!(stage.tail.lines(), ["one"]);
    stage.print("o\n");
    stage.until_written("two\n").await;
    stage.print("three");
    capture.finish().await;
    assert_eq!(stage.written(), "one\ntwo\nthree\n");
    assert_eq!(stage.tail.lines(), ["one", "two", "three"]);
}

#[tokio::test]
async fn a_large_write_behind_the_beginning_of_a_line_is_seen() {
    let (mut stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    stage.print("begin");
    until(|| stage.waiting() == 5).await;
    let line = format!("{}\n", "x".repeat(999));
    let text = format!("begin{}", line.repeat(2000));
    let printed = text.clone();
    let printing = tokio::task::spawn_blocking(move || {
        stage.print(&printed.as_bytes()[5..]);
        stage
    });
    let stage = printing.await.unwrap();
    capture.finish().await;
    assert!(stage.written() == text, "{} bytes", stage.written().len());
}

#[tokio::test]
async fn the_last_line_of_an_app_that_is_gone_needs_no_end() {
    let (mut stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    stage.print("last words");
    stage.apps = File::open("/dev/null").unwrap();
    stage.until_written("last words\n").await;
    capture.settle().await;
    assert_eq!(stage.tail.lines(), ["last words"]);
    capture.finish().await;
    assert_eq!(stage.written(), "last words\n");
}

#[tokio::test]
async fn lines_that_are_too_long_come_in_pieces() {
    let (mut stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    let printing = tokio::task::spawn_blocking(move || {
        stage.print(format!("a\n{}\nb\n", "x".repeat(300_000)));
        stage
    });
    let stage = printing.await.unwrap();
    stage.until_written("b\n").await;
    capture.finish().await;
    let written = stage.written();
    let lines: Vec<&str> = written.lines().collect();
    let mark = " [doorbell: line continues]";
    assert!(lines[1..5].iter().all(|line| line.len() == 65536 + mark.len()));
    assert_eq!(written.replace(&format!("{mark}\n"), "").len(), 300_005);
    assert_eq!((lines[0], *lines.last().unwrap()), ("a", "b"));
}

#[tokio::test]
async fn a_pipe_that_is_full_of_crumbs_is_emptied() {
    let (stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    // What is spliced in has a page of its own, however small.
    let printing = tokio::task::spawn_blocking(move || {
        let (reader, writer) = std::io::pipe().unwrap();
        for _ in 0..300 {
            (&writer).write_all(b"x").unwrap();
            let flags = rustix::pipe::SpliceFlags::empty();
            rustix::pipe::splice(&reader, None, &stage.apps, None, 1, flags).unwrap();
        }
        stage
    });
    let stage = printing.await.unwrap();
    capture.finish().await;
    assert_eq!(stage.written().matches('x').count(), 300);
}

#[tokio::test]
async fn nothing_leaves_the_pipe_before_it_is_written() {
    let (mut stage, pipe) = Stage::new();
    let log = stage.log();
    // The disk hangs: the pipe in place of a file is full.
    fs::create_dir_all(stage.logs()).unwrap();
    let (disk, theirs) = OutputPipe::create(&stage.logs().join(CURRENT)).unwrap();
    let filled = fill(&theirs);
    let capture = Capture::start(pipe, log, stage.tail.clone()).unwrap();
    stage.print("one\n");
    until(|| !stage.tail.lines().is_empty()).await;
    stage.print("two\n");
    capture.settle().await;
    assert_eq!(stage.tail.lines(), ["one", "two"]);
    tokio::time::sleep(super::capture::PATIENCE + Duration::from_millis(300)).await;
    assert_eq!(stage.waiting(), 8, "there is room, so nothing is dropped");
    // Now there is none.
    let stage = stage.print_much().await;
    let reading = read_in_background(&disk, filled);
    until(|| stage.waiting() == 0).await;
    capture.finish().await;
    drop((disk, theirs));
    let log = reading.join().unwrap();
    let lost: usize = lost_lines(&log);
    let kept = log.lines().filter(|line| line.starts_with('x')).count();
    assert!(log.starts_with("one\n"), "{}", &log[..20]);
    assert_eq!(lost + kept, 5001, "but for the first, every line is there or counted");
}

#[tokio::test]
async fn what_cannot_be_written_waits_in_the_pipe_and_is_counted_when_that_is_full() {
    let (mut stage, pipe) = Stage::new();
    fs::create_dir_all(stage.logs().parent().unwrap()).unwrap();
    fs::write(stage.logs(), "in the way").unwrap();
    stage.print("one\ntwo\n");
    let capture = stage.capture(pipe);
    capture.say("ours".into()).await;
    until(|| stage.tail.lines() == ["one", "two"]).await;
    stage.print("three\n");
    assert_eq!(stage.waiting(), 14, "it stays in the pipe");
    fs::remove_file(stage.logs()).unwrap();
    stage.until_written("three\n").await;
    until(|| stage.waiting() == 0).await;
    // When ours was said is up to the clock; what the app printed keeps its order.
    let (ours, printed): (Vec<_>, Vec<_>) =
        stage.written().lines().map(str::to_owned).partition(|line| line.starts_with('['));
    assert_eq!(
        (ours, printed),
        (vec!["[doorbell] ours".into()], ["one", "two", "three"].map(str::to_owned).to_vec())
    );
    assert_eq!(stage.tail.lines(), ["one", "two", "three"]);
    capture.finish().await;

    // More than the pipe takes, and the app does not wait for ever.
    fs::rename(stage.logs(), stage.folder.path().join("aside")).unwrap();
    fs::write(stage.logs(), "in the way").unwrap();
    let (pipe, apps) = OutputPipe::create(&stage.folder.path().join("2.out")).unwrap();
    stage.apps = apps.into();
    let capture = stage.capture(pipe);
    let stage = stage.print_much().await;
    fs::remove_file(stage.logs()).unwrap();
    until(|| stage.waiting() == 0).await;
    capture.finish().await;
    let log = stage.written();
    let kept = log.lines().filter(|line| line.starts_with('x')).count();
    assert!(log.contains("lines lost: File exists"), "{}", &log[..100]);
    assert_eq!(lost_lines(&log) + kept, 5000, "every line is there or counted");
}

fn fill(pipe: &std::os::fd::OwnedFd) -> usize {
    let mut pipe = File::from(pipe.try_clone().unwrap());
    let flags = rustix::fs::fcntl_getfl(&pipe).unwrap();
    rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let filled = std::iter::from_fn(|| pipe.write(&[b'-'; 4096]).ok()).sum();
    rustix::fs::fcntl_setfl(&pipe, flags).unwrap();
    filled
}

/// What comes behind what filled the pipe, until the line that tells of lost ones and all after.
fn read_in_background(disk: &OutputPipe, filled: usize) -> std::thread::JoinHandle<String> {
    let mut disk = File::from(disk.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut block = vec![0; 65536];
        loop {
            match std::io::Read::read(&mut disk, &mut block) {
                Ok(0) => break,
                Ok(read) => seen.extend_from_slice(&block[..read]),
                Err(_) => std::thread::yield_now(),
            }
        }
        String::from_utf8(seen.split_off(filled)).unwrap()
    })
}

fn lost_lines(log: &str) -> usize {
    let told = log.lines().filter_map(|line| line.strip_prefix("[doorbell] "));
    told.filter_map(|line| line.split(' ').next()?.parse::<usize>().ok()).sum()
}

#[tokio::test]
async fn what_was_lost_is_told_at_the_end_though_nothing_more_is_said() {
    let (stage, pipe) = Stage::new();
    let log = stage.log();
    log.count_lost(3, "the disk was away");
    let capture = Capture::start(pipe, log, stage.tail.clone()).unwrap();
    capture.finish().await;
    assert_eq!(stage.written(), "[doorbell] 3 lines lost: the disk was away\n");
}

#[tokio::test]
async fn a_capture_that_is_dropped_lets_go_of_what_it_did_not_write() {
    let (mut stage, pipe) = Stage::new();
    let capture = stage.capture(pipe);
    stage.print("one\ntw");
    stage.until_written("one\n").await;
    drop(capture);
    stage.print("o\n");
    assert_eq!(stage.take_up().await, "one\ntwo\n");
}

/// Notes a batch as an earlier reader did, which had written so much of it.
fn leave_mark(stage: &Stage, pipe: &OutputPipe, batch: &str, written: usize) {
    let current = stage.logs().join(CURRENT);
    let found = fs::metadata(&current).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&found);
    let spot = Spot { done: 0, inode, offset: found.len() };
    pipe.mark.set(&Record::of(batch.as_bytes(), Ending::Whole, spot)).unwrap();
    let mut file = File::options().append(true).open(current).unwrap();
    file.write_all(&batch.as_bytes()[..written]).unwrap();
}

/// An app that printed `one` before, which is written, and now a batch.
fn begun(batch: &str) -> (Stage, OutputPipe) {
    let (mut stage, pipe) = Stage::new();
    stage.log().write(b"one\n", &mut |_| {}).1.unwrap();
    stage.print(batch);
    (stage, pipe)
}

#[tokio::test]
async fn a_kill_before_anything_is_written_loses_nothing() {
    let (stage, pipe) = begun("two\nthree\n");
    drop(pipe);
    assert_eq!(stage.take_up().await, "one\ntwo\nthree\n");
}

#[tokio::test]
async fn a_kill_at_each_byte_of_a_write_repeats_and_tears_nothing() {
    for written in 0..=10 {
        let (mut stage, pipe) = begun("two\nthree\n");
        leave_mark(&stage, &pipe, "two\nthree\n", written);
        drop(pipe);
        stage.print("four\n");
        assert_eq!(stage.take_up().await, "one\ntwo\nthree\nfour\n", "{written}");
        assert_eq!(stage.tail.lines().last().unwrap(), "four");
    }
}

#[tokio::test]
async fn a_kill_among_equal_lines_keeps_their_number() {
    for written in 0..=12 {
        let (mut stage, pipe) = begun("one\none\none\n");
        leave_mark(&stage, &pipe, "one\none\none\n", written);
        drop(pipe);
        stage.print("one\none\n");
        assert_eq!(stage.take_up().await, "one\n".repeat(6), "{written}");
    }
}

#[tokio::test]
async fn a_kill_before_the_mark_is_cleared_repeats_and_skips_nothing() {
    let (mut stage, pipe) = begun("two\n");
    leave_mark(&stage, &pipe, "two\n", 4);
    rustix::io::read(&pipe.reader, &mut [0; 4]).unwrap();
    drop(pipe);
    stage.print("two and more\n");
    assert_eq!(stage.take_up().await, "one\ntwo\ntwo and more\n");
}

#[tokio::test]
async fn a_kill_between_two_files_repeats_nothing() {
    let (mut stage, pipe) = Stage::with_files_of(8);
    stage.log().write(b"one\n", &mut |_| {}).1.unwrap();
    stage.print("two\nthree\nfour\n");
    leave_mark(&stage, &pipe, "two\nthree\nfour\n", 4);
    drop(pipe);
    // Another instance of the app goes on first, and with another file.
    stage.log().write(b"other\n", &mut |_| {}).1.unwrap();
    let written = stage.take_up().await;
    assert_eq!(written, "one\ntwo\nother\nthree\nfour\n");
}

#[tokio::test]
async fn what_an_app_left_is_read_from_an_end_that_was_held() {
    let (mut stage, pipe) = begun("two\nthree\nlast");
    leave_mark(&stage, &pipe, "two\nthree\n", 6);
    let held = pipe.try_clone().unwrap();
    let path = pipe.path().to_owned();
    drop(pipe);
    stage.apps = File::open("/dev/null").unwrap();
    let capture = stage.capture(OutputPipe::from_held(held, &path).unwrap());
    stage.until_written("last\n").await;
    capture.finish().await;
    assert_eq!(stage.written(), "one\ntwo\nthree\nlast\n");
}
