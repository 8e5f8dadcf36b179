//! A Procfile: a line `name: command` for each process, as Heroku, foreman and their like run them.
//!
//! Doorbell runs what is visited. `web` is, and whatever else is given a host; a worker or a clock is nobody's to
//! wake, and stays with whoever runs it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Args;
use doorbell_config::file::literal;
use serde_json::{Map, json};

use super::{
    HostArg, Intake, OutArg, dotenv, environment, folder_of,
    intake::{Taken, shown},
    text_of, words,
};
use crate::cli::SocketArg;

/// The process that answers requests by convention.
const WEB: &str = "web";

#[derive(Debug, Args)]
pub(in crate::cli) struct ProcfileArg {
    /// The Procfile; its folder is where its processes run
    #[arg(value_name = "FILE", default_value = "Procfile")]
    file: PathBuf,
    /// The id of `web`, and what others' begin with; the folder's name unless given
    #[arg(long)]
    name: Option<String>,
    /// A host of `web`; or, as PROCESS=HOST, of another process that answers requests
    #[arg(long, value_name = "HOST", required = true)]
    host: Vec<HostArg>,
    /// Variables for the processes; `.env` beside the Procfile unless given
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Take no `.env`
    #[arg(long, conflicts_with = "env_file")]
    no_env_file: bool,
    #[command(flatten)]
    out: OutArg,
    #[command(flatten)]
    socket: SocketArg,
}

/// All that a Procfile becomes apps by.
struct Source<'a> {
    text: &'a str,
    /// Where its processes run; an absolute path.
    folder: &'a str,
    name: &'a str,
    /// Each process's.
    hosts: &'a BTreeMap<String, Vec<String>>,
    /// The text of `.env`.
    variables: &'a str,
}

impl ProcfileArg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let folder = folder_of(&self.file)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let text = text_of(&self.file)?;
        let hosts = hosts(&self.host);
        let there = processes(&text).map(|process| process.name).collect::<Vec<_>>();
        for name in hosts.keys() {
            ensure!(
                there.contains(&name.as_str()),
                "{} has no process `{name}`: it has {}",
                self.file.display(),
                if there.is_empty() { "none".into() } else { there.join(", ") }
            );
        }
        let source = Source {
            text: &text,
            folder: folder.to_str().context("the folder's name is no text")?,
            name: &name,
            hosts: &hosts,
            variables: &self.variables(&folder)?,
        };
        self.out.deliver(source.intake(), &self.socket)
    }

    fn variables(&self, folder: &Path) -> anyhow::Result<String> {
        if self.no_env_file {
            return Ok(String::new());
        }
        match &self.env_file {
            Some(file) => text_of(file),
            None => {
                let beside = folder.join(".env");
                if beside.is_file() { text_of(&beside) } else { Ok(String::new()) }
            }
        }
    }
}

fn hosts(args: &[HostArg]) -> BTreeMap<String, Vec<String>> {
    let mut hosts = BTreeMap::<_, Vec<_>>::new();
    for HostArg { name, host } in args {
        let name = name.clone().unwrap_or_else(|| WEB.to_owned());
        hosts.entry(name).or_default().push(host.clone());
    }
    hosts
}

struct Process<'t> {
    name: &'t str,
    command: &'t str,
}

/// The processes of a Procfile. A line that is none is nobody's, as elsewhere.
fn processes(text: &str) -> impl Iterator<Item = Process<'_>> {
    text.lines().filter_map(process)
}

fn process(line: &str) -> Option<Process<'_>> {
    let (name, command) = line.trim().split_once(':')?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    (is_name && !name.is_empty()).then(|| Process { name, command: command.trim() })
}

