//! `doorbell apply`: makes the registry's apps be those of a file, and tells what that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use doorbell_config::file::KIND;
use hyper::Method;
use serde_json::{Map, Value};

use super::{
    apps::HowArg,
    client::{Call, call_json},
    control::block_on,
    screen,
};
use crate::admin::{
    definitions::{Definition, Keys},
    edits::{Apply, Changed},
};

type Apps = BTreeMap<String, Map<String, Value>>;
/// With the revisions that they are at.
type Known = BTreeMap<String, (u64, Map<String, Value>)>;

pub(super) fn apply(socket: &Path, file: &Path, prune: bool, how: HowArg) -> anyhow::Result<u8> {
    let wanted = read(file)?;
    let now = block_on(known(socket))?;
    let changes = Changes::between(&now, &wanted, prune);
    let mut out = io::stdout().lock();
    if changes.told.is_empty() {
        if !how.is_json() {
            writeln!(out, "nothing to change: {} apps are as in the file", wanted.len())?;
        } else {
            writeln!(out, "[]")?;
        }
        return Ok(0);
    }
    let call = Call::new(Method::POST, how.at("/v1/apply")).json(&changes.apply)?;
    if !how.is_json() {
        write!(out, "{}", screen::lines(&changes.told))?;
    }
    let changed: Vec<Changed> = block_on(call.make(socket))?;
    if how.is_json() {
        writeln!(out, "{}", screen::json(&changed)?)?;
        return Ok(0);
    }
    let warnings: BTreeSet<_> = changed.iter().flat_map(|changed| &changed.warnings).collect();
    for warning in warnings {
        writeln!(out, "warning: {}", screen::lines(warning))?;
    }
    let (count, verb) = (changed.len(), if how.is_trial() { "could be" } else { "were" });
    writeln!(out, "{count} apps {verb} changed")?;
    Ok(0)
}

/// The apps of a file.
fn read(file: &Path) -> anyhow::Result<Apps> {
    let name = file.display();
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("cannot read {name}"))?;
    let tables: toml::Table = text.parse().with_context(|| format!("{name} is no TOML"))?;
    let mut apps = Apps::new();
    for (family, tables) in tables {
        let is_tcp = match family.as_str() {
            "app" => false,
            "tcp" => true,
            other => bail!(
                "{name}: `{other}` has no place here: write `[app.<id>]` and `[tcp.<id>]` tables only"
            ),
        };
        let toml::Value::Table(tables) = tables else { bail!("{name}: `{family}` is no table") };
        for (id, keys) in tables {
            let Value::Object(mut keys) = serde_json::to_value(keys)? else {
                bail!("{name}: `{family}.{id}` is no table")
            };
            if is_tcp {
                keys.insert(KIND.into(), "tcp".into());
            }
            if apps.insert(id.clone(), keys).is_some() {
                bail!("{name}: `{id}` stands there twice");
            }
        }
    }
    Ok(apps)
}

/// The apps of the registry as they are.
async fn known(socket: &Path) -> anyhow::Result<Known> {
    let shown: Vec<Definition> = call_json(socket, Method::GET, "/v1/definitions").await?;
    Ok(shown.into_iter().map(|app| (app.id, (app.revision, app.keys.0))).collect())
}

/// What is to be done, and how it looks.
struct Changes {
    apply: Apply,
    told: String,
}

impl Changes {
    fn between(now: &Known, wanted: &Apps, prune: bool) -> Self {
        let mut changes = Self { apply: Apply::default(), told: String::new() };
        for (id, keys) in wanted {
            let keys_now = Keys(keys.clone());
            match now.get(id) {
                Some((_, old)) if old == keys => {}
                Some((seen, old)) => {
                    changes.told += &format!("~ {id}\n");
                    changes.compare("", old, keys);
                    changes.apply.put.insert(id.clone(), keys_now);
                    changes.apply.seen.insert(id.clone(), *seen);
                }
                None => {
                    changes.told += &format!("+ {id}\n");
                    changes.compare("", &Map::new(), keys);
                    changes.apply.add.insert(id.clone(), keys_now);
                }
            }
        }
        for (id, (seen, _)) in now.iter().filter(|(id, _)| prune && !wanted.contains_key(*id)) {
            changes.told += &format!("- {id}\n");
            changes.apply.delete.push(id.clone());
            changes.apply.seen.insert(id.clone(), *seen);
        }
        changes
    }

    /// What differs between two tables. Of what is in `env` the names alone are told.
    fn compare(&mut self, above: &str, old: &Map<String, Value>, new: &Map<String, Value>) {
        let all: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for key in all {
            let (old, new) = (old.get(key), new.get(key));
            if old == new {
                continue;
            }
            let name = format!("{above}{key}");
            match (old, new) {
                (Some(Value::Object(old)), Some(Value::Object(new))) => {
                    self.compare(&format!("{name}."), old, new);
                }
                _ => {
                    let shown = |value: &Value| {
                        let hidden = ["env", "database"];
                        let is_secret = hidden.iter().any(|key| {
                            name.strip_prefix(key)
                                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                        });
                        if is_secret { "********".to_owned() } else { value.to_string() }
                    };
                    if let Some(old) = old {
                        self.told += &format!("    - {name} = {}\n", shown(old));
                    }
                    if let Some(new) = new {
                        self.told += &format!("    + {name} = {}\n", shown(new));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apps(text: Value) -> Apps {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn what_differs_is_told_and_no_secret() {
        let now = apps(json!({
            "a": {"hosts": ["a.test"], "env": {"KEY": "old"}},
            "b": {"hosts": ["b.test"]},
            "c": {"hosts": ["c.test"]},
        }));
        let now = now.into_iter().zip(7..).map(|((id, keys), seen)| (id, (seen, keys))).collect();
        let wanted = apps(json!({
            "a": {"hosts": ["a.test"], "env": {"KEY": "new"}, "idle": {"stop_after": "1m"}},
            "b": {"hosts": ["b.test"]},
            "d": {"port": 80, "database": {"new_database": "postgres://x:secret@h/"}},
        }));
        let changes = Changes::between(&now, &wanted, true);
        assert_eq!(
            changes.told,
            "~ a\n    - env.KEY = ********\n    + env.KEY = ********\n    + idle = {\"stop_after\":\"1m\"}\n\
             + d\n    + database = ********\n    + port = 80\n- c\n"
        );
        assert_eq!(changes.apply.put.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(changes.apply.add.keys().collect::<Vec<_>>(), ["d"]);
        assert_eq!(changes.apply.seen, [("a".to_owned(), 7), ("c".to_owned(), 9)].into());
        assert_eq!(changes.apply.delete, ["c"]);
        assert!(Changes::between(&now, &wanted, false).apply.delete.is_empty());
    }
}
