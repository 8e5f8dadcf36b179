//! The phases of a forwarded request, as Pingora calls them.
//!
//! Decisions are not made here: [`crate::exchange`] finds the app and gets the lease,
//! [`crate::peer`] says where it listens, [`crate::forward`] and [`crate::rewrite`] what is changed
//! on the way, [`crate::answer`] what is said when it goes wrong. HTTP/1 requests come with their
//! exchange admitted already ([`crate::connection`]); HTTP/2 streams are judged and held here.

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use doorbell_supervisor::message::Endpoint;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, header};
use pingora_core::{
    protocols::{Digest, http::ServerSession},
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::{
    answer::{Answer, Rendered},
    client_stream::ClientStream,
    exchange::Exchange,
    head::{BodyKind, RequestHead, Version},
    http2, peer, rewrite,
    shared::Shared,
    transport::{ConnFacts, Trouble},
};

/// Times a request may be sent in all.
const MOST_SENT: u32 = 3;
/// A request body of this size is in one piece, mostly: the app's silence can be timed from the start.
const SHORT_BODY: u64 = 64 * 1024;

/// Doorbell's side of Pingora's phases.
pub struct Front {
    shared: Arc<Shared>,
}

impl Front {
    /// A front over the shared state.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Reads an HTTP/2 request's head into an exchange.
    fn receive(&self, session: &Session) -> Result<Box<Exchange>, Option<Answer>> {
        let facts = facts_of(session).ok_or(None)?;
        let limit = self.shared.table.load().server.limits.uri.0;
        let request = session.req_header();
        let has_body = match &*session.downstream_session {
            ServerSession::H2(h2) => !h2.is_body_empty(),
            _ => false,
        };
        let head =
            RequestHead::from_h2(&request.method, &request.uri, &request.headers, has_body, limit)
                .map_err(|error| Some(Answer::Head(error)))?;
        Ok(Box::new(Exchange::begin(&self.shared, facts, head)))
    }

    /// Finds the app of an HTTP/2 request and gets a lease.
    async fn admit_stream(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<(), Answer> {
        exchange.judge()?;
        exchange.admit(left(session)).await?;
        http2::expect_signs(upload_limit(exchange));
        Ok(())
    }
}

/// The exchange is there from the first phase on, but for heads that could not be read.
type Ctx = Option<Box<Exchange>>;

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        None
    }

    /// HTTP/1: the exchange that was admitted before Pingora saw the request.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Ctx,
        admitted: Box<dyn Any + Send + Sync>,
    ) {
        *ctx = admitted.downcast::<Exchange>().ok();
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let table = ctx.as_ref().map(|exchange| Arc::clone(&exchange.table));
        let table = table.unwrap_or_else(|| self.shared.table.load_full());
        let timeouts = &table.server.timeouts;
        // `ClientStream` times HTTP/1 clients by itself, at less cost.
        session.set_read_timeout(None);
        let is_http2 = matches!(&*session.downstream_session, ServerSession::H2(_));
        session.set_write_timeout(is_http2.then_some(timeouts.write_idle));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if ctx.is_some() {
            return Ok(false);
        }
        let answer = match self.receive(session) {
            Ok(exchange) => {
                let exchange = ctx.insert(exchange);
                match self.admit_stream(session, exchange).await {
                    Ok(()) => return Ok(false),
                    Err(answer) => {
                        exchange.answer = Some(answer.clone());
                        answer
                    }
                }
            }
            Err(answer) => {
                let answer = answer.unwrap_or(Answer::Internal);
                self.shared.refused(facts_of(session).as_deref(), b"", &answer.reply(), "", 0);
                answer
            }
        };
        write_answer(session, &answer, ctx.as_deref()).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let exchange = ctx.as_deref_mut().ok_or_else(no_exchange)?;
        if let Err(answer) = try_again(session, exchange).await {
            return Err(refuse(exchange, answer));
        }
        match peer::of(exchange).await {
            Ok(peer) => Ok(Box::new(peer)),
            Err(answer) => Err(refuse(exchange, answer)),
        }
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = ctx.as_deref_mut().ok_or_else(no_exchange)?;
        // The last look before anything is sent, where there was time to leave: a request that nobody
        // waits for stays here.
        if !exchange.passing.held.is_zero() && left(session).now_or_never().is_some() {
            return Err(refuse(exchange, Answer::ClientLeft));
        }
        exchange.passing.sent += 1;
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = ctx.as_deref_mut().ok_or_else(no_exchange)?;
        if exchange.head.version == Version::Http2 {
            complete_head(exchange, request)?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(exchange) = ctx.as_deref_mut() else { return Ok(()) };
        if end {
            http2::expect_signs(answer_limit(exchange));
        } else {
            http2::heard();
        }
        exchange.passing.received += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let limit = exchange.matched.as_ref().and_then(|matched| matched.app.spec.limits.body);
        if limit.is_some_and(|limit| exchange.passing.received > limit.0) {
            return Err(refuse(exchange, Answer::Body(Trouble::TooLarge)));
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let exchange = ctx.as_deref_mut().ok_or_else(no_exchange)?;
        if response.status.is_informational() {
            return Ok(());
        }
        exchange.answer_begins();
        http2::heard();
        response.remove_header("keep-alive");
        if let Some(timing) = exchange.server_timing() {
            response.append_header("server-timing", timing)?;
        }
        rewrite_response(exchange, response)
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _end: bool,
        _: &mut Ctx,
    ) -> Result<Option<Duration>> {
        http2::heard();
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let version = ctx.as_ref().map(|exchange| exchange.head.version);
        if version == Some(Version::Http10) && !response.status.is_informational() {
            // HTTP/1.0 knows no chunks: the body ends with the connection, unless it has a length.
            response.remove_header(&header::TRANSFER_ENCODING);
            if !response.headers.contains_key(header::CONTENT_LENGTH) {
                session.set_keepalive(None);
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(exchange) = ctx.as_deref_mut() {
            let again = peer::connect_failed(exchange, &error);
            error.set_retry(again);
        }
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        let Some(exchange) = ctx.as_deref_mut() else { return error };
        let replayable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none()
            && !exchange.passing.answered;
        let is_upstream = *error.esource() == ErrorSource::Upstream;
        if !replayable || !is_upstream {
            error.set_retry(false);
            if is_upstream && !client_reused {
                peer::failed(exchange, false);
            }
            return error;
        }
        let died = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        if client_reused {
            // The app may have closed an idle connection just as it was used: nobody's failure.
            error.set_retry(died && exchange.passing.sent < MOST_SENT);
        } else {
            // A few times: what dies may take connections to its end, and a request that kills the app
            // must not kill it for ever.
            error.set_retry(died && exchange.passing.sent < MOST_SENT);
            peer::failed(exchange, died);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Ctx,
    ) -> FailToProxy {
        let answer = match ctx.as_deref_mut() {
            Some(exchange) => {
                let answer = exchange.answer.take().unwrap_or_else(|| blame(exchange, error));
                exchange.answer = Some(answer.clone());
                answer
            }
            None => Answer::Internal,
        };
        let status = answer.reply().status;
        // Whatever is said below, the connection ends with it; the client is to know.
        session.set_keepalive(None);
        if answer != Answer::ClientLeft
            && session.response_written().is_none()
            && let Err(error) = write_answer(session, &answer, ctx.as_deref()).await
        {
            tracing::debug!(%error, "client gone before our answer");
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Ctx) {
        let Some(exchange) = ctx.as_deref_mut() else { return };
        let written = session.response_written().map(|response| response.status.as_u16());
        let status = match (&exchange.answer, written) {
            (Some(Answer::ClientLeft), None) => 499,
            (_, Some(status)) => status,
            (Some(answer), None) => answer.reply().status,
            (None, None) => 499,
        };
        let sent = session.body_bytes_sent() as u64;
        exchange.passing.received = exchange.passing.received.max(session.body_bytes_read() as u64);
        exchange.finish(status, sent);
    }

    fn suppress_error_log(&self, _: &Session, _: &Ctx, error: &Error) -> bool {
        tracing::debug!(%error, "request failed");
        true
    }
}

/// Facts about the connection, which our stream put into Pingora's digest.
fn facts_of(session: &Session) -> Option<Arc<ConnFacts>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<ConnFacts>>().cloned()
}

fn no_exchange() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "request without exchange")
}

/// Ends the request with an answer of ours.
fn refuse(exchange: &mut Exchange, answer: Answer) -> Box<Error> {
    let status = answer.reply().status;
    exchange.answer = Some(answer);
    Error::new(ErrorType::HTTPStatus(status))
}

/// What an error of the framework means for the client.
fn blame(exchange: &Exchange, error: &Error) -> Answer {
    match exchange.facts.trouble() {
        Trouble::Silent => return Answer::GatewayTimeout,
        Trouble::None => {}
        trouble => return Answer::Body(trouble),
    }
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Answer::Body(Trouble::TooSlow),
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Answer::Body(Trouble::Chunking),
        (ErrorSource::Downstream, _) => Answer::ClientLeft,
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::ConnectTimedout) => {
            Answer::GatewayTimeout
        }
        (ErrorSource::Upstream, ErrorType::InternalError) => Answer::Internal,
        (ErrorSource::Upstream, _) => Answer::BadGateway,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Answer::Internal,
    }
}

