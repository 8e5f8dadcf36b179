//! Talks to the running doorbell through its admin socket.

use std::path::Path;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
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

/// Calls a method of the admin API; an answer that is no success becomes an error in its words.
pub(super) async fn call(
    socket: &Path,
    method: Method,
    path: &str,
) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| explain(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context(CLOSED)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => bail!("{}", screen::lines(&problem.detail)),
        Err(_) => bail!("doorbell answered {status}"),
    }
}

/// The body of [`call`], read as JSON.
pub(super) async fn call_json<T: serde::de::DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
) -> anyhow::Result<T> {
    let response = call(socket, method, path).await?;
    debug_assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body)
        .context("doorbell's answer is not understood: is it of another version?")
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
