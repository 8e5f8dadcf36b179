//! Doorbell's own answers: the one place where what went wrong becomes a status.
//!
//! Answers tell the public what they may do next and nothing about the inside: no app id, no exit
//! status, no output. Operators find those in `doorbell status` and `doorbell logs`.

use std::{borrow::Cow, time::Duration};

use doorbell_config::{interned::Interned, name::AppId, spec::WakeSpec};
use doorbell_supervisor::message::{Refusal, RefusalReason};

use crate::{
    gate::Denial, head::HeadError, page::waiting::Waiting, pass::Failure, transport::Trouble,
};

mod render;

pub use render::{Place, Rendered};

/// Why Doorbell answers by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The head is refused.
    Head(HeadError),
    /// The head did not end in time.
    HeadTooSlow,
    /// What went wrong with the body.
    Body(Trouble),
    /// No app for this host and path.
    NoRoute,
    /// `OPTIONS *`: about Doorbell itself.
    ServerOptions,
    /// The path names an app's folder without its slash.
    Redirect(String),
    /// The app starts, and a browser is shown that.
    Waiting(Waiting),
    /// For a waiting page: what becomes of the start.
    Bulletin,
    /// The app is in maintenance.
    Maintenance,
    /// The app sleeps, and this request may not wake it.
    Asleep(Interned<WakeSpec>),
    /// A genuine link of an operator, for this app.
    Link(AppId, String),
    /// An operator has got a pass: this cookie, and where to go.
    Entered(String, String),
    /// Why the app cannot be started, for an operator.
    Why(Box<Failure>, Refusal),
    /// The gate gave no lease.
    Denied(Denial),
    /// Too many connections are open.
    Crowded,
    /// The app could not be reached, died, or spoke nonsense.
    BadGateway,
    /// The app did not answer in time.
    GatewayTimeout,
    /// Our own fault: no descriptors, say.
    Internal,
    /// The client left; nobody reads an answer.
    ClientLeft,
}

/// An answer's parts, ready to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 499 stands for a client that left, and is never sent.
    pub status: u16,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: Cow<'static, str>,
    /// For `Retry-After`.
    pub retry_after: Option<Duration>,
    /// For `Location`.
    pub location: Option<String>,
    /// For `Allow`.
    pub allow: Option<&'static str>,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

/// When to ask again for an app that sleeps; nobody knows who wakes it.
const ASLEEP: Duration = Duration::from_secs(60);

const SLEEPS: &str = "This application is asleep, and this request does not wake it.";

/// When to ask again for an app in maintenance; nobody knows when it ends.
const MAINTENANCE: Duration = Duration::from_secs(300);

const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

impl Answer {
    /// What is sent.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Head(error) => head_reply(*error),
            Self::HeadTooSlow => {
                closing(408, "request_timeout", "The request took too long to arrive.")
            }
            Self::Body(trouble) => body_reply(*trouble),
            Self::NoRoute => plain(404, "not_found", "There is nothing at this address."),
            Self::ServerOptions => Reply { allow: Some(METHODS), ..plain(204, "options", "") },
            Self::Redirect(location) => Reply {
                location: Some(location.clone()),
                ..plain(308, "redirect", "The address ends with a slash.")
            },
            Self::Waiting(waiting) => Reply {
                retry_after: Some(Duration::from_secs(waiting.look_again())),
                // Neither stored nor taken for the page: it is not there yet.
                ..plain(503, "starting", "This application is starting.")
            },
            Self::Bulletin => plain(200, "bulletin", ""),
            // What was not redeemed is nothing.
            Self::Link(..) => plain(404, "not_found", "This link has been opened, or is too old."),
            Self::Entered(_, location) => Reply {
                location: Some(location.clone()),
                ..plain(303, "entered", "You see why the application cannot be started.")
            },
            Self::Why(_, refusal) => denial_reply(&Denial::Refusal(refusal.clone())),
            Self::Maintenance => Reply {
                retry_after: Some(MAINTENANCE),
                ..plain(503, "maintenance", "This application is being worked on. It will be back.")
            },
            Self::Asleep(rules) => {
                let (status, words) = (rules.asleep.status, rules.asleep.body.clone());
                let detail = words.map_or(Cow::Borrowed(SLEEPS), Cow::Owned);
                let retry_after = (status == 503).then_some(ASLEEP);
                Reply { detail, retry_after, ..plain(status, "asleep", "") }
            }
            Self::Denied(denial) => denial_reply(denial),
            Self::Crowded => Reply {
                retry_after: Some(Duration::from_secs(1)),
                ..closing(503, "crowded", "The server is busy. Please try again.")
            },
            Self::BadGateway => {
                plain(502, "bad_gateway", "The application did not answer as it should.")
            }
            Self::GatewayTimeout => {
                plain(504, "gateway_timeout", "The application did not answer in time.")
            }
            Self::Internal => closing(500, "internal_error", "The server made a mistake."),
            Self::ClientLeft => closing(499, "client_left", ""),
        }
    }
}

