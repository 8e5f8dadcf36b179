//! A client's connection, request by request.
//!
//! HTTP/1: a head is read and vetted, the exchange judged and admitted, all on a stream without
//! buffers; only then is the request carried to its app, by [`relay`] or by Pingora. Between two requests, and while a request is
//! held, a connection costs its socket and this task. HTTP/2 is handed over as a whole.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pingora_core::{
    apps::{HttpServerApp, ServerApp},
    connectors::TransportConnector,
    protocols::http::ServerSession,
};
use pingora_proxy::HttpProxy;
use tokio::{io::AsyncWriteExt, sync::watch};

use crate::{
    answer::Answer,
    bulletin::Bulletin,
    client_stream::{Arrival, BodyLimits, ClientStream, HeadLimits, close_gently},
    clock,
    exchange::Exchange,
    forward::new_request_id,
    front::{self, Front},
    head::{BodyKind, Reader, RequestHead},
    http2::Http2,
    relay,
    shared::Shared,
};

/// A refused request's body is read to its end if it is no longer than this, to keep the
/// connection.
const MOST_SKIPPED: u64 = 64 * 1024;
/// How long that may take, and how long an answer of ours may take to send.
const PATIENCE: Duration = Duration::from_secs(5);

/// What serves connections on one thread.
pub struct Service {
    /// State of the data path.
    pub shared: Arc<Shared>,
    /// Pingora, with our phases.
    pub http1: Arc<HttpProxy<Front>>,
    /// The same for HTTP/2 connections.
    pub http2: Arc<Http2>,
    /// Opens connections to apps behind TLS.
    pub connector: TransportConnector,
    /// Connections to apps that wait for their next request.
    pub pool: relay::Pool,
    /// True when this proxy is to end: connections close behind their next answer.
    pub shutdown: watch::Receiver<bool>,
    /// True when those that wait for a request are closed too: nobody will serve them.
    pub hang_up: watch::Receiver<bool>,
}

/// What follows a request on its connection.
pub enum Next {
    /// Perhaps another request.
    Request(Box<ClientStream>),
    /// The connection is closed.
    Nothing,
}

impl Service {
    /// Serves a connection to its end.
    pub async fn serve(&self, stream: ClientStream) {
        let mut stream = Box::new(stream);
        let mut hang_up = self.hang_up.clone();
        loop {
            let limits = self.head_limits();
            let wait = self.shared.table.load().server.timeouts.keep_alive;
            let came = tokio::select! {
                biased;
                came = stream.wait(wait) => came,
                _ = hang_up.wait_for(|begun| *begun) => return,
            };
            if !matches!(came, Ok(true)) {
                return;
            }
            let next = match stream.read_head(limits).await {
                Ok(Arrival::Head(bytes)) => self.request(stream, bytes).await,
                Ok(Arrival::Http2) => {
                    self.http2.process_new(stream, &self.shutdown).await;
                    return;
                }
                Ok(Arrival::Late) => self.refuse(stream, &Answer::HeadTooSlow, b"").await,
                Ok(Arrival::Refused(error)) => self.refuse(stream, &Answer::Head(error), b"").await,
                Ok(Arrival::Closed) | Err(_) => return,
            };
            match next {
                Next::Request(again) => stream = again,
                Next::Nothing => return,
            }
        }
    }

    /// Answers a connection that is one too many, whatever it asks.
    pub async fn turn_away(&self, stream: ClientStream) {
        self.refuse(Box::new(stream), &Answer::Crowded, b"").await;
    }

    fn head_limits(&self) -> HeadLimits {
        let table = self.shared.table.load();
        let limits = &table.server.limits;
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        HeadLimits {
            size: bytes(limits.head.0),
            target: bytes(limits.uri.0),
            total: table.server.timeouts.header,
        }
    }

    async fn request(&self, mut stream: Box<ClientStream>, bytes: Bytes) -> Next {
        let uri_limit = self.shared.table.load().server.limits.uri.0;
        let head = match RequestHead::parse(bytes.clone(), uri_limit) {
            Ok(head) => head,
            Err(error) => return self.refuse(stream, &Answer::Head(error), &bytes).await,
        };
        let mut exchange =
            Box::new(Exchange::begin(&self.shared, Arc::clone(stream.facts()), head));
        let judged = exchange.judge();
        let is_relayed = relay::carries(&exchange);
        let for_framework = if is_relayed {
            Bytes::new()
        } else {
            exchange.forwarded_bytes(Reader::Framework).freeze()
        };
        stream.begin(for_framework, exchange.head.body, body_limits(&exchange, is_relayed));
        let admitted = match judged {
            Ok(()) => exchange.admit(stream.left()).await,
            Err(answer) => Err(answer),
        };
        match admitted {
            Ok(()) if is_relayed => relay::run(self, stream, exchange).await,
            Ok(()) => self.forward(stream, exchange).await,
            Err(Answer::Bulletin) => self.inform(stream, exchange).await,
            Err(answer) => {
                let answer = exchange.for_operators(answer).await;
                self.answer(stream, exchange, answer).await
            }
        }
    }

