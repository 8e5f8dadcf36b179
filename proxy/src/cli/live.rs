//! `doorbell events` and `doorbell top`: what happens, as it happens.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::{
    JsonArg,
    access::{rows_under, time},
    client::call_json,
    control::{block_on, encode},
    screen,
    stream::{Event, follow},
    table,
};
use crate::admin::status::{AppStatus, Status};

/// Between two pictures.
const PAUSE: Duration = Duration::from_secs(1);
/// Cursor to the corner, and nothing below: ECMA-48.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn events(socket: &Path, app: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let app = app.map(|app| format!("?app={}", encode(app))).unwrap_or_default();
    block_on(follow(socket, &format!("/v1/events{app}"), |event| {
        let Some(line) = shown(event, json) else { return Ok(()) };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())
    }))
}

/// An event as a line.
fn shown(event: &Event<'_>, json: bool) -> Option<String> {
    let told: Value = serde_json::from_str(event.data).ok()?;
    if json {
        return Some(screen::line(&told.to_string()));
    }
    let text = |key: &str| told[key].as_str().map(screen::line).unwrap_or_default();
    match event.name {
        "state" => {
            let at = time(told["at_unix_ms"].as_u64()?);
            let reason = told["reason"].as_str().map(|why| format!(": {}", screen::line(why)));
            Some(format!("{at} {} {}{}", text("app"), text("state"), reason.unwrap_or_default()))
        }
        "lost" => Some("lost: what happened meanwhile is not known".to_owned()),
        name => {
            let apps = told["apps"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let apps: Vec<_> = apps.map(screen::line).collect();
            Some(format!("{name} {}", apps.join(", ")))
        }
    }
}

pub(super) fn top(socket: &Path, how: JsonArg) -> anyhow::Result<u8> {
    let is_terminal = io::stdout().is_terminal() && !how.json;
    let mut before: Option<Picture> = None;
    loop {
        let status: Status = block_on(call_json(socket, Method::GET, "/v1/apps"))?;
        let now = Picture { at: Instant::now(), apps: figures(&status) };
        // Rates need two pictures.
        if let Some(before) = &before {
            let lines = lines(&status, &now, before);
            if !is_terminal {
                return how.tell(&lines, || page(&lines, &status));
            }
            let mut out = io::stdout().lock();
            write!(out, "{CLEAR}{}", page(&lines, &status))?;
            out.flush()?;
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

/// What an app does.
#[derive(Debug, Serialize)]
struct Line {
    app: String,
    pinned: bool,
    state: String,
    /// Of one processor.
    cpu_percent: f64,
    memory_bytes: Option<u64>,
    processes: Option<u32>,
    requests_per_second: f64,
    in_flight: i64,
    held: u64,
}

/// Those that are pinned come first, then those that do most; those that do nothing are left out.
fn lines(status: &Status, now: &Picture, before: &Picture) -> Vec<Line> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let line = |app: &AppStatus| {
        let (cpu, requests) = now.apps.get(&app.id).copied().unwrap_or_default();
        let (cpu_then, then) = before.apps.get(&app.id).copied().unwrap_or((cpu, requests));
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let requests_per_second = requests.saturating_sub(then) as f64 / seconds;
        Line {
            app: app.id.clone(),
            pinned: app.pinned,
            state: table::state(app),
            // An instance that was replaced counts anew.
            cpu_percent: (cpu - cpu_then).max(0.0) / seconds * 100.0,
            memory_bytes: app.usage.map(|usage| usage.memory_bytes),
            processes: app.usage.map(|usage| usage.processes),
            requests_per_second,
            in_flight: app.in_flight,
            held: app.held,
        }
    };
    let busy = status.apps.iter().filter(|app| app.usage.is_some() || app.held > 0);
    let mut lines: Vec<_> = busy.map(line).collect();
    lines.sort_by(|a, b| {
        let by_pin = b.pinned.cmp(&a.pinned);
        let by_cpu = b.cpu_percent.total_cmp(&a.cpu_percent);
        by_pin.then(by_cpu).then(b.requests_per_second.total_cmp(&a.requests_per_second))
    });
    lines
}

/// The same for people.
fn page(lines: &[Line], status: &Status) -> String {
    let rows = lines.iter().map(|line| {
        vec![
            line.app.clone(),
            line.state.clone(),
            format!("{:.1}", line.cpu_percent),
            line.memory_bytes.map_or_else(|| "-".into(), table::memory),
            line.processes.map_or_else(|| "-".into(), |processes| processes.to_string()),
            format!("{:.1}", line.requests_per_second),
            line.in_flight.to_string(),
            line.held.to_string(),
        ]
    });
    let head = ["APP", "STATE", "CPU %", "MEMORY", "PROCESSES", "REQUESTS/S", "RUNNING", "HELD"];
    let asleep = status.apps.len() - lines.len();
    format!("{}\n{asleep} more apps have no process\n", rows_under(&head, rows))
}
