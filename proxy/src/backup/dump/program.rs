//! A program that writes a dump to its standard output.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use doorbell_config::{registry::printable, spec::Secret};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::backup::BackupError;

/// Bytes that are kept of what it complains of.
const MOST_WORDS: usize = 4 << 10;
/// How long it may say nothing: `mysqldump` waits for a table that somebody holds for as long as the server lets
/// it, which is a day or a year.
const SILENCE: Duration = Duration::from_secs(600);

/// What is no text.
const NO_TEXT: &str = "told something that is not UTF-8, and could not be restored: MySQL keeps a routine, trigger, \
    event or view in the character set of the client that made it (make it anew with utf8mb4), PostgreSQL anything \
    in a database with the encoding SQL_ASCII";

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
        let mut copied = Ok(true);
        if let Some(stdout) = child.0.stdout.take() {
            copied = copy(stdout, out, &name, SILENCE);
        }
        // A program whose reader is gone ends by itself.
        let is_whole = copied?;
        let status = child.0.wait().map_err(BackupError::io(format!("cannot wait for {name}")))?;
        if status.success() {
            let no_text = || BackupError::Database(format!("{name} {NO_TEXT}"));
            return is_whole.then_some(()).ok_or_else(no_text);
        }
        let words = words.and_then(|words| words.join().ok()).unwrap_or_default();
        let words = printable(&self.secret.hidden_in(words.trim()));
        Err(BackupError::Database(format!("{name} failed ({status}): {words}")))
    }
}

/// Whoever is to blame, the archive or the program, is told. Tells whether it ends with a whole character: one that
/// does not may not have ended well, and says more itself.
fn copy(
    mut from: impl Read + AsFd,
    to: &mut dyn Write,
    name: &str,
    silence: Duration,
) -> Result<bool, BackupError> {
    let cannot = |error| BackupError::io(format!("cannot read from {name}"))(error);
    let (mut buffer, mut text) = (vec![0; 64 << 10], Text::default());
    loop {
        if !has_words(&from, silence).map_err(cannot)? {
            let why = format!(
                "{name} has told nothing for {silence:?}, and was ended: somebody may hold a table, or the server hangs"
            );
            return Err(BackupError::Database(why));
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(text.rest.is_empty()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cannot(error)),
        };
        if !text.goes_on(&buffer[..read]) {
            return Err(BackupError::Database(format!("{name} {NO_TEXT}")));
        }
        to.write_all(&buffer[..read]).map_err(BackupError::io("cannot write the archive"))?;
    }
}

/// Bytes that are to be UTF-8: then a dump can be restored. MySQL writes the code of a routine or a trigger in the
/// character set of the client that made it.
#[derive(Default)]
struct Text {
    /// The beginning of a character that goes on in what comes next.
    rest: Vec<u8>,
}

impl Text {
    /// Whether it still is UTF-8 with these bytes.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        let mut bytes = bytes;
        while !self.rest.is_empty() {
            let Some((first, more)) = bytes.split_first() else { return true };
            (self.rest, bytes) = ([&self.rest[..], &[*first]].concat(), more);
            match std::str::from_utf8(&self.rest) {
                Ok(_) => self.rest.clear(),
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                self.rest = bytes[error.valid_up_to()..].to_vec();
                true
            }
        }
    }
}

/// Whether there is something to read, or an end, before so much time has passed.
fn has_words(from: &impl AsFd, silence: Duration) -> io::Result<bool> {
    let until = Instant::now() + silence;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_utf_8_is_found_wherever_it_is_cut() {
        let goes_on = |pieces: &[&[u8]]| {
            let mut text = Text::default();
            pieces.iter().all(|piece| text.goes_on(piece)) && text.rest.is_empty()
        };
        let text = "aä€𝄞z".as_bytes();
        for at in 0..text.len() {
            for then in at..text.len() {
                assert!(goes_on(&[&text[..at], &text[at..then], &text[then..]]), "{at} {then}");
            }
        }
        for wrong in [
            &[b"a\xe4b" as &[u8]][..],
            &[b"\xe4", b"b"],
            &[b"\xf0\x9d", b"\x84", b"a"],
            &[b"\xe2\x82"],
        ] {
            assert!(!goes_on(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn who_tells_nothing_for_too_long_is_given_up() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; exec sleep 60"]).stdout(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let mut copied = Vec::new();
        let stdout = child.0.stdout.take().unwrap();
        let error = copy(stdout, &mut copied, "it", Duration::from_millis(300)).unwrap_err();
        assert_eq!(copied, b"first\n");
        assert!(error.to_string().contains("told nothing for 300ms"), "{error}");
    }
}
