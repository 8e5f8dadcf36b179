//! Requests that ask for another protocol on the connection: WebSockets and the like (RFC 9110
//! section 7.8).
//!
//! They do not go through Pingora's request loop, which may tear the upgrade down when the app's 101
//! is faster than the loop (cloudflare/pingora#946). Here the app's answer is awaited first; with a
//! 101 both sockets are joined, byte for byte, from the first byte the client sent ahead; with
//! anything else the answer is passed on as it is and the connection closed.
//!
//! The exchange keeps its lease to the end, so an open WebSocket counts as use.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use doorbell_supervisor::message::Endpoint;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use pingora_core::{connectors::TransportConnector, protocols::Stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{
    answer::Answer,
    client_stream::{ClientStream, close_gently},
    clock,
    connection::Service,
    exchange::Exchange,
    head::has_token,
    peer,
    transport::Transport,
};

/// Buffer in each direction of an upgraded connection.
const BUFFER: usize = 8 * 1024;

/// How long one side may go on when the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Opens connections to apps.
pub type Connector = TransportConnector;

/// Fields that are about one connection and not passed on; `Connection` and `Upgrade` are set anew.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Carries the exchange to its end.
pub async fn run(service: &Service, mut stream: Box<ClientStream>, mut exchange: Box<Exchange>) {
    let opened = tokio::select! {
        biased;
        () = stream.left() => Err(Answer::ClientLeft),
        opened = open(service, &mut exchange) => opened,
    };
    let response = match opened {
        Ok(response) => response,
        Err(answer) => {
            service.answer_last(stream, exchange, answer).await;
            return;
        }
    };
    exchange.answer_begins();
    let status = response.status().as_u16();
    let idle = exchange.matched.as_ref().and_then(|m| m.app.spec.timeouts.upgraded_idle);
    let head = response_head(&exchange, &response);
    if stream.write_all(&head).await.is_err() || stream.flush().await.is_err() {
        exchange.finish(499, 0);
        return;
    }
    let (client, ahead) = stream.into_parts();
    let sent = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let mut shutdown = service.shutdown.clone();
        let limit = exchange.table.server.timeouts.shutdown;
        let cut = async move {
            // A sender that is gone means the same.
            drop(shutdown.wait_for(|begun| *begun).await);
            tokio::time::sleep(limit).await;
        };
        let traffic = Arc::new(Traffic::new());
        tokio::select! {
            () = join(client, &ahead, response, idle, &traffic) => {}
            () = cut => {}
        }
        exchange.passing.received = traffic.up.load(Ordering::Relaxed);
        traffic.down.load(Ordering::Relaxed)
    } else {
        pass_on(client, response, &exchange).await
    };
    exchange.finish(status, sent);
}

/// Sends the request, to another instance or server if one cannot be reached.
async fn open(service: &Service, exchange: &mut Exchange) -> Result<Response<Incoming>, Answer> {
    loop {
        if exchange.passing.failed_connects > 0 && exchange.endpoint() != Some(&Endpoint::Upstream)
        {
            exchange.pause(std::future::pending()).await?;
        }
        if exchange.lease.is_none() {
            // Whoever called us watches the client.
            exchange.admit(std::future::pending()).await?;
        }
        let mut peer = peer::of(exchange).await?;
        // Another protocol is asked for in HTTP/1.1, also of an app that speaks HTTP/2.
        peer.options.set_http_version(1, 1);
        match service.tunnels.new_stream(&peer).await {
            Ok(io) => return ask(io, exchange).await,
            Err(error) => {
                if !peer::connect_failed(exchange, &error) {
                    if let Some(answer) = exchange.answer.take() {
                        return Err(answer);
                    }
                    let late = *error.etype() == pingora_error::ErrorType::ConnectTimedout;
                    return Err(if late { Answer::GatewayTimeout } else { Answer::BadGateway });
                }
            }
        }
    }
}

async fn ask(io: Stream, exchange: &Exchange) -> Result<Response<Incoming>, Answer> {
    let (mut sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|_| Answer::BadGateway)?;
    // Ends with the connection: with the upgrade, with the response's end, or when both are dropped.
    tokio::spawn(connection.with_upgrades());
    let request = request(exchange).ok_or(Answer::Internal)?;
    let limit = exchange.matched.as_ref().and_then(|m| m.app.spec.timeouts.response_idle);
    let response = sender.send_request(request);
    match limit {
        None => response.await,
        Some(limit) => {
            tokio::time::timeout(limit, response).await.map_err(|_| Answer::GatewayTimeout)?
        }
    }
    .map_err(|_| Answer::BadGateway)
}

