//! Doorbell's own log, on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use doorbell_config::spec::{LogFormat, LogSpec};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Starts logging. Of Pingora's own lines only errors are kept: what concerns a request is told by
/// its access log line, and what concerns an app by its events.
///
/// # Errors
/// If the level is no filter, or logging was started before.
pub fn start(spec: &LogSpec) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&spec.level)
        .with_context(|| format!("log level `{}` is no filter", spec.level))?;
    let filter = ["pingora_core=off", "pingora_proxy=off", "pingora_pool=off"]
        .iter()
        .filter(|_| !spec.level.contains("pingora"))
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match spec.format {
        LogFormat::Human => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer =
                fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
            // A line that cannot be written is lost; it would be told on standard error, where it
            // cannot be told, by a panic.
            let layer = layer.log_internal_errors(false);
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().with_writer(std::io::stderr);
            registry.with(layer.log_internal_errors(false)).try_init()
        }
    };
    started.context("cannot start logging")
}
