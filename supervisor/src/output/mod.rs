//! What apps print: captured line by line into bounded files, `<log_dir>/<app>/`.
//!
//! `current.log` takes the lines as the app wrote them, standard output and error in one, nothing
//! added. Lines of ours begin with `[doorbell] `. Before it would outgrow its bound it is renamed to
//! the UTC time of that moment, so that names sort by age, and the oldest beyond the number kept are
//! removed. A line is never torn between two files. One longer than 64 KiB is split into lines that
//! end with a mark.
//!
//! An app prints into a pipe with a name, and what it printed stays there until it stands in its
//! log. So we may be killed at any moment: the app goes on, and the next Doorbell reads on where we
//! stopped. `mark` says how exactly.
//!
//! What cannot be written, because the disk hangs or is full, waits in the pipe. An app never waits for
//! that: after [`capture::PATIENCE`], if its pipe has no room, its lines are dropped, and their number is
//! written as soon as writing works again. A disk that is merely slower than the app slows the app, through
//! its pipe.
//!
//! Files go with an app that is renamed, and are put aside when it is deleted: `moves`, `whereabouts`.
//!
//! `reader` is the task, `pipe` what it begins with; `cut` decides what can be passed on, `batch`
//! brings it to the files of `rotate`. Reading these is [`crate::logs`].

mod batch;
mod calendar;
pub(crate) mod capture;
mod current;
mod cut;
mod intake;
mod logs;
mod mark;
mod moves;
mod pipe;
mod reader;
pub(crate) mod rotate;
mod scratch;
#[cfg(test)]
mod survival;
mod tail;
#[cfg(test)]
mod tests;
mod whereabouts;

pub(crate) use capture::Capture;
pub(crate) use logs::Logs;
pub(crate) use pipe::{OutputPipe, PipeIdentity};
pub(crate) use rotate::AppLog;
pub(crate) use tail::Tail;

/// The file that is being written.
pub(crate) const CURRENT: &str = "current.log";
/// How lines of ours begin.
pub(crate) const OURS: &str = "[doorbell] ";
