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
use http::header;
use pingora_core::{
    protocols::{Digest, http::ServerSession},
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::{
    answer::Answer,
    exchange::{Exchange, MOST_SENT},
    head::{RequestHead, Version},
    http2::{self},
    patience::Pace,
    peer::{self, Why},
    shared::Shared,
    transport::Trouble,
};

mod client;
mod deadlines;
mod fields;

use client::{client_stream, facts_of, has_left, left, write_answer, write_bulletin};
use deadlines::{answering, keeps_up, uploading};
pub use deadlines::{pace_limits, times_silence_itself};
use fields::{complete_head, name_app, remove_hop_by_hop, rewrite_response};

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
        http2::expect(uploading(exchange));
        exchange.passing.pace = Pace::of(pace_limits(&exchange.table.server));
        exchange.passing.pace.wait_begins();
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

    async fn early_request_filter(&self, session: &mut Session, _: &mut Ctx) -> Result<()> {
        // `ClientStream` times HTTP/1 clients by itself, at less cost.
        session.set_read_timeout(None);
        let is_http2 = matches!(&*session.downstream_session, ServerSession::H2(_));
        let patience = is_http2.then(|| self.shared.table.load().server.timeouts.write_idle);
        session.set_write_timeout(patience);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if ctx.is_some() {
            return Ok(false);
        }
        let answer = match self.receive(session) {
            Ok(exchange) => {
                let exchange = ctx.insert(exchange);
                let answer = match self.admit_stream(session, exchange).await {
                    Ok(()) => return Ok(false),
                    Err(Answer::Bulletin) => match exchange.bulletin() {
                        Ok(bulletin) => {
                            exchange.answer = Some(Answer::Bulletin);
                            write_bulletin(session, bulletin).await?;
                            return Ok(true);
                        }
                        Err(answer) => answer,
                    },
                    Err(answer) => exchange.for_operators(answer).await,
                };
                exchange.answer = Some(answer.clone());
                answer
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
        let destination = peer::destination(exchange).await;
        match destination.and_then(|found| peer::http_peer(&found, exchange)) {
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
        if !exchange.passing.held.is_zero() && has_left(session) {
            return Err(refuse(exchange, Answer::ClientLeft));
        }
        if exchange.passing.sent > 0 {
            // What was kept of the body comes through the filters once more.
            exchange.passing.received = 0;
            http2::expect(uploading(exchange));
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
        } else if exchange.passing.moved {
            name_app(exchange, request)?;
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
        let length = body.as_ref().map_or(0, Bytes::len);
        exchange.passing.received += length as u64;
        if end {
            http2::expect(answering(exchange));
        } else {
            http2::heard();
            if exchange.head.version == Version::Http2 && !keeps_up(exchange, length) {
                return Err(refuse(exchange, Answer::Body(Trouble::TooSlow)));
            }
        }
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
        remove_hop_by_hop(response);
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
            let again = peer::connect_failed(exchange, Why::from(&*error));
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
        let is_http10 =
            ctx.as_ref().is_some_and(|exchange| exchange.head.version == Version::Http10);
        if is_http10
            && session.response_written().is_some()
            && let Some(stream) = client_stream(session)
        {
            // Without chunks, a clean end would say that the answer is complete.
            stream.break_off();
        }
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
