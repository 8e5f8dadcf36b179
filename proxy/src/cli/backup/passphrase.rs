//! The passphrase of an archive: typed unseen, or read from a file.

use std::{
    fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use doorbell_config::spec::Secret;

use super::{
    super::{control::block_on, secrets::typed_unseen},
    PassphraseArg,
};
use crate::backup::envelope::LEAST_BYTES;

/// Bytes of a passphrase, at most.
const MOST_BYTES: u64 = 4096;

impl PassphraseArg {
    /// One for a new archive: typed twice, and long enough.
    pub(super) fn new_one(&self) -> anyhow::Result<Secret> {
        let passphrase = match &self.passphrase_file {
            Some(path) => of_file(path)?,
            None => {
                let first = typed("Passphrase for the archive")?;
                ensure!(first == typed("Once more")?, "the two differ: nothing is done");
                first
            }
        };
        let length = passphrase.reveal().len();
        ensure!(
            length >= LEAST_BYTES,
            "the passphrase has {length} bytes: take {LEAST_BYTES} or more, such as five words"
        );
        Ok(passphrase)
    }

    /// That of an archive.
    pub(super) fn known_one(&self) -> anyhow::Result<Secret> {
        match &self.passphrase_file {
            Some(path) => of_file(path),
            None => typed("Passphrase of the archive"),
        }
    }

    /// Whether it comes from standard input.
    pub(super) fn takes_input(&self) -> bool {
        self.passphrase_file.as_deref() == Some(Path::new("-"))
    }
}

fn typed(what: &str) -> anyhow::Result<Secret> {
    if !io::stdin().is_terminal() {
        bail!("there is nobody to ask for the passphrase: name its file, --passphrase-file FILE");
    }
    write!(io::stderr(), "{what}: ")?;
    let line = block_on(typed_unseen());
    writeln!(io::stderr())?;
    first_line(line?.as_bytes())
}

fn of_file(path: &Path) -> anyhow::Result<Secret> {
    if path == Path::new("-") {
        return first_line(io::stdin().lock());
    }
    let shown = path.display();
    let file = fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let about = file.metadata().with_context(|| format!("cannot read {shown}"))?;
    if about.is_file() && about.mode() & 0o077 != 0 {
        writeln!(io::stderr(), "warning: others can read the passphrase in {shown}: chmod 600 it")?;
    }
    first_line(BufReader::new(file)).with_context(|| format!("in {shown}"))
}

fn first_line(input: impl BufRead) -> anyhow::Result<Secret> {
    let mut line = String::new();
    let read = input.take(MOST_BYTES).read_line(&mut line);
    read.context("the passphrase is text, in UTF-8")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    ensure!(!line.is_empty(), "there is no passphrase");
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_a_line_without_its_end() {
        for text in ["five words or so", "five words or so\n", "five words or so\r\nmore\n"] {
            let read = first_line(text.as_bytes()).unwrap();
            assert_eq!(read.reveal(), "five words or so", "{text:?}");
        }
        assert!(first_line(&b""[..]).is_err() && first_line(&b"\n"[..]).is_err());
    }
}
