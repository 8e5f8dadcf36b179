//! Pauses of a millisecond that take one: timerfd_create(2).
//!
//! Tokio's timers go off at its next whole millisecond, and the kernel is asked to wait for whole ones: a
//! pause of one takes up to two. Who waits for an app to listen would notice.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use crate::driver::watch_for;

const SHORTEST: Duration = Duration::from_nanos(1);

/// Times short pauses, one after another.
#[derive(Debug)]
pub(crate) struct Tick(AsyncFd<OwnedFd>);

impl Tick {
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(watch_for(timer, Interest::READABLE)?))
    }

    /// Ends after this time. Dropping it loses nothing: the next one begins anew.
    pub(crate) async fn pause(&self, time: Duration) {
        if self.try_pause(time).await.is_err() {
            sleep(time).await;
        }
    }

    async fn try_pause(&self, time: Duration) -> io::Result<()> {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A time of zero would switch it off.
        let value = Timespec::try_from(time.max(SHORTEST)).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: none, it_value: value };
        // What an earlier one has left unread is gone with that.
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut rung = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.as_fd(), &mut rung)?))
            {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_pause_takes_as_long_as_it_says_and_a_dropped_one_leaves_nothing() {
        let tick = Tick::new().unwrap();
        let long = Duration::from_millis(5);
        let dropped = tokio::time::timeout(Duration::from_millis(1), tick.pause(long));
        assert!(dropped.await.is_err());
        // It goes off, and nobody reads that.
        sleep(2 * long).await;
        let begun = Instant::now();
        tick.pause(long).await;
        assert!(begun.elapsed() >= long, "{:?}", begun.elapsed());
        let mut pauses = Vec::new();
        for _ in 0..101 {
            let begun = Instant::now();
            tick.pause(Duration::from_millis(1)).await;
            pauses.push(begun.elapsed());
        }
        // On a busy machine some take longer.
        pauses.sort();
        assert!(pauses[0] >= Duration::from_millis(1), "{pauses:?}");
        assert!(pauses[10] < Duration::from_micros(1900), "{pauses:?}");
        let ends = tokio::time::timeout(Duration::from_secs(5), tick.pause(Duration::ZERO));
        assert!(ends.await.is_ok());
    }
}
