//! A program that writes a dump to its standard output.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use doorbell_config::{registry::printable, spec::Secret};

use crate::backup::BackupError;

/// Bytes that are kept of what it complains of.
const MOST_WORDS: usize = 4 << 10;

/// A program that is about to run.
pub(super) struct Program {
    pub(super) command: Command,
    /// What it reads from its standard input.
    pub(super) input: Option<Secret>,
    /// What its words are not to have in them.
    pub(super) secret: Secret,
}

impl Program {
    /// Runs it to its end.
    pub(super) fn run(mut self, out: &mut dyn Write) -> Result<(), BackupError> {
        let name = Path::new(self.command.get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => Running(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = format!("the program {name} is needed, and is not there: install it");
                return Err(BackupError::Database(why));
            }
            Err(error) => return Err(BackupError::io(format!("cannot run {name}"))(error)),
        };
        let words = child.0.stderr.take().map(|stderr| thread::spawn(move || last_words(stderr)));
        if let (Some(input), Some(mut stdin)) = (&self.input, child.0.stdin.take()) {
            // Who ends before it has read all says why.
            let _ = stdin.write_all(input.reveal().as_bytes());
        }
        let mut copied = Ok(());
        if let Some(stdout) = child.0.stdout.take() {
            copied = copy(stdout, out, &name);
        }
        // A program whose reader is gone ends by itself.
        copied?;
        let status = child.0.wait().map_err(BackupError::io(format!("cannot wait for {name}")))?;
        if status.success() {
            return Ok(());
        }
        let words = words.and_then(|words| words.join().ok()).unwrap_or_default();
        let words = printable(&self.secret.hidden_in(words.trim()));
        Err(BackupError::Database(format!("{name} failed ({status}): {words}")))
    }
}

/// Whoever is to blame, the archive or the program, is told.
fn copy(mut from: impl Read, to: &mut dyn Write, name: &str) -> Result<(), BackupError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(BackupError::io(format!("cannot read from {name}"))(error)),
        };
        to.write_all(&buffer[..read]).map_err(BackupError::io("cannot write the archive"))?;
    }
}

/// A program that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may have ended just now.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The end of what it complains of: that is where it says why.
fn last_words(mut stderr: impl Read) -> String {
    let (mut words, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = stderr.read(&mut buffer) {
        if read == 0 {
            break;
        }
        words.extend_from_slice(&buffer[..read]);
        let over = words.len().saturating_sub(MOST_WORDS);
        words.drain(..over);
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// Whether a program is in the path.
pub(super) fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// What it says of itself.
pub(super) fn version(name: &str) -> String {
    let told = Command::new(name).arg("--version").stdin(Stdio::null()).output();
    told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default()
}