fn plain(status: u16, code: &'static str, detail: &'static str) -> Reply {
    let detail = Cow::Borrowed(detail);
    Reply { status, code, detail, retry_after: None, location: None, allow: None, closes: false }
}

fn closing(status: u16, code: &'static str, detail: &'static str) -> Reply {
    Reply { closes: true, ..plain(status, code, detail) }
}

fn head_reply(error: HeadError) -> Reply {
    match error {
        HeadError::Malformed(_) => closing(400, "bad_request", "The request is malformed."),
        HeadError::MethodNotAllowed => Reply {
            allow: Some(METHODS),
            ..closing(405, "method_not_allowed", "This method is not allowed.")
        },
        HeadError::TargetTooLong => closing(414, "uri_too_long", "The address is too long."),
        HeadError::FieldsTooLarge => {
            closing(431, "header_too_large", "The request's header is too large.")
        }
        HeadError::Version => {
            closing(505, "version_not_supported", "This version of HTTP is not supported.")
        }
    }
}

fn body_reply(trouble: Trouble) -> Reply {
    match trouble {
        Trouble::TooLarge => closing(413, "body_too_large", "The request's body is too large."),
        Trouble::TooSlow => closing(408, "request_timeout", "The request took too long to arrive."),
        Trouble::Chunking | Trouble::Silent | Trouble::None => {
            closing(400, "bad_request", "The request's body is malformed.")
        }
    }
}

fn denial_reply(denial: &Denial) -> Reply {
    let unavailable = |code, detail, retry_after| Reply {
        retry_after: Some(retry_after),
        ..plain(503, code, detail)
    };
    match denial {
        Denial::QueueFull => unavailable(
            "queue_full",
            "Too many requests wait for this application. Please try again.",
            Duration::from_secs(1),
        ),
        Denial::HoldDeadline => Reply {
            retry_after: Some(Duration::from_secs(5)),
            ..plain(504, "start_timeout", "The application did not start in time.")
        },
        Denial::Changed => unavailable(
            "changed",
            "This application was changed just now. Please try again.",
            Duration::from_secs(1),
        ),
        // Only of an app that had rules a moment ago.
        Denial::Asleep => unavailable("asleep", SLEEPS, ASLEEP),
        Denial::Refusal(refusal) => match refusal.reason {
            RefusalReason::Disabled => {
                unavailable("disabled", "This application is switched off.", refusal.retry_after)
            }
            RefusalReason::StartFailed | RefusalReason::BackingOff | RefusalReason::Failed => {
                unavailable(
                    "start_failed",
                    "This application could not be started. Please try again later.",
                    refusal.retry_after,
                )
            }
            RefusalReason::StartDeadline => Reply {
                retry_after: Some(refusal.retry_after),
                ..plain(504, "start_timeout", "The application did not start in time.")
            },
            RefusalReason::Removed => plain(404, "not_found", "There is nothing at this address."),
            RefusalReason::ShuttingDown => Reply {
                closes: true,
                ..unavailable(
                    "shutting_down",
                    "The server restarts. Please try again.",
                    refusal.retry_after,
                )
            },
        },
    }
}

/// Whole seconds, rounded up, at least one.
#[must_use]
pub fn retry_after(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use doorbell_supervisor::message::Refusal;

    use super::*;

    #[test]
    fn retry_after_is_at_least_one_second() {
        assert_eq!(retry_after(Duration::ZERO), 1);
        assert_eq!(retry_after(Duration::from_millis(1200)), 2);
    }

    #[test]
    fn the_table_of_the_design_holds() {
        let refused = |reason| {
            let refusal = Refusal { reason, retry_after: Duration::from_secs(3) };
            Answer::Denied(Denial::Refusal(refusal)).reply()
        };
        assert_eq!(refused(RefusalReason::Disabled).status, 503);
        assert_eq!(refused(RefusalReason::BackingOff).retry_after, Some(Duration::from_secs(3)));
        assert_eq!(refused(RefusalReason::StartDeadline).status, 504);
        assert_eq!(Answer::Denied(Denial::QueueFull).reply().status, 503);
        assert_eq!(Answer::Denied(Denial::HoldDeadline).reply().status, 504);
        assert_eq!(Answer::Head(HeadError::Malformed("x")).reply().status, 400);
        assert!(Answer::Head(HeadError::Malformed("x")).reply().closes);
        assert_eq!(Answer::Body(Trouble::TooLarge).reply().status, 413);
        assert_eq!(Answer::NoRoute.reply().status, 404);
    }
}
