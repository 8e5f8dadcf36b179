//! An archive on its way in. Nothing of it is believed but that its author knew the passphrase.
//!
//! What is in it comes in one order, under names that we give, and is a file, a folder or a link; anything
//! else is refused. It is read from the beginning to the end once to check it, and once more to use it: the
//! same code does both, for a [`Visitor`] that does nothing and one that does something.

use std::{
    cell::Cell,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use doorbell_config::spec::Secret;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tar::{Archive, Entries, Entry, EntryType};

use super::{
    BackupError, envelope,
    format::{DATABASE, DEFINITION, FOLDERS, FORMAT, MANIFEST, Manifest, SECRETS, Secrets},
    inner_path::InnerPath,
    writer::Looks,
};

/// Bytes between two files: their names, the longest of which have 4 KiB.
const MOST_NAMES: u64 = 64 << 10;
/// Bytes of what is read into memory: a definition with its secrets is far smaller.
const MOST_JSON: u64 = 16 << 20;

/// What an archive begins with.
#[derive(Clone, Debug)]
pub struct Head {
    /// What it is of.
    pub manifest: Manifest,
    /// The app's keys.
    pub definition: Map<String, Value>,
    /// Its secrets.
    pub secrets: Secrets,
}

/// Something in a folder.
pub enum Item<'r> {
    /// A file, and what is in it.
    File(Looks, &'r mut dyn Read),
    /// A folder, all of which has come before.
    Folder(Looks),
    /// A link.
    Link(PathBuf),
}

/// Who is shown what is in an archive.
pub trait Visitor {
    /// First of all.
    ///
    /// # Errors
    /// Ends the reading.
    fn head(&mut self, head: &Head) -> Result<(), BackupError>;

    /// The dump, if there is one.
    ///
    /// # Errors
    /// Ends the reading.
    fn database(&mut self, head: &Head, dump: &mut dyn Read) -> Result<(), BackupError>;

    /// Something in the folder of this number.
    ///
    /// # Errors
    /// Ends the reading.
    fn item(&mut self, folder: usize, path: &InnerPath, item: Item<'_>) -> Result<(), BackupError>;
}

/// Shows a visitor all of an archive, to its very end.
///
/// # Errors
/// Those of the visitor, and what is wrong with the archive.
pub fn read<R: Read>(
    input: R,
    passphrase: &Secret,
    visitor: &mut dyn Visitor,
) -> Result<Head, BackupError> {
    let ration = Rc::new(Cell::new(u64::MAX));
    let input = Rationed { input: envelope::open(input, passphrase)?, ration: Rc::clone(&ration) };
    let mut archive = Archive::new(input);
    let head = read_all(&mut archive, &ration, visitor)?;
    // Nothing may stand behind it, and whether it is whole is known at its end.
    let rest = io::copy(&mut only_zeros(archive.into_inner()), &mut io::sink());
    rest.map_err(BackupError::reading)?;
    Ok(head)
}

fn read_all<R: Read>(
    archive: &mut Archive<R>,
    ration: &Cell<u64>,
    visitor: &mut dyn Visitor,
) -> Result<Head, BackupError> {
    let entries = archive.entries().map_err(BackupError::reading)?;
    let mut files = Files { entries, ration, next: None };
    let manifest: Value = files.json(MANIFEST)?;
    match manifest["format"].as_u64() {
        Some(FORMAT) => {}
        Some(format) if format > FORMAT => return Err(BackupError::Newer(format)),
        _ => return Err(BackupError::Refused(format!("`{MANIFEST}` names no format"))),
    }
    let manifest =
        serde_json::from_value(manifest).map_err(|error| unreadable(MANIFEST, &error))?;
    let definition = files.json(DEFINITION)?;
    let secrets = files.json(SECRETS)?;
    let head = Head { manifest, definition, secrets };
    visitor.head(&head)?;
    if head.manifest.database.is_some() {
        let mut dump = Dump { files: &mut files, current: None, count: 0, is_over: false };
        visitor.database(&head, &mut dump)?;
        // Whatever the visitor made of it, all of it is looked at.
        io::copy(&mut dump, &mut io::sink()).map_err(BackupError::reading)?;
        if dump.count == 0 {
            return Err(BackupError::Refused("the dump of its database is missing".into()));
        }
    }
    let mut last = 0;
    while let Some(mut entry) = files.next()? {
        let (folder, path) = in_folder(&entry, head.manifest.folders.len())?;
        if folder < last {
            return Err(BackupError::Refused("its folders are not in order".into()));
        }
        last = folder;
        show(&mut entry, folder, &path, visitor)?;
    }
    Ok(head)
}

fn show<R: Read>(
    entry: &mut Entry<'_, R>,
    folder: usize,
    path: &InnerPath,
    visitor: &mut dyn Visitor,
) -> Result<(), BackupError> {
    let header = entry.header();
    let mode = header.mode().map_err(BackupError::reading)?;
    let changed_at = header.mtime().map_err(BackupError::reading)?;
    let looks = Looks { mode, changed_at };
    match header.entry_type() {
        EntryType::Regular => {
            visitor.item(folder, path, Item::File(looks, &mut *entry))?;
            io::copy(entry, &mut io::sink()).map(drop).map_err(BackupError::reading)
        }
        EntryType::Directory => visitor.item(folder, path, Item::Folder(looks)),
        EntryType::Symlink => {
            let target = entry.link_name().map_err(BackupError::reading)?;
            let target = target.filter(|target| {
                let bytes = target.as_os_str().as_bytes();
                !bytes.is_empty() && bytes.len() < 4096 && !bytes.contains(&0)
            });
            let nowhere = || BackupError::Refused(format!("the link `{path}` leads nowhere"));
            let target = target.ok_or_else(nowhere)?.into_owned();
            visitor.item(folder, path, Item::Link(target))
        }
        _ => Err(BackupError::Refused(format!("`{path}` is no file, folder or link"))),
    }
}

/// Which of the folders something is in, and where there.
fn in_folder<R: Read>(
    entry: &Entry<'_, R>,
    count: usize,
) -> Result<(usize, InnerPath), BackupError> {
    let name = entry.path_bytes();
    let refused = || {
        let name = String::from_utf8_lossy(&name).escape_debug().to_string();
        BackupError::Refused(format!("`{name}` has no place in an archive"))
    };
    let rest = name.strip_prefix(FOLDERS.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
    let rest = rest.ok_or_else(refused)?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (number, path) = rest.split_at(end);
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    let number = number.filter(|number| *number < count).ok_or_else(refused)?;
    let path = match path {
        // The folder itself.
        b"" | b"/" if entry.header().entry_type() == EntryType::Directory => InnerPath::default(),
        path => InnerPath::parse(path.get(1..).unwrap_or_default()).ok_or_else(refused)?,
    };
    Ok((number, path))
}

/// The files of an archive, one of which may have been looked at already.
struct Files<'a, R: Read> {
    entries: Entries<'a, R>,
    ration: &'a Cell<u64>,
    next: Option<Entry<'a, R>>,
}

impl<'a, R: Read> Files<'a, R> {
    fn next(&mut self) -> Result<Option<Entry<'a, R>>, BackupError> {
        match self.next.take() {
            Some(entry) => Ok(Some(entry)),
            None => {
                // What stands before it was read to its end: names are all that comes now.
                self.ration.set(MOST_NAMES);
                let entry = self.entries.next().transpose().map_err(BackupError::reading);
                self.ration.set(u64::MAX);
                entry
            }
        }
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, BackupError> {
        let entry = self.next()?.filter(|entry| {
            *entry.path_bytes() == *name.as_bytes()
                && entry.header().entry_type() == EntryType::Regular
        });
        let mut entry =
            entry.ok_or_else(|| BackupError::Refused(format!("`{name}` is missing")))?;
        if entry.size() > MOST_JSON {
            return Err(BackupError::Refused(format!("`{name}` is too large")));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(BackupError::reading)?;
        serde_json::from_slice(&text).map_err(|error| unreadable(name, &error))
    }
}

/// A reader that gives so many bytes and no more: who reads names keeps them in memory.
struct Rationed<R> {
    input: R,
    ration: Rc<Cell<u64>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        match self.ration.get().checked_sub(read as u64) {
            Some(left) => self.ration.set(left),
            None => return Err(BackupError::Refused("a name in it is too long".into()).into()),
        }
        Ok(read)
    }
}

/// Nothing of what stands there is repeated: it may be secret.
fn unreadable(name: &str, error: &serde_json::Error) -> BackupError {
    let (line, column) = (error.line(), error.column());
    BackupError::Refused(format!("`{name}` cannot be understood (line {line}, column {column})"))
}

/// The pieces of a dump, joined.
struct Dump<'d, 'a, R: Read> {
    files: &'d mut Files<'a, R>,
    current: Option<Entry<'a, R>>,
    count: u64,
    is_over: bool,
}

impl<R: Read> Dump<'_, '_, R> {
    /// Whether there is another piece.
    fn advance(&mut self) -> Result<bool, BackupError> {
        let Some(entry) = self.files.next()? else { return Ok(false) };
        let is_piece = entry.path_bytes().starts_with(DATABASE.as_bytes());
        if !is_piece {
            self.files.next = Some(entry);
            return Ok(false);
        }
        self.count += 1;
        let name = entry.path_bytes().into_owned();
        let stem = format!("{DATABASE}/{:06}", self.count);
        let extension = name.strip_prefix(stem.as_bytes()).unwrap_or_default();
        let is_ours = matches!(extension, b".sql" | b".sqlite")
            && entry.header().entry_type() == EntryType::Regular;
        if !is_ours {
            let name = String::from_utf8_lossy(&name).escape_debug().to_string();
            return Err(BackupError::Refused(format!("`{name}` has no place in an archive")));
        }
        self.current = Some(entry);
        Ok(true)
    }
}

impl<R: Read> Read for Dump<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_over {
            if let Some(entry) = &mut self.current {
                let read = entry.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.current = None;
            }
            self.is_over = !self.advance()?;
        }
        Ok(0)
    }
}

/// What fills up a tar.
fn only_zeros(reader: impl Read) -> impl Read {
    struct Zeros<R>(R);
    impl<R: Read> Read for Zeros<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(buffer)?;
            if buffer[..read].iter().all(|byte| *byte == 0) {
                return Ok(read);
            }
            Err(BackupError::Refused("something stands behind its end".into()).into())
        }
    }
    Zeros(reader)
}

/// The path of a folder as the manifest has it; `.` is the app's own.
///
/// # Errors
/// If it leads out.
pub fn folder_path(path: &Path) -> Result<InnerPath, BackupError> {
    let bytes = path.as_os_str().as_bytes();
    if matches!(bytes, b"." | b"./") {
        return Ok(InnerPath::default());
    }
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    InnerPath::parse(bytes).ok_or_else(|| {
        let name = path.display().to_string().escape_debug().to_string();
        BackupError::Refused(format!("the folder `{name}` is not within the app's directory"))
    })
}

#[cfg(test)]
mod tests;
