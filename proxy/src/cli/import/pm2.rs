//! An ecosystem file of pm2: `{"apps": [{"name": ..., "script": ...}]}`, in JSON.
//!
//! pm2 keeps programs running, Doorbell those that are visited: what a program's lifecycle was there is Doorbell's
//! own to decide, and told as left. Such files are mostly programs of JavaScript; those are not run, and the
//! command that makes JSON of one is told.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use doorbell_config::file::literal;
use serde_json::{Map, Value, json};

use super::{
    HostArg, Intake, OutArg, environment, folder_of,
    intake::{Taken, shown},
    text_of,
};
use crate::cli::SocketArg;

mod command;
mod key;

use command::Script;

/// Apps of one file; nobody writes more by hand.
const MOST_APPS: usize = 10_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct Pm2Arg {
    /// The ecosystem file in JSON; `-` is standard input
    #[arg(value_name = "FILE", default_value = "ecosystem.config.json")]
    file: PathBuf,
    /// A host of the only app; or, as APP=HOST, of the app of this name
    #[arg(long, value_name = "HOST")]
    host: Vec<HostArg>,
    /// Take the variables of `env_NAME` too
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Take these apps only
    #[arg(long, value_name = "APP")]
    only: Vec<String>,
    /// Where apps without `cwd` run; the file's folder unless given
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    out: OutArg,
    #[command(flatten)]
    socket: SocketArg,
}

/// All that apps of a file are made by.
struct Source<'a> {
    /// An absolute path.
    folder: &'a Path,
    home: Option<&'a Path>,
    hosts: &'a [HostArg],
    env: Option<&'a str>,
    only: &'a [String],
    script: &'a dyn Fn(&Path) -> Script,
}

impl Pm2Arg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let folder = match &self.directory {
            Some(folder) => absolute(folder)?,
            None => folder_of(&self.file)?,
        };
        let text = text_of(&self.file)?;
        let apps = apps(&self.file, &text)?;
        let home = std::env::home_dir();
        let source = Source {
            folder: &folder,
            home: home.as_deref(),
            hosts: &self.host,
            env: self.env.as_deref(),
            only: &self.only,
            script: &command::look,
        };
        self.out.deliver(source.intake(&apps)?, &self.socket)
    }
}

/// The apps of a file.
fn apps(path: &Path, text: &str) -> anyhow::Result<Vec<Value>> {
    let name = path.display();
    let ext = path.extension().unwrap_or_default();
    let is_script = ["js", "cjs", "mjs"].iter().any(|script| ext == *script);
    if is_script || text.contains("module.exports") {
        let file = absolute(path).unwrap_or_default().display().to_string();
        let folder = folder_of(path)?.display().to_string();
        let made = quoted(&format!("JSON.stringify(require({}))", Value::from(file)));
        bail!(
            "{name} is a program, which is not run here: make JSON of it, and import that\n\
             node -p {made} | doorbell import pm2 - --directory {}",
            quoted(&folder)
        );
    }
    ensure!(ext != "yml" && ext != "yaml", "{name} is YAML: make JSON of it, and import that");
    let mut read: Value = serde_json::from_str(text)
        .with_context(|| format!("{name} is no JSON: comments and commas at an end are none"))?;
    let apps = match &mut read {
        Value::Object(file) if file.contains_key("apps") => file["apps"].take(),
        Value::Object(file) if file.contains_key("script") => read.take(),
        Value::Array(_) => read.take(),
        _ => bail!("{name} has no `apps`: is it an ecosystem file of pm2?"),
    };
    let apps = match apps {
        Value::Array(apps) => apps,
        app @ Value::Object(_) => vec![app],
        _ => bail!("{name}: `apps` is no list"),
    };
    ensure!(apps.len() <= MOST_APPS, "{name} has more than {MOST_APPS} apps");
    Ok(apps)
}