    async fn forward(&self, stream: Box<ClientStream>, exchange: Box<Exchange>) -> Next {
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive(Some(0));
        session.set_connection_user_context(Some(exchange));
        let reused = self.http1.process_new_http(session, &self.shutdown).await;
        let stream = reused.map(|reused| reused.consume().0.into_any());
        match stream.and_then(|any| any.downcast::<ClientStream>().ok()) {
            Some(stream) => Next::Request(stream),
            None => Next::Nothing,
        }
    }

    /// Answers a request by ourselves.
    pub(crate) async fn answer(
        &self,
        mut stream: Box<ClientStream>,
        mut exchange: Box<Exchange>,
        answer: Answer,
    ) -> Next {
        let reply = answer.reply();
        if answer == Answer::ClientLeft {
            exchange.finish(reply.status, 0);
            return Next::Nothing;
        }
        let closes = reply.closes || *self.shutdown.borrow() || !may_continue(&exchange.head);
        let rendered = exchange.render(&answer);
        let is_head = exchange.head.method == http::Method::HEAD;
        let sent_bytes = if is_head { 0 } else { rendered.body.len() as u64 };
        let bytes =
            clock::with_second(|second| rendered.to_http1(closes, is_head, &second.http_date));
        let sent = send(&mut stream, &bytes).await;
        exchange.finish(if sent { reply.status } else { 499 }, sent_bytes);
        if !sent {
            return Next::Nothing;
        }
        let is_usable = !closes
            && tokio::time::timeout(PATIENCE, stream.skip_body(MOST_SKIPPED)).await == Ok(true);
        if !is_usable {
            close_gently(stream.into_parts().0).await;
            return Next::Nothing;
        }
        Next::Request(stream)
    }

    /// Tells a waiting page what becomes of the start; the connection ends with that.
    async fn inform(&self, mut stream: Box<ClientStream>, mut exchange: Box<Exchange>) -> Next {
        let mut bulletin = match exchange.bulletin() {
            Ok(bulletin) => bulletin,
            Err(answer) => return self.answer(stream, exchange, answer).await,
        };
        let head = clock::with_second(|second| Bulletin::http1_head(&second.http_date));
        let (mut is_there, mut sent_bytes) = (send(&mut stream, &head).await, 0);
        while is_there && !*self.shutdown.borrow() {
            let told = tokio::select! {
                () = stream.left() => None,
                told = bulletin.next() => told,
            };
            let Some(told) = told else { break };
            sent_bytes += told.len() as u64;
            is_there = send(&mut stream, &told).await;
        }
        drop(bulletin);
        exchange.finish(if is_there { 200 } else { 499 }, sent_bytes);
        close_gently(stream.into_parts().0).await;
        Next::Nothing
    }

    /// Answers what could not be read as a request.
    async fn refuse(&self, mut stream: Box<ClientStream>, answer: &Answer, read: &[u8]) -> Next {
        let reply = answer.reply();
        let request_id = new_request_id();
        let rendered = answer.render(None, &request_id, None);
        let bytes = clock::with_second(|second| rendered.to_http1(true, false, &second.http_date));
        send(&mut stream, &bytes).await;
        let sent_bytes = rendered.body.len() as u64;
        self.shared.refused(Some(stream.facts()), read, &reply, &request_id, sent_bytes);
        close_gently(stream.into_parts().0).await;
        Next::Nothing
    }
}

fn body_limits(exchange: &Exchange, is_relayed: bool) -> BodyLimits {
    let server = &exchange.table.server;
    let app = exchange.matched.as_ref().map(|matched| &matched.app.spec);
    BodyLimits {
        size: app.and_then(|spec| spec.limits.body).map(|limit| limit.0),
        pace: front::pace_limits(server),
        silence: app
            .and_then(|spec| spec.timeouts.response_idle)
            .filter(|_| !is_relayed && !front::times_silence_itself(exchange)),
    }
}

/// Whether the connection can carry another request behind this one, if we answer it ourselves.
fn may_continue(head: &RequestHead) -> bool {
    let body_is_short = match head.body {
        BodyKind::None => true,
        BodyKind::Length(length) => length <= MOST_SKIPPED,
        BodyKind::UntilEnd => false,
    };
    // A client that asks first may send the body or not, after our answer: nobody can tell.
    head.keeps && body_is_short && (head.body == BodyKind::None || head.field("expect").is_none())
}

async fn send(stream: &mut ClientStream, bytes: &[u8]) -> bool {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(tokio::time::timeout(PATIENCE, write).await, Ok(Ok(())))
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_waits_is_small() {
        fn size<F: Future>(_: impl FnOnce(&'static Service, ClientStream) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(|service, stream| service.serve(stream));
        assert!(size <= 3072, "{size} bytes: put what is rare and large on the heap");
    }
}
