//! Server-sent events of the admin API, followed over the end of the process that tells them: after an
//! upgrade or a fall another one answers, and goes on behind what was heard.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use http_body_util::BodyExt;
use hyper::{Method, body::Incoming, header};

use super::client::{CLOSED, Call, Refusal};

/// How long nobody may answer, and the time between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// What the answer is.
const KIND: &str = "text/event-stream";

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'t> {
    /// Empty if it has none.
    pub(super) name: &'t str,
    /// Of ours, always one line.
    pub(super) data: &'t str,
}

/// Tells each event of a path, until nobody listens or nobody tells any more.
///
/// # Errors
/// If it is refused, or nobody tells any more.
pub(super) async fn follow(
    socket: &Path,
    path: &str,
    mut tell: impl FnMut(&Event<'_>) -> io::Result<()>,
) -> anyhow::Result<u8> {
    let mut heard = None;
    let mut body = ask(socket, path, None).await?;
    loop {
        match pass_on(body, &mut heard, &mut tell).await {
            // Whoever read us has seen enough: `doorbell events | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            other => other?,
        }
        body = ask_again(socket, path, heard.as_deref()).await?;
    }
}

/// Reads an answer to its end, whatever end that is.
async fn pass_on(
    mut body: Incoming,
    heard: &mut Option<String>,
    tell: &mut impl FnMut(&Event<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        // An event ends with an empty line.
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            if let Some(data) = field("data: ") {
                tell(&Event { name: field("event: ").unwrap_or_default(), data })?;
            }
            if let Some(id) = field("id: ") {
                *heard = Some(id.to_owned());
            }
        }
    }
    Ok(())
}

async fn ask(socket: &Path, path: &str, heard: Option<&str>) -> anyhow::Result<Incoming> {
    let mut call = Call::new(Method::GET, path).with("accept", KIND.to_owned());
    if let Some(heard) = heard {
        call = call.with("last-event-id", heard.to_owned());
    }
    let answer = call.answer(socket).await?;
    if answer.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != KIND) {
        bail!("doorbell's answer is not understood: is it of another version?");
    }
    Ok(answer.into_body())
}

/// Asks until somebody answers.
async fn ask_again(socket: &Path, path: &str, heard: Option<&str>) -> anyhow::Result<Incoming> {
    let until = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(PAUSE).await;
        match ask(socket, path, heard).await {
            Err(error) if is_passing(&error) && Instant::now() < until => {}
            Err(error) => return Err(error.context(CLOSED)),
            Ok(body) => return Ok(body),
        }
    }
}

/// Whether it may be another answer in a moment.
fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_none_or(|refusal| refusal.status.is_server_error())
}
