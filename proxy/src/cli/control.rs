//! The verbs that act on a running doorbell.

use std::{
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use doorbell_supervisor::protocol::IN_A_MOMENT;
use hyper::Method;
use serde_json::json;

use super::{
    JsonArg,
    client::{CLOSED, call_json},
    screen, table,
};
use crate::{
    admin::{
        Upgraded,
        apps::Link,
        status::{AppStatus, Status},
    },
    house::ReloadReport,
};

pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

pub(super) fn reload(socket: &Path, how: JsonArg) -> anyhow::Result<u8> {
    let report: ReloadReport = block_on(call_json(socket, Method::POST, "/v1/reload"))?;
    how.tell(&report, || {
        let loaded = format!("configuration loaded: {} apps", report.apps);
        let warnings = report.warnings.iter().map(|warning| {
            let warning = screen::lines(warning);
            format!("warning: {warning}")
        });
        let late = report
            .needs_restart
            .iter()
            .map(|setting| format!("warning: `{setting}` takes effect with the next restart"));
        std::iter::once(loaded).chain(warnings).chain(late).collect::<Vec<_>>().join("\n")
    })
}

/// How long an upgrade is asked for, where another has just been, and the time between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Whether an error is over in a moment.
fn is_passing(error: &anyhow::Error) -> bool {
    let words = format!("{error:#}");
    words.contains(IN_A_MOMENT) || words.contains(CLOSED)
}

pub(super) fn upgrade(socket: &Path, how: JsonArg) -> anyhow::Result<u8> {
    let upgraded = block_on(async {
        let until = Instant::now() + PATIENCE;
        loop {
            let asked = call_json::<Upgraded>(socket, Method::POST, "/v1/upgrade").await;
            match asked {
                // Right behind another upgrade, whoever answered may be making way itself.
                Err(error) if is_passing(&error) && Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    })?;
    how.tell(&upgraded, || format!("upgraded from {} to {}", upgraded.from, upgraded.to))
}

pub(super) fn status(socket: &Path, app: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    match app {
        None => {
            let status: Status = block_on(call_json(socket, Method::GET, "/v1/apps"))?;
            if json {
                writeln!(out, "{}", screen::json(&status)?)?;
            } else {
                write!(out, "{}", table::status(&status))?;
            }
        }
        Some(app) => {
            let path = format!("/v1/apps/{}", encode(app));
            let status: AppStatus = block_on(call_json(socket, Method::GET, &path))?;
            if json {
                writeln!(out, "{}", screen::json(&status)?)?;
            } else {
                write!(out, "{}", table::one(&status))?;
            }
        }
    }
    Ok(0)
}

pub(super) fn operate(socket: &Path, app: &str, verb: &str, how: JsonArg) -> anyhow::Result<u8> {
    let path = format!("/v1/apps/{}/{verb}", encode(app));
    let status: AppStatus = block_on(call_json(socket, Method::POST, &path))?;
    how.tell(&status, || format!("{}: {}", status.id, table::state(&status)))
}

pub(super) fn pass(
    socket: &Path,
    app: &str,
    origin: Option<&str>,
    how: JsonArg,
) -> anyhow::Result<u8> {
    let path = format!("/v1/apps/{}/pass", encode(app));
    let Link { host, path, port } = block_on(call_json(socket, Method::POST, &path))?;
    let port = port.filter(|port| *port != 80).map(|port| format!(":{port}")).unwrap_or_default();
    let origin = match origin {
        Some(origin) => origin.trim_end_matches('/').to_owned(),
        None => format!("http://{host}{port}"),
    };
    let url = format!("{origin}{path}");
    how.tell(&json!({ "url": url }), || url.clone())
}

/// An id as a path segment; what is no id reaches the server as what it is, and is refused there.
pub(super) fn encode(id: &str) -> String {
    id.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(b).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}
