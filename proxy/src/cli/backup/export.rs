//! Makes an archive: asks the control process for what it alone knows, and adds dump and folders.

use std::{
    io::{self, BufWriter, Write},
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use doorbell_config::spec::Dialect;
use http_body_util::BodyExt;
use hyper::Method;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    super::{
        client::Call,
        control::{block_on, encode},
        screen,
    },
    ExportArg,
};
use crate::{
    admin::backup::For,
    backup::{
        app_user::{self, act_as},
        dump,
        envelope::Key,
        format::{Access, Dumped, FORMAT, Folder, Manifest, Told},
        gather::{self, Gathering},
        inner_path::InnerPath,
        output::Output,
        reader::folder_path,
        writer::Writer,
    },
    clock,
};

/// Asks for something that is sealed for us alone.
pub(super) fn ask<T: DeserializeOwned>(
    socket: &Path,
    path: String,
    database: bool,
) -> anyhow::Result<T> {
    let key = Key::generate();
    let body = For { recipient: key.recipient(), database };
    let call = Call::new(Method::POST, path).json(&body)?;
    let sealed = block_on(async {
        let body = call.answer(socket).await?.into_body();
        Ok(body.collect().await?.to_bytes())
    })?;
    let text = key.open(&sealed).context("doorbell's answer cannot be opened")?;
    // Nothing of what was told is repeated.
    serde_json::from_slice(&text).map_err(|_| {
        anyhow::anyhow!("doorbell's answer is not understood: is it of another version?")
    })
}

/// A folder that is open.
struct Opened {
    path: InnerPath,
    folder: Folder,
    handle: OwnedFd,
}

pub(super) fn export(arg: &ExportArg) -> anyhow::Result<u8> {
    let socket = arg.socket.find()?;
    let passphrase = arg.passphrase.new_one()?;
    let path = format!("/v1/apps/{}/export", encode(&arg.app));
    let told: Told = ask(&socket, path, !arg.without_database)?;
    let mut report = Report::new(arg, &told);
    let access = database(arg, &told, &mut report)?;
    let is_file = access.as_ref().map(Access::parsed).transpose()?;
    let is_file = is_file.is_some_and(|url| url.dialect == Dialect::Sqlite);
    let user = (is_file || !arg.folder.is_empty()).then(|| app_user::of(&told.keys, &socket));
    let user = user.transpose().context("whom the app runs as")?.flatten();
    let acting = "cannot act as the app's user";
    let folders = act_as(user.as_ref(), || open_folders(arg, &told)).context(acting)??;
    let manifest = Manifest {
        format: FORMAT,
        doorbell: env!("CARGO_PKG_VERSION").into(),
        id: arg.app.clone(),
        made_at_unix_ms: clock::unix_millis(),
        // Without its data it says nothing.
        upgraded_to: told.upgraded_to.clone().filter(|_| access.is_some() || !folders.is_empty()),
        database: access.as_ref().map(dumped).transpose()?,
        folders: folders.iter().map(|opened| opened.folder.clone()).collect(),
    };
    let output = BufWriter::with_capacity(256 << 10, Output::open(&arg.file)?);
    let mut writer = Writer::begin(output, &passphrase, &manifest, &told.keys, &told.secrets)?;
    if let Some(access) = &access {
        let mut pieces = writer.database(dump::extension(access.parsed()?.dialect));
        dump::dump(access, user.as_ref(), &mut pieces)?;
        pieces.finish()?;
    }
    for (number, opened) in folders.iter().enumerate() {
        let gathered = act_as(user.as_ref(), || report.gather(&mut writer, number, opened));
        gathered.context(acting)??;
    }
    let output = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error);
    output.context("cannot write the archive")?.finish()?;
    report.tell(arg)?;
    Ok(0)
}

fn open_folders(arg: &ExportArg, told: &Told) -> anyhow::Result<Vec<Opened>> {
    if arg.folder.is_empty() {
        return Ok(Vec::new());
    }
    let why = "only an app that doorbell starts has a folder";
    let directory = told.directory.as_deref().context(why)?;
    let open = |path: &std::path::PathBuf| {
        let inner = folder_path(path).with_context(|| {
            let (path, directory) = (path.display(), directory.display());
            format!("`--folder {path}` is to be a path below {directory}")
        })?;
        let handle = gather::open(directory, &inner)?;
        let folder = Folder { path: path.clone(), directory: directory.to_owned() };
        Ok(Opened { path: inner, folder, handle })
    };
    let opened = arg.folder.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    for (at, one) in opened.iter().enumerate() {
        let is_in = |other: &Opened| one.path.to_path().starts_with(other.path.to_path());
        if let Some((_, other)) =
            opened.iter().enumerate().find(|(other_at, other)| *other_at != at && is_in(other))
        {
            bail!("{} is in {} already", one.folder.path.display(), other.folder.path.display());
        }
    }
    Ok(opened)
}

