//! HTTP/1.1 from a client to an app and back, without a framework in between: the usual way of a
//! request. HTTP/2, and clients of HTTP/1.0, go through [`crate::front`].
//!
//! The story: `open` a connection to the app, let a `Carriage` carry the request there and the answer
//! back, and `settle` what to do when that fails. Bodies pass with the framing they came
//! with, watched byte by byte.
//!
//! What is sent again: a request that met a connection which the app had just closed, or an instance
//! that died, if nothing of an answer came, and either nothing of it had left or its method is
//! idempotent (RFC 9110 section 9.2.2) and its body is at hand.

use std::{future::poll_fn, time::Duration};

use doorbell_supervisor::message::Endpoint;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    answer::Answer,
    client_stream::{ClientStream, close_gently},
    connection::{Next, Service},
    exchange::{Exchange, MOST_SENT},
    head::Version,
    peer::{self, Address, Destination, Why},
    transport::Trouble,
    tunnel,
};

mod answer_head;
mod app_stream;
mod carriage;
mod delivered;
mod letter;

pub use app_stream::{AppStream, Pool};

use app_stream::{Care, Io};
use carriage::{Carriage, Failure, Terms};
use delivered::Delivered;
use letter::{Letter, Repeatable};

/// Whether a request goes this way.
#[must_use]
pub fn carries(exchange: &Exchange) -> bool {
    let speaks_http2 = exchange.matched.as_ref().is_some_and(|matched| matched.app.spec.http2);
    // Another protocol is asked for in HTTP/1.1, also of an app that speaks HTTP/2.
    exchange.head.version == Version::Http11 && (exchange.head.upgrade || !speaks_http2)
}

/// Carries an admitted exchange to its end.
pub async fn run(
    service: &Service,
    mut stream: Box<ClientStream>,
    mut exchange: Box<Exchange>,
) -> Next {
    let is_idempotent = exchange.head.method.is_idempotent();
    let repeatable = if is_idempotent { Repeatable::Always } else { Repeatable::Unsent };
    let mut letter = Letter::new(repeatable);
    loop {
        let mut app = match open(service, &stream, &mut exchange).await {
            Ok(app) => app,
            Err(answer) => return service.answer(stream, exchange, answer).await,
        };
        exchange.passing.sent += 1;
        let terms = terms(service, &exchange);
        let mut carriage = Carriage::new(&mut stream, &mut app, &mut exchange, &mut letter, terms);
        let carried = poll_fn(|cx| carriage.poll(cx)).await;
        let has_begun = carriage.has_begun;
        let reusable = carriage.app_is_reusable();
        let (answer, surplus) = (carriage.answer.take(), std::mem::take(&mut carriage.surplus));
        exchange.passing.received = stream.received();
        match (carried, answer) {
            (Ok(()), Some(answer)) if answer.switched => {
                // On the heap, as what is rare and large is not to make every connection larger.
                Box::pin(tunnel::run(stream, exchange, app, &surplus)).await;
                return Next::Nothing;
            }
            (Ok(()), Some(answer)) => {
                give_back(service, app, reusable, &exchange);
                return finish(stream, &mut exchange, &answer).await;
            }
            (Err(failure), Some(answer)) => {
                drop(app);
                cut(stream, &mut exchange, &failure, &answer).await;
                return Next::Nothing;
            }
            (Err(failure), None) => {
                let reused = app.reused;
                // Whatever is said to the client now, the app is not to wait for it.
                drop(app);
                let again = !has_begun && letter.is_kept();
                if let Err(answer) = settle(&mut exchange, &failure, reused, again) {
                    return service.answer(stream, exchange, answer).await;
                }
            }
            (Ok(()), None) => return service.answer(stream, exchange, Answer::Internal).await,
        }
    }
}

/// Keeps the app's connection for the next request, or closes it.
fn give_back(service: &Service, app: AppStream, reusable: bool, exchange: &Exchange) {
    if let (true, Some(matched)) = (reusable, &exchange.matched) {
        service.pool.put(app, matched.app.spec.timeouts.keep_alive);
    }
}

fn terms(service: &Service, exchange: &Exchange) -> Terms {
    let timeouts = exchange.matched.as_ref().map(|matched| &matched.app.spec.timeouts);
    Terms {
        silence: timeouts.and_then(|timeouts| timeouts.response_idle),
        stuck: timeouts.map_or(Duration::MAX, |timeouts| timeouts.write_idle),
        closes: !exchange.head.keeps || *service.shutdown.borrow(),
    }
}

/// The answer is with the client. What is next on its connection?
async fn finish(stream: Box<ClientStream>, exchange: &mut Exchange, answer: &Delivered) -> Next {
    exchange.finish(answer.status, answer.content());
    if !answer.closes {
        return Next::Request(stream);
    }
    if !stream.body_done() || stream.is_ahead() {
        // A close with unread bytes would reset the connection under the answer.
        close_gently(stream.into_parts().0).await;
    }
    Next::Nothing
}

