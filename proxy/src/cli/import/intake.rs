//! What a source came to: the apps that were taken, and what was left with the reason.

use std::collections::BTreeMap;

use doorbell_config::{file::literal, name::AppId};
use serde::Serialize;
use serde_json::{Map, Value};

use super::environment::Secrets;

/// Characters of a name that are shown at most.
const MOST_SHOWN: usize = 80;
/// Things that were left of which one by one is told; a file of nothing else should not fill the screen.
const MOST_LEFT: usize = 10_000;

/// What a source came to.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Apps, in the order of the source.
    pub(super) apps: Vec<Taken>,
    /// What was left.
    pub(super) left: Vec<Left>,
}

/// An app that was taken.
#[derive(Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) id: AppId,
    /// What it was where it came from.
    pub(super) from: String,
    /// The keys of `[app.<id>]`.
    pub(super) keys: Map<String, Value>,
    /// What is to be sealed, by the variable; its keys name them.
    pub(super) secrets: Secrets,
}

/// Something that was left.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) what: String,
    pub(super) why: String,
}

impl Intake {
    /// Leaves something.
    pub(super) fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        if self.left.len() < MOST_LEFT {
            self.left.push(Left { what: what.into(), why: why.into() });
        }
    }

    /// The id for an app of this name, which becomes its display name where the id says less. `None` if no
    /// app can have it; that is told.
    pub(super) fn id(
        &mut self,
        from: &str,
        name: &str,
        keys: &mut Map<String, Value>,
    ) -> Option<AppId> {
        let Some(id) = id_of(name) else {
            self.leave(from, "no id can be made of its name: ids have a-z, 0-9, - and _");
            return None;
        };
        if self.apps.iter().any(|app| app.id == id) {
            self.leave(from, format!("another app has taken the id `{id}`: rename one of them"));
            return None;
        }
        if id.as_str() != name {
            let why = format!("ids have a-z, 0-9, - and _ only: the app is `{id}`");
            self.leave(format!("{from}: its name as id"), why);
            if !name.chars().any(char::is_control) {
                keys.entry("name").or_insert_with(|| literal(name).into());
            }
        }
        Some(id)
    }

    /// Leaves what cannot be two apps' at once: a host is that of the first, and an app that loses all of its
    /// hosts is left.
    pub(super) fn leave_shared_hosts(&mut self) {
        let mut owners = BTreeMap::new();
        for app in std::mem::take(&mut self.apps) {
            if let Some(app) = self.without_owned_hosts(app, &mut owners) {
                self.apps.push(app);
            }
        }
    }

    fn without_owned_hosts(
        &mut self,
        mut app: Taken,
        owners: &mut BTreeMap<String, AppId>,
    ) -> Option<Taken> {
        let Some(Value::Array(hosts)) = app.keys.get_mut("hosts") else { return Some(app) };
        let mut lost = None;
        hosts.retain(|host| {
            let host = host.as_str().unwrap_or_default().to_lowercase();
            let owner = owners.get(&host).cloned();
            if owner.is_none() {
                owners.insert(host.clone(), app.id.clone());
            }
            let is_free = owner.is_none();
            lost = owner.map(|owner| (host, owner)).or(lost.take());
            is_free
        });
        let is_left = hosts.is_empty();
        if let Some((host, owner)) = lost {
            let what = if is_left { app.from.clone() } else { format!("{}: a host", app.from) };
            self.leave(what, format!("the host {} is that of `{owner}`", shown(&host)));
        }
        (!is_left).then_some(app)
    }
}

/// The id that is nearest to a name.
pub(super) fn id_of(name: &str) -> Option<AppId> {
    let mut id = String::new();
    for c in name.chars().take(1024) {
        let c = c.to_ascii_lowercase();
        match c {
            'a'..='z' | '0'..='9' => id.push(c),
            '-' | '_' if !id.is_empty() => id.push(c),
            // One for several, and none at the beginning.
            _ if !id.is_empty() && !id.ends_with('-') => id.push('-'),
            _ => {}
        }
    }
    id.truncate(63);
    // Names that are ids keep even an odd end.
    let id = if id == name { &id } else { id.trim_end_matches('-') };
    AppId::parse(id).ok()
}

/// A name as it is shown: in quotes, in one line, and not endless.
pub(super) fn shown(name: &str) -> String {
    let start: String = name.chars().take(MOST_SHOWN).collect();
    if start.len() < name.len() { format!("{start:?}...") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_made_of_names() {
        let long = "x".repeat(100);
        for (name, id) in [
            ("blog", "blog"),
            ("blog-", "blog-"),
            ("My Shop (new)", "my-shop-new"),
            ("@acme/api", "acme-api"),
            ("a_b.c", "a_b-c"),
            ("-x", "x"),
            (&long, &long[..63]),
        ] {
            assert_eq!(id_of(name).unwrap().as_str(), id, "{name}");
        }
        for none in ["", "---", "博客", "../..", "\u{1b}"] {
            assert_eq!(id_of(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_id_is_kept_for_people_and_told() {
        let (mut intake, mut keys) = (Intake::default(), Map::new());
        let id = intake.id("app", "My ${Shop}", &mut keys).unwrap();
        assert_eq!(id.as_str(), "my-shop");
        assert_eq!(keys["name"], "My $${Shop}");
        assert!(intake.left[0].why.contains("`my-shop`"));
        let secrets = Secrets::new();
        intake.apps.push(Taken { id, from: "app".into(), keys, secrets });
        assert_eq!(intake.id("other", "my-shop", &mut Map::new()), None);
        assert!(intake.left[1].why.contains("another app"), "{:?}", intake.left);
    }

    #[test]
    fn the_first_app_keeps_a_host() {
        let app = |id: &str, hosts: &[&str]| Taken {
            id: AppId::parse(id).unwrap(),
            from: id.into(),
            keys: json!({ "hosts": hosts }).as_object().unwrap().clone(),
            secrets: Secrets::new(),
        };
        let apps =
            vec![app("a", &["x.test"]), app("b", &["X.test", "y.test"]), app("c", &["y.test"])];
        let mut intake = Intake { apps, left: vec![] };
        intake.leave_shared_hosts();
        let hosts: Vec<_> = intake.apps.iter().map(|app| &app.keys["hosts"]).collect();
        assert_eq!(hosts, [&json!(["x.test"]), &json!(["y.test"])]);
        let left: Vec<_> = intake.left.iter().map(|left| left.what.as_str()).collect();
        assert_eq!(left, ["b: a host", "c"]);
    }

    #[test]
    fn names_are_shown_in_one_line() {
        assert_eq!(shown("a\n\u{1b}[2J"), "\"a\\n\\u{1b}[2J\"");
        assert!(shown(&"x".repeat(10_000)).len() < 100);
    }
}
