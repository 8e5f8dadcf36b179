//! How much memory there is, and whether the kernel says that processes wait for it.
//!
//! The kernel tells by a trigger on `/proc/pressure/memory` (PSI, Documentation/accounting/psi.rst),
//! without being asked again and again. Where it has none, or we may not, what is available is looked at
//! now and then. What waits is not always the machine's fault: an app at its own limit waits too. So
//! that is short of which too little is available.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::driver::watch_for;

const PRESSURE: &str = "/proc/pressure/memory";
/// Some process waits for a tenth of two seconds; whole seconds of two, as without privileges the kernel
/// takes nothing else.
const TRIGGER: &[u8] = b"some 200000 2000000\0";
/// Between two looks where nobody tells.
const PACE: Duration = Duration::from_secs(5);
/// The share of all memory that is to be available.
const RESERVE: u64 = 10;

/// Where news of a shortage come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The kernel tells.
    Pressure,
    /// A look now and then.
    Looks,
}

/// Tells when the machine is short of memory.
#[derive(Debug)]
pub(crate) struct Gauge(Option<AsyncFd<OwnedFd>>);

impl Gauge {
    /// Has the kernel tell, if it does.
    pub(crate) fn open() -> Self {
        let opened = trigger().and_then(|file| watch_for(file.into(), Interest::PRIORITY));
        Self(opened.inspect_err(|error| tracing::debug!(%error, "no pressure is told")).ok())
    }

    /// What a gauge would go by here.
    pub(crate) fn source() -> Source {
        trigger().map_or(Source::Looks, |_| Source::Pressure)
    }

    /// Waits until it is time to look how much is available: until processes wait for memory, or a while.
    /// Dropping this future loses nothing: what was told is told again while it lasts.
    pub(crate) async fn occasion(&self) {
        let Some(file) = &self.0 else { return tokio::time::sleep(PACE).await };
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "pressure is not told any more");
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

fn trigger() -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(PRESSURE)?;
    file.write_all(TRIGGER)?;
    Ok(file)
}

/// Bytes that would have to become free for the machine to have enough; zero if it has.
pub(crate) fn missing() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    missing_by(&text).ok_or_else(|| io::Error::other("/proc/meminfo says nothing of memory"))
}

fn missing_by(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let (total, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    Some((total / RESERVE).saturating_sub(available))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_by_what_is_available() {
        let meminfo = |available| {
            format!("MemTotal:       1000 kB\nMemFree:  3 kB\nMemAvailable:    {available} kB\n")
        };
        assert_eq!(missing_by(&meminfo(500)), Some(0));
        assert_eq!(missing_by(&meminfo(100)), Some(0));
        assert_eq!(missing_by(&meminfo(30)), Some(70 * 1024));
        assert_eq!(missing_by("MemTotal: 5 kB"), None);
    }

    #[tokio::test]
    async fn this_machine_has_a_gauge() {
        let gauge = Gauge::open();
        assert_eq!(gauge.0.is_some(), Gauge::source() == Source::Pressure);
        assert!(missing().is_ok());
    }
}
