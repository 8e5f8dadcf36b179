//! The apps of a NocoBase: rows of the table `applications`, as its plugin for several apps writes them.
//!
//! There, one program serves them all, or each has one of its own. Here too: an app shares the main app's program
//! (`shared_with`), which tells apps apart by `X-App`; or it has its own, with the database and the secret that the
//! table says. Databases are there already, and stay as they are.

use std::path::{Path, PathBuf, absolute};

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
#[cfg(test)]
mod tests;

use database::{Databases, own_secret};

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
    Own {
        /// An absolute path.
        directory: String,
        /// With placeholders.
        command: Vec<String>,
        /// With placeholders.
        env: Vec<(String, String)>,
        databases: Box<Databases>,
    },
}

impl NocobaseArg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let place = Place::parse(&self.database, self.schema.as_deref(), &self.table_prefix)?;
        self.source(&place, false)?;
        let table = block_on(async { Ok(place.table().await?) })?;
        let source = self.source(&place, table.is_underscored)?;
        self.out.deliver(source.intake(&table.applications), &self.socket)
    }

    fn source(&self, place: &Place, is_underscored: bool) -> anyhow::Result<Source> {
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
                Program::Own {
                    directory: directory.to_str().context("--directory is no text")?.to_owned(),
                    command: self.command.clone(),
                    env: self
                        .env
                        .iter()
                        .map(|text| variable(text, own))
                        .collect::<Result<_, _>>()?,
                    databases: Box::new(Databases {
                        main,
                        password: place.password().map(str::to_owned),
                        are_schemas: self.schema_per_app,
                        schema: self.schema.clone(),
                        has_prefix: !self.table_prefix.is_empty(),
                        is_underscored,
                    }),
                }
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
        if matches!(self.program, Program::Own { .. }) && !intake.apps.is_empty() {
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
            (None, Program::Own { .. }) => {
                let why = "it has no domain, and a program of its own takes /apps/<id>/ for another app's: \
                           say --domain DOMAIN, or --shared-with";
                return intake.leave(from, why);
            }
            (None, Program::Shared(_)) => {
                let why = format!(
                    "it has none: it is at /apps/{id}/ of the main app's, if that has `client_app_headers = true`, \
                     as its pages say by `X-App` whom they ask; or say --domain DOMAIN"
                );
                intake.leave(format!("{from}: its domain"), why);
            }
        }
        let mut env = Map::new();
        let is_taken = match &self.program {
            Program::Shared(with) => shared(intake, &from, &id, with, &mut keys),
            Program::Own { .. } => self.own(intake, &from, row, &options, (&mut keys, &mut env)),
        };
        if !is_taken {
            return;
        }
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

    /// An app with a program of its own.
    fn own(
        &self,
        intake: &mut Intake,
        from: &str,
        row: &Application,
        options: &Map<String, Value>,
        (keys, env): (&mut Map<String, Value>, &mut Map<String, Value>),
    ) -> bool {
        let Program::Own { directory, command, env: given, databases } = &self.program else {
            return false;
        };
        let known = databases.variables(intake, from, &row.name, options);
        *env = environment::take(intake, from, known);
        env.extend(placed().map(|(name, value)| (name.to_owned(), value.into())));
        let key_file = self.key_file(intake, from, &row.name);
        env.insert("APP_AES_SECRET_KEY_PATH".into(), literal_template(&key_file).into());
        for (name, value) in given {
            if is_its_own(options, name) {
                let why = "it has one of its own, which it keeps";
                intake.leave(format!("{from}: --env {name}"), why);
            } else {
                env.insert(name.clone(), value.clone().into());
            }
        }
        if !env.contains_key("APP_KEY") {
            let why = "it has the main app's, which Doorbell does not know and cannot make: \
                       say --env APP_KEY, with the key in the environment";
            intake.leave(format!("{from}: its secret"), why);
        }
        let has_password = env.get("DB_PASSWORD").is_some_and(|password| password != "");
        if !has_password && !env.contains_key("DB_STORAGE") {
            let why = "neither the table nor the address has it: say --env DB_PASSWORD, with it in the environment";
            intake.leave(format!("{from}: the password of its database"), why);
        }
        // `/` answers as soon as the port is open, even with the database down.
        let ready = json!({
            "http": "/api/__health_check", "status": 200, "body": "ok", "deadline": PATIENCE
        });
        keys.insert("timeouts".into(), json!({ "hold": HOLD }));
        keys.insert("ready".into(), ready);
        keys.insert("directory".into(), literal(directory).into());
        keys.insert("command".into(), json!(command));
        true
    }
}

impl Source {
    /// Where the key is that the app seals with, below the program's folder: where it was as long as the main app
    /// served it, or where it is made.
    fn key_file(&self, intake: &mut Intake, from: &str, name: &str) -> String {
        let Program::Own { directory, .. } = &self.program else { return String::new() };
        let places = ["apps", "environment-variables"];
        let places = places.map(|place| format!("storage/{place}/{name}/aes_key.dat"));
        if let Some(place) = places.iter().find(|place| Path::new(directory).join(place).is_file())
        {
            return place.clone();
        }
        let why = format!("there is none at {} in the folder: one is made", places[0]);
        intake.leave(format!("{from}: its key file"), why);
        let [place, _] = places;
        place
    }
}

/// An app that the main app's program serves, told apart by its id.
fn shared(
    intake: &mut Intake,
    from: &str,
    id: &AppId,
    with: &AppId,
    keys: &mut Map<String, Value>,
) -> bool {
    if id == with {
        intake.leave(from, "it is the app whose program is to be shared");
        return false;
    }
    keys.insert("shared_with".into(), with.as_str().into());
    let path = format!("/api/__app/{id}/__health_check");
    // It is begun when somebody asks for it, inside of a program that may be starting itself.
    keys.insert("ready".into(), json!({ "http": path, "status": 200, "deadline": PATIENCE }));
    keys.insert("timeouts".into(), json!({ "hold": HOLD }));
    true
}

/// What a program of its own is told of its place. Several in one folder are to keep out of each other's way.
fn placed() -> [(&'static str, &'static str); 6] {
    [
        ("APP_PORT", "{port}"),
        // Its default listens for everybody.
        ("APP_HOST", "127.0.0.1"),
        ("APP_PUBLIC_PATH", "{base_path}"),
        // What two apps keep in one browser must not be one.
        ("API_CLIENT_STORAGE_PREFIX", "NOCOBASE_{id}_"),
        ("SOCKET_PATH", "storage/gateway-{id}.sock"),
        ("PM2_HOME", "storage/.pm2-{id}"),
    ]
}

/// Whether the row itself says this, which nobody else is to have, nor another one in its place.
fn is_its_own(options: &Map<String, Value>, variable: &str) -> bool {
    match variable {
        "APP_KEY" => own_secret(options).is_some(),
        "DB_PASSWORD" => options.get("database").is_some_and(|said| said["password"].is_string()),
        _ => false,
    }
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
        (Some(Value::Bool(true)), Program::Own { .. }) => true,
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
            "database" | "authManager" | "dbConnType" if matches!(by, Program::Own { .. }) => {
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
