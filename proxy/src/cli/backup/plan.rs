//! What an import is to do, decided before anything is done.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use doorbell_config::{name::AppId, spec::Dialect};
use doorbell_supervisor::Account;
use serde_json::{Map, Value};

use super::{super::keys, ImportArg};
use crate::{
    admin::conditions::merge,
    backup::{
        app_user,
        format::{Dumped, Kind, Secrets, is_akin},
        reader::{Head, folder_path},
        unpack::{Existing, Owner, Site},
    },
};

/// What is to be done.
pub(super) struct Plan {
    pub(super) id: AppId,
    /// The app as it is to be in the end.
    pub(super) keys: Map<String, Value>,
    pub(super) secrets: Secrets,
    /// The version that what is put in place is up to date with.
    pub(super) upgraded_to: Option<String>,
    /// The dump that goes into its database.
    pub(super) database: Option<Dumped>,
    /// Where its folders go, in the order of the archive.
    pub(super) sites: Vec<Site>,
    pub(super) existing: Existing,
    /// Whom the app runs as, if that is not us.
    pub(super) user: Option<Account>,
    /// Whose files are to be, if we may give them away.
    pub(super) owner: Option<Owner>,
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// Decides it; whether the app can be is for the server to say.
    pub(super) fn make(arg: &ImportArg, head: &Head, socket: &Path) -> anyhow::Result<Self> {
        let id = arg.new_id.as_deref().unwrap_or(&head.manifest.id);
        let id = AppId::parse(id).context("the app needs another id (--as)")?;
        let keys = wanted(arg, &head.definition)?;
        let mut notes = Vec::new();
        let database = database(arg, head.manifest.database.as_ref(), &keys, &mut notes)?;
        let sites = sites(arg, head, &keys)?;
        let existing = if arg.replace_files { Existing::Replaced } else { Existing::Kept };
        for (at, site) in sites.iter().enumerate() {
            site.check(existing)?;
            ensure!(
                !sites[..at].iter().any(|other| other.path() == site.path()),
                "two folders would be put into {}: say --folder-to",
                site.path().display()
            );
        }
        let is_file = database.as_ref().is_some_and(|dumped| dumped.dialect == "sqlite");
        let user = (is_file || !sites.is_empty()).then(|| app_user::of(&keys, socket));
        let advice = "the app needs another `user` or `group` here (--set user=..)";
        let user = user.transpose().context(advice)?.flatten();
        let owner = owner(&keys, &sites, user.as_ref());
        let secrets = head.secrets.clone();
        // Of a database that is left out it says nothing.
        let is_whole = database.is_some() == head.manifest.database.is_some();
        let upgraded_to = head.manifest.upgraded_to.clone().filter(|_| is_whole);
        Ok(Self { id, keys, secrets, upgraded_to, database, sites, existing, user, owner, notes })
    }

    /// Whether something is to be put in place before the app may start.
    pub(super) fn has_more(&self) -> bool {
        self.database.is_some() || !self.sites.is_empty()
    }

    /// The app's keys while that is done.
    pub(super) fn disabled(&self) -> Map<String, Value> {
        let mut keys = self.keys.clone();
        keys.insert(START.into(), "disabled".into());
        keys
    }

    /// What makes these the keys that it is to have in the end.
    pub(super) fn enabling(&self) -> Map<String, Value> {
        let start = self.keys.get(START).cloned().unwrap_or(Value::Null);
        Map::from_iter([(START.to_owned(), start)])
    }

    /// When it starts in the end, in words.
    pub(super) fn start(&self) -> &str {
        self.keys.get(START).and_then(Value::as_str).unwrap_or("on-demand")
    }
}

const START: &str = "start";
const DATABASE: &str = "database";

/// The keys of the archive with what the operator wants otherwise.
fn wanted(arg: &ImportArg, keys: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let mut patch = keys::read(&arg.set, &arg.files)?;
    for key in &arg.unset {
        let path: Vec<_> = key.split('.').collect();
        keys::put(&mut patch, &path, Value::Null)
            .with_context(|| format!("`{key}` is both given and taken away"))?;
    }
    let mut keys = keys.clone();
    // An app has one database: another one takes the place of that which it had.
    if patch.get(DATABASE).is_some_and(Value::is_object) {
        keys.remove(DATABASE);
    }
    merge(&mut keys, &patch);
    Ok(keys)
}

