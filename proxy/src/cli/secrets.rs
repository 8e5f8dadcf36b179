//! `doorbell secret`: what apps are given that nobody else may see.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{
    JsonArg, SocketArg,
    access::{rows_under, time},
    client::{Call, call_json},
    control::{block_on, encode},
    screen,
};
use crate::admin::secrets::{NewValue, Rotated, Stored};

#[derive(Debug, Subcommand)]
pub(super) enum SecretVerb {
    /// Store a secret of an app: its value is read from standard input
    ///
    /// The app's definition names it in `secrets`, and the program finds it in that environment variable from
    /// its next start on.
    #[command(after_help = "Examples:
  doorbell secret set blog API_KEY < key.txt
  doorbell app set blog secrets=API_KEY && doorbell restart blog")]
    Set {
        /// The app's id
        app: String,
        /// The environment variable
        name: String,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// List the secrets of an app, by name
    List {
        /// The app's id
        app: String,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Remove a secret of an app
    Remove {
        /// The app's id
        app: String,
        /// The environment variable
        name: String,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Seal all secrets with a new key
    ///
    /// The key is added to `secret.keys`; older ones may be taken out of it when no backup needs them. Where the
    /// keys are a credential of systemd, the key is yours to add before.
    Rotate {
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
}

impl SecretVerb {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Set { app, name, how, socket } => {
                let value = value(&app, &name)?;
                let call = Call::new(Method::PUT, path(&app, &name)).json(&NewValue { value })?;
                block_on(call.answer(&socket.find()?))?;
                let words = || format!("{app}: {name} is stored, and given to its next start");
                how.tell(&json!({ "app": app, "stored": name }), words)?;
            }
            Self::List { app, json, socket } => {
                let path = format!("/v1/apps/{}/secrets", encode(&app));
                let secrets: Vec<Stored> =
                    block_on(call_json(&socket.find()?, Method::GET, &path))?;
                if json {
                    writeln!(io::stdout(), "{}", screen::json(&secrets)?)?;
                    return Ok(0);
                }
                let rows = secrets.iter().map(|secret| {
                    vec![screen::line(&secret.name), time(secret.changed_at_unix_ms)]
                });
                write!(io::stdout(), "{}", rows_under(&["SECRET", "STORED"], rows))?;
            }
            Self::Remove { app, name, how, socket } => {
                let call = Call::new(Method::DELETE, path(&app, &name));
                block_on(call.answer(&socket.find()?))?;
                let words = || format!("{app}: {name} is removed");
                how.tell(&json!({ "app": app, "removed": name }), words)?;
            }
            Self::Rotate { how, socket } => {
                let call = Call::new(Method::POST, "/v1/rotate");
                let rotated: Rotated = block_on(call.make(&socket.find()?))?;
                let words = || format!("{} secrets are sealed with a new key", rotated.secrets);
                how.tell(&rotated, words)?;
            }
        }
        Ok(0)
    }
}

fn path(app: &str, name: &str) -> String {
    format!("/v1/apps/{}/secrets/{}", encode(app), encode(name))
}

/// What is typed, unseen, or comes through a pipe; without the line's end.
fn value(app: &str, name: &str) -> anyhow::Result<String> {
    let value = if io::stdin().is_terminal() {
        write!(io::stderr(), "{name} of {app}: ")?;
        let typed = block_on(typed_unseen());
        writeln!(io::stderr())?;
        typed?
    } else {
        io::read_to_string(io::stdin()).context("a secret is text, in UTF-8")?
    };
    let value = value.strip_suffix('\n').unwrap_or(&value);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        bail!("nothing was given");
    }
    Ok(value.to_owned())
}

/// A line of the terminal. Ctrl-C leaves the terminal as it was.
pub(super) async fn typed_unseen() -> anyhow::Result<String> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let unseen = Unseen::begin()?;
    let (typed, line) = oneshot::channel();
    // A thread of its own: nothing ends the reading but a line, and nobody waits for it after Ctrl-C.
    std::thread::spawn(move || {
        let mut line = String::new();
        // Whoever asked may be gone.
        let _ = typed.send(io::stdin().read_line(&mut line).map(|_| line));
    });
    let line = tokio::select! {
        line = line => Ok(line??),
        _ = interrupted.recv() => Err(anyhow!("interrupted: nothing is done")),
    };
    drop(unseen);
    line
}

/// While it lives, the terminal shows nothing of what is typed: termios(3).
struct Unseen(rustix::termios::Termios);

impl Unseen {
    fn begin() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut now = before.clone();
        now.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &now)?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to do.
        let _ =
            rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}
