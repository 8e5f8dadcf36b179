//! Archives that nobody writes here, and those that we do, into a folder and out of it.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::backup::{
    format::{Dumped, Folder, Kind},
    gather::{self, Gathering},
    restore,
    unpack::{Destination, Existing, Site},
    writer::Writer,
};

fn passphrase() -> Secret {
    Secret::new("a long passphrase")
}

fn manifest(folders: usize) -> Manifest {
    let folder = Folder { path: "uploads".into(), directory: "/srv".into() };
    Manifest {
        format: FORMAT,
        doorbell: "0".into(),
        id: "blog".into(),
        made_at_unix_ms: 1_000_000,
        upgraded_to: None,
        database: None,
        folders: vec![folder; folders],
    }
}

/// Puts what it is shown into a folder.
struct Into {
    destination: Destination,
    left: Vec<String>,
    dump: Vec<u8>,
}

impl Into {
    fn folder(path: &Path) -> Self {
        let site = Site { base: path.to_owned(), inner: InnerPath::default() };
        let destination = Destination::open(&site, Existing::Kept, None).unwrap();
        Self { destination, left: Vec::new(), dump: Vec::new() }
    }
}

impl Visitor for Into {
    fn head(&mut self, _: &Head) -> Result<(), BackupError> {
        Ok(())
    }

    fn database(&mut self, _: &Head, dump: &mut dyn Read) -> Result<(), BackupError> {
        dump.read_to_end(&mut self.dump).map(drop).map_err(BackupError::reading)
    }

    fn item(&mut self, _: usize, path: &InnerPath, item: Item<'_>) -> Result<(), BackupError> {
        self.left.extend(self.destination.put(path, item)?);
        Ok(())
    }
}

/// Looks at everything and does nothing.
struct Nobody;

impl Visitor for Nobody {
    fn head(&mut self, _: &Head) -> Result<(), BackupError> {
        Ok(())
    }

    fn database(&mut self, _: &Head, _: &mut dyn Read) -> Result<(), BackupError> {
        Ok(())
    }

    fn item(&mut self, _: usize, _: &InnerPath, _: Item<'_>) -> Result<(), BackupError> {
        Ok(())
    }
}

/// A tar with a good beginning and then this: names as they are, whatever they are.
fn hostile(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    of_entries(&serde_json::to_value(manifest(1)).unwrap(), entries)
}

