//! `doorbell history`: what became of an app, and why.

use std::{
    io::{self, Write},
    path::Path,
};

use doorbell_supervisor::message::{GoalName, StateName};
use hyper::Method;

use super::{
    access::{rows_under, time},
    client::call_json,
    control::{block_on, encode},
    screen, table,
};
use crate::chronicle::Transition;

pub(super) fn history(socket: &Path, app: &str, json: bool) -> anyhow::Result<u8> {
    let path = format!("/v1/apps/{}/history", encode(app));
    let changes: Vec<Transition> = block_on(call_json(socket, Method::GET, &path))?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", screen::json(&changes)?)?;
    } else {
        write!(out, "{}", rows_under(&["WHEN", "APP", "STATE", "WHY"], changes.iter().map(row)))?;
    }
    Ok(0)
}

fn row(change: &Transition) -> Vec<String> {
    let state = match (change.state, change.goal) {
        (StateName::Stopped, GoalName::Disabled) => "disabled",
        (state, _) => table::state_name(state),
    };
    let why = change.reason.as_deref().map(screen::line).unwrap_or_default();
    vec![time(change.at_unix_ms), change.app.to_string(), state.into(), why]
}
