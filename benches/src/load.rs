//! Load on a server, by wrk.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::machine::{self, Core};

/// What wrk is told to print: requests, bytes, microseconds, p50, p99, errors.
const REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %d %d %d %d %d %d\n", summary.requests, summary.bytes,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Small answers, request after request on each connection.
    KeepAlive,
    /// Small answers, one request on each connection.
    Close,
    /// Large answers, request after request on each connection.
    Large,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeepAlive, Self::Close, Self::Large];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive, 1 KiB",
            Self::Close => "connection per request, 1 KiB",
            Self::Large => "keep-alive, 10 MB",
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::KeepAlive | Self::Close => "/small",
            Self::Large => "/large",
        }
    }

    /// Bytes of content in each answer.
    #[must_use]
    pub fn content_bytes(self) -> usize {
        match self {
            Self::KeepAlive | Self::Close => 1024,
            Self::Large => 10_000_000,
        }
    }
}

/// What clients saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Answers; large ones that were under way at the end count in part.
    pub answers: f64,
    /// Answers a second.
    pub rate: f64,
    /// Middle of the times to answer, in microseconds.
    pub p50_micros: f64,
    /// Slowest hundredth of the times to answer, in microseconds.
    pub p99_micros: f64,
    /// Answers other than 2xx and 3xx, and requests that got none.
    pub errors: u64,
}

/// A load generator.
pub struct Clients {
    script: PathBuf,
    host: String,
    connections: usize,
}

impl Clients {
    /// Clients that ask for a host on so many connections.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn new(folder: &Path, host: &str, connections: usize) -> anyhow::Result<Self> {
        let script = folder.join("report.lua");
        fs::write(&script, REPORT)?;
        Ok(Self { script, host: host.to_owned(), connections })
    }

    /// Puts load on a server for some seconds.
    ///
    /// # Errors
    /// If wrk cannot.
    pub fn run(&self, load: Load, server: SocketAddr, seconds: u64) -> anyhow::Result<Seen> {
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--timeout", "10s"]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{seconds}s")]).arg("--script").arg(&self.script);
        command.args(["--header", &format!("Host: {}", self.host)]);
        if load == Load::Close {
            command.args(["--header", "Connection: close"]);
        }
        command.arg(format!("http://{server}{}", load.path()));
        let output = machine::on(Core::Load, || command.output())?.context("cannot run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        read_report(load, &text).with_context(|| format!("wrk said: {text}"))
    }
}

fn read_report(load: Load, text: &str) -> anyhow::Result<Seen> {
    let line = text.lines().find_map(|line| line.strip_prefix("figures "));
    let fields = line.context("no figures")?.split(' ').map(str::parse::<f64>);
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    let [requests, bytes, micros, p50_micros, p99_micros, errors] = fields[..] else {
        anyhow::bail!("not six figures");
    };
    let answers = match load {
        Load::KeepAlive | Load::Close => requests,
        Load::Large => bytes / load.content_bytes() as f64,
    };
    let rate = answers / micros * 1e6;
    Ok(Seen { answers, rate, p50_micros, p99_micros, errors: errors as u64 })
}
