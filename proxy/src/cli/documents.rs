//! The verbs that need no running doorbell.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Command;
use doorbell_config::{
    problem::Colour,
    schema,
    spec::{Config, ListenAddr},
};

use crate::house::House;

/// Where a doorbell listens for its operators unless told.
pub(super) const DEFAULT_SOCKET: &str = "/run/doorbell/admin.sock";

pub(super) fn check(path: &Path) -> anyhow::Result<u8> {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colour = if colour { Colour::Always } else { Colour::Never };
    match House::read(path).outcome {
        Ok(config) => {
            for warning in &config.warnings {
                write!(io::stderr(), "{}", warning.render(colour))?;
            }
            let apps = config.apps.len();
            let plural = if apps == 1 { "" } else { "s" };
            writeln!(io::stdout(), "{}: good, {apps} app{plural}", path.display())?;
            Ok(0)
        }
        Err(problems) => {
            write!(io::stderr(), "{}", problems.render(colour))?;
            Ok(1)
        }
    }
}

/// The admin socket that a configuration names. Only that is looked at: a mistake elsewhere in the
/// file must not keep its operator from asking the running doorbell about it.
pub(super) fn admin_socket(path: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read {}: name the socket with --socket", path.display())
    })?;
    let Ok(file) = text.parse::<toml::Table>() else {
        // Not TOML: let the reader say where.
        return from_config(&House::read(path).outcome?);
    };
    let admin = file.get("server").and_then(|server| server.get("admin"));
    let addresses = match admin {
        Some(toml::Value::String(one)) => vec![one.as_str()],
        Some(toml::Value::Array(many)) => many.iter().filter_map(toml::Value::as_str).collect(),
        _ => return Ok(PathBuf::from(DEFAULT_SOCKET)),
    };
    let socket = addresses.iter().find_map(|address| address.strip_prefix("unix:"));
    match socket {
        Some(socket) if !socket.contains('$') => {
            let folder = path.parent().unwrap_or(Path::new("."));
            Ok(folder.join(socket))
        }
        _ => from_config(&House::read(path).outcome?),
    }
}

fn from_config(config: &Config) -> anyhow::Result<PathBuf> {
    let socket = config.server.admin.iter().find_map(|address| match address {
        ListenAddr::Unix(path) => Some(path.clone()),
        ListenAddr::Tcp(_) => None,
    });
    socket.context("the configuration names no admin socket")
}

pub(super) fn schema() -> anyhow::Result<u8> {
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&schema::json_schema())?)?;
    Ok(0)
}

pub(super) fn completions(
    shell: clap_complete::Shell,
    command: &mut Command,
) -> anyhow::Result<u8> {
    clap_complete::generate(shell, command, "doorbell", &mut io::stdout());
    Ok(0)
}

pub(super) fn man(command: Command) -> anyhow::Result<u8> {
    clap_mangen::Man::new(command).render(&mut io::stdout())?;
    Ok(0)
}