/// A text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Source<'_> {
    fn intake(&self, apps: &[Value]) -> anyhow::Result<Intake> {
        let mut intake = Intake::default();
        let mut names = BTreeSet::new();
        for (index, app) in apps.iter().enumerate() {
            let from = format!("app {}", index + 1);
            let Value::Object(app) = app else {
                intake.leave(from, "it is no object");
                continue;
            };
            let Some(name) = name(app) else {
                intake.leave(from, "it has neither a `name` nor a `script`");
                continue;
            };
            names.insert(name.clone());
            if self.only.is_empty() || self.only.contains(&name) {
                self.take(&mut intake, app, &name, apps.len() == 1);
            }
        }
        let hosts = self.hosts.iter().filter_map(|host| host.name.as_ref());
        for named in hosts.chain(self.only) {
            let known: Vec<_> = names.iter().map(|name| shown(name)).take(20).collect();
            ensure!(names.contains(named), "no app `{named}`: there are {}", known.join(", "));
        }
        ensure!(
            apps.len() == 1 || self.hosts.iter().all(|host| host.name.is_some()),
            "there are several apps: say whose a host is, --host APP=HOST"
        );
        intake.leave_shared_hosts();
        Ok(intake)
    }

    fn take(&self, intake: &mut Intake, app: &Map<String, Value>, name: &str, is_only: bool) {
        let from = format!("app {}", shown(name));
        let mut keys = Map::new();
        let directory = self.directory(app);
        let command = match command::of(app, &directory, self.script) {
            Ok(command) => command,
            Err(why) => return intake.leave(from, why),
        };
        let Some(directory_text) = directory.to_str() else {
            return intake.leave(from, "its folder's name is no text");
        };
        let Some(id) = intake.id(&from, name, &mut keys) else { return };
        keys.insert("directory".into(), literal(directory_text).into());
        keys.insert("command".into(), command.words.into());
        if let Some(why) = command.left {
            intake.leave(format!("{from}: `interpreter`"), why);
        }
        let hosts = self.hosts.iter().filter(|host| match &host.name {
            Some(named) => named == name,
            None => is_only,
        });
        let hosts: Vec<_> = hosts.map(|host| host.host.as_str()).collect();
        if hosts.is_empty() {
            let why = format!("pm2 knows none: it is at /apps/{id}/; say --host {name}=HOST");
            intake.leave(format!("{from}: its host"), why);
        } else {
            keys.insert("hosts".into(), json!(hosts));
        }
        let mut env = environment::take(intake, &from, self.variables(app));
        environment::take_templates(intake, &from, &mut env, command.env);
        let secrets = environment::give(intake, &from, &id, env, &mut keys);
        key::map(intake, &from, app, self.env, &mut keys);
        intake.apps.push(Taken { id, from, keys, secrets });
    }

    fn directory(&self, app: &Map<String, Value>) -> PathBuf {
        let Some(Value::String(cwd)) = app.get("cwd") else { return self.folder.to_owned() };
        match (cwd.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(cwd),
        }
    }

    /// Variables of `env`, then those of the environment that was asked for.
    fn variables(&self, app: &Map<String, Value>) -> Vec<(String, String)> {
        let chosen = self.env.map(|name| format!("env_{name}"));
        let tables = [app.get("env"), chosen.and_then(|name| app.get(&name))];
        let tables = tables.into_iter().flatten().filter_map(Value::as_object);
        let values = tables.flatten().filter_map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                // As JavaScript puts it into an environment.
                Value::Null => return None,
                other => other.to_string(),
            };
            Some((name.clone(), value))
        });
        values.collect()
    }
}

