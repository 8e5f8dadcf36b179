//! `doorbell apply`: makes the registry's apps be those of a file, and tells what that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use doorbell_config::{file::KIND, spec::HIDDEN};
use hyper::Method;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    apps::{HowArg, is_confirmed},
    client::{Call, Refusal, call_json},
    control::block_on,
    screen,
};
use crate::{
    admin::{
        definitions::{Definition, Keys},
        edits::{Apply, Changed},
    },
    ledger::address,
};

type Apps = BTreeMap<String, Map<String, Value>>;
/// With the revisions that they are at.
type Known = BTreeMap<String, (u64, Map<String, Value>)>;

/// Whether who applies is asked before apps are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Before,
    Never,
}

/// What becomes of the apps that are not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    Stay,
    Go(Ask),
}

pub(super) fn apply(socket: &Path, file: &Path, others: Others, how: HowArg) -> anyhow::Result<u8> {
    let wanted = read(file)?;
    let now = block_on(async {
        let now = known(socket).await?;
        with_secrets(socket, now, &wanted).await
    })?;
    let changes = Changes::between(&now, &wanted, others != Others::Stay);
    let mut out = io::stdout().lock();
    if changes.apps.is_empty() {
        if !how.is_json() {
            writeln!(out, "nothing to change: {} apps are as in the file", wanted.len())?;
        } else {
            writeln!(out, "[]")?;
        }
        return Ok(0);
    }
    let call = Call::new(Method::POST, how.at("/v1/apply")).json(&changes.apply)?;
    if !how.is_json() {
        write!(out, "{}", screen::lines(&changes.to_string()))?;
        out.flush()?;
    }
    if others == Others::Go(Ask::Before) && !how.is_trial() && !changes.are_confirmed(how)? {
        bail!("nothing was changed");
    }
    let changed: Vec<Changed> = block_on(call.make(socket))?;
    if how.is_json() {
        writeln!(out, "{}", screen::json(&changes.made(&changed))?)?;
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

/// Doorbell shows no password of a database, but tells whether an app would be as it was with that of the file.
async fn with_secrets(socket: &Path, mut now: Known, wanted: &Apps) -> anyhow::Result<Known> {
    let differs_in_hidden = |id: &String, keys: &Map<String, Value>| {
        let mut hidden = keys.clone();
        address::hide(&mut hidden);
        hidden != *keys && now.get(id).is_some_and(|(_, old)| *old == hidden)
    };
    let asked = wanted.iter().filter(|(id, keys)| differs_in_hidden(id, keys));
    let put: BTreeMap<_, _> = asked.map(|(id, keys)| (id.clone(), Keys(keys.clone()))).collect();
    if put.is_empty() {
        return Ok(now);
    }
    let body = Apply { put, ..Apply::default() };
    let call = Call::new(Method::POST, "/v1/apply?dry_run=true").json(&body)?;
    let tried: anyhow::Result<Vec<Changed>> = call.make(socket).await;
    let tried = match tried {
        // Who cannot be by itself may be together with the others: the change itself tells.
        Err(error) if error.is::<Refusal>() => return Ok(now),
        tried => tried?,
    };
    for same in tried.into_iter().filter(|tried| tried.same) {
        if let (Some((_, old)), Some(keys)) = (now.get_mut(&same.id), wanted.get(&same.id)) {
            old.clone_from(keys);
        }
    }
    Ok(now)
}

/// What is to be done, and how it looks.
struct Changes {
    apply: Apply,
    /// What is new, then what is to go.
    apps: Vec<Change>,
}

/// What becomes of an app.
#[derive(Clone, Debug, Serialize)]
struct Change {
    id: String,
    change: Kind,
    /// What differs.
    keys: Vec<KeyChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Added,
    Changed,
    Deleted,
}

/// A key that is not what it was. Of what may be secret nothing is told but that it differs.
#[derive(Clone, Debug, Serialize)]
struct KeyChange {
    /// With the tables that it is in, as `idle.stop_after`.
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<Value>,
}

/// A change, and what it came to.
#[derive(Debug, Serialize)]
struct Made<'c> {
    #[serde(flatten)]
    change: &'c Change,
    revision: u64,
    warnings: &'c [String],
}

impl Changes {
    fn between(now: &Known, wanted: &Apps, prune: bool) -> Self {
        let mut changes = Self { apply: Apply::default(), apps: Vec::new() };
        for (id, keys) in wanted {
            let keys_now = Keys(keys.clone());
            match now.get(id) {
                Some((_, old)) if old == keys => {}
                Some((seen, old)) => {
                    changes.tell(id, Kind::Changed, compare("", old, keys));
                    changes.apply.put.insert(id.clone(), keys_now);
                    changes.apply.seen.insert(id.clone(), *seen);
                }
                None => {
                    changes.tell(id, Kind::Added, compare("", &Map::new(), keys));
                    changes.apply.add.insert(id.clone(), keys_now);
                }
            }
        }
        for (id, (seen, _)) in now.iter().filter(|(id, _)| prune && !wanted.contains_key(*id)) {
            changes.tell(id, Kind::Deleted, Vec::new());
            changes.apply.delete.push(id.clone());
            changes.apply.seen.insert(id.clone(), *seen);
        }
        changes
    }

    fn tell(&mut self, id: &str, change: Kind, keys: Vec<KeyChange>) {
        self.apps.push(Change { id: id.to_owned(), change, keys });
    }

    /// Asks for the number of apps that are to be deleted, if there are any.
    fn are_confirmed(&self, how: HowArg) -> anyhow::Result<bool> {
        if self.apply.delete.is_empty() {
            return Ok(true);
        }
        let count = self.apply.delete.len();
        let apps = screen::count(u64::try_from(count)?, "app");
        if how.is_json() {
            write!(io::stderr(), "{}", screen::lines(&self.to_string()))?;
        }
        let question = format!("This stops {apps} and deletes what is written of them.");
        let unasked = format!("say --yes to delete {apps} without being asked");
        is_confirmed(&format!("{question} Type how many: "), &count.to_string(), &unasked)
    }

    /// Each with what it came to.
    fn made<'c>(&'c self, changed: &'c [Changed]) -> Vec<Made<'c>> {
        let by_id: BTreeMap<_, _> = changed.iter().map(|one| (&one.id, one)).collect();
        let made = |change: &'c Change| {
            let came_to = by_id.get(&change.id);
            let warnings = came_to.map_or(&[][..], |came_to| &came_to.warnings);
            Made { change, revision: came_to.map_or(0, |came_to| came_to.revision), warnings }
        };
        self.apps.iter().map(made).collect()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Change { id, change, keys } in &self.apps {
            let sign = match change {
                Kind::Added => '+',
                Kind::Changed => '~',
                Kind::Deleted => '-',
            };
            writeln!(f, "{sign} {id}")?;
            for KeyChange { key, old, new } in keys {
                for (sign, value) in [('-', old), ('+', new)] {
                    match value {
                        Some(Value::String(hidden)) if hidden == HIDDEN => {
                            writeln!(f, "    {sign} {key} = {HIDDEN}")?;
                        }
                        Some(value) => writeln!(f, "    {sign} {key} = {value}")?,
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// What differs between two tables. Of what is in `env` the names alone are told.
fn compare(above: &str, old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<KeyChange> {
    let mut changes = Vec::new();
    let all: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in all {
        let (old, new) = (old.get(key), new.get(key));
        if old == new {
            continue;
        }
        let name = format!("{above}{key}");
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                changes.extend(compare(&format!("{name}."), old, new));
            }
            _ => {
                let shown = |value: &Value| match is_secret(&name) {
                    true => HIDDEN.into(),
                    false => value.clone(),
                };
                changes.push(KeyChange { old: old.map(shown), new: new.map(shown), key: name });
            }
        }
    }
    changes
}

fn is_secret(key: &str) -> bool {
    ["env", "database"].iter().any(|secret| {
        key.strip_prefix(secret).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
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
            changes.to_string(),
            "~ a\n    - env.KEY = ********\n    + env.KEY = ********\n    + idle = {\"stop_after\":\"1m\"}\n\
             + d\n    + database = ********\n    + port = 80\n- c\n"
        );
        assert_eq!(changes.apply.put.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(changes.apply.add.keys().collect::<Vec<_>>(), ["d"]);
        assert_eq!(changes.apply.seen, [("a".to_owned(), 7), ("c".to_owned(), 9)].into());
        assert_eq!(changes.apply.delete, ["c"]);
        assert_eq!(
            serde_json::to_value(&changes.apps).unwrap(),
            json!([
                {"id": "a", "change": "changed", "keys": [
                    {"key": "env.KEY", "old": HIDDEN, "new": HIDDEN},
                    {"key": "idle", "new": {"stop_after": "1m"}},
                ]},
                {"id": "d", "change": "added", "keys": [
                    {"key": "database", "new": HIDDEN},
                    {"key": "port", "new": 80},
                ]},
                {"id": "c", "change": "deleted", "keys": []},
            ])
        );
        assert!(Changes::between(&now, &wanted, false).apply.delete.is_empty());
    }
}
