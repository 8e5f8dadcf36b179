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
    control::{block_on, encode},
    screen,
};
use crate::admin::{
    definitions::{Apply, Changed, Definition, Keys},
    status::{Source, Status},
};

type Apps = BTreeMap<String, Map<String, Value>>;

pub(super) fn apply(socket: &Path, file: &Path, prune: bool, how: HowArg) -> anyhow::Result<u8> {
    let wanted = read(file)?;
    let now = block_on(known(socket))?;
    let changes = Changes::between(&now, &wanted, prune);
    let mut out = io::stdout().lock();
    if changes.apply.put.is_empty() && changes.apply.delete.is_empty() {
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
async fn known(socket: &Path) -> anyhow::Result<Apps> {
    let status: Status = call_json(socket, Method::GET, "/v1/apps").await?;
    let in_force = status.apps.iter().filter(|app| app.replica.is_none());
    let in_force = in_force.filter(|app| app.source == Source::Registry).map(|app| &app.id);
    let ids: BTreeSet<_> =
        in_force.chain(status.refused.iter().map(|refused| &refused.id)).collect();
    let mut apps = Apps::new();
    for id in ids {
        let path = format!("/v1/apps/{}/definition", encode(id));
        let shown: Definition = call_json(socket, Method::GET, &path).await?;
        apps.insert(shown.id, shown.keys.0);
    }
    Ok(apps)
}

/// What is to be done, and how it looks.
struct Changes {
    apply: Apply,
    told: String,
}

impl Changes {
    fn between(now: &Apps, wanted: &Apps, prune: bool) -> Self {
        let mut changes = Self { apply: Apply::default(), told: String::new() };
        for (id, keys) in wanted {
            let old = now.get(id);
            if old == Some(keys) {
                continue;
            }
            let sign = if old.is_some() { '~' } else { '+' };
            changes.told += &format!("{sign} {id}\n");
            changes.compare("", old.unwrap_or(&Map::new()), keys);
            changes.apply.put.insert(id.clone(), Keys(keys.clone()));
        }
        for id in now.keys().filter(|id| prune && !wanted.contains_key(*id)) {
            changes.told += &format!("- {id}\n");
            changes.apply.delete.push(id.clone());
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
        let wanted = apps(json!({
            "a": {"hosts": ["a.test"], "env": {"KEY": "new"}, "idle": {"stop_after": "1m"}},
            "b": {"hosts": ["b.test"]},
            "d": {"port": 80},
        }));
        let changes = Changes::between(&now, &wanted, true);
        assert_eq!(
            changes.told,
            "~ a\n    - env.KEY = ********\n    + env.KEY = ********\n    + idle = {\"stop_after\":\"1m\"}\n\
             + d\n    + port = 80\n- c\n"
        );
        assert_eq!(changes.apply.put.keys().collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(changes.apply.delete, ["c"]);
        assert!(Changes::between(&now, &wanted, false).apply.delete.is_empty());
    }
}
