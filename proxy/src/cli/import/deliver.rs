//! Where all that was taken goes: into the registry, or onto the screen.
//!
//! Apps are added many at once. Where the server refuses them together, those that cannot be are looked for: they
//! are left in the server's words, and the others are added.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal, Write},
    path::Path,
};

use doorbell_config::{file::as_file, spec::HIDDEN};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    OutArg,
    intake::{Intake, Left, Taken},
};
use crate::{
    admin::{
        definitions::Keys,
        edits::{Apply, Changed},
        status::Status,
    },
    cli::{
        client::{Call, Refusal, call_json},
        control::block_on,
        screen,
    },
};

/// Bytes of definitions that are sent at once: far fewer than the server takes, so that it is never busy for
/// long.
const MOST_BYTES: usize = 1024 * 1024;

/// What came of it.
#[derive(Default)]
struct Outcome {
    took: Vec<Taken>,
    left: Vec<Left>,
    /// Whether some of these were refused by the server.
    was_refused: bool,
    warnings: BTreeSet<String>,
}

/// Adds the apps, or tries it.
pub(super) fn add(intake: Intake, socket: &Path, out: OutArg) -> anyhow::Result<u8> {
    let outcome = block_on(send(intake, socket, out.dry_run))?;
    let mut stdout = io::stdout().lock();
    if out.json {
        writeln!(stdout, "{}", screen::json(&outcome.report(out.dry_run))?)?;
    } else {
        write!(stdout, "{}", screen::lines(&outcome.told(out.dry_run)))?;
    }
    Ok(u8::from(outcome.was_refused))
}

/// Prints the apps as they could stand in a file, and what was left beside.
pub(super) fn print(intake: &Intake) -> anyhow::Result<u8> {
    let mut file = String::new();
    for app in &intake.apps {
        if !file.is_empty() {
            file.push('\n');
        }
        file += &as_file(&app.id, &app.keys)?;
    }
    // What goes into a file is exact, and what goes to a terminal does not steer it.
    let mut stdout = io::stdout();
    let file = if stdout.is_terminal() { screen::lines(&file) } else { file };
    write!(stdout, "{file}")?;
    let told = told_left(&intake.left) + &told_unprinted(&intake.apps);
    write!(io::stderr(), "{}", screen::lines(&told))?;
    Ok(0)
}

async fn send(intake: Intake, socket: &Path, is_trial: bool) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome { left: intake.left, ..Outcome::default() };
    let known = known(socket).await?;
    let (there, new): (Vec<_>, Vec<_>) =
        intake.apps.into_iter().partition(|app| known.contains(app.id.as_str()));
    for app in there {
        let why = format!("app `{}` is there already", app.id);
        outcome.left.push(Left { what: app.from, why });
    }
    for batch in batches(new) {
        outcome.take(batch, socket, is_trial).await?;
    }
    Ok(outcome)
}

/// The ids of all apps that there are.
async fn known(socket: &Path) -> anyhow::Result<BTreeSet<String>> {
    let status: Status = call_json(socket, Method::GET, "/v1/apps").await?;
    let apps = status.apps.into_iter().map(|app| app.id);
    Ok(apps.chain(status.refused.into_iter().map(|refused| refused.id)).collect())
}

fn batches(apps: Vec<Taken>) -> Vec<Vec<Taken>> {
    let mut batches: Vec<Vec<Taken>> = Vec::new();
    let mut bytes = 0;
    for app in apps {
        let secrets = app.secrets.values().map(|secret| secret.reveal().len()).sum::<usize>();
        let size = Value::Object(app.keys.clone()).to_string().len() + secrets;
        bytes += size;
        match batches.last_mut() {
            Some(batch) if bytes <= MOST_BYTES => batch.push(app),
            _ => {
                bytes = size;
                batches.push(vec![app]);
            }
        }
    }
    batches
}

