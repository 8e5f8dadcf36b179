//! Conditions to wait for.

use std::{
    fs,
    time::{Duration, Instant},
};

/// Pause between two looks; a look may cost a process.
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until there is something, or until time is over.
pub(crate) fn poll<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        pause();
    }
}

#[allow(clippy::disallowed_methods, reason = "the pause between two looks at a condition")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// Waits until a condition holds, but not for long.
#[track_caller]
pub fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    assert!(poll(patience, || condition().then_some(())).is_some(), "never came true: {what}");
}

/// Watches that a condition holds for some time; for what must not happen there is nothing to wait
/// for.
#[track_caller]
pub fn within(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let broken = poll(time, || (!condition()).then_some(()));
    assert!(broken.is_none(), "did not stay true: {what}");
}

/// Processes whose command line contains a text.
#[must_use]
pub fn pids_matching(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
        })
        .collect()
}