/// Which dump goes into the database that the app is to have.
fn database(
    arg: &ImportArg,
    dumped: Option<&Dumped>,
    keys: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Option<Dumped>> {
    let target = Kind::asked_by(keys).map(|spec| (Kind::from(&spec), spec.url().dialect));
    let (dumped, (kind, dialect)) = match (dumped, target) {
        (Some(dumped), Some(target)) => (dumped, target),
        (Some(_), None) => {
            notes.push("the app is to have no database: that of the archive is left".into());
            return Ok(None);
        }
        (None, Some((kind, _))) if kind.is_own() => {
            notes.push(
                "there is no database in the archive: the app begins with an empty one".into(),
            );
            return Ok(None);
        }
        (None, _) => return Ok(None),
    };
    ensure!(
        is_akin(&dumped.dialect, dialect),
        "the archive has a database of {}, which cannot be put into one of {}",
        dumped.dialect,
        dialect.name()
    );
    if !kind.is_own() && !arg.with_connection {
        notes.push(
            "the database of the archive is left: the app is to have a `new_connection` (--with-connection)"
                .into(),
        );
        return Ok(None);
    }
    // Names of schemas stand in a dump of PostgreSQL, those of databases in none.
    let is_schema = |kind: Kind| dialect == Dialect::Postgres && kind == Kind::NewSchema;
    if is_schema(kind) != is_schema(dumped.kind) {
        let (had, is) = (dumped.kind.key(), kind.key());
        bail!("the archive has the database of a `{had}`, which cannot be put into a `{is}`");
    }
    Ok(Some(dumped.clone()))
}

/// Where each folder of the archive is to be.
fn sites(arg: &ImportArg, head: &Head, keys: &Map<String, Value>) -> anyhow::Result<Vec<Site>> {
    let mut elsewhere = Vec::new();
    for pair in &arg.folder_to {
        let (from, to) =
            pair.split_once('=').filter(|(_, to)| !to.is_empty()).with_context(|| {
                format!(
                    "`--folder-to {pair}` is to be FROM=TO, such as `uploads=/srv/blog/uploads`"
                )
            })?;
        let from = folder_path(Path::new(from))?;
        let has_it = |path: &Path| folder_path(path).is_ok_and(|path| path == from);
        ensure!(
            head.manifest.folders.iter().any(|folder| has_it(&folder.path)),
            "the archive has no folder `{from}`"
        );
        elsewhere.push((from, PathBuf::from(to)));
    }
    let directory = keys.get("directory").and_then(Value::as_str).map(PathBuf::from);
    let directory = directory.filter(|directory| directory.is_absolute());
    let site = |folder: &crate::backup::format::Folder| {
        let inner = folder_path(&folder.path)?;
        let to = elsewhere.iter().find(|(from, _)| *from == inner).map(|(_, to)| to);
        if let Some(base) = to.filter(|to| to.is_absolute()) {
            return Ok(Site { base: base.clone(), inner: Default::default() });
        }
        let base = directory.clone().with_context(|| {
            format!(
                "where is the folder `{inner}` to be: the app's `directory` is no absolute path, so say \
                 --folder-to {inner}=/PATH, or --set directory=/PATH"
            )
        })?;
        let inner = to.map_or(Ok(inner), |to| folder_path(to))?;
        Ok(Site { base, inner })
    };
    head.manifest.folders.iter().map(site).collect()
}

/// Whose the files are to be: the app's user, else whose the place is where they are put. `None` where we are
/// not root, and they are ours.
fn owner(keys: &Map<String, Value>, sites: &[Site], user: Option<&Account>) -> Option<Owner> {
    if let Some(user) = user {
        return Some(Owner { user: user.user(), group: user.group() });
    }
    if keys.contains_key("user") || !rustix::process::geteuid().is_root() {
        return None;
    }
    use std::os::unix::fs::MetadataExt;
    let path = sites.first()?.path();
    let about = path.ancestors().find_map(|path| std::fs::metadata(path).ok())?;
    Some(Owner { user: about.uid(), group: about.gid() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::backup::format::{FORMAT, Folder, Manifest};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arg: ImportArg,
    }

    fn dumped(dialect: &str, kind: Kind) -> Option<Dumped> {
        Some(Dumped { dialect: dialect.into(), kind, schema: None })
    }

    fn plan(database: Option<Dumped>, keys: Value, line: &[&str]) -> Result<Plan, String> {
        let folder = Folder { path: "./up".into(), directory: "/nowhere/blog".into() };
        let manifest = Manifest {
            format: FORMAT,
            doorbell: "0".into(),
            id: "blog".into(),
            made_at_unix_ms: 0,
            upgraded_to: Some("7".into()),
            database,
            folders: vec![folder],
        };
        let Value::Object(definition) = keys else { panic!("no table") };
        let head = Head { manifest, definition, secrets: Secrets::default() };
        let line = ["doorbell", "x"].iter().chain(line);
        let arg = Line::try_parse_from(line).map_err(|error| error.to_string())?.arg;
        Plan::make(&arg, &head, Path::new("/no/socket")).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn folders_go_where_they_were_or_are_told_to() {
        let keys = || json!({"directory": "/nowhere/blog"});
        let path = |line: &[&str]| plan(None, keys(), line).map(|plan| plan.sites[0].path());
        assert_eq!(path(&[]), Ok("/nowhere/blog/up".into()));
        assert_eq!(path(&["--set", "directory=/nowhere/b"]), Ok("/nowhere/b/up".into()));
        assert_eq!(path(&["--folder-to", "up=/nowhere/x"]), Ok("/nowhere/x".into()));
        assert_eq!(path(&["--folder-to", "./up/=files"]), Ok("/nowhere/blog/files".into()));
        for wrong in ["up", "up=", "other=/x", "up=../x", "/up=/x"] {
            assert!(path(&["--folder-to", wrong]).is_err(), "{wrong}");
        }
        let unknown = plan(None, json!({"directory": "blog"}), &[]).err().unwrap();
        assert!(unknown.contains("--folder-to up=/PATH"), "{unknown}");
        let full = plan(None, json!({"directory": "/"}), &["--folder-to", "up=/proc"]);
        assert!(full.err().unwrap().contains("has something in it"));
    }

    #[test]
    fn a_dump_goes_into_a_database_that_can_take_it() {
        let into = |dialect: &str, kind, url: &str, more: &[&str]| {
            let keys =
                json!({"directory": "/nowhere", "database": {"new_database": "mariadb://old@db/"}});
            let set = format!("database.{url}");
            let line = [&["--set", &set], more].concat();
            plan(dumped(dialect, kind), keys, &line).map(|plan| {
                assert_eq!(plan.upgraded_to.is_some(), plan.database.is_some());
                (plan.database.is_some(), plan.notes.len())
            })
        };
        let (own, schema, given) = (Kind::NewDatabase, Kind::NewSchema, Kind::NewConnection);
        assert_eq!(into("postgres", own, "new_database=postgres://a@db/", &[]), Ok((true, 0)));
        assert_eq!(into("postgres", schema, "new_schema=postgres://a@db/x", &[]), Ok((true, 0)));
        assert_eq!(into("mariadb", own, "new_schema=mysql://a@db/", &[]), Ok((true, 0)));
        assert_eq!(into("postgres", own, "new_connection=postgres://a@db/x", &[]), Ok((false, 1)));
        let with = ["--with-connection"];
        assert_eq!(
            into("postgres", given, "new_connection=postgres://a@db/x", &with),
            Ok((true, 0))
        );
        assert!(into("postgres", own, "new_schema=postgres://a@db/x", &[]).is_err());
        assert!(into("postgres", schema, "new_database=postgres://a@db/", &[]).is_err());
        assert!(into("postgres", own, "new_database=sqlite:/x", &[]).is_err());
        assert!(into("sqlite", own, "new_database=mariadb://a@db/", &[]).is_err());
    }

    #[test]
    fn what_an_app_is_in_the_end_is_kept_while_it_is_disabled() {
        let always = json!({"directory": "/nowhere", "start": "always"});
        let kept = plan(None, always, &[]).unwrap();
        assert!(kept.has_more() && kept.start() == "always");
        assert_eq!(kept.disabled()["start"], "disabled");
        assert_eq!(Value::Object(kept.enabling()), json!({"start": "always"}));
        let other = plan(None, json!({"directory": "/nowhere"}), &["--as", "shop"]).unwrap();
        assert_eq!((other.id.as_str(), other.start()), ("shop", "on-demand"));
        assert_eq!(Value::Object(other.enabling()), json!({"start": null}));
    }
}
