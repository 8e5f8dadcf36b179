//! Every app's timers in one queue, so that a sleeping app costs nothing.

use std::{collections::HashMap, future::poll_fn, task::Poll, time::Instant};

use doorbell_config::name::AppId;
use tokio_util::time::{DelayQueue, delay_queue::Key};

use crate::lifecycle::Timer;

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: DelayQueue<(AppId, Timer)>,
    keys: HashMap<AppId, Vec<(Timer, Key)>>,
}

impl Timers {
    /// Sets a timer, in place of an equal one.
    pub(super) fn set(&mut self, app: &AppId, timer: Timer, at: Instant) {
        self.cancel(app, timer);
        let key = self.queue.insert_at((app.clone(), timer), at.into());
        self.keys.entry(app.clone()).or_default().push((timer, key));
    }

    pub(super) fn cancel(&mut self, app: &AppId, timer: Timer) {
        if let Some(key) = self.forget(app, timer) {
            self.queue.remove(&key);
        }
    }

    /// The next that goes off; pending if there is none. Dropping this future loses none.
    pub(super) async fn next(&mut self) -> (AppId, Timer) {
        let expired = poll_fn(|context| match self.queue.poll_expired(context) {
            Poll::Ready(Some(expired)) => Poll::Ready(expired),
            // An empty queue is asked again after the next change.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        });
        let (app, timer) = expired.await.into_inner();
        self.forget(&app, timer);
        (app, timer)
    }

    fn forget(&mut self, app: &AppId, timer: Timer) -> Option<Key> {
        let keys = self.keys.get_mut(app)?;
        let at = keys.iter().position(|(known, _)| *known == timer)?;
        let (_, key) = keys.swap_remove(at);
        if keys.is_empty() {
            self.keys.remove(app);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::Generation;

    #[tokio::test(start_paused = true)]
    async fn go_off_in_order_unless_cancelled_or_replaced() {
        let app = AppId::parse("blog").unwrap();
        let at = |seconds| (tokio::time::Instant::now() + Duration::from_secs(seconds)).into_std();
        let idle = |number| Timer::Idle(Generation(number));
        let mut timers = Timers::default();
        timers.set(&app, idle(1), at(10));
        timers.set(&app, idle(2), at(20));
        timers.set(&app, Timer::BackOff, at(5));
        timers.set(&app, idle(1), at(30));
        timers.cancel(&app, Timer::BackOff);
        assert_eq!(timers.next().await, (app.clone(), idle(2)));
        assert_eq!(timers.next().await, (app, idle(1)));
        assert!(timers.keys.is_empty());
    }
}
