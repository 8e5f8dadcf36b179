//! Dumps, taken apart into the statements that they consist of.
//!
//! The databases' own clients do more than send statements: they run programs and read files when a dump tells
//! them to. An archive from elsewhere is not to do that here. So no such client reads it: it is taken apart
//! here, and each statement is sent to the server as the app's own user. What a wrong cut could do at worst
//! is a statement that the server refuses.

use std::io::{self, BufRead, BufReader, Read};

pub mod mysql;
pub mod postgres;

use super::BackupError;

/// Bytes of one statement, and of one row: more than any server takes.
const MOST_BYTES: usize = 1 << 30;

/// A dump that is read byte by byte.
struct Text<R> {
    input: BufReader<R>,
}

impl<R: Read> Text<R> {
    fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input) }
    }

    fn peek(&mut self) -> Result<Option<u8>, BackupError> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::reading(error)),
            }
        }
    }

    fn next(&mut self) -> Result<Option<u8>, BackupError> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.input.consume(1);
        }
        Ok(byte)
    }

    /// Reads on to the quote that closes what was opened, into the statement. A quote within is there twice, which
    /// closes and opens again.
    fn quoted(
        &mut self,
        statement: &mut Vec<u8>,
        quote: u8,
        has_escapes: bool,
    ) -> Result<(), BackupError> {
        loop {
            let byte = self.next()?.ok_or_else(unclosed)?;
            statement.push(byte);
            if statement.len() >= MOST_BYTES {
                return Err(too_large());
            }
            if byte == b'\\' && has_escapes {
                statement.push(self.next()?.ok_or_else(unclosed)?);
            } else if byte == quote {
                return Ok(());
            }
        }
    }

    /// A line with its end.
    fn line(&mut self) -> Result<Vec<u8>, BackupError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(MOST_BYTES as u64);
        limited.read_until(b'\n', &mut line).map_err(BackupError::reading)?;
        if line.len() == MOST_BYTES {
            return Err(too_large());
        }
        Ok(line)
    }
}

fn unclosed() -> BackupError {
    BackupError::Refused("its dump ends within a statement".into())
}

fn too_large() -> BackupError {
    BackupError::Refused("a statement of the dump has more than 1 GiB".into())
}

fn text(bytes: Vec<u8>) -> Result<String, BackupError> {
    String::from_utf8(bytes)
        .map_err(|_| BackupError::Refused("a statement of the dump is no text in UTF-8".into()))
}

/// Whether a byte is part of a word.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}
