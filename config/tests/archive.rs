//! Reading again tells the same as reading anew, and knows what did not change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::{fs, path::PathBuf, sync::Arc};

use doorbell_config::{
    file::{Archive, Entry, Loaded, load},
    name::AppId,
    spec::AppSpec,
};
use tempfile::TempDir;

struct Folder {
    folder: TempDir,
    archive: Archive,
}

impl Folder {
    fn new(main: &str, apps: &[(&str, &str)]) -> Self {
        let folder = Self { folder: tempfile::tempdir().unwrap(), archive: Archive::default() };
        fs::create_dir(folder.path("apps")).unwrap();
        folder.put("main.toml", &format!("include = [\"apps/*.toml\"]\n{main}"));
        apps.iter().for_each(|(name, text)| folder.put(&format!("apps/{name}.toml"), text));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new inode each time: stamps tell by more than a coarse clock.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// What the archive makes of it, which must be what a first reading makes of it.
    #[track_caller]
    fn load(&mut self) -> Result<Vec<Arc<AppSpec>>, String> {
        let path = self.path("main.toml");
        let again = self.archive.load(&path, &|_| None, &[]).outcome;
        let anew = load(&path, &|_| None);
        assert_eq!(again.as_ref().err(), anew.as_ref().err());
        let (Ok(again), Ok(anew)) = (again.as_ref(), anew) else {
            return Err(again.unwrap_err().to_string());
        };
        assert_eq!((&again.server, &again.apps), (&anew.server, &anew.apps));
        assert_eq!(again.warnings, anew.warnings);
        Ok(again.apps.clone())
    }
}

fn app(id: &str, more: &str) -> String {
    format!("[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"true\"]\n{more}\n")
}

#[track_caller]
fn stays(before: &[Arc<AppSpec>], after: &[Arc<AppSpec>], id: &str, same: bool) {
    let find = |apps: &[Arc<AppSpec>]| apps.iter().find(|app| app.id.as_str() == id).cloned();
    let (before, after) = (find(before).unwrap(), find(after).unwrap());
    assert_eq!(Arc::ptr_eq(&before, &after), same, "{id}");
}

#[test]
fn what_did_not_change_stays_the_same() {
    let mut folder = Folder::new(
        &app("main", ""),
        &[("a", &app("a", "")), ("b", &(app("b", "") + &app("c", "")))],
    );
    let first = folder.load().unwrap();
    folder.put("apps/b.toml", &(app("b", "http2 = true") + &app("c", "")));
    let second = folder.load().unwrap();
    for (id, same) in [("main", true), ("a", true), ("b", false), ("c", true)] {
        stays(&first, &second, id, same);
    }
    fs::remove_file(folder.path("apps/a.toml")).unwrap();
    folder.put("apps/d.toml", &app("d", ""));
    let third = folder.load().unwrap();
    let ids: Vec<_> = third.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(ids, ["main", "b", "c", "d"]);
    stays(&second, &third, "b", true);
}

#[test]
fn problems_between_files_are_found_though_only_one_was_read() {
    let mut folder = Folder::new("", &[("a", &app("a", "port = 7001")), ("b", &app("b", ""))]);
    let first = folder.load().unwrap();
    for wrong in [
        app("a", ""),
        app("b", "paths = [\"/x\"]").replace("b.test", "a.test")
            + &app("x", "").replace("x.test", "a.test"),
        app("b", "port = 7001"),
        app("b", "hots = 1"),
        app("b", "port = 8080"),
        "[server]\n".to_owned(),
    ] {
        folder.put("apps/b.toml", &wrong);
        folder.load().unwrap_err();
    }
    folder.put("apps/b.toml", &app("b", "http2 = true"));
    let second = folder.load().unwrap();
    stays(&first, &second, "a", true);
}

#[test]
fn an_address_that_two_want_is_found_though_only_one_file_was_read() {
    let tcp = |id: &str, listen: &str| {
        format!("[tcp.{id}]\nlisten = \"{listen}\"\ncommand = [\"{id}\"]\n")
    };
    let a = tcp("a", "127.0.0.1:7001");
    let mut folder = Folder::new("", &[("a", &a), ("b", &tcp("b", "127.0.0.1:7002"))]);
    let first = folder.load().unwrap();
    for (wrong, why) in [
        (tcp("b", "127.0.0.1:7001"), "this address belongs to app `a`"),
        (tcp("a", "127.0.0.1:7003"), "app id `a` is taken"),
        (app("a", ""), "app id `a` is taken"),
        (app("b", "port = 7001"), "Doorbell itself listens on this port"),
        (tcp("b", "127.0.0.1:8080"), "Doorbell itself listens on this address"),
    ] {
        folder.put("apps/b.toml", &wrong);
        let told = folder.load().unwrap_err();
        assert!(told.contains(why), "{told}");
    }
    folder.put("apps/b.toml", &tcp("b", "127.0.0.1:7003"));
    let second = folder.load().unwrap();
    stays(&first, &second, "a", true);
    folder.put("main.toml", "include = [\"apps/*.toml\"]\n[server]\ndefault_app = \"a\"\n");
    assert!(folder.load().unwrap_err().contains("there is no app of this id"));
}

#[test]
fn other_settings_and_default_apps_hold_for_files_that_are_known() {
    let mut folder = Folder::new("", &[("a", &app("a", "port = 7001")), ("b", &app("b", ""))]);
    folder.load().unwrap();
    let main = |server: &str| format!("include = [\"apps/*.toml\"]\n[server]\n{server}\n");
    folder.put("main.toml", &main("default_app = \"a\""));
    folder.load().unwrap();
    folder.put("main.toml", &main("listen = \"127.0.0.1:7001\""));
    assert!(folder.load().unwrap_err().contains("Doorbell itself listens on this port"));
    folder.put("main.toml", &main("default_app = \"c\""));
    folder.load().unwrap_err();
    folder.put("main.toml", &main(""));
    folder.load().unwrap();
}

#[test]
fn needs_between_files_are_checked_though_only_one_was_read() {
    let needing = |need: &str| app("b", &format!("needs = [\"{need}\"]"));
    let db = app("db", "");
    let mut folder = Folder::new("", &[("a", &app("a", "")), ("b", &needing("db")), ("db", &db)]);
    let first = folder.load().unwrap();
    for (file, wrong, told) in [
        ("db", app("db", "needs = [\"b\"]"), "b needs db needs b"),
        ("db", app("other", ""), "there is no app of this id"),
        ("db", db.replace("command = [\"true\"]", "upstream = \"http://localhost\""), "upstream"),
        ("b", needing("dbs"), "did you mean \"db\"?"),
        ("b", needing("b"), "b needs b"),
    ] {
        let good = fs::read_to_string(folder.path(&format!("apps/{file}.toml"))).unwrap();
        folder.put(&format!("apps/{file}.toml"), &wrong);
        let problem = folder.load().unwrap_err();
        assert!(problem.contains(told), "{problem}");
        folder.put(&format!("apps/{file}.toml"), &good);
    }
    fs::rename(folder.path("apps/db.toml"), folder.path("db.toml")).unwrap();
    assert!(folder.load().unwrap_err().contains("there is no app of this id"));
    fs::rename(folder.path("db.toml"), folder.path("apps/moved.toml")).unwrap();
    let second = folder.load().unwrap();
    stays(&first, &second, "b", true);
}

#[test]
fn shares_between_files_are_checked_though_only_one_was_read() {
    let sharer = app("b", "").replace("command = [\"true\"]", "shared_with = \"main\"");
    let main = app("main", "");
    let files = [("a", &*app("a", "")), ("b", &*sharer), ("main", &*main)];
    let mut folder = Folder::new("", &files);
    let first = folder.load().unwrap();
    for (file, wrong, told) in [
        ("main", app("other", ""), "there is no app of this id"),
        (
            "main",
            main.replace("command = [\"true\"]", "upstream = \"http://localhost\""),
            "upstream",
        ),
        ("main", app("main", "http2 = true"), "is spoken to in HTTP/2, and this one is not"),
        ("b", sharer.replace("\"main\"", "\"mian\""), "did you mean \"main\"?"),
    ] {
        let good = fs::read_to_string(folder.path(&format!("apps/{file}.toml"))).unwrap();
        folder.put(&format!("apps/{file}.toml"), &wrong);
        let problem = folder.load().unwrap_err();
        assert!(problem.contains(told), "{problem}");
        folder.put(&format!("apps/{file}.toml"), &good);
    }
    let second = folder.load().unwrap();
    stays(&first, &second, "b", true);
}

#[test]
fn a_warning_is_told_each_time() {
    let odd = app("b", "ready = { deadline = \"90s\" }");
    let mut folder = Folder::new("", &[("a", &app("a", "")), ("b", &odd)]);
    let first = folder.load().unwrap();
    folder.put("apps/a.toml", &app("a", "http2 = true"));
    let second = folder.load().unwrap();
    stays(&first, &second, "b", true);
    let warnings =
        folder.archive.load(&folder.path("main.toml"), &|_| None, &[]).outcome.unwrap().warnings;
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_place_that_two_files_share_is_told_though_only_one_was_read() {
    let stores = |id: &str, folder: &str| app(id, &format!("env = {{ UPLOADS = \"{folder}\" }}"));
    let files = [("a", &*stores("a", "/srv/a")), ("b", &stores("b", "/srv/b"))];
    let mut folder = Folder::new("", &files);
    let warnings = |folder: &mut Folder| {
        let main = folder.path("main.toml");
        folder.archive.load(&main, &|_| None, &[]).outcome.unwrap().warnings
    };
    assert_eq!(warnings(&mut folder), []);
    folder.put("apps/a.toml", &stores("a", "/srv/b"));
    for _ in 0..2 {
        let told = warnings(&mut folder);
        assert!(told[0].message.contains("`a` and `b` store in the same folder"), "{told:?}");
    }
}

#[test]
fn a_page_that_changes_changes_the_apps_that_show_it() {
    let shows = "pages = { waiting = \"page.html\" }";
    let mut folder = Folder::new("", &[("a", &app("a", "")), ("b", &app("b", shows))]);
    folder.put("apps/page.html", "one");
    let first = folder.load().unwrap();
    let second = folder.load().unwrap();
    stays(&first, &second, "b", true);
    folder.put("apps/page.html", "two");
    let third = folder.load().unwrap();
    stays(&second, &third, "a", true);
    stays(&second, &third, "b", false);
    assert_eq!(third[1].pages.own.waiting.as_ref().unwrap().as_str(), "two");
    let watched = folder.archive.load(&folder.path("main.toml"), &|_| None, &[]).sources;
    assert!(watched.iter().any(|seen| seen.path == folder.path("apps/page.html")), "{watched:?}");
    fs::remove_file(folder.path("apps/page.html")).unwrap();
    let wrong = folder.load().unwrap_err();
    assert!(wrong.contains("this page cannot be shown"), "{wrong}");
}

/// An app of the registry.
fn entry(id: &str, keys: serde_json::Value) -> Arc<Entry> {
    let serde_json::Value::Object(keys) = keys else { panic!("no table") };
    Arc::new(Entry::new(AppId::parse(id).unwrap(), &keys).unwrap())
}

fn plain(id: &str) -> Arc<Entry> {
    entry(id, serde_json::json!({"hosts": [format!("{id}.test")], "command": ["true"]}))
}

impl Folder {
    fn with(&mut self, entries: &[Arc<Entry>]) -> Loaded {
        let path = self.path("main.toml");
        self.archive.load(&path, &|_| Some("of doorbell".into()), entries)
    }
}

fn ids(loaded: &Loaded) -> Vec<&str> {
    loaded.outcome.as_ref().unwrap().apps.iter().map(|app| app.id.as_str()).collect()
}

#[test]
fn apps_of_the_registry_stand_behind_those_of_files() {
    let mut folder = Folder::new("", &[("m", &app("m", ""))]);
    let (a, z) = (plain("a"), plain("z"));
    let first = folder.with(&[Arc::clone(&z), Arc::clone(&a)]);
    assert_eq!(ids(&first), ["m", "z", "a"]);
    assert!(first.refused.is_empty());
    let changed = entry("a", serde_json::json!({"hosts": ["b.test"], "command": ["true"]}));
    let second = folder.with(&[z, changed]);
    let (first, second) = (first.outcome.unwrap().apps, second.outcome.unwrap().apps);
    stays(&first, &second, "m", true);
    stays(&first, &second, "z", true);
    stays(&first, &second, "a", false);
    assert_eq!(ids(&folder.with(&[a])), ["m", "a"]);
}

#[test]
fn an_app_of_the_registry_that_cannot_be_is_left_out_and_named() {
    let mut folder = Folder::new("", &[("m", &app("m", ""))]);
    let same_id = entry("m", serde_json::json!({"hosts": ["x.test"], "command": ["true"]}));
    let same_host = entry("n", serde_json::json!({"hosts": ["m.test"], "command": ["true"]}));
    let needs_it =
        entry("o", serde_json::json!({"hosts": ["o.test"], "command": ["true"], "needs": ["n"]}));
    let unknown = entry("p", serde_json::json!({"host": ["p.test"], "command": ["true"]}));
    let loaded = folder.with(&[same_id, same_host, needs_it, unknown, plain("q")]);
    assert_eq!(ids(&loaded), ["m", "q"]);
    let told: Vec<_> = loaded.refused.iter().map(|refused| refused.problems.to_string()).collect();
    for (id, words) in [
        ("m", "app id `m` is taken"),
        ("n", "already belongs to app `m`"),
        ("o", "there is no app"),
        ("p", "unknown key `host`"),
    ] {
        let found = loaded.refused.iter().position(|refused| refused.app.as_str() == id).unwrap();
        assert!(told[found].contains(words), "{}", told[found]);
        assert!(told[found].contains(&format!("registry:{id}")), "{}", told[found]);
    }
}

#[test]
fn files_that_are_wrong_are_wrong_whatever_the_registry_has() {
    let mut folder = Folder::new("", &[("m", &app("m", "ports = 1"))]);
    let loaded = folder.with(&[plain("a"), plain("m")]);
    assert!(loaded.outcome.unwrap_err().to_string().contains("unknown key `ports`"));
}

#[test]
fn an_app_of_the_registry_changes_while_a_file_is_being_mended() {
    let mut folder = Folder::new("", &[("m", &app("m", ""))]);
    let first = folder.with(&[plain("a")]).outcome.unwrap().apps;
    folder.put("apps/m.toml", "[app.m");
    folder.put("main.toml", "[server");
    let entries = [plain("a"), plain("b")];
    let loaded = folder.archive.load_entries(&|_| None, &entries).unwrap();
    assert_eq!(ids(&loaded), ["m", "a", "b"]);
    let second = loaded.outcome.unwrap().apps;
    stays(&first, &second, "m", true);
    assert!(folder.with(&entries).outcome.is_err());
    // What is in doubt is left to a reading of everything.
    let same_host = entry("c", serde_json::json!({"hosts": ["m.test"], "command": ["true"]}));
    assert!(folder.archive.load_entries(&|_| None, &[same_host]).is_none());
}

#[test]
fn the_environment_is_not_for_apps_of_the_registry() {
    let mut folder = Folder::new("", &[]);
    let curious = entry(
        "a",
        serde_json::json!({"hosts": ["a.test"], "command": ["true"], "env": {"A": "${HOME}"}}),
    );
    let told = folder.with(&[curious]).refused.remove(0).problems.to_string();
    assert!(told.contains("environment variable `HOME` is not set"), "{told}");
}