/// The answer broke off: the client must not take what it has for the whole.
async fn cut(
    mut stream: Box<ClientStream>,
    exchange: &mut Exchange,
    failure: &Failure,
    answer: &Delivered,
) {
    tracing::debug!(app = exchange.app_id(), ?failure, "an answer broke off");
    let status = match (failure, exchange.facts.trouble()) {
        (Failure::Client, Trouble::None) => 499,
        (Failure::Client, trouble) => Answer::Body(trouble).reply().status,
        _ => answer.status,
    };
    exchange.finish(status, answer.content());
    if answer.ends_with_connection() {
        // What is there is sent; then the end must not look like one.
        let _ = timeout(Duration::from_secs(1), poll_fn(|cx| stream.poll_drain(cx))).await;
        stream.into_parts().0.reset();
    }
}

/// A connection to the app: one that waits, or a new one, to another instance or server if one
/// cannot be reached.
async fn open(
    service: &Service,
    stream: &ClientStream,
    exchange: &mut Exchange,
) -> Result<AppStream, Answer> {
    loop {
        if exchange.passing.failed_connects > 0 && exchange.endpoint() != Some(&Endpoint::Upstream)
        {
            exchange.pause(stream.left()).await?;
        }
        if exchange.lease.is_none() {
            exchange.admit(stream.left()).await?;
        }
        let destination = peer::destination(exchange).await?;
        // The last look before anything is sent, where there was time to leave: a request that nobody
        // waits for stays here.
        if !exchange.passing.held.is_zero() && stream.has_left() {
            return Err(Answer::ClientLeft);
        }
        let care = if exchange.head.method.is_idempotent() { Care::Usual } else { Care::Most };
        // One that had to be sent again is sent on a fresh connection.
        let is_first = exchange.passing.sent == 0;
        if let Some(app) = is_first.then(|| service.pool.take(destination.key, care)).flatten() {
            return Ok(app);
        }
        match connect(service, &destination, exchange).await {
            Ok(app) => return Ok(app),
            Err(why) if peer::connect_failed(exchange, why) => {}
            Err(why) => {
                let late = why == Why::Late;
                let answer = if late { Answer::GatewayTimeout } else { Answer::BadGateway };
                return Err(exchange.answer.take().unwrap_or(answer));
            }
        }
    }
}

async fn connect(
    service: &Service,
    destination: &Destination,
    exchange: &Exchange,
) -> Result<AppStream, Why> {
    let (Some(lease), Some(matched)) = (&exchange.lease, &exchange.matched) else {
        return Err(Why::Ours);
    };
    let timeouts = &matched.app.spec.timeouts;
    let connecting = async {
        match &destination.address {
            Address::Tcp(address) => {
                let tcp = TcpStream::connect(address).await.map_err(|error| Why::from(&error))?;
                // A socket that takes no options still carries bytes.
                let _ = tcp.set_nodelay(true);
                Ok(Io::Tcp(tcp))
            }
            Address::Unix(path) => {
                let unix = UnixStream::connect(path).await;
                unix.map(Io::Unix).map_err(|error| Why::from(&error))
            }
            Address::Tls(..) => {
                let mut peer = peer::http_peer(destination, exchange).map_err(|_| Why::Ours)?;
                peer.options.set_http_version(1, 1);
                let tls = Box::pin(service.connector.new_stream(&peer)).await;
                tls.map(Io::Tls).map_err(|error| Why::from(&*error))
            }
        }
    };
    let io = timeout(timeouts.connect, connecting).await.map_err(|_| Why::Late)??;
    Ok(AppStream::new(io, destination.key, lease.instance()))
}

/// Nothing of an answer came. What now: once more, or an answer of ours?
fn settle(
    exchange: &mut Exchange,
    failure: &Failure,
    reused: bool,
    may_repeat: bool,
) -> Result<(), Answer> {
    let answer = match failure {
        Failure::Client => match exchange.facts.trouble() {
            Trouble::None => return Err(Answer::ClientLeft),
            trouble => return Err(Answer::Body(trouble)),
        },
        Failure::Ended | Failure::Nonsense => Answer::BadGateway,
        Failure::Silent | Failure::Stuck => Answer::GatewayTimeout,
    };
    let died = matches!(failure, Failure::Ended);
    if !reused {
        peer::failed(exchange, died);
    }
    // A few times: what dies may take connections to its end, and a request that kills the app must
    // not kill it for ever.
    if died && may_repeat && exchange.passing.sent < MOST_SENT { Ok(()) } else { Err(answer) }
}
