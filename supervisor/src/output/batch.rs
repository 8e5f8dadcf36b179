//! The part of a capture that blocks on the disk: bytes on their way from an app's pipe to its log.

use std::io;

use super::{
    AppLog,
    cut::Cut,
    intake::Intake,
    mark::Record,
    rotate::{Spot, count_lines},
};

/// The front of a pipe, to be written.
#[derive(Debug)]
pub(super) struct Batch {
    /// As they are in the pipe; more may stand behind them.
    pub(super) bytes: Vec<u8>,
    pub(super) cut: Cut,
    /// Whether nobody will come for what cannot be written now.
    pub(super) is_last: bool,
}

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Lines that were dropped before.
    pub(super) lost: u64,
    /// Why, if not because the disk hung.
    pub(super) lost_because: Option<String>,
    /// Lines of ours.
    pub(super) said: Vec<u8>,
    pub(super) batch: Option<Batch>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// For the next batch.
    pub(super) memory: Vec<u8>,
    /// Lines of ours that were not written.
    pub(super) said: Vec<u8>,
    /// Bytes of the batch that stay in the pipe.
    pub(super) left: usize,
    /// Why something is left.
    pub(super) stuck: Option<io::Error>,
}

impl Work {
    /// Writes, then takes what was written out of the pipe.
    pub(super) fn perform(mut self, intake: &Intake, log: &AppLog) -> Written {
        if self.lost > 0 {
            let hung = || "the disk did not take them in time".to_owned();
            log.count_lost(self.lost, &self.lost_because.unwrap_or_else(hung));
        }
        // Without a batch these are the last words, or all there is: what was lost before is owed still.
        if self.lost > 0 || !self.said.is_empty() || self.batch.is_none() {
            let (written, outcome) = log.write(&self.said, &mut |_| {});
            self.said.drain(..written);
            if let Err(error) = outcome {
                let left = self.batch.map_or(0, |mut batch| batch.give_up(0, &error, intake, log));
                return Written { said: self.said, left, stuck: Some(error), ..Written::default() };
            }
        }
        self.batch.map_or_else(Written::default, |batch| batch.write(intake, log))
    }
}

impl Batch {
    fn write(mut self, intake: &Intake, log: &AppLog) -> Written {
        let Cut { length, ending } = self.cut;
        self.bytes.truncate(length);
        let mut record = Record::of(&self.bytes, ending, Spot::default());
        self.bytes.extend_from_slice(ending.words());
        let (written, outcome) = log.write(&self.bytes, &mut |spot| {
            record.spot = spot;
            told(intake.mark.set(&record));
        });
        let (left, stuck) = match outcome {
            Ok(()) => {
                intake.take_in_flight(&mut self.bytes);
                (0, None)
            }
            Err(error) => (self.give_up(written, &error, intake, log), Some(error)),
        };
        told(intake.mark.clear());
        self.bytes.clear();
        Written { memory: self.bytes, left, stuck, ..Written::default() }
    }

    /// What stands in the log leaves the pipe, and the rest stays for the next try; tells how much that is. It
    /// is lost, and counted, if there is none, or somebody has taken it out of the pipe for the app's sake.
    fn give_up(
        &mut self,
        written: usize,
        error: &io::Error,
        intake: &Intake,
        log: &AppLog,
    ) -> usize {
        let rest = count_lines(self.bytes.get(written..).unwrap_or_default());
        let leaves = if self.is_last { self.cut.length } else { written.min(self.cut.length) };
        let left = intake.take_of_flight(leaves, &mut self.bytes);
        if self.is_last || left.is_none() {
            log.count_lost(rest, &error.to_string());
        }
        left.unwrap_or(0)
    }
}

/// Without a mark the lines are safe, but a kill at the wrong moment brings some of them twice.
fn told(noted: io::Result<()>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "cannot note what is written of an app's output");
    }
}

/// Ends what an earlier reader was about: takes away what it had written, and returns that.
pub(super) fn settle(intake: &Intake, log: &AppLog, record: &Record) -> io::Result<Vec<u8>> {
    let mut front = Vec::new();
    intake.peek(usize::try_from(record.length).unwrap_or(usize::MAX), &mut front)?;
    let written = record.written_of(&front, &log.folder())?;
    front.truncate(written);
    intake.take(&mut front);
    intake.mark.clear()?;
    Ok(front)
}
