//! Folders of an app, and apps that have no database.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use doorbell_tests::{Doorbell, Setup};

use super::{super::secrets::variable, Saved, path};
use crate::{node, python};

#[test]
fn an_app_of_a_file_comes_back_as_one_of_the_registry_with_its_folders() {
    let more = "secret = \"auto\"\nsecrets = [\"A\"]\n\
        env = { K = \"{secret}\", E = \"${FROM_OUTSIDE}\" }\n";
    let app = python("blog", "", more).replace("directory = \"{apps}\"", "directory = \"blog\"");
    let setup = Setup::new(&(app + &node("main", ""))).env("FROM_OUTSIDE", "a{b}");
    let setup = setup.file("blog/uploads/a/text.txt", "words").file("blog/run.sh", "#!/bin/sh\n");
    let d = setup.start();
    let blog = d.dir.path().join("blog");
    let saved = Saved::at(&d);
    let told = saved.export("blog", &[]);
    assert!(told["notes"].to_string().contains("secret A is not set"), "{told}");
    let api = d.api("admin");
    let value = serde_json::json!({"value": "hunter2"});
    assert_eq!(api.ask("PUT", "/v1/apps/blog/secrets/A", &[], &value).status, 204);
    let own = variable(&d, "blog", "K");
    fs::set_permissions(blog.join("uploads/a"), fs::Permissions::from_mode(0o710)).expect("mode");
    symlink("a/text.txt", blog.join("uploads/link")).expect("a link");
    symlink("/etc/passwd", blog.join("uploads/outside")).expect("a link");

    fs::remove_file(&saved.archive).expect("the first one");
    let refused = d.cli(&saved.line(&["app", "export", "blog"], &["--folder", "../"]));
    assert!(refused.stderr.contains("a path below"), "{refused:?}");
    let refused = d.cli(&saved.line(&["app", "export", "blog"], &["--folder", "none"]));
    assert!(refused.status == 1 && !saved.archive.exists(), "{refused:?}");
    let told = saved.export("blog", &["--folder", "./uploads"]);
    assert_eq!(told["folders"][0]["files"], 1, "{told}");
    assert!(told["notes"].to_string().contains("outside"), "{told}");
    let refused = d.cli(&saved.line(&["app", "import"], &["--dry-run"]));
    assert!(refused.stderr.contains("has something in it"), "{refused:?}");
    let elsewhere = d.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    std::os::unix::fs::chown(&elsewhere, Some(4711), Some(4712)).expect("to give it away");
    let to = format!("./uploads={}/up", elsewhere.display());
    let refused = d.cli(&saved.line(&["app", "import"], &["--folder-to", &to]));
    assert!(refused.stderr.contains("stands in a file"), "{refused:?}");

    d.rewrite(&node("main", ""));
    doorbell_tests::eventually("it is gone", || d.get("blog.test", "/").status == 404);
    let told = saved.import(&d, &["--folder-to", &to]);
    assert!(told["notes"].to_string().contains("leads out"), "{told}");
    assert_eq!(variable(&d, "blog", "K"), own);
    assert_eq!(
        (variable(&d, "blog", "A"), variable(&d, "blog", "E")),
        ("hunter2".into(), "a{b}".into())
    );
    assert_eq!(d.get("blog.test", "/cwd").text(), path(&blog));
    let up = elsewhere.join("up");
    assert_eq!(fs::read_to_string(up.join("link")).expect("a link"), "words");
    assert!(!up.join("outside").is_symlink());
    let about = fs::metadata(up.join("a")).expect("a folder");
    assert_eq!(about.mode() & 0o777, 0o710);
    for path in ["", "a", "a/text.txt"] {
        let about = fs::metadata(up.join(path)).expect(path);
        assert_eq!((about.uid(), about.gid()), (4711, 4712), "{path}");
    }
}