fn of_entries(manifest: &Value, entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut sealed = envelope::seal(Vec::new(), &passphrase()).unwrap();
    let mut tar = Builder::new(&mut sealed);
    let text = manifest.to_string();
    let regular = EntryType::Regular;
    let begin = [
        (MANIFEST, regular, "", text.as_bytes()),
        (DEFINITION, regular, "", b"{}".as_slice()),
        (SECRETS, regular, "", b"{}"),
    ];
    for (name, kind, target, content) in begin.iter().chain(entries) {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_mtime(7);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.finish().unwrap();
    drop(tar);
    sealed.finish().unwrap()
}

fn refusal(archive: &[u8]) -> String {
    match read(archive, &passphrase(), &mut Nobody) {
        Err(error) => error.to_string(),
        Ok(_) => String::new(),
    }
}

#[test]
fn what_would_leave_its_folder_is_refused() {
    let regular = EntryType::Regular;
    for name in [
        "/etc/passwd",
        "folders/0/../../x",
        "folders/0//etc/x",
        "folders/0/a/../b",
        "folders/0/./a",
        "folders/0/",
        "folders/0",
        "folders/1/a",
        "folders/-1/a",
        "folders/00x/a",
        "folders",
        "elsewhere",
        "doorbell.json",
        "database/000001.sql",
    ] {
        let told = refusal(&hostile(&[(name, regular, "", b"x")]));
        assert!(told.contains("has no place"), "{name}: {told}");
    }
    for kind in [EntryType::Link, EntryType::Block, EntryType::Char, EntryType::Fifo] {
        let told = refusal(&hostile(&[("folders/0/a", kind, "/etc/passwd", b"")]));
        assert!(told.contains("no file, folder or link"), "{kind:?}: {told}");
    }
    assert_eq!(refusal(&hostile(&[("folders/0/a", regular, "", b"x")])), "");
}

#[test]
fn nothing_is_written_through_a_link_of_the_archive() {
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    for (target, name) in
        [(outside_path, "folders/0/l/x"), ("..", "folders/0/l/x"), ("d", "folders/0/l/x")]
    {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("uploads");
        let archive = hostile(&[
            ("folders/0/d/", EntryType::Directory, "", b""),
            ("folders/0/l", EntryType::Symlink, target, b""),
            (name, EntryType::Regular, "", b"x"),
        ]);
        let mut into = Into::folder(&to);
        let outcome = read(&*archive, &passphrase(), &mut into);
        // A link that leads out is left out, and what would be behind it is a folder of that name.
        assert_eq!(outcome.is_ok(), target != "d", "{target}");
        assert!(!folder.path().join("x").exists() && !to.join("d/x").exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_link_that_was_there_is_not_followed() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(outside.path(), folder.path().join("uploads")).unwrap();
    let inner = InnerPath::parse(b"uploads").unwrap();
    let site = Site { base: folder.path().to_owned(), inner: inner.clone() };
    for existing in [Existing::Kept, Existing::Replaced] {
        assert!(site.check(existing).is_err());
        assert!(Destination::open(&site, existing, None).is_err());
    }
    assert!(gather::open(folder.path(), &inner).is_err());
}

#[test]
fn rights_of_other_users_are_not_given() {
    let folder = tempfile::tempdir().unwrap();
    let archive = hostile(&[("folders/0/a", EntryType::Regular, "", b"x")]);
    read(&*archive, &passphrase(), &mut Into::folder(folder.path())).unwrap();
    let mode = fs::metadata(folder.path().join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn what_is_there_stays_unless_it_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "old").unwrap();
    let site = Site { base: folder.path().to_owned(), inner: InnerPath::default() };
    assert!(matches!(site.check(Existing::Kept), Err(BackupError::InTheWay(_))));
    let destination = Destination::open(&site, Existing::Replaced, None).unwrap();
    let looks = Looks { mode: 0o600, changed_at: 7 };
    let path = InnerPath::parse(b"a").unwrap();
    destination.put(&path, Item::File(looks, &mut &b"new"[..])).unwrap();
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"new");
}

#[test]
fn a_newer_format_is_told_and_another_is_refused() {
    let mut newer = serde_json::to_value(manifest(0)).unwrap();
    newer["format"] = (FORMAT + 1).into();
    newer["folders"] = json!({"what": "ever"});
    let told = refusal(&of_entries(&newer, &[]));
    assert!(told.contains("has format 2") && told.contains("newer one"), "{told}");
    assert!(refusal(&of_entries(&json!({"format": "x"}), &[])).contains("names no format"));
    let told = refusal(&of_entries(&json!({"format": 1, "id": "hunter2"}), &[]));
    assert!(told.contains("cannot be understood") && !told.contains("hunter2"), "{told}");
}

#[test]
fn an_archive_that_was_altered_or_cut_is_refused() {
    let archive = hostile(&[("folders/0/a", EntryType::Regular, "", &[7; 200_000])]);
    assert_eq!(refusal(&archive), "");
    for end in [archive.len() - 1, archive.len() - 70_000, 66_000, 300] {
        let told = refusal(&archive[..end]);
        assert!(told.contains("damaged") || told.contains("no archive"), "to {end}: {told}");
    }
    for at in [archive.len() - 1, archive.len() / 2, 400] {
        let mut bent = archive.clone();
        bent[at] ^= 1;
        assert!(refusal(&bent).contains("damaged"), "byte {at}");
    }
    let more = [&*archive, b"more"].concat();
    assert!(refusal(&more).contains("damaged"));
    let wrong = read(&*archive, &Secret::new("another one"), &mut Nobody);
    assert!(matches!(wrong, Err(BackupError::WrongPassphrase)));
}

#[test]
fn a_dump_that_is_missing_or_of_an_unknown_kind_is_refused() {
    let mut of_database = manifest(0);
    let dialect = "oracle".to_owned();
    of_database.database = Some(Dumped { dialect, kind: Kind::NewDatabase, schema: None });
    let told = refusal(&of_entries(&serde_json::to_value(&of_database).unwrap(), &[]));
    assert!(told.contains("is missing"), "{told}");
    let dumped = of_database.database.unwrap();
    assert!(restore::check(&dumped, &mut &b"x"[..]).is_err());
    let sqlite = Dumped { dialect: "sqlite".into(), ..dumped };
    assert!(restore::check(&sqlite, &mut &b"no file of SQLite, but long"[..]).is_err());
    assert!(restore::check(&sqlite, &mut &b"SQLite format 3\0 and so on"[..]).is_ok());
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("uploads");
    let long = "n".repeat(200);
    fs::create_dir_all(from.join("empty")).unwrap();
    fs::create_dir_all(from.join(&long).join(&long)).unwrap();
    fs::write(from.join(&long).join(&long).join("a\nb \u{e4}"), vec![7; 100_000]).unwrap();
    fs::write(from.join("run.sh"), "#!/bin/sh").unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(from.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("run.sh", from.join("inner")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.join("outer")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();

    let mut of_database = manifest(1);
    of_database.database =
        Some(Dumped { dialect: "postgres".into(), kind: Kind::NewDatabase, schema: None });
    let (keys, secrets) = (Map::new(), Secrets::default());
    let mut writer =
        Writer::begin(Vec::new(), &passphrase(), &of_database, &keys, &secrets).unwrap();
    let dump: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut pieces = writer.database("sql");
    pieces.write_all(&dump).unwrap();
    pieces.finish().unwrap();
    let handle = gather::open(&from, &InnerPath::default()).unwrap();
    let mut told = Vec::new();
    let mut tell = |words| told.push(words);
    let (shown, number) = ("uploads".into(), 0);
    let mut gathering =
        Gathering { writer: &mut writer, number, shown, told: &mut tell, files: 0, bytes: 0 };
    gathering.take(&handle).unwrap();
    assert_eq!((gathering.files, gathering.bytes), (2, 100_009));
    let archive = writer.finish().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("outer: a link that leads out") && told[1].contains("a socket"));

    let to = folder.path().join("back/uploads");
    let mut into = Into::folder(&to);
    read(&*archive, &passphrase(), &mut into).unwrap();
    assert!(into.dump == dump, "the dump");
    assert_eq!(into.left.len(), 1, "{:?}", into.left);
    let path = to.join(&long).join(&long).join("a\nb \u{e4}");
    assert_eq!(fs::read(&path).unwrap(), vec![7; 100_000]);
    assert_eq!(mode(&to.join("run.sh")), 0o751);
    assert_eq!(mode(&to.join("empty")), 0o700);
    assert_eq!(fs::read_link(to.join("inner")).unwrap(), Path::new("run.sh"));
    assert!(fs::symlink_metadata(to.join("outer")).is_err());
    assert!(fs::symlink_metadata(to.join("socket")).is_err());
    let changed = |path: &Path| fs::metadata(path.join("run.sh")).unwrap().modified().unwrap();
    let late = changed(&from).duration_since(changed(&to)).unwrap();
    assert!(late.as_secs() < 1, "{late:?}");
}

#[test]
fn names_do_not_fill_the_memory() {
    let long = vec![b'a'; 1 << 20];
    for kind in [EntryType::GNULongName, EntryType::XHeader] {
        let archive = hostile(&[("././@LongLink", kind, "", &long)]);
        assert!(refusal(&archive).contains("too long"), "{kind:?} {}", refusal(&archive));
    }
}
