//! `doorbell logs`: an app's output, and what comes after it.

use std::{
    io::{self, Write},
    path::Path,
};

use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;

use super::{
    SocketArg,
    client::call,
    control::{block_on, encode},
    screen,
    stream::{self, Event},
};
use crate::admin::GONE;

/// What of an app's output is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The app's id
    app: String,
    /// Go on with what comes, over an upgrade too
    #[arg(short, long)]
    follow: bool,
    /// Lines to begin with
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// For machines: a line of JSON each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Logs {
    pub(super) fn run(&self) -> anyhow::Result<u8> {
        let Self { app, follow, lines, json, socket } = self;
        let app = encode(app);
        let path = format!("/v1/apps/{app}/logs?lines={lines}&json={json}");
        let socket = socket.find()?;
        if *follow {
            return block_on(go_on(&socket, &path, *json));
        }
        block_on(async {
            let mut body = call(&socket, Method::GET, &path).await?.into_body();
            let mut output = screen::Output::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    match print(&output.pass(&data)) {
                        // Whoever read us has seen enough: `doorbell logs blog | head`.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                        other => other?,
                    }
                }
            }
            Ok(0)
        })
    }
}

async fn go_on(socket: &Path, path: &str, json: bool) -> anyhow::Result<u8> {
    let mut output = screen::Output::new();
    let mut width = 0;
    stream::follow(socket, path, |event| {
        if event.name == GONE {
            return Err(io::Error::other("the app is no more: it was deleted, or has another id"));
        }
        if let Ok(Begins { replicas }) = serde_json::from_str(event.data) {
            width = name_width(&replicas);
            return Ok(());
        }
        let line = if json { event.data.to_owned() } else { line(event, width)? };
        print(&output.pass(format!("{line}\n").as_bytes()))
    })
    .await
}

/// What comes first: whose lines come.
#[derive(Deserialize)]
struct Begins {
    replicas: Vec<String>,
}

/// A line, and whose it is.
#[derive(Deserialize)]
struct Told {
    app: String,
    line: String,
}

/// Each line is shown with whose it is where there are several.
fn name_width(replicas: &[String]) -> usize {
    match replicas {
        [] | [_] => 0,
        several => several.iter().map(String::len).max().unwrap_or_default(),
    }
}

fn line(event: &Event<'_>, width: usize) -> io::Result<String> {
    let Told { app, line } = serde_json::from_str(event.data)?;
    Ok(if width == 0 { line } else { format!("{app:width$} | {line}") })
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}
