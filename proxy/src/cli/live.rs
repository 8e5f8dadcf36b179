//! `doorbell events` and `doorbell top`: what happens, as it happens.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;

use super::{
    access::{rows_under, time},
    client::{call, call_json},
    control::{block_on, encode},
    screen, table,
};
use crate::admin::status::{AppStatus, Status};

/// Between two pictures.
const PAUSE: Duration = Duration::from_secs(1);
/// Cursor to the corner, and nothing below: ECMA-48.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn events(socket: &Path, app: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let app = app.map(|app| format!("?app={}", encode(app))).unwrap_or_default();
    block_on(async {
        let mut body = call(socket, Method::GET, &format!("/v1/events{app}")).await?.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            text.extend_from_slice(&data);
            // An event ends with an empty line.
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let Some(line) = shown(&String::from_utf8_lossy(&event), json) else { continue };
                let mut out = io::stdout().lock();
                match writeln!(out, "{line}").and_then(|()| out.flush()) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                    other => other?,
                }
            }
        }
        Ok(0)
    })
}

/// An event as a line.
fn shown(event: &str, json: bool) -> Option<String> {
    let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
    let told: Value = serde_json::from_str(data).ok()?;
    if json {
        return Some(screen::line(&told.to_string()));
    }
    let text = |key: &str| told[key].as_str().map(screen::line).unwrap_or_default();
    let name = event.lines().find_map(|line| line.strip_prefix("event: ")).unwrap_or_default();
    if name != "state" {
        let apps = told["apps"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let apps: Vec<_> = apps.map(screen::line).collect();
        return Some(format!("{name} {}", apps.join(", ")));
    }
    let at = time(told["at_unix_ms"].as_u64()?);
    let reason = told["reason"].as_str().map(|why| format!(": {}", screen::line(why)));
    Some(format!("{at} {} {}{}", text("app"), text("state"), reason.unwrap_or_default()))
}

pub(super) fn top(socket: &Path) -> anyhow::Result<u8> {
    let is_terminal = io::stdout().is_terminal();
    let mut before: Option<Picture> = None;
    loop {
        let status: Status = block_on(call_json(socket, Method::GET, "/v1/apps"))?;
        let now = Picture { at: Instant::now(), apps: figures(&status) };
        // Rates need two pictures.
        if let Some(before) = &before {
            let page = page(&status, &now, before);
            let mut out = io::stdout().lock();
            write!(out, "{}{page}", if is_terminal { CLEAR } else { "" })?;
            out.flush()?;
            if !is_terminal {
                return Ok(0);
            }
        }
        before = Some(now);
        block_on(async {
            tokio::time::sleep(PAUSE).await;
            Ok(())
        })?;
    }
}

/// What was counted at a moment.
struct Picture {
    at: Instant,
    /// CPU seconds and requests.
    apps: HashMap<String, (f64, u64)>,
}

fn figures(status: &Status) -> HashMap<String, (f64, u64)> {
    let of = |app: &AppStatus| {
        let cpu = app.usage.map_or(0.0, |usage| usage.cpu_seconds);
        (app.id.clone(), (cpu, app.requests))
    };
    status.apps.iter().map(of).collect()
}

/// Those that do most come first; those that do nothing are counted.
fn page(status: &Status, now: &Picture, before: &Picture) -> String {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let rates = |app: &AppStatus| {
        let (cpu, requests) = now.apps.get(&app.id).copied().unwrap_or_default();
        let (cpu_then, then) = before.apps.get(&app.id).copied().unwrap_or((cpu, requests));
        // An instance that was replaced counts anew.
        let cpu = (cpu - cpu_then).max(0.0) / seconds * 100.0;
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = requests.saturating_sub(then) as f64 / seconds;
        (cpu, rate)
    };
    let mut apps: Vec<_> = status.apps.iter().map(|app| (rates(app), app)).collect();
    let asleep = apps.len();
    apps.retain(|(_, app)| app.usage.is_some() || app.held > 0);
    let asleep = asleep - apps.len();
    apps.sort_by(|(a, _), (b, _)| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let rows = apps.iter().map(|((cpu, rate), app)| {
        vec![
            app.id.clone(),
            table::state(app),
            format!("{cpu:.1}"),
            app.usage.map_or_else(|| "-".into(), |usage| table::memory(usage.memory_bytes)),
            app.usage.map_or_else(|| "-".into(), |usage| usage.processes.to_string()),
            format!("{rate:.1}"),
            app.in_flight.to_string(),
            app.held.to_string(),
        ]
    });
    let head = ["APP", "STATE", "CPU %", "MEMORY", "PROCESSES", "REQUESTS/S", "RUNNING", "HELD"];
    format!("{}\n{asleep} more apps have no process\n", rows_under(&head, rows))
}
