//! Who is waited for how long, where Pingora carries a request.

use doorbell_config::spec::ServerSpec;

use crate::{
    exchange::Exchange,
    head::{BodyKind, Version},
    http2::Turn,
    patience::PaceLimits,
};

/// A request body of this size is in one piece, mostly: the app's silence can be timed from the start.
const SHORT_BODY: u64 = 64 * 1024;

/// Whether the app's silence may be timed by Pingora: only where no body is on its way up, for its
/// read timer runs while the request is still being sent.
#[must_use]
pub fn times_silence_itself(exchange: &Exchange) -> bool {
    let head = &exchange.head;
    let is_short = matches!(head.body, BodyKind::Length(length) if length <= SHORT_BODY);
    head.body == BodyKind::None || (head.version == Version::Http2 && is_short)
}

/// How long an HTTP/2 stream may be silent while its body comes: the client's own time, and the time
/// in which an app that does not read is given up, for which the client is not to blame.
pub(super) fn uploading(exchange: &Exchange) -> Turn {
    match (&exchange.matched, exchange.head.body) {
        (None, _) | (_, BodyKind::None) => Turn::Nobodys,
        (Some(matched), _) => {
            let idle = exchange.table.server.timeouts.body_idle;
            Turn::Clients(idle + matched.app.spec.timeouts.write_idle)
        }
    }
}

/// How long an HTTP/2 stream may be silent once the app has its whole body: the app's own time, and
/// the time in which a client that does not read is given up, for which the app is not to blame.
/// Longer than what Pingora times by itself, which has an answer for it.
pub(super) fn answering(exchange: &Exchange) -> Turn {
    let matched = exchange.matched.as_ref();
    match matched.and_then(|matched| matched.app.spec.timeouts.response_idle) {
        None => Turn::Nobodys,
        Some(idle) => Turn::Apps(idle + exchange.table.server.timeouts.write_idle),
    }
}

/// The least pace of a request's body.
#[must_use]
pub fn pace_limits(server: &ServerSpec) -> PaceLimits {
    PaceLimits { rate: server.limits.body_rate.0, grace: server.timeouts.body_idle }
}

/// Whether an HTTP/2 client's body comes fast enough. Only the wait for a small piece is the
/// client's: behind a large one there was more, and it waited for the app.
pub(super) fn keeps_up(exchange: &mut Exchange, length: usize) -> bool {
    const SMALL: usize = 4096;
    let pace = &mut exchange.passing.pace;
    if length >= SMALL {
        pace.forgive();
    }
    let keeps_up = pace.keeps_up(length);
    pace.wait_begins();
    keeps_up
}
