//! The apps of a NocoBase: rows of the table `applications`, as its plugin for several apps writes them.
//!
//! There, one program serves them all, or each has one of its own. Here too: an app shares the main app's program
//! (`shared_with`), which tells apps apart by `X-App`; or it has its own, with the database and the secret that the
//! table says. Databases are there already, and stay as they are.

use std::{
    collections::BTreeMap,
    path::{PathBuf, absolute},
};

use anyhow::{Context, ensure};
use clap::{Args, builder::NonEmptyStringValueParser};
use doorbell_config::{
    file::{literal, literal_template},
    name::{AppId, Hostname},
    nocobase::{Application, MOST_CHARACTERS, Place},
};
use serde_json::{Map, Value, json};

use super::{
    Intake, OutArg, environment,
    intake::{Taken, shown},
};
use crate::cli::{SocketArg, control::block_on};

mod database;
mod own;
#[cfg(test)]
mod tests;

use database::Databases;
use own::Own;

/// How long NocoBase may take to answer for an app: it begins one after another, each up to a minute.
const PATIENCE: &str = "5m";
/// How long a request waits for that: those of apps that share the program for its own start before.
const HOLD: &str = "10m";

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("program").required(true).args(["directory", "shared_with"]))]
pub(in crate::cli) struct NocobaseArg {
    /// The main app's database, `postgres://user:password@host/database` or `mysql://…`; from the environment
    /// it shows in no list of processes
    #[arg(long, value_name = "URL", env = "DOORBELL_IMPORT_DATABASE", hide_env_values = true)]
    database: String,
    /// The schema that the main app's tables are in (`DB_SCHEMA`); the user's own unless given
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    schema: Option<String>,
    /// What the names of its tables begin with (`DB_TABLE_PREFIX`)
    #[arg(long, value_name = "PREFIX", default_value = "")]
    table_prefix: String,
    /// The domain of apps without one: each gets `<id>.DOMAIN`
    #[arg(long)]
    domain: Option<String>,
    /// Let the program of this app of Doorbell serve them all
    #[arg(long, value_name = "APP", conflicts_with_all = ["env", "schema_per_app", "command"])]
    shared_with: Option<String>,
    /// Run a program for each app, in this folder
    #[arg(long, value_name = "FOLDER", requires = "command")]
    directory: Option<PathBuf>,
    /// A variable for each app's program; placeholders such as `{id}` are filled in. By its name alone it has the
    /// value that it has here, as it is, which shows in no list of processes. An app's own secret and password stay
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Apps have schemas in the main app's database (`USE_DB_SCHEMA_IN_SUBAPP`), and none of their own
    #[arg(long)]
    schema_per_app: bool,
    #[command(flatten)]
    out: OutArg,
    #[command(flatten)]
    socket: SocketArg,
    /// The program, as `command`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What rows become apps by.
struct Source {
    program: Program,
    /// Of apps without a domain of their own.
    domain: Option<String>,
}

/// What serves an app.
enum Program {
    /// That of this app.
    Shared(AppId),
    /// One of its own.
    Own(Box<Own>),
}

impl NocobaseArg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let place = Place::parse(&self.database, self.schema.as_deref(), &self.table_prefix)?;
        let mut source = self.source(&place)?;
        let table = block_on(async { Ok(place.table().await?) })?;
        if let Program::Own(own) = &mut source.program {
            own.look_around(&table);
        }
        self.out.deliver(source.intake(&table.applications), &self.socket)
    }

    fn source(&self, place: &Place) -> anyhow::Result<Source> {
        if let Some(domain) = &self.domain {
            Hostname::parse(domain).context("--domain")?;
        }
        let program = match &self.shared_with {
            Some(app) => Program::Shared(AppId::parse(app)?),
            None => {
                let main = place.server()?;
                ensure!(
                    !self.schema_per_app || main.dialect == "postgres",
                    "--schema-per-app is for PostgreSQL: elsewhere a schema is a database"
                );
                let own = |name: &str| std::env::var(name).ok();
                let directory = absolute(self.directory.as_deref().context("--directory")?)?;
                let env = self.env.iter().map(|text| variable(text, own));
                Program::Own(Box::new(Own {
                    directory: directory.to_str().context("--directory is no text")?.to_owned(),
                    command: self.command.clone(),
                    env: env.collect::<Result<_, _>>()?,
                    databases: Databases {
                        main,
                        password: place.password().map(str::to_owned),
                        are_schemas: self.schema_per_app,
                        schema: self.schema.clone(),
                        has_prefix: !self.table_prefix.is_empty(),
                        is_underscored: false,
                    },
                    key_files: BTreeMap::new(),
                }))
            }
        };
        Ok(Source { program, domain: self.domain.clone() })
    }
}

/// A variable and its template; by its name alone, with the value that it has of our own.
fn variable(
    text: &str,
    own: impl FnOnce(&str) -> Option<String>,
) -> anyhow::Result<(String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = own(text).with_context(|| {
                format!("--env {text}: our environment has no such variable, in UTF-8; or write NAME=VALUE")
            })?;
            (text, literal_template(&value))
        }
    };
    ensure!(!name.is_empty(), "--env: write NAME, or NAME=VALUE");
    Ok((name.to_owned(), value))
}

impl Source {
    fn intake(&self, rows: &[Application]) -> Intake {
        let mut intake = Intake::default();
        for row in rows {
            self.take(&mut intake, row);
        }
        if matches!(self.program, Program::Own(_)) && !intake.apps.is_empty() {
            let why = "Doorbell makes none: each app has the one that NocoBase made for it, and uses it as the user \
                       of --database unless its row names another: that one has to own it";
            intake.leave("databases", why);
        }
        intake.leave_shared_hosts();
        intake
    }

