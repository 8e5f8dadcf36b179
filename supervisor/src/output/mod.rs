//! What apps print: captured line by line into bounded files, `<log_dir>/<app>/`.
//!
//! `current.log` takes the lines as the app wrote them, standard output and error in one, nothing
//! added. Lines of ours begin with `[doorbell] `. Before it would outgrow its bound it is renamed to
//! the UTC time of that moment, so that names sort by age, and the oldest beyond the number kept are
//! removed. A line is never torn between two files. One longer than 64 KiB is split into lines that
//! end with a mark.
//!
//! An app never waits for a disk that hangs or is full: after [`capture::PATIENCE`] its lines are
//! dropped, and their number is written as soon as writing works again. A disk that is merely
//! slower than the app slows the app, through its pipe.
//!
//! Reading is [`crate::logs`].

mod calendar;
pub(crate) mod capture;
pub(crate) mod rotate;
mod tail;

pub(crate) use capture::Capture;
pub(crate) use rotate::{AppLog, Logs};
pub(crate) use tail::Tail;

/// The file that is being written.
pub(crate) const CURRENT: &str = "current.log";
/// How lines of ours begin.
pub(crate) const OURS: &str = "[doorbell] ";