impl Outcome {
    async fn take(
        &mut self,
        batch: Vec<Taken>,
        socket: &Path,
        is_trial: bool,
    ) -> anyhow::Result<()> {
        let refused = match apply(socket, &batch, is_trial).await {
            Ok(warnings) => {
                self.warnings.extend(warnings);
                self.took.extend(batch);
                return Ok(());
            }
            Err(error) => error,
        };
        if !is_about_apps(&refused) {
            return Err(self.so_far(refused, is_trial));
        }
        let (mut good, many) = (Vec::new(), batch.len());
        // Halves, and halves of those: few tries where few cannot be.
        let mut pieces = vec![batch];
        while let Some(mut piece) = pieces.pop() {
            match apply(socket, &piece, true).await {
                Ok(_) => good.append(&mut piece),
                Err(why) if is_about_apps(&why) && piece.len() > 1 => {
                    let second = piece.split_off(piece.len() / 2);
                    pieces.extend([second, piece]);
                }
                Err(why) if is_about_apps(&why) => self.refuse(piece, &why),
                Err(error) => return Err(self.so_far(error, is_trial)),
            }
        }
        // Each could be, and not all together: nobody can say which to leave.
        if good.len() == many {
            return Err(self.so_far(refused, is_trial));
        }
        if good.is_empty() {
            return Ok(());
        }
        let applied = apply(socket, &good, is_trial).await;
        let warnings = applied.map_err(|error| self.so_far(error, is_trial))?;
        self.warnings.extend(warnings);
        self.took.extend(good);
        Ok(())
    }

    /// Leaves what the server refused.
    fn refuse(&mut self, apps: Vec<Taken>, why: &anyhow::Error) {
        self.was_refused = true;
        for app in apps {
            let why = format!("app `{}` cannot be: {why:#}", app.id);
            self.left.push(Left { what: app.from, why });
        }
    }

    /// An error, with what was done before it.
    fn so_far(&self, error: anyhow::Error, is_trial: bool) -> anyhow::Error {
        match self.took.len() {
            0 => error,
            _ if is_trial => error,
            count => error.context(format!(
                "{count} apps were added before this; say it again to go on with the others"
            )),
        }
    }

    fn told(&self, is_trial: bool) -> String {
        let mut told = String::new();
        for app in &self.took {
            told += &format!("+ {} ({})\n", app.id, app.from);
            for (key, value) in without_secrets(&app.keys) {
                told += &format!("    {key} = {value}\n");
            }
            if !app.secrets.is_empty() {
                told += &format!("    sealed: {}\n", names(app).join(", "));
            }
        }
        told += &told_left(&self.left);
        for warning in &self.warnings {
            told += &format!("warning: {warning}\n");
        }
        let count = self.took.len();
        let verb = match (is_trial, count) {
            (true, _) => "could be",
            (false, 1) => "was",
            (false, _) => "were",
        };
        told + &format!("{count} app{} {verb} added\n", if count == 1 { "" } else { "s" })
    }

    fn report(&self, is_trial: bool) -> Report<'_> {
        let took = self.took.iter().map(|app| TookReport {
            id: app.id.as_str(),
            from: &app.from,
            keys: without_secrets(&app.keys),
            sealed: names(app),
        });
        Report {
            dry_run: is_trial,
            took: took.collect(),
            left: &self.left,
            warnings: &self.warnings,
        }
    }
}

/// What is printed for machines.
#[derive(Serialize)]
struct Report<'a> {
    dry_run: bool,
    took: Vec<TookReport<'a>>,
    left: &'a [Left],
    warnings: &'a BTreeSet<String>,
}

#[derive(Serialize)]
struct TookReport<'a> {
    id: &'a str,
    from: &'a str,
    keys: Map<String, Value>,
    /// Variables that are stored as secrets.
    sealed: Vec<&'a str>,
}

/// Keys as they are shown: of `env` the names alone.
fn without_secrets(keys: &Map<String, Value>) -> Map<String, Value> {
    let mut keys = keys.clone();
    if let Some(Value::Object(env)) = keys.get_mut("env") {
        env.values_mut().for_each(|value| *value = HIDDEN.into());
    }
    keys
}

