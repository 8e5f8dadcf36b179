//! `doorbell app`: apps of the registry.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use doorbell_config::{file::as_file, name::AppId};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::{
    JsonArg, SocketArg,
    apply::{self, Ask, Others},
    backup,
    client::{Call, call_json},
    control::{block_on, encode},
    keys, screen, table,
};
use crate::admin::{
    definitions::Definition,
    edits::{Changed, Rename},
    status::{AppStatus, Status},
};

#[derive(Debug, Subcommand)]
pub(super) enum AppVerb {
    /// Add an app
    ///
    /// KEY=VALUE are the keys of `[app.<id>]` in the configuration file. A value is TOML, or a text; a
    /// text becomes a list, taken apart at commas, where the key wants one.
    #[command(after_help = "Examples:
  doorbell app add blog hosts=blog.example.com directory=/srv/blog -- node server.js
  doorbell app add shop hosts=shop.example.com upstream=http://10.0.0.5:3000
  doorbell app add db kind=tcp listen=:5432 -- postgres -D data")]
    Add {
        /// The app's id
        app: String,
        #[command(flatten)]
        keys: KeysArg,
        #[command(flatten)]
        how: HowArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Change some keys of an app
    #[command(after_help = "Examples:
  doorbell app set blog idle.stop_after=10m limits.memory=256MiB
  doorbell app set blog --set-file database.new_database=/etc/doorbell/address
  doorbell app set blog --unset limits.memory")]
    Set {
        /// The app's id
        app: String,
        #[command(flatten)]
        keys: KeysArg,
        /// A key to take away
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        #[command(flatten)]
        how: HowArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Print an app as it could stand in the configuration file
    Show {
        /// The app's id
        app: String,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// List every app, with where it is defined and found
    List {
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Stop an app and delete it
    ///
    /// Asks for the app's id on a terminal; elsewhere `--yes` is needed.
    Delete {
        /// The app's id
        app: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Its database too, with all that is in it, if Doorbell made it
        #[arg(long)]
        with_database: bool,
        #[command(flatten)]
        how: HowArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Give an app another id
    Rename {
        /// The app's id
        app: String,
        /// The new one
        to: String,
        #[command(flatten)]
        how: HowArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Let an app have the database of an earlier app of its id, or what a deletion of its own has left
    Adopt {
        /// The app's id
        app: String,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Save an app: its definition, its secrets, its database and folders of it, in one sealed archive
    ///
    /// The app goes on meanwhile; its database is saved as it is at one moment. The archive can be opened by its
    /// passphrase alone, by `app import` and by the program `age`.
    #[command(after_help = backup::EXPORT_EXAMPLES)]
    Export(backup::ExportArg),
    /// Add an app from an archive, here or on another machine
    ///
    /// The archive is read and checked as a whole before anything is changed. While database and folders are put
    /// in their places, the app is disabled.
    #[command(after_help = backup::IMPORT_EXAMPLES)]
    Import(Box<backup::ImportArg>),
    /// Print where an app's visitors find it
    Open {
        /// The app's id
        app: String,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
}

#[derive(Debug, Args)]
pub(super) struct KeysArg {
    /// Keys and their values
    #[arg(value_name = "KEY=VALUE")]
    pairs: Vec<String>,
    #[command(flatten)]
    files: keys::FilesArg,
    /// What to run, as `command`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct HowArg {
    /// Only tell whether it could be
    #[arg(long)]
    dry_run: bool,
    /// For machines
    #[arg(long)]
    json: bool,
}

impl AppVerb {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Add { app, keys, how, socket } => {
                let mut body = keys.read()?;
                body.insert("id".into(), app.into());
                let call = Call::new(Method::POST, how.path("/v1/apps")).json(&body)?;
                how.told("added", &change(&socket.find()?, call)?)
            }
            Self::Set { app, keys, unset, how, socket } => {
                let patch = keys.patch(&unset)?;
                ensure!(!patch.is_empty(), "nothing to change: name keys and values, or --unset");
                let call = Call::new(Method::PATCH, how.path(&definition(&app))).json(&patch)?;
                how.told("changed", &change(&socket.find()?, call)?)
            }
            Self::Show { app, json, socket } => show(&socket.find()?, &app, json),
            Self::List { json, socket } => list(&socket.find()?, json),
            Self::Delete { app, yes, with_database, how, socket } => {
                delete(&socket.find()?, &app, yes, with_database, how)
            }
            Self::Adopt { app, how, socket } => {
                let path = format!("/v1/apps/{}/database/adopt", encode(&app));
                block_on(Call::new(Method::POST, path).answer(&socket.find()?))?;
                let words = || format!("{app}: the database is its own now");
                how.tell(&json!({ "app": app, "adopted": true }), words)
            }
            Self::Rename { app, to, how, socket } => {
                let path = format!("/v1/apps/{}/id", encode(&app));
                let call = Call::new(Method::PUT, how.path(&path)).json(&Rename { to })?;
                how.told("renamed", &change(&socket.find()?, call)?)
            }
            Self::Export(arg) => arg.run(),
            Self::Import(arg) => arg.run(),
            Self::Open { app, how, socket } => open(&socket.find()?, &app, how),
        }
    }
}

impl KeysArg {
    fn read(&self) -> anyhow::Result<Map<String, Value>> {
        let mut read = keys::read(&self.pairs, &self.files)?;
        if !self.command.is_empty() {
            read.insert("command".into(), self.command.clone().into());
        }
        Ok(read)
    }

    fn patch(&self, unset: &[String]) -> anyhow::Result<Map<String, Value>> {
        let mut patch = self.read()?;
        for key in unset {
            let path: Vec<_> = key.split('.').collect();
            keys::put(&mut patch, &path, Value::Null)
                .with_context(|| format!("`{key}` is both given and taken away"))?;
        }
        Ok(patch)
    }
}

impl HowArg {
    fn path(self, path: &str) -> String {
        if self.dry_run { format!("{path}?dry_run=true") } else { path.to_owned() }
    }

    fn told(self, what: &str, changed: &Changed) -> anyhow::Result<u8> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", screen::json(changed)?)?;
            return Ok(0);
        }
        let would = if self.dry_run { "could be " } else { "" };
        writeln!(out, "{}: {would}{what}", changed.id)?;
        for warning in &changed.warnings {
            writeln!(out, "warning: {}", screen::lines(warning))?;
        }
        Ok(0)
    }
}

fn definition(app: &str) -> String {
    format!("/v1/apps/{}/definition", encode(app))
}

fn change(socket: &Path, call: Call) -> anyhow::Result<Changed> {
    block_on(call.make(socket))
}

fn show(socket: &Path, app: &str, json: bool) -> anyhow::Result<u8> {
    let shown: Definition = block_on(call_json(socket, Method::GET, &definition(app)))?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", screen::json(&shown)?)?;
    } else {
        let id = AppId::parse(&shown.id).context("doorbell's answer names no app")?;
        write!(out, "{}", screen::lines(&as_file(&id, &shown.keys.0)?))?;
    }
    Ok(0)
}

fn list(socket: &Path, json: bool) -> anyhow::Result<u8> {
    let status: Status = block_on(call_json(socket, Method::GET, "/v1/apps"))?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", screen::json(&status.apps)?)?;
    } else {
        write!(out, "{}", table::apps(&status))?;
    }
    Ok(0)
}

fn delete(
    socket: &Path,
    app: &str,
    yes: bool,
    with_database: bool,
    how: HowArg,
) -> anyhow::Result<u8> {
    // Whoever is asked has seen this one.
    let path = definition(app);
    let shown: Definition = block_on(call_json(socket, Method::GET, &path))?;
    let what = if with_database { "its definition and its DATABASE" } else { "its definition" };
    if !yes && !how.dry_run && !confirm(&shown.id, what)? {
        bail!("nothing was deleted");
    }
    let path =
        format!("/v1/apps/{}?with_database={with_database}&dry_run={}", encode(app), how.dry_run);
    let call = Call::new(Method::DELETE, path).if_at(shown.revision);
    how.told("deleted", &change(socket, call)?)
}

/// Asks on a terminal for the id of what is to be deleted.
fn confirm(id: &str, what: &str) -> anyhow::Result<bool> {
    let question = format!("This stops \"{id}\" and deletes {what}. Type its id: ");
    is_confirmed(&question, id, &format!("say --yes to delete \"{id}\" without being asked"))
}

/// Asks on a terminal, and tells whether this is what was typed; who cannot be asked is told what to do.
pub(super) fn is_confirmed(question: &str, answer: &str, unasked: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("{unasked}");
    }
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let mut typed = String::new();
    io::stdin().read_line(&mut typed)?;
    Ok(typed.trim() == answer)
}

fn open(socket: &Path, app: &str, how: JsonArg) -> anyhow::Result<u8> {
    let path = format!("/v1/apps/{}", encode(app));
    let status: AppStatus = block_on(call_json(socket, Method::GET, &path))?;
    let place = match (status.url, status.listen.first()) {
        (Some(url), _) => url,
        (None, Some(address)) => address.clone(),
        (None, None) => bail!("doorbell listens on no TCP address"),
    };
    how.tell(&json!({ "url": place }), || place.clone())
}

/// `doorbell apply`.
#[derive(Debug, Args)]
pub(super) struct ApplyArg {
    /// A file with `[app.<id>]` and `[tcp.<id>]` tables; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Delete the apps of the registry that are not in the file
    ///
    /// Asks for their number on a terminal; elsewhere `--yes` is needed.
    #[arg(long)]
    prune: bool,
    /// Do not ask before apps are deleted
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    how: HowArg,
    #[command(flatten)]
    socket: SocketArg,
}

impl ApplyArg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let others = match (self.prune, self.yes) {
            (false, _) => Others::Stay,
            (true, false) => Others::Go(Ask::Before),
            (true, true) => Others::Go(Ask::Never),
        };
        apply::apply(&self.socket.find()?, &self.file, others, self.how)
    }
}

impl HowArg {
    pub(super) fn is_trial(self) -> bool {
        self.dry_run
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }

    pub(super) fn at(self, path: &str) -> String {
        self.path(path)
    }
}
