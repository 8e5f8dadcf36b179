//! Statuses as people read them.

use std::{fmt::Write as _, io::IsTerminal};

use comfy_table::{Cell, CellAlignment, Table, presets};
use doorbell_config::name::{AppId, ByteSize};
use doorbell_supervisor::message::{GoalName, Snapshot, StateName};

use super::{access::rows_under, screen};
use crate::{
    admin::status::{AppStatus, Source, Status},
    clock,
};

const COLUMNS: [&str; 8] =
    ["APP", "STATE", "SINCE", "PID", "MEMORY", "CPU", "REQUESTS", "COLD START"];
/// Columns whose figures are aligned to the right.
const FIGURES: std::ops::Range<usize> = 3..8;

pub(super) fn status(status: &Status) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(COLUMNS);
    for app in &status.apps {
        table.add_row(row(app).into_iter().map(Cell::new));
    }
    for column in FIGURES {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    let apps = status.apps.iter().filter(|app| app.replica.is_none()).count();
    for line in table.lines() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let plural = if apps == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "\n{apps} app{plural} on {}; {} connections open",
        status.server.listening.join(", "),
        status.server.connections
    );
    if !status.server.last_reload_successful {
        let _ = writeln!(text, "the last reload failed: an older configuration is in use");
    }
    for app in &status.apps {
        for warning in app.snapshot.iter().flat_map(|snapshot| &snapshot.warnings) {
            let _ = writeln!(text, "warning: {}: {}", app.id, screen::line(warning));
        }
    }
    text += &troubles(status);
    text
}

/// Where apps are defined and found.
pub(super) fn apps(status: &Status) -> String {
    let apps = status.apps.iter().filter(|app| app.replica.is_none());
    let rows = apps.map(|app| {
        let source = match app.source {
            Source::File => "file",
            Source::Registry => "registry",
        };
        let place = app.url.clone().unwrap_or_else(|| app.listen.join(", "));
        vec![app.id.clone(), screen::line(&app.name), source.into(), coloured_state(app), place]
    });
    let mut text = rows_under(&["APP", "NAME", "SOURCE", "STATE", "AT"], rows);
    text += &troubles(status);
    text
}

/// What is wrong with the registry and its apps.
fn troubles(status: &Status) -> String {
    let mut text = String::new();
    if let Some(problem) = &status.server.registry_problem {
        let _ = writeln!(text, "warning: {}; apps go on as they were", screen::line(problem));
    }
    for refused in &status.refused {
        let _ = writeln!(text, "warning: app \"{}\" of the registry is not in force:", refused.id);
        let _ = writeln!(text, "{}", screen::lines(&refused.why));
    }
    text
}

fn row(app: &AppStatus) -> [String; COLUMNS.len()] {
    let snapshot = app.snapshot.as_ref();
    let dash = || "-".to_owned();
    [
        app.id.clone(),
        shared(app, coloured_state(app)),
        snapshot.map_or_else(dash, |s| age(s.since_unix_seconds)),
        snapshot.and_then(|s| s.pid).map_or_else(dash, |pid| pid.to_string()),
        app.usage.map_or_else(dash, |usage| memory(usage.memory_bytes)),
        app.usage.map_or_else(dash, |usage| format!("{:.1}s", usage.cpu_seconds)),
        app.replica.map_or_else(|| app.requests.to_string(), |_| dash()),
        app.last_cold_start_seconds.map_or_else(dash, seconds),
    ]
}

/// The state in one word, with how many wait if any do.
pub(super) fn state(app: &AppStatus) -> String {
    let Some(snapshot) = &app.snapshot else { return "unknown".to_owned() };
    let name = match snapshot.state {
        StateName::Stopped if snapshot.goal == GoalName::Disabled => "disabled",
        StateName::Provisioning if !snapshot.awaits.is_empty() => {
            return with_held(app, &format!("awaits {}", names(&snapshot.awaits)));
        }
        other => state_name(other),
    };
    with_held(app, name)
}

/// A state in a word or two.
pub(super) fn state_name(state: StateName) -> &'static str {
    match state {
        StateName::Stopped => "stopped",
        StateName::Provisioning => "queued",
        StateName::Starting => "starting",
        StateName::Ready => "ready",
        StateName::Frozen => "frozen",
        StateName::Draining => "draining",
        StateName::Stopping => "stopping",
        StateName::BackingOff => "backing off",
        StateName::Failed => "failed",
    }
}

/// A state with whose it is, where an app shares another's.
fn shared(app: &AppStatus, state: String) -> String {
    match &app.shared_with {
        Some(with) => format!("{state}, shared with {with}"),
        None => state,
    }
}