/// What pm2 calls an app.
fn name(app: &Map<String, Value>) -> Option<String> {
    match app.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Some(name.clone()),
        Some(Value::Number(name)) => Some(name.to_string()),
        _ => {
            let script = Path::new(app.get("script")?.as_str()?);
            Some(script.file_stem()?.to_string_lossy().into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(apps: Value, hosts: &[&str], env: Option<&str>) -> anyhow::Result<Intake> {
        let hosts: Vec<HostArg> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let source = Source {
            folder: Path::new("/srv"),
            home: Some(Path::new("/home/me")),
            hosts: &hosts,
            env,
            only: &[],
            script: &|path| match path.extension() {
                Some(_) => Script::Text,
                None => Script::Absent,
            },
        };
        let Value::Array(apps) = apps else { panic!("no list") };
        source.intake(&apps)
    }

    #[test]
    fn what_has_a_counterpart_is_taken_and_each_other_key_told() {
        let app = json!({
            "name": "Shop API", "script": "dist/server.js", "args": "--port 1 'a b'", "cwd": "shop",
            "node_args": ["--enable-source-maps"], "instances": 2, "exec_mode": "cluster",
            "env": {"A": "${x}", "PORT": 3000, "DEBUG": true}, "env_production": {"A": "2"},
            "env_staging": {}, "max_memory_restart": "300M", "kill_timeout": 1600, "watch": true,
            "autorestart": true, "uid": 33, "whatever": 1,
        });
        let intake = intake(json!([app]), &["shop.test"], Some("production")).unwrap();
        let [app] = &intake.apps[..] else { panic!("{intake:?}") };
        assert_eq!(app.id.as_str(), "shop-api");
        assert_eq!(
            Value::Object(app.keys.clone()),
            json!({
                "name": "Shop API", "hosts": ["shop.test"], "directory": "/srv/shop",
                "command": ["node", "--enable-source-maps", "dist/server.js", "--port", "1", "a b"],
                "env": {"A": "2", "DEBUG": "true"}, "instances": 2,
                "limits": {"memory": "300MiB"}, "stop": {"signal": "SIGINT", "grace": "1s600ms"},
                "user": "33",
            })
        );
        for left in ["`env_staging`", "\"PORT\"", "`watch`", "`whatever`", "`exec_mode`"] {
            assert!(intake.left.iter().any(|l| l.what.ends_with(left)), "{left}: {intake:?}");
        }
        assert!(!intake.left.iter().any(|left| left.what.contains("autorestart")), "{intake:?}");
    }

    #[test]
    fn what_is_no_app_is_told_and_the_rest_is_taken() {
        let apps = json!([
            1, {}, {"name": 5, "script": "a.js"}, {"name": "x", "script": ["a"]},
            {"name": "博客", "script": "a.js"}, {"name": "B", "script": "b.js", "cwd": "~/b"},
            {"name": "b", "script": "b.js"}, {"name": "c", "script": "a 'b"},
        ]);
        let intake = intake(apps, &["B=b.test"], None).unwrap();
        let ids: Vec<_> = intake.apps.iter().map(|app| app.id.as_str()).collect();
        assert_eq!(ids, ["5", "b"]);
        assert_eq!(intake.apps[1].keys["directory"], "/home/me/b");
        assert_eq!(intake.apps[1].keys["hosts"], json!(["b.test"]));
        for left in ["app 1", "app 2", "app \"x\"", "app \"博客\"", "app \"b\"", "app \"c\""] {
            assert!(intake.left.iter().any(|l| l.what == left), "{left}: {intake:?}");
        }
    }

    #[test]
    fn hosts_for_nobody_are_refused() {
        let apps = || json!([{"script": "a.js"}, {"script": "b.js"}]);
        assert!(intake(apps(), &["c=x.test"], None).is_err());
        assert!(intake(apps(), &["x.test"], None).is_err());
        assert!(intake(apps(), &["a=x.test", "b=y.test"], None).is_ok());
    }

    #[test]
    fn files_of_all_shapes_are_read_and_programs_are_not() {
        let read = |name: &str, text: &str| apps(Path::new(name), text);
        for text in
            [r#"{"apps": [{"script": "a"}]}"#, r#"{"apps": {}}"#, r#"[{}]"#, r#"{"script": "a"}"#]
        {
            assert_eq!(read("x.json", text).unwrap().len(), 1, "{text}");
        }
        for text in ["", "{}", "1", r#"{"apps": 1}"#, "{\"apps\": [],}", &"[".repeat(10_000)] {
            assert!(read("x.json", text).is_err(), "{text:.20}");
        }
        let error = read("/srv/it's/ecosystem.config.js", "").unwrap_err().to_string();
        let command = "node -p 'JSON.stringify(require(\"/srv/it'\\''s/ecosystem.config.js\"))'";
        assert!(error.contains(command), "{error}");
        assert!(read("-", "module.exports = {}").is_err());
        assert!(read("x.yml", "apps: []").unwrap_err().to_string().contains("YAML"));
    }
}