/// Tells the app of an HTTP/2 request what its head does not say. HTTP/1 heads came to Pingora with
/// all of it ([`RequestHead::forwarded_bytes`]): adding fields here is dear, for each goes into two
/// maps.
fn complete_head(exchange: &Exchange, request: &mut RequestHeader) -> Result<()> {
    let head = &exchange.head;
    let (Some(passage), Some(matched)) = (&exchange.passage, &exchange.matched) else {
        return Ok(());
    };
    for (name, _) in head.fields().filter(|(name, _)| passage.takes_out(name)) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            request.remove_header(&name);
        }
    }
    for (name, value) in passage.set() {
        request.insert_header(name, value)?;
    }
    if request.headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> = head.all_fields("cookie").collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            request.insert_header(header::COOKIE, cookie)?;
        }
    }
    if matched.stripped > 0 || head.raw_target() != head.target().as_bytes() {
        request.set_raw_path(matched.sent_target(head).as_bytes())?;
        // It went with the old target.
        request.insert_header(header::HOST, head.authority.as_str())?;
    }
    Ok(())
}

/// Puts the app's own addresses back under the prefix it does not know.
fn rewrite_response(exchange: &Exchange, response: &mut ResponseHeader) -> Result<()> {
    let Some(matched) = &exchange.matched else { return Ok(()) };
    let prefix = matched.stripped_prefix(&exchange.head);
    if prefix.is_empty() {
        return Ok(());
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let rewritten = response
            .headers
            .get(&name)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| rewrite::location(value, prefix, &exchange.head.authority));
        if let Some(value) = rewritten {
            response.insert_header(name, value)?;
        }
    }
    let cookies: Vec<_> = response.headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    let rewritten: Vec<_> = cookies
        .iter()
        .map(|cookie| cookie.to_str().ok().and_then(|text| rewrite::set_cookie(text, prefix)))
        .collect();
    if rewritten.iter().any(Option::is_some) {
        response.remove_header(&header::SET_COOKIE);
        for (old, new) in cookies.into_iter().zip(rewritten) {
            let value = new.and_then(|new| HeaderValue::from_str(&new).ok()).unwrap_or(old);
            response.append_header(header::SET_COOKIE, value)?;
        }
    }
    Ok(())
}