impl Source<'_> {
    fn intake(&self) -> Intake {
        let mut intake = Intake::default();
        for (index, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match process(line) {
                Some(process) => self.take(&mut intake, &process),
                None => intake.leave(format!("line {}", index + 1), "it is no `name: command`"),
            }
        }
        intake.leave_shared_hosts();
        if intake.apps.is_empty() {
            return intake;
        }
        for (line, why) in dotenv::read(self.variables).wrong {
            intake.leave(format!(".env, line {line}"), why);
        }
        intake
    }

    fn take(&self, intake: &mut Intake, process: &Process<'_>) {
        let from = format!("process {}", shown(process.name));
        let Some(hosts) = self.hosts.get(process.name) else {
            return intake.leave(from, unvisited(process.name));
        };
        let line = match words::line(process.command) {
            Ok(line) => line,
            Err(why) => return intake.leave(from, why),
        };
        let mut keys = Map::new();
        let name = match process.name {
            WEB => self.name.to_owned(),
            other => format!("{}-{other}", self.name),
        };
        let Some(id) = intake.id(&from, &name, &mut keys) else { return };
        let mut env = environment::take(intake, &from, dotenv::read(self.variables).variables);
        environment::take_templates(intake, &from, &mut env, line.env);
        keys.insert("hosts".into(), json!(hosts));
        keys.insert("directory".into(), literal(self.folder).into());
        keys.insert("command".into(), line.command.into());
        let secrets = environment::give(intake, &from, &id, env, &mut keys);
        intake.apps.push(Taken { id, from, keys, secrets });
    }
}

/// Why a process without a host is left.
fn unvisited(name: &str) -> String {
    match name {
        WEB => "say --host HOST to take it".into(),
        "release" => {
            "it runs once for each release, not for visitors: run it where you deploy".into()
        }
        name => format!(
            "nobody visits it, so nothing would start it: leave it to systemd; or say --host {name}=HOST if it \
             answers requests"
        ),
    }
}

#[cfg(test)]
mod tests {
    use doorbell_config::file::as_file;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn intake(text: &str, hosts: &[&str], variables: &str) -> Intake {
        let hosts: Vec<HostArg> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let hosts = super::hosts(&hosts);
        Source { text, folder: "/srv/shop", name: "shop", hosts: &hosts, variables }.intake()
    }

    #[test]
    fn what_answers_requests_is_taken_and_the_rest_told() {
        let text = "# ours\nweb: bundle exec puma -p $PORT\nworker: sidekiq\nrelease: rake db:migrate\n\
                    api: A=1 ./api --all *.x\nnot a line\n";
        let intake = intake(
            text,
            &["shop.test", "www.shop.test", "api=api.test"],
            "A=x{y}\nKEY=k{z}\nPORT=1\nzz\n",
        );
        let [web, api] = &intake.apps[..] else { panic!("{:?}", intake.apps) };
        assert_eq!((web.id.as_str(), api.id.as_str()), ("shop", "shop-api"));
        assert_eq!(
            Value::Object(web.keys.clone()),
            json!({
                "hosts": ["shop.test", "www.shop.test"], "directory": "/srv/shop",
                "command": ["bundle", "exec", "puma", "-p", "{port}"], "env": {"A": "x{{y}}"}, "secrets": ["KEY"],
            })
        );
        assert_eq!(web.secrets["KEY"].reveal(), "k{z}");
        assert_eq!(api.keys["command"], json!(["/bin/sh", "-c", "A=1 ./api --all *.x"]));
        let left: Vec<_> = intake.left.iter().map(|left| left.what.as_str()).collect();
        assert_eq!(
            left,
            [
                "process \"web\": \"PORT\"",
                "process \"worker\"",
                "process \"release\"",
                "process \"api\": \"PORT\"",
                "line 6",
                ".env, line 4"
            ]
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_in_the_files_can_be_written_down(
            command in "\\PC{1,30}|[a'\"\\\\${}PORT:= |]{1,20}", variables in "[A-C='\"\\\\${} #\n]{0,30}",
        ) {
            let intake = intake(&format!("web: {command}"), &["x.test"], &variables);
            for app in &intake.apps {
                let file: toml::Table = as_file(&app.id, &app.keys).unwrap().parse().unwrap();
                let command = file["app"]["shop"]["command"].as_array().unwrap();
                prop_assert!(command[0].as_str().is_some_and(|program| !program.is_empty()));
            }
        }
    }

    #[test]
    fn a_process_that_stands_twice_is_taken_once() {
        let intake = intake("web: a\nweb: b\nweb:\n", &["x.test"], "");
        assert_eq!(intake.apps.len(), 1);
        assert_eq!(intake.left.len(), 2, "{:?}", intake.left);
    }
}
