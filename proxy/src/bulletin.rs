//! What a waiting page is told while it is shown: how far the start is, and how it ended, as
//! server-sent events.
//!
//! Its address is made of a word that only this process knows and the page's own path, so it is found
//! by the same routes, and takes no address from any app. Listening to it is no visit: nobody is
//! woken or kept awake by it. The gate says when something changes; a stream costs a timer besides.

use std::{
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use doorbell_supervisor::message::Refusal;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use crate::{
    answer::{Answer, retry_after},
    app::App,
    gate::{Denial, View},
    page::waiting::Waiting,
};

/// Streams of one app.
const MOST_OF_ONE: usize = 200;
/// Streams in all.
const MOST: usize = 4_000;
/// Between two signs of life; the estimate changes with time.
const SIGN: Duration = Duration::from_secs(10);
/// Then the browser asks again: nobody is to be held who does not listen any more.
const LONGEST: Duration = Duration::from_secs(60);

/// Where bulletins are, up to the page's path.
static FOLDER: LazyLock<String> =
    LazyLock::new(|| format!("/.well-known/doorbell/{}", Uuid::new_v4().simple()));
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Where the page at this path hears of its app.
#[must_use]
pub fn address(path: &str) -> String {
    format!("{}{path}", *FOLDER)
}

/// The page's path, if this is the address of its bulletin.
#[must_use]
pub fn page_of(path: &str) -> Option<&str> {
    // The common case ends here, at the second byte.
    let rest = path.strip_prefix("/.well-known/doorbell/")?;
    let word = FOLDER.rsplit('/').next().unwrap_or_default();
    rest.strip_prefix(word).filter(|page| page.starts_with('/'))
}

/// One stream.
pub struct Bulletin {
    name: String,
    /// Of somebody with a pass.
    is_operators: bool,
    view: watch::Receiver<View>,
    next_sign: Instant,
    end: Instant,
    is_over: bool,
    place: Place,
}

/// A place among the streams; given back by `Drop`.
struct Place(Arc<App>);

impl Bulletin {
    /// Listens to an app's gate.
    ///
    /// # Errors
    /// Our own answer, when too many do.
    pub fn open(app: &Arc<App>, is_operators: bool) -> Result<Self, Answer> {
        let place = Place::take(app).ok_or(Answer::Denied(Denial::QueueFull))?;
        let mut view = app.lifecycle_gate().listen();
        // What is now is the first that is told.
        view.mark_changed();
        let now = Instant::now();
        let (next_sign, end) = (now + SIGN, now + LONGEST);
        let name = app.spec.name.clone();
        Ok(Self { name, is_operators, view, next_sign, end, is_over: false, place })
    }

    /// Header fields of the stream, but for framing.
    #[must_use]
    pub fn fields() -> [(&'static str, &'static str); 4] {
        [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            // Nginx in front would keep it for itself.
            ("x-accel-buffering", "no"),
            ("x-robots-tag", "noindex"),
        ]
    }

    /// The head of a stream that ends with its connection.
    #[must_use]
    pub fn http1_head(date: &str) -> Bytes {
        let mut head = format!("HTTP/1.1 200 OK\r\ndate: {date}\r\nconnection: close\r\n");
        for (name, value) in Self::fields() {
            // Writing to a String cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head.into()
    }

    /// What is told next; `None` when all is told. Dropping it loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        tokio::select! {
            changed = self.view.changed() => {
                // The gate is gone, and its app.
                changed.ok()?;
            }
            () = tokio::time::sleep_until(self.next_sign.min(self.end)) => {}
        }
        let now = Instant::now();
        self.next_sign = now + SIGN;
        if now >= self.end {
            self.is_over = true;
            return None;
        }
        let view = self.view.borrow_and_update().clone();
        let view = self.place.0.view(view);
        Some(self.tell(&view).into())
    }

    fn tell(&mut self, view: &View) -> String {
        let (event, data) = match view {
            View::Waking(progress) => {
                let waiting = Waiting { progress: progress.map(|progress| progress.now()) };
                return format!("retry: 3000\nevent: phase\ndata: {}\n\n", waiting.event());
            }
            View::Open => ("ready", "{}".to_owned()),
            // The page itself says the rest.
            View::Asleep => ("changed", "{}".to_owned()),
            View::Refused(refusal) => self.refused(refusal),
        };
        self.is_over = true;
        format!("event: {event}\ndata: {data}\n\n")
    }

    fn refused(&self, refusal: &Refusal) -> (&'static str, String) {
        // An operator's page says why, which is not told here.
        if self.is_operators {
            return ("ready", "{}".to_owned());
        }
        if !refusal.reason.is_failed_start() {
            return ("changed", "{}".to_owned());
        }
        let seconds = retry_after(refusal.retry_after);
        let plural = if seconds == 1 { "" } else { "s" };
        let data = serde_json::json!({
            "title": format!("{} could not be started", self.name),
            "words": "It is not you. Whoever runs it can see why.",
            "again": format!("Please try again in {seconds} second{plural}."),
        });
        ("failed", data.to_string())
    }
}

impl Place {
    fn take(app: &Arc<App>) -> Option<Self> {
        let enter = |count: &AtomicUsize, most: usize| {
            count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    (now < most).then_some(now + 1)
                })
                .is_ok()
        };
        if !enter(&OPEN, MOST) {
            return None;
        }
        if !enter(app.gate.listeners(), MOST_OF_ONE) {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(app)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.gate.listeners().fetch_sub(1, Ordering::Relaxed);
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_page_and_no_other_does() {
        let address = address("/a/b");
        assert_eq!(page_of(&address), Some("/a/b"));
        assert_eq!(page_of(&FOLDER), None);
        assert_eq!(page_of(&format!("{}x/", *FOLDER)), None);
        assert_eq!(page_of("/.well-known/doorbell/0123/a"), None);
        assert_eq!(page_of("/.well-known/doorbell/"), None);
        assert_eq!(page_of("/"), None);
    }
}