fn with_held(app: &AppStatus, state: &str) -> String {
    if app.held > 0 { format!("{state} ({} held)", app.held) } else { state.to_owned() }
}

fn names(apps: &[AppId]) -> String {
    let names: Vec<_> = apps.iter().map(AppId::as_str).collect();
    names.join(", ")
}

fn coloured_state(app: &AppStatus) -> String {
    let text = state(app);
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if !colour {
        return text;
    }
    let code = match app.snapshot.as_ref().map(|snapshot| snapshot.state) {
        Some(StateName::Ready) => "32",
        Some(StateName::BackingOff | StateName::Failed) => "31",
        Some(
            StateName::Starting
            | StateName::Provisioning
            | StateName::Draining
            | StateName::Stopping,
        ) => "33",
        Some(StateName::Frozen) => "36",
        Some(StateName::Stopped) | None => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

pub(super) fn one(app: &AppStatus) -> String {
    let mut text = String::new();
    put(&mut text, "app", &app.id);
    if app.name != app.id {
        put(&mut text, "name", &screen::line(&app.name));
    }
    if !app.listen.is_empty() {
        put(&mut text, "listen", &app.listen.join(", "));
    }
    if let Some(with) = &app.shared_with {
        put(&mut text, "shared with", with);
    }
    put(&mut text, "state", &state(app));
    if let Some(snapshot) = &app.snapshot {
        put_instance(&mut text, snapshot);
    }
    if let Some(usage) = app.usage {
        put(&mut text, "memory", &memory(usage.memory_bytes));
        let cpu = format!("{:.1}s in {} processes", usage.cpu_seconds, usage.processes);
        put(&mut text, "cpu", &cpu);
    }
    let requests =
        format!("{} answered, {} running, {} held", app.requests, app.in_flight, app.held);
    let name = if app.listen.is_empty() { "requests" } else { "connections" };
    if app.replica.is_none() {
        put(&mut text, name, &requests);
    }
    if let Some(cold) = app.last_cold_start_seconds {
        put(&mut text, "cold start", &seconds(cold));
    }
    if let Some(snapshot) = &app.snapshot {
        put_words(&mut text, snapshot);
    }
    text
}

/// What runs, and why.
fn put_instance(text: &mut String, snapshot: &Snapshot) {
    if let Some(reason) = &snapshot.reason {
        put(text, "reason", &screen::line(reason));
    }
    if let Some(step) = snapshot.failed_step {
        put(text, "failed step", step.words());
    }
    let now = clock::unix_seconds();
    for vigil in snapshot.vigils.iter().filter(|vigil| vigil.until_unix_seconds > now) {
        let left = words(vigil.until_unix_seconds - now);
        put(text, "kept awake", &format!("by {}, {left} at most", screen::line(&vigil.name)));
    }
    if let Some(hours) = &snapshot.hours {
        put(text, "hours", &clock::hours(hours));
    }
    if !snapshot.awaits.is_empty() {
        put(text, "awaits", &names(&snapshot.awaits));
    }
    put(text, "since", &format!("{} ago", age(snapshot.since_unix_seconds)));
    if let Some(pid) = snapshot.pid {
        put(text, "pid", &pid.to_string());
    }
    if let Some(endpoint) = &snapshot.endpoint {
        put(text, "endpoint", &endpoint.to_string());
    }
    let starts = snapshot.starts;
    put(text, "starts", &format!("{} good, {} failed", starts.ready, starts.failed));
    if snapshot.yields > 0 {
        put(text, "yielded", &format!("{} times, as memory was short", snapshot.yields));
    }
    if let Some(usual) = &snapshot.usual_start {
        let (median, most) = (usual.median.as_secs_f64(), usual.most.as_secs_f64());
        put(text, "usual start", &format!("{}, at most {}", seconds(median), seconds(most)));
    }
}

/// Warnings, and what the app said last.
fn put_words(text: &mut String, snapshot: &Snapshot) {
    for warning in &snapshot.warnings {
        put(text, "warning", &screen::line(warning));
    }
    if snapshot.last_output.is_empty() {
        return;
    }
    put(text, "last output", "");
    for line in &snapshot.last_output {
        let _ = writeln!(text, "  {}", screen::line(line));
    }
}

fn put(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<12}{value}");
}

pub(super) fn memory(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    if bytes < 1024 * 1024 {
        ByteSize(bytes / 1024 * 1024).to_string()
    } else {
        format!("{:.1}MiB", bytes as f64 / MIB)
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0}ms", seconds * 1e3) } else { format!("{seconds:.1}s") }
}

fn age(since_unix_seconds: u64) -> String {
    words(clock::unix_seconds().saturating_sub(since_unix_seconds))
}

/// Seconds as people say them.
fn words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}