    fn take(&self, intake: &mut Intake, row: &Application) {
        let from = format!("app {}", shown(&row.name));
        let options = match options(row) {
            Ok(options) => options,
            Err(why) => return intake.leave(from, why),
        };
        let mut keys = Map::new();
        let display_name = row.display_name.trim();
        if display_name.chars().any(char::is_control) {
            intake.leave(format!("{from}: its display name"), "it is more than one line");
        } else if !display_name.is_empty() {
            keys.insert("name".into(), literal(display_name).into());
        }
        if matches!(self.program, Program::Shared(_)) && AppId::parse(&row.name).is_err() {
            let why = "ids have a-z, 0-9, - and _ only, and the program would not know it by another: rename it in \
                       NocoBase first";
            return intake.leave(from, why);
        }
        let Some(id) = intake.id(&from, &row.name, &mut keys) else { return };
        match (self.host(intake, &from, row, &id), &self.program) {
            (Some(host), _) => _ = keys.insert("hosts".into(), json!([host])),
            (None, Program::Own(_)) => {
                let why = "it has no domain, and a program of its own takes /apps/<id>/ for another app's: \
                           say --domain DOMAIN, or --shared-with";
                return intake.leave(from, why);
            }
            (None, Program::Shared(_)) => {
                let why = format!(
                    "it has none: it is at /apps/{id}/ of the main app's host, if that app has `client_app_headers = true`, \
                     as its pages say by `X-App` whom they ask; or say --domain DOMAIN"
                );
                intake.leave(format!("{from}: its domain"), why);
            }
        }
        let env = match &self.program {
            Program::Shared(with) if id == *with => {
                return intake.leave(from, "it is the app whose program is to be shared");
            }
            Program::Shared(with) => share(&id, with, &mut keys),
            Program::Own(own) => own.put(intake, &from, row, &options, &mut keys),
        };
        let secrets = environment::give(intake, &from, &id, env, &mut keys);
        if start(intake, &from, &options, &self.program) {
            keys.insert("start".into(), "with-server".into());
        }
        if ["t", "true", "1"].contains(&row.pinned.as_str()) {
            keys.insert("pinned".into(), true.into());
        }
        rest(intake, &from, &options, &self.program);
        intake.apps.push(Taken { id, from, keys, secrets });
    }

    fn host(
        &self,
        intake: &mut Intake,
        from: &str,
        row: &Application,
        id: &AppId,
    ) -> Option<String> {
        let cname = row.cname.trim();
        if !cname.is_empty() {
            match Hostname::parse(cname) {
                Ok(host) => return Some(host.as_str().to_owned()),
                Err(_) => intake
                    .leave(format!("{from}: its domain {}", shown(cname)), "it is no host name"),
            }
        }
        let host = format!("{id}.{}", self.domain.as_ref()?);
        match Hostname::parse(&host) {
            Ok(host) => Some(host.as_str().to_owned()),
            Err(_) => {
                intake.leave(format!("{from}: {}", shown(&host)), "it is no host name");
                None
            }
        }
    }
}

/// Lets the main app's program serve an app, told apart by its id. It finds nothing of ours in its environment.
fn share(id: &AppId, with: &AppId, keys: &mut Map<String, Value>) -> Map<String, Value> {
    keys.insert("shared_with".into(), with.as_str().into());
    let path = format!("/api/__app/{id}/__health_check");
    // It is begun when somebody asks for it, inside of a program that may be starting itself.
    keys.insert("ready".into(), json!({ "http": path, "status": 200, "deadline": PATIENCE }));
    keys.insert("timeouts".into(), json!({ "hold": HOLD }));
    Map::new()
}

fn options(row: &Application) -> Result<Map<String, Value>, &'static str> {
    if row.options.chars().count() > MOST_CHARACTERS {
        return Err("its options are longer than any that NocoBase writes");
    }
    match serde_json::from_str(row.options.trim()) {
        Ok(Value::Object(options)) => Ok(options),
        Ok(Value::Null) => Ok(Map::new()),
        Err(_) if row.options.trim().is_empty() => Ok(Map::new()),
        _ => Err("its options are no object of JSON"),
    }
}

/// Whether it starts with Doorbell.
fn start(intake: &mut Intake, from: &str, options: &Map<String, Value>, by: &Program) -> bool {
    match (options.get("autoStart"), by) {
        (Some(Value::Bool(true)), Program::Own(_)) => true,
        (Some(Value::Bool(true)), Program::Shared(with)) => {
            let why = format!("it starts when the app `{with}` does: see `start` there");
            intake.leave(format!("{from}: autoStart"), why);
            false
        }
        (None | Some(Value::Bool(false) | Value::Null), _) => false,
        (Some(_), _) => {
            intake.leave(format!("{from}: autoStart"), "it is neither true nor false");
            false
        }
    }
}

/// Tells options that nothing else reads.
fn rest(intake: &mut Intake, from: &str, options: &Map<String, Value>, by: &Program) {
    for (key, value) in options {
        let why = match key.as_str() {
            "autoStart" => continue,
            "database" | "authManager" | "dbConnType" if matches!(by, Program::Own(_)) => {
                continue;
            }
            // The main app reads it itself.
            _ if matches!(by, Program::Shared(_)) => continue,
            _ if value.is_null() || value == &Value::Bool(false) => continue,
            "standaloneDeployment" => "here each app runs by itself",
            _ => "Doorbell knows nothing like it; the program may have a variable for it (--env)",
        };
        intake.leave(format!("{from}: option {}", shown(key)), why);
    }
}
