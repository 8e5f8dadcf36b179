//! Adds an app from an archive.
//!
//! Nothing is changed before all of the archive is known to be genuine, and fit. Then the app is added with its
//! secrets, at once and disabled, so that nobody starts it on an empty database; its database is made and filled,
//! its folders are put in their places, and at last it is what it was. Whenever this is ended, what is there
//! is an app that is disabled, or one that is whole.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, ensure};
use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::{
    super::{
        client::Call,
        control::{block_on, encode},
        screen,
    },
    ImportArg,
    export::ask,
    plan::Plan,
    source::Source,
};
use crate::{
    admin::{backup::Imported, definitions::Keys, edits::Changed},
    backup::{
        BackupError,
        app_user::act_as,
        format::Access,
        inner_path::InnerPath,
        reader::{self, Head, Item, Visitor, folder_path},
        restore,
        unpack::{Destination, Site},
    },
};

pub(super) fn import(arg: &ImportArg) -> anyhow::Result<u8> {
    let takers =
        [arg.passphrase.takes_input(), arg.file == Path::new("-"), arg.files.takes_input()];
    let takers = takers.into_iter().filter(|takes_input| *takes_input);
    ensure!(
        takers.count() <= 1,
        "of archive, passphrase and a value one alone can come through standard input"
    );
    let socket = arg.socket.find()?;
    let mut source = Source::open(&arg.file)?;
    let passphrase = arg.passphrase.known_one()?;
    let head = reader::read(source.read()?, &passphrase, &mut Checking)
        .with_context(|| format!("{} is not imported", arg.file.display()))?;
    let plan = Plan::make(arg, &head, &socket)?;
    add(&socket, &plan, When::Never)?;
    if arg.dry_run {
        Report::new(arg, &plan, &head).tell(arg)?;
        return Ok(0);
    }
    let added = add(&socket, &plan, When::Now)?;
    let mut report = Report::new(arg, &plan, &head);
    report.warnings = added.warnings;
    if plan.has_more() {
        let database = open_database(arg, &socket, &plan)
            .with_context(|| so_far(&plan, Remains::Definition))?;
        // What was there before this is not to be advised away.
        let is_new = database.as_ref().is_some_and(|access| access.kind.is_own()) && !arg.adopt;
        let remains = if is_new { Remains::DatabaseToo } else { Remains::Definition };
        let mut filling = Filling { database, destinations: Vec::new(), notes: Vec::new() };
        let filled = filling.fill(&plan, |filling| {
            Ok(reader::read(source.read()?, &passphrase, filling).map(drop)?)
        });
        filled.with_context(|| so_far(&plan, remains))?;
        report.notes.extend(filling.notes);
        report.warnings.extend(enable(&socket, &plan, added.revision)?.warnings);
    }
    report.tell(arg)?;
    Ok(0)
}

/// How to get to its database, which is made.
fn open_database(arg: &ImportArg, socket: &Path, plan: &Plan) -> anyhow::Result<Option<Access>> {
    let path = format!("/v1/apps/{}/database?adopt={}", encode(plan.id.as_str()), arg.adopt);
    plan.database.as_ref().map(|_| ask(socket, path, true)).transpose()
}

/// Makes it what it is to be in the end.
fn enable(socket: &Path, plan: &Plan, revision: u64) -> anyhow::Result<Changed> {
    let path = format!("/v1/apps/{}/definition", encode(plan.id.as_str()));
    let call = Call::new(Method::PATCH, path).json(&plan.enabling())?.if_at(revision);
    block_on(call.make(socket)).with_context(|| {
        let (id, start) = (&plan.id, plan.start());
        format!(
            "all of app \"{id}\" is there, but it stays disabled: doorbell app set {id} start={start}"
        )
    })
}

/// What an import that failed leaves.
#[derive(Clone, Copy)]
enum Remains {
    Definition,
    DatabaseToo,
}

fn so_far(plan: &Plan, remains: Remains) -> String {
    let id = &plan.id;
    let with = match remains {
        Remains::Definition => "",
        Remains::DatabaseToo => " --with-database",
    };
    let folders = match plan.sites.as_slice() {
        [] => "",
        _ => ", and then with --replace-files where folders were begun",
    };
    format!(
        "app \"{id}\" is added, and disabled, for not all of it is in its place: to begin anew, \
         doorbell app delete {id}{with}{folders}"
    )
}

/// Whether something is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// It is only seen whether it could be.
    Never,
}

fn add(socket: &Path, plan: &Plan, when: When) -> anyhow::Result<Changed> {
    // What it is to be in the end is tried, so that nothing has to be found wrong then.
    let is_to_wait = when == When::Now && plan.has_more();
    let keys = Keys(if is_to_wait { plan.disabled() } else { plan.keys.clone() });
    let secrets = plan.secrets.named.iter();
    let secrets: BTreeMap<_, _> =
        secrets.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    let secret = plan.secrets.own.as_ref().map(|own| own.reveal().to_owned());
    let upgraded_to = plan.upgraded_to.clone();
    let body = Imported { id: plan.id.to_string(), keys, secret, secrets, upgraded_to };
    let path = if when == When::Never { "/v1/import?dry_run=true" } else { "/v1/import" };
    block_on(Call::new(Method::POST, path).json(&body)?.make(socket))
}