/// The database that is dumped.
fn database(arg: &ExportArg, told: &Told, report: &mut Report) -> anyhow::Result<Option<Access>> {
    if arg.without_database {
        report.notes.push("a database, if it has one, is not in the archive".into());
        return Ok(None);
    }
    let Some(access) = &told.database else {
        ensure!(!arg.with_connection, "app \"{}\" has no database", arg.app);
        if told.keys.contains_key("shared_with") {
            let note = "its data is that of the program which it shares, and not in the archive";
            report.notes.push(note.into());
        } else if names_database(told) {
            let note = "the database that its variables name is not in the archive, as Doorbell did not make it: \
                        dump it beside";
            report.notes.push(note.into());
        }
        return Ok(None);
    };
    if !access.kind.is_own() && !arg.with_connection {
        report.notes.push(
            "its database is not in the archive: it is a `new_connection`, and may be others' too \
             (--with-connection)"
                .into(),
        );
        return Ok(None);
    }
    if access.schema.is_some() {
        report.notes.push("large objects, if it has some, are not in the archive".into());
    }
    report.database = Some(access.parsed()?.dialect.name().into());
    Ok(Some(access.clone()))
}

/// Whether an app without `database` seems to have one all the same.
fn names_database(told: &Told) -> bool {
    let env = told.keys.get("env").and_then(Value::as_object);
    let open = env.into_iter().flat_map(|env| env.keys());
    let mut names = open.chain(told.secrets.named.keys()).map(String::as_str);
    names.any(|name| name.contains("DATABASE") || matches!(name, "DB_HOST" | "DB_NAME" | "DB_URL"))
}

fn dumped(access: &Access) -> anyhow::Result<Dumped> {
    let dialect = access.parsed()?.dialect.name().into();
    Ok(Dumped { dialect, kind: access.kind, schema: access.schema.clone() })
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    id: String,
    /// The archive, unless it went to standard output.
    file: Option<String>,
    secrets: u64,
    database: Option<String>,
    folders: Vec<Gathered>,
    /// What an operator should know.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Gathered {
    path: String,
    files: u64,
    bytes: u64,
}

impl Report {
    fn new(arg: &ExportArg, told: &Told) -> Self {
        let is_file = arg.file != Path::new("-");
        let mut notes: Vec<_> = told
            .missing
            .iter()
            .map(|name| format!("secret {name} is not set, and so not in the archive"))
            .collect();
        if told.keys.contains_key("secret") && told.secrets.own.is_none() {
            notes.push("its own secret is not made yet: it gets one at its first start".into());
        }
        Self {
            id: arg.app.clone(),
            file: is_file.then(|| arg.file.display().to_string()),
            secrets: (told.secrets.named.len() + usize::from(told.secrets.own.is_some())) as u64,
            database: None,
            folders: Vec::new(),
            notes,
        }
    }

    fn gather<W: Write>(
        &mut self,
        writer: &mut Writer<W>,
        number: usize,
        opened: &Opened,
    ) -> anyhow::Result<()> {
        let shown = opened.folder.path.clone();
        let notes = &mut self.notes;
        let mut told = |words| notes.push(words);
        let mut gathering =
            Gathering { writer, number, shown: shown.clone(), told: &mut told, files: 0, bytes: 0 };
        gathering.take(&opened.handle)?;
        let (files, bytes) = (gathering.files, gathering.bytes);
        self.folders.push(Gathered { path: shown.display().to_string(), files, bytes });
        Ok(())
    }

    /// Beside an archive that went to standard output.
    fn tell(&self, arg: &ExportArg) -> anyhow::Result<()> {
        let mut out: Box<dyn Write> = match self.file {
            Some(_) => Box::new(io::stdout().lock()),
            None => Box::new(io::stderr().lock()),
        };
        if arg.json {
            writeln!(out, "{}", screen::json(self)?)?;
            return Ok(());
        }
        let mut with = vec!["its definition".to_owned(), screen::count(self.secrets, "secret")];
        with.extend(self.database.as_ref().map(|dialect| format!("its {dialect} database")));
        with.extend(self.folders.iter().map(|folder| {
            format!(
                "{} ({}, {} bytes)",
                folder.path,
                screen::count(folder.files, "file"),
                folder.bytes
            )
        }));
        let to = self.file.as_ref().map(|file| format!(" to {file}")).unwrap_or_default();
        writeln!(
            out,
            "{}: saved{}: {}",
            self.id,
            screen::line(&to),
            screen::line(&with.join(", "))
        )?;
        for note in &self.notes {
            writeln!(out, "note: {}", screen::line(note))?;
        }
        Ok(())
    }
}
