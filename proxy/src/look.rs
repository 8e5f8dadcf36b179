//! One look at an app: a GET on a connection of its own, and whether the answer is as wanted. Readiness
//! of instances and health of upstream servers both rest on it.

use std::{io, pin::Pin};

use bytes::Bytes;
use doorbell_config::spec::HttpProbe;
use doorbell_supervisor::message::Endpoint;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Uri,
    body::Incoming,
    client::conn::{http1, http2},
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// How much of a body is searched.
const SEARCHED: usize = 64 * 1024;
/// Who asks.
const AGENT: &str = concat!("doorbell/", env!("CARGO_PKG_VERSION"));

/// Tells the apps of one instance apart.
pub const X_APP: &str = "x-app";

/// A connection to an app.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Why an app's answer is not as wanted. Words of ours: none of what the app said.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be connected to.
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    /// It did not answer in HTTP, or not to the end.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    /// It cannot be asked.
    #[error("the path is no request target: {0}")]
    Request(#[from] http::Error),
    /// Another status than wanted.
    #[error("status {0}")]
    Status(u16),
    /// Another body than wanted.
    #[error("the body does not contain the text")]
    Body,
}

/// What an app is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge (RFC 9113 section 3.3), or as agreed on over TLS.
    Two {
        /// Whether it is over TLS: then the scheme is another.
        tls: bool,
    },
}

impl HttpVersion {
    /// What an app is spoken to in whose `http2` is set, or not.
    #[must_use]
    pub fn of(http2: bool, tls: bool) -> Self {
        if http2 { Self::Two { tls } } else { Self::One }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The path, and the answer that is wanted.
    pub probe: &'a HttpProbe,
    /// `Host` of the request.
    pub host: &'a str,
    /// `X-App` of the request, if the instance serves several.
    pub app: Option<&'a str>,
}

/// Asks an instance once.
///
/// # Errors
/// If the answer is not as wanted.
pub async fn look_at(
    endpoint: &Endpoint,
    version: HttpVersion,
    question: Asked<'_>,
) -> Result<(), Problem> {
    match endpoint {
        Endpoint::Tcp(address) => look(TcpStream::connect(address).await?, version, question).await,
        Endpoint::Unix(path) => look(UnixStream::connect(path).await?, version, question).await,
        Endpoint::Upstream => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}

/// Asks once, on a connection that nobody uses afterwards.
///
/// # Errors
/// If the answer is not as wanted.
pub async fn look(
    stream: impl Stream,
    version: HttpVersion,
    question: Asked<'_>,
) -> Result<(), Problem> {
    let stream = TokioIo::new(stream);
    match version {
        HttpVersion::One => look_by_http1(stream, question).await,
        HttpVersion::Two { tls } => look_by_http2(stream, tls, question).await,
    }
}

async fn look_by_http1(
    stream: TokioIo<impl Stream>,
    Asked { probe, host, app }: Asked<'_>,
) -> Result<(), Problem> {
    let mut request = Request::get(probe.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if let Some(app) = app {
        request = request.header(X_APP, app);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let exchange = async { judge(probe, sender.send_request(request).await?).await };
    drive(exchange, connection).await
}

async fn look_by_http2(
    stream: TokioIo<impl Stream>,
    tls: bool,
    Asked { probe, host, app }: Asked<'_>,
) -> Result<(), Problem> {
    let scheme = if tls { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(host).path_and_query(probe.path.as_str());
    let mut request = Request::get(target.build()?).header(USER_AGENT, AGENT);
    if let Some(app) = app {
        request = request.header(X_APP, app);
    }
    let request = request.body(Empty::<Bytes>::new())?;
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
    while memmem::find(&read, text).is_none() {
        let room = SEARCHED - read.len();
        let frame = if room > 0 { body.frame().await } else { None };
        let Some(frame) = frame else { return Err(Problem::Body) };
        // Trailers are not searched.
        if let Ok(data) = frame?.into_data() {
            read.extend(data.into_iter().take(room));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn verdict(answer: &'static [u8], status: Option<u16>, body: Option<&str>) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let serve = tokio::spawn(async move {
            let (mut client, _) = server.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = client.read(&mut head).await.unwrap();
            client.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        let probe =
            HttpProbe { path: "/h?x=1".into(), status, body: body.map(Into::into), host: None };
        let question = Asked { probe: &probe, host: "blog.test", app: None };
        let verdict = look(stream, HttpVersion::One, question).await;
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
