//! The part of a capture that blocks on the disk: bytes on their way from an app's pipe to its log.

use std::io;

use super::{AppLog, cut::Cut, intake::Intake, mark::Record, rotate::Spot};

/// The front of a pipe, to be written.
#[derive(Debug)]
pub(super) struct Batch {
    /// As they are in the pipe; more may stand behind them.
    pub(super) bytes: Vec<u8>,
    pub(super) cut: Cut,
}

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Lines that were dropped before.
    pub(super) lost: u64,
    /// Lines of ours.
    pub(super) said: Vec<u8>,
    pub(super) batch: Option<Batch>,
}

impl Work {
    /// Writes, then takes what was written out of the pipe. Returns the memory for the next batch.
    pub(super) fn perform(self, intake: &Intake, log: &AppLog) -> Vec<u8> {
        if self.lost > 0 {
            log.count_lost(self.lost, "the disk did not take them in time");
        }
        if self.lost > 0 || !self.said.is_empty() {
            log.append(&self.said);
        }
        self.batch.map_or_else(Vec::new, |batch| batch.write(intake, log))
    }
}

impl Batch {
    fn write(mut self, intake: &Intake, log: &AppLog) -> Vec<u8> {
        let Cut { length, ending } = self.cut;
        self.bytes.truncate(length);
        let mut record = Record::of(&self.bytes, ending, Spot::default());
        self.bytes.extend_from_slice(ending.words());
        log.append_noting(&self.bytes, &mut |spot| {
            record.spot = spot;
            told(intake.mark.set(&record));
        });
        intake.take_in_flight(&mut self.bytes);
        told(intake.mark.clear());
        self.bytes.clear();
        self.bytes
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