/// Looks whether everything is as it should be.
struct Checking;

impl Visitor for Checking {
    fn head(&mut self, head: &Head) -> Result<(), BackupError> {
        head.manifest.folders.iter().try_for_each(|folder| folder_path(&folder.path).map(drop))
    }

    fn database(&mut self, head: &Head, dump: &mut dyn Read) -> Result<(), BackupError> {
        match &head.manifest.database {
            Some(dumped) => restore::check(dumped, dump),
            None => Ok(()),
        }
    }

    fn item(&mut self, _: usize, _: &InnerPath, _: Item<'_>) -> Result<(), BackupError> {
        Ok(())
    }
}

/// Puts everything in its place.
struct Filling {
    database: Option<Access>,
    destinations: Vec<Destination>,
    /// What was left out.
    notes: Vec<String>,
}

impl Filling {
    fn fill(
        &mut self,
        plan: &Plan,
        read: impl FnOnce(&mut Self) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let open = |site| destination(plan, site);
        self.destinations = plan.sites.iter().map(open).collect::<Result<_, _>>()?;
        // From here on whoever may write there could lead us elsewhere.
        let filled = act_as(plan.user.as_ref(), || {
            read(self)?;
            Ok(self.destinations.iter().try_for_each(Destination::settle)?)
        });
        filled.context("cannot act as the app's user")?
    }
}

/// A folder to fill: made with the app's rights, by which it could have been led anywhere by itself; with ours where
/// those do not reach.
fn destination(plan: &Plan, site: &Site) -> anyhow::Result<Destination> {
    let open = || Destination::open(site, plan.existing, plan.owner);
    let opened = act_as(plan.user.as_ref(), open).context("cannot act as the app's user")?;
    match opened {
        Err(BackupError::Io { error, .. })
            if plan.user.is_some() && error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Ok(open()?)
        }
        other => Ok(other?),
    }
}

impl Visitor for Filling {
    fn head(&mut self, _: &Head) -> Result<(), BackupError> {
        Ok(())
    }

    fn database(&mut self, head: &Head, dump: &mut dyn Read) -> Result<(), BackupError> {
        if let Some((access, dumped)) = self.database.as_ref().zip(head.manifest.database.as_ref())
        {
            self.notes.extend(restore::restore(access, dumped, dump)?);
        }
        Ok(())
    }

    fn item(&mut self, folder: usize, path: &InnerPath, item: Item<'_>) -> Result<(), BackupError> {
        // Invariant: the reader lets no other numbers through than those of the manifest.
        if let Some(destination) = self.destinations.get(folder) {
            self.notes.extend(destination.put(path, item)?);
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    id: String,
    dry_run: bool,
    /// Of which app the archive is, and when it was made.
    from: String,
    made_at_unix_ms: u64,
    secrets: Vec<String>,
    database: Option<String>,
    folders: Vec<String>,
    /// What it will run, and as whom.
    command: Option<Value>,
    user: Option<Value>,
    start: String,
    /// What an operator should know of the archive.
    notes: Vec<String>,
    /// And of the app.
    warnings: Vec<String>,
}

impl Report {
    fn new(arg: &ImportArg, plan: &Plan, head: &Head) -> Self {
        let own = plan.secrets.own.iter().map(|_| "{secret}".to_owned());
        Self {
            id: plan.id.to_string(),
            dry_run: arg.dry_run,
            from: head.manifest.id.clone(),
            made_at_unix_ms: head.manifest.made_at_unix_ms,
            secrets: own.chain(plan.secrets.named.keys().cloned()).collect(),
            database: plan.database.as_ref().map(|dumped| dumped.dialect.clone()),
            folders: plan.sites.iter().map(|site| site.path().display().to_string()).collect(),
            command: plan.keys.get("command").cloned(),
            user: plan.keys.get("user").cloned(),
            start: plan.start().to_owned(),
            notes: plan.notes.clone(),
            warnings: Vec::new(),
        }
    }

    fn tell(&self, arg: &ImportArg) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if arg.json {
            writeln!(out, "{}", screen::json(self)?)?;
            return Ok(());
        }
        let verb = if self.dry_run { "could be imported" } else { "imported" };
        let mut with = vec![screen::count(self.secrets.len() as u64, "secret")];
        with.extend(self.database.as_ref().map(|dialect| format!("its {dialect} database")));
        with.extend(self.folders.iter().cloned());
        writeln!(out, "{}: {verb}, with {}", self.id, screen::line(&with.join(", ")))?;
        if let Some(command) = &self.command {
            let user = self.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
            writeln!(out, "it runs {}{}", screen::line(&command.to_string()), screen::line(&user))?;
        }
        for note in &self.notes {
            writeln!(out, "note: {}", screen::line(note))?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {}", screen::lines(warning))?;
        }
        Ok(())
    }
}