#[test]
fn no_folder_is_made_where_an_app_leads_an_import() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let d = Doorbell::with(&node("main", ""));
    let place = tempfile::tempdir().expect("a folder");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let [here, home, others] = ["here", "home", "others"].map(|name| place.path().join(name));
    for folder in [&here.join("data"), &home, &others] {
        fs::create_dir_all(folder).expect("a folder");
    }
    fs::write(here.join("data/words"), "words").expect("a file");
    std::os::unix::fs::chown(&home, Some(1), Some(1)).expect("to give it away");
    let directory = format!("directory={}", here.display());
    let server = doorbell_tests::app_dir().join("server.py");
    let command = format!("command=[\"python3\", \"{}\"]", server.display());
    d.ok(&["app", "add", "shop", "hosts=shop.test", "user=daemon", &directory, &command]);
    for path in [&here, &here.join("data"), &here.join("data/words")] {
        std::os::unix::fs::chown(path, Some(1), Some(1)).expect("to give it away");
    }
    let saved = Saved::at(&d);
    saved.export("shop", &["--folder", "data"]);
    let import = |id: &str, to: &Path| {
        let (host, to) = (format!("hosts={id}.test"), format!("data={}", to.display()));
        d.cli(&saved.line(&["app", "import"], &["--as", id, "--set", &host, "--folder-to", &to]))
    };
    symlink(&others, home.join("link")).expect("a link");
    let refused = import("led", &home.join("link/data"));
    assert!(refused.status != 0 && refused.stderr.contains("say where it leads"), "{refused:?}");
    assert_eq!(fs::read_dir(&others).expect("a folder").count(), 0);
    // Where it may go by itself it may lead, and elsewhere nobody else does.
    fs::create_dir(home.join("releases")).expect("a folder");
    std::os::unix::fs::chown(home.join("releases"), Some(1), Some(1)).expect("to give it away");
    symlink("releases", home.join("current")).expect("a link");
    for (id, to) in [("own", home.join("current/data")), ("made", others.join("new/data"))] {
        let imported = import(id, &to);
        assert_eq!(imported.status, 0, "{imported:?}");
        for path in [&to, &to.join("words")] {
            assert_eq!(fs::metadata(path).expect("it is there").uid(), 1, "{}", path.display());
        }
    }
}

#[test]
fn data_that_was_upgraded_is_not_upgraded_again() {
    let d = Doorbell::with(&node("main", ""));
    let (here, there) = (d.dir.path().join("shop"), d.dir.path().join("b"));
    fs::create_dir_all(here.join("data")).expect("a folder");
    fs::create_dir(&there).expect("a folder");
    let directory = format!("directory={}", here.display());
    let server = doorbell_tests::app_dir().join("server.py");
    let command = format!("command=[\"python3\", \"{}\"]", server.display());
    let upgrade = "upgrade=[\"sh\", \"-c\", \"echo $1 >> data/runs\", \"sh\", \"{version}\"]";
    let begin = ["app", "add", "shop", "hosts=shop.test", "version=1"];
    d.ok(&[&begin[..], &[&directory, &command, upgrade]].concat());
    assert_eq!(d.get("shop.test", "/").status, 200);
    let saved = Saved::at(&d);
    saved.export("shop", &["--folder", "data"]);
    let place = format!("directory={}", there.display());
    saved.import(&d, &["--as", "b", "--set", "hosts=b.test", "--set", &place]);
    let runs = || fs::read_to_string(there.join("data/runs")).expect("what came along");
    assert_eq!(runs(), "1\n");
    d.ok(&["app", "set", "b", "version=2"]);
    d.ok(&["restart", "b"]);
    assert_eq!(runs(), "1\n2\n");
    // Without its data it begins anew.
    saved.export("shop", &[]);
    let bare = d.dir.path().join("c");
    fs::create_dir_all(bare.join("data")).expect("a folder");
    let place = format!("directory={}", bare.display());
    saved.import(&d, &["--as", "c", "--set", "hosts=c.test", "--set", &place]);
    assert_eq!(fs::read_to_string(bare.join("data/runs")).expect("its own"), "1\n");
}

#[test]
fn an_archive_goes_through_pipes() {
    let d = Doorbell::with(&node("main", ""));
    d.ok(&["app", "add", "shop", "hosts=shop.test", "upstream=http://127.0.0.1:1"]);
    let saved = Saved::at(&d);
    let key = path(&saved.key);
    let (config, to) = (d.config_path(), d.config_path());
    let script = "\"$0\" app export shop - --passphrase-file \"$1\" --config \"$2\" |
        \"$0\" app import - --as shop2 --set hosts=shop2.test --passphrase-file \"$1\" --config \"$3\"";
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", script]).arg(doorbell_tests::binary()).args([key, path(&config), path(&to)]);
    let output = sh.output().expect("sh");
    assert!(output.status.success(), "{output:?}");
    assert!(d.ok(&["app", "show", "shop2"]).contains("upstream"));
    assert_eq!(fs::metadata(&saved.key).expect("a file").mode() & 0o777, 0o600);
}
