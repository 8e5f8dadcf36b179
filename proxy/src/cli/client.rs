//! Talks to the running doorbell through its admin socket.

use std::path::Path;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::screen;
use crate::admin::Problem;

/// What is said when nobody answers who was there.
pub(super) const CLOSED: &str = "doorbell closed the connection";

/// An answer that is no success, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Refusal {
    /// Its status.
    pub(super) status: StatusCode,
    /// What it says.
    pub(super) detail: String,
}

/// A request of the admin API.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    path: String,
    body: Bytes,
    headers: Vec<(&'static str, String)>,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Bytes::new(), headers: Vec::new() }
    }

    pub(super) fn json(self, body: &impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self { body: serde_json::to_vec(body)?.into(), ..self })
    }

    /// Only if the app is still at this revision.
    pub(super) fn if_at(self, revision: u64) -> Self {
        self.with("if-match", format!("\"{revision}\""))
    }

    /// With a field of its head.
    pub(super) fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Makes it, and reads the answer as JSON.
    pub(super) async fn make<T: serde::de::DeserializeOwned>(
        self,
        socket: &Path,
    ) -> anyhow::Result<T> {
        let body = self.answer(socket).await?.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&body)
            .context("doorbell's answer is not understood: is it of another version?")
    }

    /// Makes it; an answer that is no success becomes an error in its words.
    pub(super) async fn answer(self, socket: &Path) -> anyhow::Result<Response<Incoming>> {
        send(socket, self).await
    }
}

/// Calls a method of the admin API; an answer that is no success becomes an error in its words.
pub(super) async fn call(
    socket: &Path,
    method: Method,
    path: &str,
) -> anyhow::Result<Response<Incoming>> {
    Call::new(method, path).answer(socket).await
}

async fn send(socket: &Path, call: Call) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| explain(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header("host", "localhost")
        .header("content-type", "application/json");
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(call.body))?;
    let response = sender.send_request(request).await.context(CLOSED)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => bail!(Refusal { status, detail: screen::lines(&problem.detail) }),
        Err(_) => bail!("doorbell answered {status}"),
    }
}

/// The body of [`call`], read as JSON.
pub(super) async fn call_json<T: serde::de::DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
) -> anyhow::Result<T> {
    Call::new(method, path).make(socket).await
}

fn explain(socket: &Path, error: &std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind;
    let path = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow::anyhow!(
            "no doorbell runs here (nobody listens on {path})\n\
             start one with `doorbell serve`, or name its socket with --socket"
        ),
        ErrorKind::PermissionDenied => anyhow::anyhow!(
            "you may not open {path}: run this as the user that doorbell runs as, or as root"
        ),
        _ => anyhow::anyhow!("cannot connect to {path}: {error}"),
    }
}