async fn write_answer(
    session: &mut Session,
    answer: &Answer,
    exchange: Option<&Exchange>,
) -> Result<()> {
    let reply = answer.reply();
    if reply.status == 499 {
        return Ok(());
    }
    let id = exchange.map(Exchange::request_id).unwrap_or_default();
    let Rendered { status, fields, body } = reply.render(exchange.map(|e| &e.head), &id);
    let mut response = ResponseHeader::build(status, Some(fields.len() + 3))?;
    for (name, value) in fields {
        response.insert_header(name, value)?;
    }
    if let Some(timing) = exchange.and_then(Exchange::server_timing) {
        response.insert_header("server-timing", timing)?;
    }
    if status != http::StatusCode::NO_CONTENT {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    let bodiless = body.is_empty() || session.req_header().method == http::Method::HEAD;
    if reply.closes {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(response), bodiless).await?;
    if bodiless {
        session.downstream_session.finish_body().await?;
    } else {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

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
fn upload_limit(exchange: &Exchange) -> Option<Duration> {
    let app = exchange.matched.as_ref()?;
    match exchange.head.body {
        BodyKind::None => None,
        _ => Some(exchange.table.server.timeouts.body_idle + app.app.spec.timeouts.write_idle),
    }
}

/// How long an HTTP/2 stream may be silent once the app has its whole body. Never shorter than what
/// Pingora times by itself, which has an answer for it.
fn answer_limit(exchange: &Exchange) -> Option<Duration> {
    let idle = exchange.matched.as_ref()?.app.spec.timeouts.response_idle?;
    Some(idle + exchange.table.server.timeouts.write_idle.min(idle))
}

/// Resolves when the client has left: closed its connection, or reset its stream.
async fn left(session: &mut Session) {
    match &mut *session.downstream_session {
        ServerSession::H2(h2) => drop(h2.idle().await),
        ServerSession::H1(h1) => match (**h1.stream()).as_any().downcast_ref::<ClientStream>() {
            Some(stream) => stream.left().await,
            None => std::future::pending().await,
        },
        _ => std::future::pending().await,
    }
}

/// Before a request is tried again: a pause if a connect failed, and a new lease if the old one led
/// nowhere. The next instance may still have to start.
async fn try_again(session: &mut Session, exchange: &mut Exchange) -> Result<(), Answer> {
    if exchange.passing.failed_connects > 0 && exchange.endpoint() != Some(&Endpoint::Upstream) {
        exchange.pause(left(session)).await?;
    }
    if exchange.lease.is_none() {
        exchange.admit(left(session)).await?;
    }
    Ok(())
}
