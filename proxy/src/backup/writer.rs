//! An archive on its way out: a tar within the envelope, written as it comes.
//!
//! A tar tells the length of a file before the file, and a dump has no length before its end. So it is written
//! in pieces, each of which is held for a moment: whatever the size of what is saved, memory stays the same.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use age::stream::StreamWriter;
use doorbell_config::spec::Secret;
use serde::Serialize;
use serde_json::{Map, Value};
use tar::{EntryType, Header};

use super::{
    BackupError, envelope,
    format::{DATABASE, DEFINITION, FOLDERS, MANIFEST, Manifest, SECRETS, Secrets},
    inner_path::InnerPath,
};

/// Bytes of a piece of a dump.
const PIECE: usize = 4 << 20;

const WRITE: &str = "cannot write the archive";

/// An archive that is written.
pub struct Writer<W: Write> {
    tar: tar::Builder<StreamWriter<W>>,
    /// Seconds since 1970.
    now: u64,
}

/// What is told of a file beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Its permissions.
    pub mode: u32,
    /// When it was changed last, in seconds since 1970.
    pub changed_at: u64,
}

impl<W: Write> Writer<W> {
    /// Begins one with what is known of the app beforehand.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(
        out: W,
        passphrase: &Secret,
        manifest: &Manifest,
        definition: &Map<String, Value>,
        secrets: &Secrets,
    ) -> Result<Self, BackupError> {
        let sealed = envelope::seal(out, passphrase).map_err(BackupError::io(WRITE))?;
        let now = manifest.made_at_unix_ms / 1000;
        let mut writer = Self { tar: tar::Builder::new(sealed), now };
        writer.json(MANIFEST, manifest)?;
        writer.json(DEFINITION, definition)?;
        writer.json(SECRETS, secrets)?;
        Ok(writer)
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(value).map_err(io::Error::from);
        let text = text.map_err(BackupError::io(WRITE))?;
        self.private(name, &text).map_err(BackupError::io(WRITE))
    }

    /// A file of ours.
    fn private(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let looks = Looks { mode: 0o600, changed_at: self.now };
        let mut header = header(EntryType::Regular, looks, bytes.len() as u64);
        self.tar.append_data(&mut header, name, bytes)
    }

    /// Where a dump is written to; its files end like this.
    pub fn database(&mut self, extension: &'static str) -> Pieces<'_, W> {
        Pieces { writer: self, extension, count: 0, piece: Vec::with_capacity(PIECE) }
    }

    /// A file in a folder; as many bytes are read as are told.
    ///
    /// # Errors
    /// If it cannot be written; the reader is not to blame.
    pub fn file(
        &mut self,
        folder: usize,
        path: &InnerPath,
        looks: Looks,
        size: u64,
        content: impl Read,
    ) -> Result<(), BackupError> {
        let mut header = header(EntryType::Regular, looks, size);
        let written = self.tar.append_data(&mut header, name(folder, path), content);
        written.map_err(BackupError::io(WRITE))
    }

    /// A link.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn link(
        &mut self,
        folder: usize,
        path: &InnerPath,
        looks: Looks,
        target: &Path,
    ) -> Result<(), BackupError> {
        let mut header = header(EntryType::Symlink, looks, 0);
        let written = self.tar.append_link(&mut header, name(folder, path), target);
        written.map_err(BackupError::io(WRITE))
    }

    /// A folder, behind all that is in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn folder(
        &mut self,
        folder: usize,
        path: &InnerPath,
        looks: Looks,
    ) -> Result<(), BackupError> {
        let mut header = header(EntryType::Directory, looks, 0);
        let written = self.tar.append_data(&mut header, name(folder, path), io::empty());
        written.map_err(BackupError::io(WRITE))
    }

    /// Ends it; without this it is known to be broken off.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<W, BackupError> {
        let end = || self.tar.into_inner()?.finish();
        end().map_err(BackupError::io(WRITE))
    }
}

fn name(folder: usize, path: &InnerPath) -> std::path::PathBuf {
    Path::new(FOLDERS).join(folder.to_string()).join(path.to_path())
}

fn header(kind: EntryType, looks: Looks, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(looks.mode);
    header.set_mtime(looks.changed_at);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A dump on its way into an archive.
pub struct Pieces<'w, W: Write> {
    writer: &'w mut Writer<W>,
    extension: &'static str,
    count: u32,
    piece: Vec<u8>,
}

impl<W: Write> Pieces<'_, W> {
    /// Writes the last piece.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), BackupError> {
        self.put().map_err(BackupError::io(WRITE))
    }

    fn put(&mut self) -> io::Result<()> {
        self.count += 1;
        let name = format!("{DATABASE}/{:06}.{}", self.count, self.extension);
        self.writer.private(&name, &self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Pieces<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.put()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
