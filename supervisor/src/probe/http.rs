//! One GET, on a connection of its own.

use std::pin::Pin;

use bytes::Bytes;
use doorbell_config::spec::HttpProbe;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Uri,
    body::Incoming,
    client::conn::{http1, http2},
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::message::Endpoint;

/// How much of a body is searched.
const SEARCHED: usize = 64 * 1024;
/// Who asks.
const AGENT: &str = "doorbell";

/// Why an app is not ready yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    #[error("the path is no request target: {0}")]
    Request(#[from] http::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the body does not contain the text")]
    Body,
}

/// What an app is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge (RFC 9113 section 3.3).
    Two,
}

/// Asks once.
pub(super) async fn look(
    endpoint: &Endpoint,
    version: HttpVersion,
    probe: &HttpProbe,
    host: &str,
) -> Result<(), Problem> {
    let stream = TokioIo::new(super::connect(endpoint).await?);
    match version {
        HttpVersion::One => look_by_http1(stream, probe, host).await,
        HttpVersion::Two => look_by_http2(stream, probe, host).await,
    }
}

type Io = TokioIo<Box<dyn super::Stream>>;

async fn look_by_http1(stream: Io, probe: &HttpProbe, host: &str) -> Result<(), Problem> {
    let request = Request::get(probe.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let exchange = async { judge(probe, sender.send_request(request).await?).await };
    drive(exchange, connection).await
}

async fn look_by_http2(stream: Io, probe: &HttpProbe, host: &str) -> Result<(), Problem> {
    let target = Uri::builder().scheme("http").authority(host).path_and_query(probe.path.as_str());
    let request =
        Request::get(target.build()?).header(USER_AGENT, AGENT).body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    // Boxed, since the compiler does not see of the type itself that it is `Send`.
    let connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> = Box::pin(connection);
    let exchange = async { judge(probe, sender.send_request(request).await?).await };
    drive(exchange, connection).await
}

/// Carries out an exchange on its connection, which is only its engine: the connection's end, good
/// or bad, shows in the exchange.
async fn drive<T>(
    exchange: impl Future<Output = Result<T, Problem>>,
    connection: impl Future,
) -> Result<T, Problem> {
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        judged = &mut exchange => judged,
        _ = &mut connection => exchange.await,
    }
}

async fn judge(probe: &HttpProbe, response: http::Response<Incoming>) -> Result<(), Problem> {
    let status = response.status().as_u16();
    let is_wanted = probe.status.map_or((200..400).contains(&status), |wanted| status == wanted);
    if !is_wanted {
        return Err(Problem::Status(status));
    }
    match &probe.body {
        None => Ok(()),
        Some(text) => search(text.as_bytes(), response.into_body()).await,
    }
}

async fn search(text: &[u8], mut body: Incoming) -> Result<(), Problem> {
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read.extend_from_slice(data.get(..data.len().min(SEARCHED - read.len())).unwrap_or(&data));
        if text.is_empty() || read.windows(text.len()).any(|window| window == text) {
            return Ok(());
        }
        if read.len() >= SEARCHED {
            break;
        }
    }
    if text.is_empty() { Ok(()) } else { Err(Problem::Body) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn verdict(answer: &'static [u8], status: Option<u16>, body: Option<&str>) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(server.local_addr().unwrap());
        let serve = tokio::spawn(async move {
            let (mut client, _) = server.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = client.read(&mut head).await.unwrap();
            client.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        let probe =
            HttpProbe { path: "/h?x=1".into(), status, body: body.map(Into::into), host: None };
        let verdict = look(&endpoint, HttpVersion::One, &probe, "blog.test").await;
        let head = serve.await.unwrap();
        assert!(head.starts_with("GET /h?x=1 HTTP/1.1\r\nhost: blog.test\r\n"), "{head}");
        verdict.map_or_else(|problem| problem.to_string(), |()| "ready".into())
    }

    #[tokio::test]
    async fn judges_status_and_body() {
        const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nall is ";
        const FOUND: &[u8] = b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n";
        const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(verdict(OK, None, None).await, "ready");
        assert_eq!(verdict(FOUND, None, None).await, "ready");
        assert_eq!(verdict(BUSY, None, None).await, "status 503");
        assert_eq!(verdict(BUSY, Some(503), None).await, "ready");
        assert_eq!(verdict(FOUND, Some(200), None).await, "status 302");
        assert_eq!(verdict(OK, None, Some("is")).await, "ready");
        let missing = verdict(OK, None, Some("well")).await;
        assert_eq!(missing, "the body does not contain the text");
    }

    #[tokio::test]
    async fn nonsense_is_not_ready() {
        let verdict = verdict(b"SSH-2.0-OpenSSH\r\n", None, None).await;
        assert_ne!(verdict, "ready");
    }
}