/// The variables of an app that are sealed.
fn names(app: &Taken) -> Vec<&str> {
    app.secrets.keys().map(String::as_str).collect()
}

/// What no file should have in it, and how the app gets it.
fn told_unprinted(apps: &[Taken]) -> String {
    let secrets = apps.iter().flat_map(|app| names(app).into_iter().map(move |name| (app, name)));
    let told = secrets.map(|(app, name)| {
        format!("secret {name} of {0} is not printed: doorbell secret set {0} {name}\n", app.id)
    });
    told.collect()
}

fn told_left(left: &[Left]) -> String {
    left.iter().map(|Left { what, why }| format!("left {what}: {why}\n")).collect()
}

/// Adds these apps, or none; tells what an operator should know.
async fn apply(socket: &Path, apps: &[Taken], is_trial: bool) -> anyhow::Result<Vec<String>> {
    let add: BTreeMap<_, _> =
        apps.iter().map(|app| (app.id.to_string(), Keys(app.keys.clone()))).collect();
    let path = if is_trial { "/v1/apply?dry_run=true" } else { "/v1/apply" };
    let secrets = apps.iter().filter(|app| !app.secrets.is_empty());
    let secrets = secrets.map(|app| (app.id.to_string(), app.secrets.clone())).collect();
    let body = Apply { add, secrets, ..Apply::default() };
    let changed: Vec<Changed> = Call::new(Method::POST, path).json(&body)?.make(socket).await?;
    Ok(changed.into_iter().flat_map(|changed| changed.warnings).collect())
}

/// Whether the server has something against an app, and not a trouble of its own.
fn is_about_apps(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| {
        matches!(
            refusal.status,
            StatusCode::CONFLICT
                | StatusCode::PRECONDITION_FAILED
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY
        )
    })
}

#[cfg(test)]
mod tests {
    use doorbell_config::{name::AppId, spec::Secret};
    use serde_json::json;

    use super::*;

    fn app(id: &str, keys: Value) -> Taken {
        let Value::Object(keys) = keys else { panic!("no table") };
        let (id, from) = (AppId::parse(id).unwrap(), format!("process \"{id}\""));
        Taken { id, from, keys, secrets: [("A_KEY".to_owned(), Secret::new("hunter3"))].into() }
    }

    #[test]
    fn no_value_of_the_environment_is_told() {
        let outcome = Outcome {
            took: vec![app("a", json!({"hosts": ["a.test"], "env": {"KEY": "hunter2"}}))],
            left: vec![Left { what: "process \"b\"".into(), why: "nobody visits it".into() }],
            ..Outcome::default()
        };
        assert_eq!(
            outcome.told(true),
            "+ a (process \"a\")\n    hosts = [\"a.test\"]\n    env = {\"KEY\":\"********\"}\n    sealed: A_KEY\n\
             left process \"b\": nobody visits it\n1 app could be added\n"
        );
        let json = serde_json::to_string(&outcome.report(false)).unwrap();
        assert!(!json.contains("hunter") && json.contains("\"KEY\""), "{json}");
        assert!(json.contains("\"sealed\":[\"A_KEY\"]"), "{json}");
        assert_eq!(
            told_unprinted(&outcome.took),
            "secret A_KEY of a is not printed: doorbell secret set a A_KEY\n"
        );
    }

    #[test]
    fn many_apps_are_sent_in_pieces() {
        let text = "x".repeat(MOST_BYTES / 3);
        let apps = (0..7).map(|n| app(&format!("a{n}"), json!({ "name": text })));
        let sizes: Vec<_> = batches(apps.collect()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 1]);
        let huge = app("b", json!({ "name": "x".repeat(2 * MOST_BYTES) }));
        assert_eq!(batches(vec![huge]).len(), 1);
    }
}
