//! When hours of apps begin or end next: one alarm for all of them.
//!
//! The alarm goes by the clock that people set, and tells when somebody sets it (timerfd_create(2),
//! `TFD_TIMER_CANCEL_ON_SET`): nobody has to look at the time in between.

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    io,
    os::fd::OwnedFd,
};

use doorbell_config::name::AppId;
use jiff::Timestamp;
use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::driver::watch_for;

/// Why the alarm rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// Something is due.
    Due,
    /// Somebody has set the clock, or the machine has slept: what was known of the time is void.
    ClockSet,
}

/// Apps by the time at which something changes for them.
#[derive(Debug)]
pub(super) struct Timetable {
    alarm: AsyncFd<OwnedFd>,
    set_for: Option<Timestamp>,
    /// The clock was set while the alarm was being set.
    is_void: bool,
    order: BTreeSet<(Timestamp, AppId)>,
    times: HashMap<AppId, Timestamp>,
}

impl Timetable {
    /// One without entries; inside of a Tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let alarm =
            watch_for(timerfd_create(TimerfdClockId::Realtime, flags)?, Interest::READABLE)?;
        let (order, times) = (BTreeSet::new(), HashMap::new());
        Ok(Self { alarm, set_for: None, is_void: false, order, times })
    }

    /// Enters an app, in place of its last entry; `None` takes it out.
    pub(super) fn enter(&mut self, app: &AppId, at: Option<Timestamp>) {
        if let Some(before) = self.times.remove(app) {
            self.order.remove(&(before, app.clone()));
        }
        if let Some(at) = at {
            self.times.insert(app.clone(), at);
            self.order.insert((at, app.clone()));
        }
        self.set();
    }

    /// Takes out those for whom something changes by now.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<AppId> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.order.first()
            && *at <= now
            && let Some((_, app)) = self.order.pop_first()
        {
            self.times.remove(&app);
            due.push(app);
        }
        self.set();
        due
    }

    /// Waits until something is due; for ever, if nothing will be. Dropping this future loses nothing.
    pub(super) async fn rings(&mut self) -> Ring {
        if std::mem::take(&mut self.is_void) {
            return Ring::ClockSet;
        }
        loop {
            let Ok(mut ready) = self.alarm.readable().await else { return pending().await };
            let mut rung = [0; 8];
            match ready.try_io(|alarm| Ok(rustix::io::read(alarm.get_ref(), &mut rung)?)) {
                Ok(Ok(_)) => {
                    self.set_for = None;
                    return Ring::Due;
                }
                Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::CANCELED) => {
                    self.set_for = None;
                    return Ring::ClockSet;
                }
                // Somebody was quicker, which nobody can be; or there is nothing yet.
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Sets the alarm for the first entry, if it is not.
    fn set(&mut self) {
        let first = self.order.first().map(|(at, _)| *at);
        if first == self.set_for {
            return;
        }
        let value = match first {
            // A time of zero would switch it off.
            Some(at) => Timespec { tv_sec: at.as_second().max(1), tv_nsec: 0 },
            None => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let set = timerfd_settime(
            &self.alarm,
            flags,
            &Itimerspec { it_interval: interval, it_value: value },
        );
        match set {
            Ok(_) => {}
            // It is set all the same.
            Err(Errno::CANCELED) => self.is_void = true,
            Err(error) => tracing::error!(%error, "cannot tell when hours of apps begin or end"),
        }
        self.set_for = first;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn id(name: &str) -> AppId {
        AppId::parse(name).unwrap()
    }

    fn in_seconds(seconds: i64) -> Timestamp {
        Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap()
    }

    #[tokio::test]
    async fn rings_when_the_first_is_due_and_for_nobody_else() {
        let mut table = Timetable::new().unwrap();
        let (soon, late) = (in_seconds(1), in_seconds(1000));
        table.enter(&id("late"), Some(late));
        table.enter(&id("soon"), Some(late));
        table.enter(&id("soon"), Some(soon));
        assert_eq!(table.rings().await, Ring::Due);
        assert!(Timestamp::now() >= soon);
        assert_eq!(table.take_due(Timestamp::now()), [id("soon")]);
        let more = timeout(Duration::from_millis(50), table.rings()).await;
        assert!(more.is_err(), "nothing is due");
        assert_eq!(table.take_due(late), [id("late")]);
        assert!(table.order.is_empty() && table.times.is_empty());
    }

    #[tokio::test]
    async fn what_is_over_rings_at_once_and_what_is_taken_out_never() {
        let mut table = Timetable::new().unwrap();
        table.enter(&id("a"), Some(in_seconds(-10)));
        assert_eq!(table.rings().await, Ring::Due);
        assert_eq!(table.take_due(Timestamp::now()), [id("a")]);
        table.enter(&id("a"), Some(in_seconds(-10)));
        table.enter(&id("a"), None);
        assert!(timeout(Duration::from_millis(50), table.rings()).await.is_err());
    }
}