fn request(exchange: &Exchange) -> Option<Request<Empty<Bytes>>> {
    let head = &exchange.head;
    let matched = exchange.matched.as_ref()?;
    let passage = exchange.passage.as_ref()?;
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(matched.sent_target(head))
        .body(Empty::new())
        .ok()?;
    let headers = request.headers_mut();
    for (name, value) in head.fields() {
        let hop = HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop.as_str().as_bytes()));
        let nominated = head.all_fields("connection").any(|list| has_token(list, name));
        if hop || nominated || passage.takes_out(name) {
            continue;
        }
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    for (name, value) in passage.set() {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).ok()?);
    }
    headers.insert(header::HOST, HeaderValue::from_str(&head.authority).ok()?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_bytes(head.field("upgrade")?).ok()?);
    Some(request)
}

fn response_head(exchange: &Exchange, response: &Response<Incoming>) -> Vec<u8> {
    let status = response.status();
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut head = Vec::with_capacity(512);
    let reason = status.canonical_reason().unwrap_or_default();
    head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    let mut put = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in response.headers() {
        let framing = name == header::TRANSFER_ENCODING || name == header::CONNECTION;
        if !framing {
            put(name.as_str(), value.as_bytes());
        }
    }
    if !response.headers().contains_key(header::DATE) {
        clock::with_second(|second| put("date", second.http_date.as_bytes()));
    }
    if let Some(timing) = exchange.server_timing() {
        put("server-timing", timing.as_bytes());
    }
    put("connection", if switching { b"Upgrade" } else { b"close" });
    head.extend_from_slice(b"\r\n");
    head
}

/// Passes on an answer that is no 101. The body ends with the connection, or with its length.
async fn pass_on(mut client: Transport, response: Response<Incoming>, exchange: &Exchange) -> u64 {
    let limit = exchange.matched.as_ref().and_then(|m| m.app.spec.timeouts.response_idle);
    let write_limit = exchange.table.server.timeouts.write_idle;
    let mut body = response.into_body();
    let mut sent = 0;
    loop {
        let frame = match limit {
            Some(limit) => tokio::time::timeout(limit, body.frame()).await.ok().flatten(),
            None => body.frame().await,
        };
        let data = match frame {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            None if body.is_end_stream() => break,
            // Broken off: the client must not take what it has for the whole.
            Some(Err(_)) | None => {
                client.reset();
                return sent;
            }
        };
        let write = tokio::time::timeout(write_limit, client.write_all(&data)).await;
        if !matches!(write, Ok(Ok(()))) {
            return sent;
        }
        sent += data.len() as u64;
    }
    close_gently(client).await;
    sent
}

/// Bytes that passed, and when the last ones did.
struct Traffic {
    began: Instant,
    last: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    fn passed(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Resolves when nothing has passed for `limit`.
    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.began + last + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end.into()).await;
        }
    }
}

/// Joins both sockets until one side is done with both directions, or nothing passes.
async fn join(
    client: Transport,
    ahead: &BytesMut,
    response: Response<Incoming>,
    idle: Option<Duration>,
    traffic: &Arc<Traffic>,
) {
    let app: Upgraded = match hyper::upgrade::on(response).await {
        Ok(app) => app,
        Err(error) => {
            tracing::debug!(%error, "app gone right after its 101");
            return;
        }
    };
    let mut app = TokioIo::new(app);
    if app.write_all(ahead).await.is_err() || app.flush().await.is_err() {
        return;
    }
    traffic.passed(&traffic.up, ahead.len());
    let mut client = Watched { io: client, traffic: Arc::clone(traffic) };
    tokio::select! {
        () = relay(&mut client, &mut app) => {}
        () = traffic.idle(idle) => tracing::debug!("upgraded connection was idle for too long"),
    }
}

/// Copies both ways. When one side has said its last word, the other may answer it for a while and
/// no longer: an app that does not notice that its client left would stay awake for ever.
async fn relay(client: &mut Watched, app: &mut TokioIo<Upgraded>) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_app, to_app) = tokio::io::split(app);
    let mut up = std::pin::pin!(copy(from_client, to_app));
    let mut down = std::pin::pin!(copy(from_app, to_client));
    // Broken or ended, each direction is over either way.
    tokio::select! {
        _ = &mut up => drop(tokio::time::timeout(LAST_WORDS, down).await),
        _ = &mut down => drop(tokio::time::timeout(LAST_WORDS, up).await),
    }
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut from = tokio::io::BufReader::with_capacity(BUFFER, from);
    tokio::io::copy_buf(&mut from, &mut to).await?;
    to.shutdown().await
}

/// The client's socket, counted: what it sends is up, what it gets is down.
struct Watched {
    io: Transport,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.traffic.passed(&this.traffic.up, buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            this.traffic.passed(&this.traffic.down, *n);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
