//! The archive that is imported: it is read twice, so what comes through a pipe is kept meanwhile, sealed as
//! it is, in a file without a name.

use std::{
    fs::File,
    io::{self, BufReader, Seek},
    path::Path,
};

use anyhow::{Context, ensure};
use rustix::fs::{Mode, OFlags};

/// An archive.
pub(super) struct Source(File);

impl Source {
    /// Opens it; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if path == Path::new("-") {
            return kept().context("cannot keep what comes through standard input").map(Self);
        }
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let about = file.metadata().with_context(|| format!("cannot read {shown}"))?;
        ensure!(about.is_file(), "{shown} is no file: an archive is read twice");
        Ok(Self(file))
    }

    /// From its beginning.
    pub(super) fn read(&mut self) -> anyhow::Result<BufReader<&File>> {
        self.0.rewind().context("cannot read the archive again")?;
        Ok(BufReader::with_capacity(256 << 10, &self.0))
    }
}

fn kept() -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    io::copy(&mut io::stdin().lock(), &mut file)?;
    Ok(file)
}
